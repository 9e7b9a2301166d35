"""The estimate of the bound: its mean, its error, and what it leaves alone."""

import math

import pytest
import torch
from torch.utils.data import Dataset

from d3pm.discrete.process import DiscreteDiffusion
from d3pm.evaluation import estimate_bound, evenly, unigram_entropy
from d3pm.evaluation.bound import summarise
from d3pm.model import DiffusionModel
from d3pm.networks import TransformerDenoiser
from d3pm.objectives import VLB
from d3pm.transitions import AbsorbingTransition


class Rows(Dataset):
    def __init__(self, x, **more):
        self.columns = {"x0": x, **more}

    def __len__(self):
        return len(self.columns["x0"])

    def __getitem__(self, i):
        return {name: column[i] for name, column in self.columns.items()}


@pytest.fixture
def rows():
    return Rows(torch.randint(4, (50, 6), generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def model():
    process = DiscreteDiffusion(AbsorbingTransition(num_states=5, num_steps=8))
    torch.manual_seed(0)
    return DiffusionModel(
        process=process, network=TransformerDenoiser(5, dim=8, depth=1, heads=2), shape=(6,)
    )


def test_an_ignorant_model_costs_log2_of_the_symbols(model, rows):
    """Fresh logits are all alike and the mask is excluded: 2 bits for each of 4 symbols, up to the error."""
    report = estimate_bound(model, rows, num_examples=50, num_times=7)
    assert report.num_times == 7
    assert abs(report.bits_per_dim - 2) < 4 * report.standard_error
    parts = report.prior + report.diffusion + report.reconstruction
    assert report.bits_per_dim == pytest.approx(parts)


def test_it_repeats_itself_and_leaves_the_global_generator_alone(model, rows):
    state = torch.get_rng_state()
    first, again = (estimate_bound(model, rows, num_examples=20, num_times=2) for _ in range(2))
    assert first == again
    assert torch.equal(torch.get_rng_state(), state)
    assert estimate_bound(model, rows, num_examples=20, num_times=2, seed=1) != first


def test_the_standard_error_is_calibrated():
    """Over many draws, estimates scatter as wide as they say; examples differ in length."""
    generator = torch.Generator().manual_seed(0)
    estimates = []
    for _ in range(400):
        dims = torch.randint(1, 20, (100,), generator=generator).double()
        nats = dims * (1 + torch.randn(100, generator=generator, dtype=torch.float64))
        zero = torch.zeros(100)
        estimates.append(summarise(VLB(zero, nats.unsqueeze(-1), zero, dims), num_times=1))
    values = torch.tensor([e.bits_per_dim for e in estimates])
    claimed = torch.tensor([e.standard_error for e in estimates]).mean()
    assert values.mean() == pytest.approx(1 / math.log(2), abs=0.02)
    assert values.std() == pytest.approx(claimed.item(), rel=0.1)


def test_examples_lie_evenly(rows):
    assert list(evenly(rows, 5).indices) == [5, 15, 25, 35, 45]
    assert list(evenly(rows, 1000).indices) == list(range(50))


def test_padding_has_no_part_in_the_unigram_law():
    x = torch.tensor([[0, 1, 3], [2, 3, 3]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 0]])
    assert unigram_entropy(Rows(x, attention_mask=mask), num_symbols=4) == pytest.approx(2.0)
