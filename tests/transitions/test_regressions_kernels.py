"""Mistakes that were made once, each with the case that showed it."""

import copy

import pytest
import torch
from oracle import concrete_subclasses
from torch.testing import assert_close

from d3pm import DiscreteDiffusion
from d3pm.errors import ConfigError
from d3pm.model import DiffusionModel
from d3pm.networks import TransformerDenoiser
from d3pm.schedules import MutualInformationSchedule
from d3pm.specs import Part, build, describe
from d3pm.transitions import (
    AbsorbingTransition,
    BandDiagonalTransition,
    GeneratorTransition,
    NearestNeighborTransition,
    SubstitutionTransition,
    Transition,
    retained,
)


@pytest.mark.parametrize("kernel", concrete_subclasses(Transition), ids=lambda cls: cls.__name__)
def test_a_copy_of_a_model_shares_its_process(kernel):
    """The averaged model is a copy: tables are not held twice, nor need they be such that torch can copy them."""
    process = DiscreteDiffusion(kernel.example(5, 4))
    model = DiffusionModel(
        process=process, network=TransformerDenoiser(5, dim=8, depth=1, heads=2), shape=(3,)
    )
    x0 = torch.tensor([[x for x in range(5) if x != process.transition.mask_state][:3]])
    assert torch.isfinite(model(x0).loss)
    again = copy.deepcopy(model)
    assert again.process is process
    assert again.network is not model.network
    assert torch.isfinite(again(x0).loss)


def test_scores_of_letters_that_are_none_can_be_loaded_again(tmp_path):
    file = tmp_path / "scores.txt"
    file.write_text("   A  R  *\nA  4 -1 -4\nR -1  5 -4\n* -4 -4  1\n")
    kernel = SubstitutionTransition(file, num_steps=4)
    tensors: dict = {}
    again = build(describe(kernel, tensors, "kernel"), (Part,), tensors)
    assert torch.equal(again.rates, kernel.rates)


def test_points_that_are_nearly_one_are_tied_to_others():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(1, 32, generator=generator, dtype=torch.float64)
    noise = 1e-8 * torch.randn(40, 32, generator=generator, dtype=torch.float64)
    others = torch.randn(20, 32, generator=generator, dtype=torch.float64)
    kernel = NearestNeighborTransition(torch.cat([base + noise, others]), 10, num_neighbors=3)
    rates = kernel.rates()
    assert_close(rates, rates.T, rtol=0, atol=1e-15)
    assert_close(rates.sum(1), torch.zeros(60, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (rates.diagonal() <= -0.5).all()  # k ties of its own, each of weight 1 / 2k


def test_lists_are_as_precise_as_tensors():
    kernel = GeneratorTransition.example(5, 4)
    assert torch.equal(GeneratorTransition(kernel.rates.tolist(), 4).rates, kernel.rates)
    near = NearestNeighborTransition.example(6, 4)
    again = NearestNeighborTransition(near.embeddings.tolist(), 4, near.num_neighbors)
    assert torch.equal(again.embeddings, near.embeddings)


def test_a_generator_that_ends_in_one_state_gets_there():
    """Else the prior, which is that state, would make every bound infinite."""
    rates = torch.tensor([[-1.0, 0, 1], [0, -1.0, 1], [0, 0, 0]])
    process = DiscreteDiffusion(GeneratorTransition(rates, 10))
    x0, t = torch.tensor([[0, 1]]), torch.tensor([10])
    assert (process.marginal(x0, t).kl(process.prior((1, 2))) == 0).all()


def test_strengths_outlive_the_underflow_of_their_products():
    schedule = MutualInformationSchedule(torch.ones(16), BandDiagonalTransition(16, 5, width=1))
    betas = BandDiagonalTransition(16, 600, 1, schedule)._betas.values
    assert float(betas.max()) <= 0.999


def test_complex_embeddings_are_refused():
    with pytest.raises(ConfigError, match="complex"):
        NearestNeighborTransition(torch.randn(6, 2, dtype=torch.complex128), 4)


def test_what_is_left_is_asked_of_all_states():
    with pytest.raises(ConfigError, match="frequencies has 5 entries: the kernel has 6"):
        retained(AbsorbingTransition(6, 3), torch.full((5,), 0.2))


def test_every_schedule_can_be_described_and_built():
    schedule = MutualInformationSchedule.example()
    tensors: dict = {}
    again = build(describe(schedule, tensors, "schedule"), (Part,), tensors)
    assert torch.equal(again.alpha_bars(8), schedule.alpha_bars(8))
