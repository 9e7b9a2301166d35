"""A model in one folder: what comes back is what was saved."""

import json
import math

import pytest
import torch

from d3pm import (
    AbsorbingTransition,
    DiffusionModel,
    DiscreteDiffusion,
    MarginalTransition,
    MatrixTransition,
    UniformTransition,
    vlb_terms,
)
from d3pm.data.codec import TextCodec
from d3pm.errors import CheckpointError, ConfigError
from d3pm.networks import TransformerDenoiser
from d3pm.objectives import AuxiliaryBound, CrossEntropy, VariationalBound
from d3pm.schedules import MutualInformationSchedule

K, L, T = 28, 6, 8
LAW = torch.rand(K, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LAW = LAW / LAW.sum()
KERNELS = {
    "absorbing": lambda: AbsorbingTransition(K, T),
    "uniform": lambda: UniformTransition(K, T, MutualInformationSchedule(LAW, UniformTransition(K, 1))),
    "marginal": lambda: MarginalTransition(LAW, T),
    "matrix": lambda: MatrixTransition.example(K, T),
}


def make(kernel: str = "absorbing", **parts) -> DiffusionModel:
    torch.manual_seed(1)
    network = TransformerDenoiser(num_states=K, dim=16, depth=1, heads=2)
    for parameter in network.parameters():  # fresh logits are all zero: give the network opinions
        torch.nn.init.normal_(parameter, std=0.3)
    process = DiscreteDiffusion(KERNELS[kernel]())
    return DiffusionModel(process=process, network=network, shape=(L,), **parts)


@pytest.fixture
def x0():
    return torch.randint(K - 1, (5, L), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kernel", KERNELS)
def test_equal_seeds_give_equal_samples_and_bounds_after_a_round_trip(kernel, tmp_path, x0):
    model = make(kernel, objective=AuxiliaryBound(0.3))
    model.save_pretrained(tmp_path)
    again = DiffusionModel.from_pretrained(tmp_path)
    assert torch.equal(model.sample(3, steps=4, seed=5), again.sample(3, steps=4, seed=5))
    assert torch.equal(model.evaluate(x0).total, again.evaluate(x0).total)
    assert again.objective == model.objective
    assert again.shape == (L,)


@pytest.mark.parametrize("kernel", ["marginal", "matrix", "uniform"])
def test_no_cast_rounds_a_matrix(kernel, tmp_path):
    model = make(kernel)
    model.save_pretrained(tmp_path)
    again = DiffusionModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert next(again.network.parameters()).dtype == torch.bfloat16
    s, t = torch.tensor([0, 2]), torch.tensor([T, 3])
    for other in (again, make(kernel).to(torch.float16)):
        ours, theirs = (m.process.transition.between(s, t).dense() for m in (model, other))
        assert theirs.dtype == torch.float64
        assert torch.equal(ours, theirs)


def test_a_codec_travels_with_the_model(tmp_path):
    model = make(codec=TextCodec.characters())
    model.save_pretrained(tmp_path)
    again = DiffusionModel.from_pretrained(tmp_path)
    assert again.codec.decode(model.sample(2, steps=3, seed=0)) == model.codec.decode(
        model.sample(2, steps=3, seed=0)
    )
    assert again.codec.encode("a b").tolist() == [1, 0, 2]


def test_the_loss_is_the_objectives_mean_per_entry(x0):
    model = make(objective=CrossEntropy()).eval()
    losses = CrossEntropy()(model.process, model.network, x0, generator=torch.Generator().manual_seed(3))
    out = model(x0, generator=torch.Generator().manual_seed(3))
    assert float(out.loss.detach()) == pytest.approx(float(losses.detach().sum()) / x0.numel(), rel=1e-6)
    assert torch.allclose(out.losses, losses)


@pytest.mark.parametrize("kernel", KERNELS)
def test_padding_counts_for_nothing(kernel, x0):
    model = make(kernel, objective=VariationalBound()).eval()
    mask = torch.ones_like(x0)
    mask[:, 4:] = 0
    other = x0.clone()
    other[:, 4:] = (other[:, 4:] + 1) % (K - 1)
    bounds = [model.evaluate(x, attention_mask=mask) for x in (x0, other)]
    assert torch.equal(bounds[0].num_dims, torch.full((5,), 4.0))
    assert torch.allclose(bounds[0].reconstruction, bounds[1].reconstruction, rtol=1e-5)
    losses = [
        model(x, generator=torch.Generator().manual_seed(4), attention_mask=mask).loss for x in (x0, other)
    ]
    assert torch.allclose(*losses, rtol=1e-4)


def test_evaluate_is_the_bound(x0):
    model = make("uniform")
    direct = vlb_terms(model.process, model.network, x0, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(model.evaluate(x0, seed=0).total, direct.total)
    batches = [{"x0": x0[:2]}, {"x0": x0[2:]}]
    assert model.evaluate(batches, num_times=3).bits_per_dim().shape == (5,)
    assert torch.allclose(direct.bits_per_dim(), direct.total / (L * math.log(2)))


class TestRefusals:
    """Each a line that names the field and the remedy; nothing is loaded by halves."""

    def line(self, error: pytest.ExceptionInfo) -> str:
        assert "\n" not in str(error.value)
        return str(error.value)

    def test_a_folder_without_a_model(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"no config\.json"):
            DiffusionModel.from_pretrained(tmp_path)

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(CheckpointError) as error:
            DiffusionModel.from_pretrained(tmp_path / "nowhere")
        assert "nowhere" in self.line(error)

    def test_torn_weights(self, tmp_path):
        make().save_pretrained(tmp_path)
        weights = tmp_path / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:200])
        with pytest.raises(CheckpointError, match="cannot be read") as error:
            DiffusionModel.from_pretrained(tmp_path)
        self.line(error)

    def test_weights_that_are_missing_are_not_made_up(self, tmp_path):
        from safetensors.torch import load_file, save_file

        make().save_pretrained(tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        dropped = next(name for name in weights if name.endswith("weight"))
        del weights[dropped]
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match="missing keys") as error:
            DiffusionModel.from_pretrained(tmp_path)
        assert dropped in self.line(error)

    @pytest.mark.parametrize("part", ["network", "process"])
    def test_a_number_of_states_that_does_not_match(self, tmp_path, part):
        make().save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        arguments = config[part]["init_args"]
        (arguments if part == "network" else arguments["transition"]["init_args"])["num_states"] = K + 1
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises((CheckpointError, ConfigError)) as error:
            DiffusionModel.from_pretrained(tmp_path)
        self.line(error)

    def test_a_config_that_names_another_kind_of_class(self, tmp_path):
        make().save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        config["network"] = {"class_path": "subprocess.Popen", "init_args": {"args": ["true"]}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=r"subprocess\.Popen: not one of"):
            DiffusionModel.from_pretrained(tmp_path)

    def test_parts_that_disagree(self):
        network = TransformerDenoiser(num_states=K + 1, dim=16, depth=1, heads=2)
        with pytest.raises(ConfigError, match=f"network.num_states is {K + 1}"):
            DiffusionModel(process=DiscreteDiffusion(AbsorbingTransition(K, T)), network=network)
        with pytest.raises(ConfigError, match="give process and network"):
            DiffusionModel(network=network)

    def test_no_samples(self):
        with pytest.raises(ConfigError, match="number of samples is 0"):
            make().sample(0)
        with pytest.raises(ConfigError, match="batch_size is -1"):
            make().sample(2, batch_size=-1)
