"""Weights, gradients, optimizer and averages divided among processes: the same run as with whole copies of them."""

import copy
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from several import in_processes
from tiny import train, write_config
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from d3pm.discrete import DiscreteDiffusion
from d3pm.model import DiffusionModel
from d3pm.networks import MaskedLMDenoiser, TransformerDenoiser
from d3pm.training import RunFolder
from d3pm.training import trainer as training
from d3pm.training.keeping import RAW_WEIGHTS
from d3pm.training.layers import compile_layers, recompute
from d3pm.training.sharded import settle, shard, whole_weights
from d3pm.transitions import AbsorbingTransition

STEPS = 10


def runs(base: Path, todo: dict[str, list[str]]) -> dict[str, dict]:
    """In each process: the runs by name, and what this process held at the end of each."""
    held = {}
    for name, options in todo.items():
        trainers = []

        class Kept(training.DiffusionTrainer):
            def __init__(self, *args, kept=trainers, **kwargs):
                super().__init__(*args, **kwargs)
                kept.append(self)

            def end(self):
                """The processes go on talking to each other."""

        original, training.DiffusionTrainer = training.DiffusionTrainer, Kept
        try:
            assert train(base / "tiny.yaml", base / name, *options) == 0
        finally:
            training.DiffusionTrainer = original
        held[name] = held_by(*trainers)
    return held


def held_by(trainer) -> dict:
    states = trainer.optimizer.state_dict()["state"].values()
    settle(trainer.ema.model)
    return {
        "weights": held_bytes(trainer.diffusion.parameters()),
        "averages": held_bytes(trainer.ema.model.parameters()),
        "optimizer": held_bytes(value for state in states for value in state.values() if value.dim()),
        "buffers": dict(trainer.diffusion.named_buffers()),
        "hooks": max(len(p._backward_hooks or ()) for p in trainer.diffusion.parameters()),
    }


def held_bytes(tensors) -> int:
    return sum((t.to_local() if isinstance(t, DTensor) else t).nbytes for t in tensors)


def checkpoint(base: Path, name: str, step: int = STEPS) -> dict:
    """Raw weights, averages and optimizer state, and the log."""
    folder = RunFolder(base / name).checkpoint(step)
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    kept = ("step", "loss", "grad_norm", "eval_bits_per_dim")
    return {
        "raw": torch.load(folder / RAW_WEIGHTS, weights_only=True),
        "averages": DiffusionModel.from_pretrained(folder).state_dict(),
        "optimizer": torch.load(folder / "optimizer.pt", weights_only=True),
        "curve": [{key: entry[key] for key in kept if key in entry} for entry in history],
    }


def assert_same_run(one: dict, other: dict, atol: float = 1e-5) -> None:
    for what in ("raw", "averages"):
        torch.testing.assert_close(one[what], other[what], rtol=0, atol=atol)
    assert len(one["curve"]) == len(other["curve"])
    for ours, theirs in zip(one["curve"], other["curve"], strict=True):
        assert ours == pytest.approx(theirs, rel=atol, abs=atol)


def killed(base: Path, name: str, step: int, options: list[str]) -> None:
    """A run that is killed in the middle of a step."""
    training_step = training.DiffusionTrainer.training_step

    def last(self, *args, **kwargs):
        if self.state.global_step + 1 == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return training_step(self, *args, **kwargs)

    training.DiffusionTrainer.training_step = last
    train(base / "tiny.yaml", base / name, *options)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A config with constants and a memory of losses in float64, which must go through all of it as they are."""
    folder = tmp_path_factory.mktemp("sharded")
    path = write_config(folder, max_steps=STEPS, save_every=5, eval_every=5, lr_schedule="constant")
    config = yaml.safe_load(path.read_text())
    config["network"]["init_args"] |= {"num_states": 27, "depth": 2, "dropout": 0.0}
    config["process"]["init_args"]["transition"] = {
        "class_path": "d3pm.transitions.MarginalTransition",
        "init_args": {"num_steps": 20, "frequencies": [(i + 1) / 378 for i in range(27)]},
    }
    config["objective"] = {
        "class_path": "d3pm.time_sampling.ImportanceTimes",
        "init_args": {
            "base": {"class_path": "d3pm.objectives.VariationalBound"},
            "num_steps": 20,
            "history": 2,
        },
    }
    path.write_text(yaml.safe_dump(config))
    return folder


SHARDED = ["--training.sharded", "true"]


@pytest.fixture(scope="module")
def pair(base) -> list[dict]:
    """Two processes: whole copies; parts; parts, and layers computed again."""
    again = [*SHARDED, "--training.recompute", "true"]
    return in_processes(2, runs, base, {"whole": [], "parts": SHARDED, "again": again})


def test_parts_are_the_same_run_as_whole_copies(base, pair):
    whole, parts = checkpoint(base, "whole"), checkpoint(base, "parts")
    assert len(whole["curve"]) == STEPS + STEPS // 5
    assert_same_run(parts, whole)
    ours, theirs = parts["optimizer"], whole["optimizer"]
    torch.testing.assert_close(ours["state"], theirs["state"], rtol=0, atol=1e-6)
    assert ours["param_groups"] == theirs["param_groups"]


def test_parts_are_the_same_run_as_one_process(base, pair):
    assert train(base / "tiny.yaml", base / "one") == 0
    assert_same_run(checkpoint(base, "parts"), checkpoint(base, "one"))


def test_layers_computed_again_are_the_same_run(base, pair):
    assert_same_run(checkpoint(base, "again"), checkpoint(base, "parts"), atol=1e-6)


@pytest.mark.parametrize("what", ["weights", "averages", "optimizer"])
def test_each_process_holds_half(pair, what):
    whole = pair[0]["whole"][what]
    shares = [process["parts"][what] for process in pair]
    assert sum(shares) == whole
    assert max(shares) <= 0.51 * whole


def test_kernels_and_memories_are_whole_and_exact_in_every_process(pair):
    first = pair[0]["whole"]["buffers"]
    assert {buffer.dtype for buffer in first.values()} == {torch.uint8, torch.float64, torch.int64}
    for process in pair:
        found = process["parts"]["buffers"]
        for name in ("constants.process__transition__frequencies", "memory.seen"):
            assert torch.equal(found[name], first[name]), name
        torch.testing.assert_close(found["memory.losses"], first["memory.losses"], rtol=1e-5, atol=1e-5)


def test_no_hook_is_left_on_a_parameter(pair):
    assert all(process["parts"]["hooks"] == 0 for process in pair)


def test_the_finished_model_is_whole(base, pair):
    finished = DiffusionModel.from_pretrained(base / "parts").state_dict()
    torch.testing.assert_close(finished, checkpoint(base, "parts")["averages"], rtol=0, atol=0)


@pytest.fixture(scope="module")
def stopped(base) -> Path:
    """What two processes leave that are killed in step 8, after the checkpoint of step 5."""
    with pytest.raises(AssertionError, match="ended with -9"):
        in_processes(2, killed, base, "killed", 8, SHARDED)
    assert RunFolder(base / "killed").checkpoint_steps() == [5]
    return base / "killed"


@pytest.mark.parametrize("number", [1, 2, 4])
def test_any_number_of_processes_may_go_on(base, pair, stopped, number):
    name = f"then{number}"
    shutil.copytree(stopped, base / name)
    if number == 1:
        assert train(base / "tiny.yaml", base / name, "--resume") == 0
    else:
        in_processes(number, runs, base, {name: ["--resume", *SHARDED]})
    assert_same_run(checkpoint(base, name), checkpoint(base, "parts"), atol=0 if number == 2 else 1e-5)


def tied_and_compiled(folder: Path) -> dict[str, object]:
    """In each process: a published kind of network whose embedding is its head, and one compiled layer by layer."""
    torch.distributed.init_process_group("gloo")
    network, cpu = small_bert(), torch.device("cpu")
    shard(network, cpu)
    whole = whole_weights(network)
    if torch.distributed.get_rank() == 0:
        process = DiscreteDiffusion(AbsorbingTransition(num_states=28, num_steps=20))
        model = DiffusionModel(process=process, network=small_bert(), shape=(8,))
        model.save_pretrained(folder, state_dict={f"network.{name}": value for name, value in whole.items()})
    return {"compiled": compiled(cpu)}


def small_bert() -> MaskedLMDenoiser:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return MaskedLMDenoiser({"model_type": "bert", **sizes}, num_states=28)


def small_transformer() -> TransformerDenoiser:
    torch.manual_seed(0)
    network = TransformerDenoiser(num_states=9, dim=16, depth=3, heads=2)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network


def compiled(device: torch.device) -> dict[str, object]:
    """The largest difference of a gradient, and what the compiler counted in three steps."""
    plain, network = small_transformer(), small_transformer()
    recompute(network)
    shard(network, device)
    compile_layers(network, backend="aot_eager")
    rows, t = torch.arange(16).reshape(2, 8) % 9, torch.ones(2, dtype=torch.int64)
    for _ in range(3):
        for each in (plain, network):
            each.zero_grad()
            each(rows, t).square().mean().backward()
    pairs = zip(plain.parameters(), network.parameters(), strict=True)
    difference = max(float((ours.grad - theirs.grad.full_tensor()).abs().max()) for ours, theirs in pairs)
    counted = torch._dynamo.utils.counters
    return {
        "difference": difference,
        "graphs": counted["stats"]["unique_graphs"],
        "breaks": dict(counted["graph_break"]),
    }


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("tied")
    return folder, in_processes(2, tied_and_compiled, folder)


def test_tied_weights_are_written_once_and_read_as_they_were(others):
    folder, _ = others
    network = small_bert()
    saved = load_file(folder / "model.safetensors")
    assert sum(value.numel() for value in saved.values()) == sum(p.numel() for p in network.parameters())
    loaded = DiffusionModel.from_pretrained(folder).network.state_dict()
    torch.testing.assert_close(loaded, network.state_dict(), rtol=0, atol=0)


def test_layers_compile_without_breaks_while_weights_come_and_go(others):
    found = others[1][0]["compiled"]
    assert found["difference"] < 1e-6
    assert found["breaks"] == {}
    assert found["graphs"] <= 3


class Tally:
    """Bytes that autograd keeps between the way there and the way back."""

    def __init__(self) -> None:
        self.bytes = 0

    def __call__(self, tensor: Tensor) -> Tensor:
        self.bytes += tensor.nbytes
        return tensor


def test_recompute_gives_the_same_gradients_for_less_memory():
    """Dropout included; what is kept falls from a layer's insides to its entry."""
    torch.manual_seed(0)
    network = TransformerDenoiser(num_states=9, dim=32, depth=4, heads=2, dropout=0.3).train()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    other = copy.deepcopy(network)
    recompute(other)
    entries = 4 * 4 * 16 * 32 * 4  # of layers, in bytes: kept by name, not by autograd
    rows = torch.randint(9, (4, 16))
    kept = Tally(), Tally()
    losses, gradients = [], []
    for each, tally in zip((network, other), kept, strict=True):
        with torch.autograd.graph.saved_tensors_hooks(tally, lambda tensor: tensor):
            torch.manual_seed(1)
            loss = each(rows, torch.ones(4, dtype=torch.int64)).square().mean()
        losses.append(loss)
        gradients.append(torch.autograd.grad(loss, list(each.parameters())))
    assert torch.equal(*losses)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*gradients, strict=True))
    assert kept[1].bytes + entries < kept[0].bytes / 3
