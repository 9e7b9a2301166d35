"""A compiled network draws the same samples, and is compiled as often as there are sizes of batches."""

import pytest
import torch
from tiny import train, write_config

from d3pm.cli import main
from d3pm.compiled import Compiled, halves
from d3pm.discrete import Confidence, DiscreteDiffusion, FirstHitting, Truncated, extend
from d3pm.errors import ConfigError
from d3pm.gaussian import DDIM, GaussianDiffusion
from d3pm.guidance import ClassifierFreeGuidance
from d3pm.networks import TransformerDenoiser
from d3pm.sampling import Ancestral, draw
from d3pm.schedules import CosineSchedule
from d3pm.transitions import AbsorbingTransition, UniformTransition

K, T, BATCH = 6, 20, 16


@pytest.fixture(autouse=True)
def afresh():
    torch._dynamo.reset()


class Counted:
    """A backend that changes nothing and counts the graphs it is given, and the rows of each."""

    def __init__(self):
        self.rows = []

    def __call__(self, graph, inputs):
        states = [each for each in inputs if isinstance(each, torch.Tensor) and each.dtype == torch.int64]
        self.rows.append(max(len(each) for each in states))
        return graph.forward


def text(**more):
    torch.manual_seed(0)
    network = TransformerDenoiser(num_states=K, dim=16, depth=1, heads=2, **more).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def samples(process, network, shape, **options):
    return draw(process, network, shape, generator=torch.Generator().manual_seed(1), **options)


@pytest.mark.parametrize(
    "sampler", [Ancestral(), FirstHitting(), Confidence()], ids=lambda each: type(each).__name__
)
def test_samples_are_the_same_and_each_size_is_compiled_once(sampler):
    """Rows finish at different steps, and are asked for no more: every size comes up."""
    process, network = DiscreteDiffusion(AbsorbingTransition(K, T)), text(time_conditioned=False)
    backend = Counted()
    compiled = Compiled(network, halves(BATCH), backend=backend)
    for _ in range(2):
        found = samples(process, compiled, (BATCH, 8), sampler=sampler)
        expected = samples(process, network, (BATCH, 8), sampler=sampler)
        assert torch.equal(found.x0, expected.x0)
        assert torch.equal(found.calls, expected.calls)
    assert sorted(backend.rows) == sorted(compiled.used)
    assert compiled.used <= {2, 4, 8, 16}
    if isinstance(sampler, Ancestral):
        assert compiled.used == {2, 4, 8, 16}


def test_every_row_every_time_is_one_size():
    process, network, backend = DiscreteDiffusion(UniformTransition(K, T)), text(), Counted()
    found = samples(process, Compiled(network, halves(BATCH), backend=backend), (BATCH, 8))
    assert torch.equal(found.x0, samples(process, network, (BATCH, 8)).x0)
    assert backend.rows == [BATCH]


def test_so_are_blocks_all_of_one_shape():
    process, network, backend = DiscreteDiffusion(AbsorbingTransition(K, T)), text(), Counted()
    compiled = Compiled(network, [BATCH], backend=backend)

    def longer(network):
        generator = torch.Generator().manual_seed(1)
        return extend(process, network, (BATCH, 29), block=4, context=4, generator=generator).x0

    assert torch.equal(longer(compiled), longer(network))
    assert backend.rows == [BATCH]


def test_guides_and_sharper_beliefs_go_around_it_or_inside():
    process, network = DiscreteDiffusion(AbsorbingTransition(K, T)), text(num_classes=3)
    labels = torch.arange(BATCH) % 3

    def guided(network):
        return ClassifierFreeGuidance(network, 2.0, {"labels": None})

    expected = samples(process, guided(network), (BATCH, 8), labels=labels)
    inside, outside = Counted(), Counted()
    for around in (
        guided(Compiled(network, halves(BATCH), backend=inside)),
        Compiled(guided(network), halves(BATCH), backend=outside),
    ):
        found = samples(process, around, (BATCH, 8), labels=labels)
        assert torch.equal(found.x0, expected.x0)
        assert torch.equal(found.calls, expected.calls)
    assert len(inside.rows) == 2 * len(outside.rows)  # with the class and without; or both in one graph
    sharp = Truncated(process, Compiled(network, [BATCH], backend=Counted()), top_k=2)
    plain = Truncated(process, network, top_k=2)
    same = (samples(process, each, (BATCH, 8), labels=labels).x0 for each in (sharp, plain))
    assert torch.equal(*same)


class Painter(torch.nn.Module):
    """The least network that says something of pictures."""

    def __init__(self):
        super().__init__()
        self.draw = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x_t, t):
        return self.draw(x_t) * (1 + t.view(-1, 1, 1, 1) / T)


def test_pictures_too():
    process, backend = GaussianDiffusion(CosineSchedule(), T, "eps"), Counted()
    torch.manual_seed(0)
    network = Painter()
    found, expected = (
        samples(process, each, (3, 1, 8, 8), steps=5, sampler=DDIM()).x0
        for each in (Compiled(network, [4], backend=backend), network)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert backend.rows == [4]


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 9])
def test_a_batch_of_any_number_of_rows_is_served(rows):
    network = text(num_classes=3)
    compiled = Compiled(network, [2, 4], backend=Counted())
    x_t, t, labels = torch.randint(K, (rows, 8)), torch.arange(1, rows + 1), torch.arange(rows) % 3
    with torch.no_grad():
        found, expected = (each(x_t, t, labels=labels) for each in (compiled, network))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert compiled.used == {{1: 2, 3: 4, 4: 4}.get(rows, rows)}


def test_more_shapes_than_a_compiler_likes_are_compiled_all_the_same():
    backend = Counted()
    compiled = Compiled(text(), [1], backend=backend)
    with torch.no_grad():
        for rows in range(2, 12):
            compiled(torch.zeros(rows, 8, dtype=torch.int64), torch.ones(rows, dtype=torch.int64))
    assert backend.rows == list(range(2, 12))


def test_what_cannot_be_compiled_is_said_in_one_line():
    def refuses(graph, inputs):
        raise RuntimeError("no compiler was found\nand much more")

    with pytest.raises(
        ConfigError, match=r"cannot be compiled here \(no compiler was found\): sample without --compile"
    ) as caught:
        Compiled(text(), [2], backend=refuses)(torch.zeros(2, 8, dtype=torch.int64), torch.ones(2))
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="sizes is"):
        Compiled(text(), [])


def test_the_command_line_compiles_if_asked(tmp_path, monkeypatch, capsys):
    config, run = write_config(tmp_path), tmp_path / "run"
    assert train(config, run, "--training.max_steps", "2") == 0
    built = []

    def made(network, sizes):
        built.append(Compiled(network, sizes, backend=Counted()))
        return built[-1]

    monkeypatch.setattr("d3pm.cli.sample.Compiled", made)
    shown = []
    for options in ([], ["--compile"]):
        capsys.readouterr()
        assert main(["sample", str(run), "--num", "5", "--steps", "4", "--batch-size", "2", *options]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert len(built) == 1
    assert built[0].sizes == [1, 2]
    assert built[0].used
