"""The estimates of docs/scaling.md: held against real networks, and what the page says against what there is."""

import re
import runpy
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from d3pm.networks import TransformerDenoiser
from d3pm.training import TrainingConfig
from d3pm.training.layers import recompute

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "estimate_scale.py"
FLOAT, GB, SIZES, Memory, Size, fit = map(
    runpy.run_path(str(SCRIPT)).get, ("FLOAT", "GB", "SIZES", "Memory", "Size", "fit")
)
PAGE = (ROOT / "docs" / "scaling.md").read_text()
FACTOR = 1.15
"""Within which an estimate of activations is to be right."""
SMALL = Size(128, 4, 1024)
BATCH, LENGTH = 4, 96


def real(size: Size) -> TransformerDenoiser:
    return TransformerDenoiser(size.states, size.dim, size.depth, size.heads)


@pytest.mark.parametrize("size", [SMALL, *SIZES], ids=str)
def test_parameters_are_those_of_real_networks(size):
    with torch.device("meta"):
        network = real(size)
    assert size.parameters == sum(p.numel() for p in network.parameters())
    assert size.block == sum(p.numel() for p in network.blocks[0].parameters())


def kept(network: TransformerDenoiser, half: bool) -> int:
    """Bytes that a call keeps for the way back, apart from weights and autocast's copies of them."""
    weights = {p.shape for p in network.parameters()} | {p.shape[::-1] for p in network.parameters()}
    storages = {}

    def pack(x):
        if x.shape not in weights:
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    x, t = torch.randint(SMALL.states, (BATCH, LENGTH)), torch.randint(1, 9, (BATCH,))
    with saved_tensors_hooks(pack, lambda x: x), torch.autocast("cpu", torch.bfloat16, enabled=half):
        network(x, t, defer=True)
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("half", [False, True])
def test_activations_are_those_that_a_network_keeps(half):
    measured, tokens = kept(real(SMALL), half), BATCH * LENGTH
    estimate = SMALL.depth * SMALL.layer(tokens, half) + 2 * FLOAT * tokens * SMALL.dim
    assert 1 / FACTOR < measured / estimate < FACTOR


def test_recomputing_keeps_what_enters_each_block():
    network, tokens = real(SMALL), BATCH * LENGTH
    recompute(network)
    estimate = (SMALL.depth + 2) * FLOAT * tokens * SMALL.dim  # at rest; one block more on the way back
    assert 1 / FACTOR < kept(network, half=False) / estimate < FACTOR


def test_sharding_divides_all_but_what_must_be_whole():
    size = SIZES[-1]
    ddp, shards = Memory.of(size), Memory.of(size, 8)
    assert ddp.total == pytest.approx((4 + 8 + 8 + 4 + 2) * size.parameters)
    assert shards.total - shards.whole == pytest.approx(20 * size.parameters / 8)
    assert [fit(10 * GB, 5 * GB), fit(75 * GB, 50 * GB), fit(100 * GB, 90 * GB), fit(300 * GB, 200 * GB)] == [
        "80 GB",
        "80 GB, recompute",
        "141 GB",
        "no",
    ]


def test_the_page_has_what_the_script_prints():
    printed = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() in PAGE


def test_every_setting_that_the_page_names_exists():
    known = {field.name for field in fields(TrainingConfig)}
    named = set(re.findall(r"training\.(\w+)", PAGE))
    assert named
    assert named <= known
