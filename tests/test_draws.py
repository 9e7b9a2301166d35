"""Random numbers of a whole batch: whoever holds a part of it sees what would be seen in all of it."""

import itertools

import pytest
import torch
from oracle import chi_square, concrete_subclasses
from scipy.stats import kstest

from d3pm.classification import Classification
from d3pm.distributions import Categorical, Normal
from d3pm.draws import Share, Streams, evenly, integers, mixed, normals, uniforms, whole
from d3pm.errors import ConfigError, D3PMError
from d3pm.objectives import Hybrid, Objective, VariationalBound, stratified
from d3pm.process import Process
from d3pm.time_sampling import ImportanceTimes, UniformTimes
from d3pm.transitions.base import Transition

CPU = torch.device("cpu")
BATCH = 16
SPLITS = [8, 1]
TRANSITIONS = concrete_subclasses(Transition)
PROCESSES = [process for cls in concrete_subclasses(Process) for process in cls.example()]


def plain(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shares(rows: int, seed: int = 7, batch: int = BATCH) -> list[Share]:
    return [Share(seed, first, rows, batch) for first in range(0, batch, rows)]


def joined(draw, rows: int, *tensors: torch.Tensor) -> torch.Tensor:
    """``draw(generator, *tensors)`` of each part of the batch by its share."""
    parts = zip(shares(rows), *(tensor.split(rows) for tensor in tensors), strict=True)
    return torch.cat([draw(share, *mine) for share, *mine in parts])


DRAWS = {
    "uniforms": lambda n, g: uniforms(torch.Size([n, 3]), CPU, g),
    "normals": lambda n, g: normals(torch.Size([n, 5]), CPU, g, torch.float32),
    "integers": lambda n, g: integers(9, torch.Size([n, 2, 2]), CPU, g),
    "stratified": lambda n, g: stratified(torch.zeros(n, 1), g),
    "a categorical law": lambda n, g: Categorical(torch.zeros(n, 3, 4)).sample(g),
    "a normal law": lambda n, g: Normal(torch.zeros(n, 3), torch.ones(())).sample(g),
    "one after another": lambda n, g: uniforms(torch.Size([n]), CPU, g) + uniforms(torch.Size([n]), CPU, g),
}


@pytest.mark.parametrize("rows", SPLITS)
@pytest.mark.parametrize("kind", DRAWS)
def test_parts_see_what_the_whole_sees(kind, rows):
    everything = DRAWS[kind](BATCH, plain())
    assert torch.equal(joined(lambda share: DRAWS[kind](rows, share), rows), everything)
    assert torch.equal(DRAWS[kind](BATCH, Share(7, 0, BATCH, BATCH)), everything)
    assert not torch.equal(DRAWS[kind](BATCH, plain(8)), everything)


@pytest.mark.parametrize("rows", SPLITS)
@pytest.mark.parametrize("num_states", [2, 5, 27])
@pytest.mark.parametrize("kernel", TRANSITIONS, ids=lambda cls: cls.__name__)
def test_corruption_by_any_kernel_does_not_depend_on_the_split(kernel, num_states, rows):
    transition = kernel.example(num_states=num_states, num_steps=6)
    x0 = torch.randint(num_states, (BATCH, 9), generator=plain(1))
    t = torch.arange(BATCH) % 7  # the start among them, and times after which steps are wide

    def noised(generator, x0, t):
        return transition.between(torch.zeros_like(t), t).sample(x0, generator)

    assert torch.equal(joined(noised, rows, x0, t), noised(plain(), x0, t))


def data(process: Process) -> torch.Tensor:
    """A batch that this process can be given."""
    if not hasattr(process, "num_states"):
        return torch.rand(BATCH, 2, 4, generator=plain(2)) * 2 - 1
    table = hasattr(process, "columns")
    kernels = [process.transitions[c] for c in process.columns] if table else [process.transition] * 6
    columns = []
    for seed, kernel in enumerate(kernels):
        states = torch.tensor([x for x in range(kernel.num_states) if x != kernel.mask_state])
        columns.append(states[torch.randint(len(states), (BATCH,), generator=plain(seed))])
    return torch.stack(columns, -1)


def network_of(process: Process):
    """What it says of a row depends on that row alone."""
    wide = 2 if getattr(process, "variance", "") == "learned_range" else 1

    def network(x_t, t, **cond):
        level = torch.sin(x_t.double() + t.view(-1, *[1] * (x_t.dim() - 1)))
        if hasattr(process, "num_states"):
            return torch.sin(level.unsqueeze(-1) * torch.arange(1, process.num_states + 1))
        return level.repeat(1, wide, *[1] * (level.dim() - 2))

    return network


def classifier(x_t, t):
    return torch.sin(x_t.flatten(1)[:, :3].double() + t[:, None])


def name_of(process: Process) -> str:
    return "-".join([type(process).__name__, *(v for v in vars(process).values() if isinstance(v, str))])


@pytest.mark.parametrize("process", PROCESSES, ids=name_of)
class TestEveryProcess:
    @pytest.mark.parametrize("rows", SPLITS)
    def test_corruption_does_not_depend_on_the_split(self, process, rows):
        x0, t = data(process), 1 + torch.arange(BATCH) % process.num_steps

        def noised(generator, x0, t):
            return process.q_sample(x0, t, generator)

        assert torch.equal(joined(noised, rows, x0, t), noised(plain(), x0, t))

    def test_nor_do_steps_back(self, process):
        x0, t = data(process), 1 + torch.arange(BATCH) % process.num_steps
        x_t = process.q_sample(x0, t, plain(3))

        def back(generator, x_t, t):
            return process.step(network_of(process)(x_t, t), x_t, t - 1, t, generator)

        torch.testing.assert_close(joined(back, 8, x_t, t), back(plain(), x_t, t), rtol=1e-6, atol=1e-6)

    def test_nor_do_the_times_and_losses_of_any_objective(self, process):
        x0, labels, tested = data(process), torch.arange(BATCH) % 3, set()
        for kind in concrete_subclasses(Objective):
            network = classifier if kind is Classification else network_of(process)
            try:
                made(kind, process).check_process(process)
                found = losses(made(kind, process), process, network, x0, plain(), labels=labels)
            except ConfigError:
                continue  # they do not go together
            objective = made(kind, process)
            parts = [
                losses(objective, process, network, mine, share, labels=classes)
                for share, mine, classes in zip(shares(8), x0.split(8), labels.split(8), strict=True)
            ]
            times, values = (torch.cat(pair) for pair in zip(*parts, strict=True))
            assert torch.equal(times, found[0]), kind
            torch.testing.assert_close(values, found[1], rtol=1e-12, atol=1e-12)
            tested.add(kind)
        assert {VariationalBound, ImportanceTimes, UniformTimes, Classification, Hybrid} <= tested


def made(kind: type, process: Process) -> Objective:
    if kind is UniformTimes:
        return UniformTimes(VariationalBound())
    if kind is ImportanceTimes:
        return ImportanceTimes(VariationalBound(), process.num_steps, history=2)
    if kind is Hybrid:
        return Hybrid(VariationalBound(), VariationalBound(), 0.5)
    return kind()


def losses(objective, process, network, x0, generator, **cond):
    """The times that the network was told, and the losses."""
    seen = []

    def listening(x_t, t, **cond):
        seen.append(t)
        return network(x_t, t, **cond)

    return (lambda values: (seen[-1], values))(objective(process, listening, x0, generator=generator, **cond))


@pytest.mark.parametrize("rows", [8, 2])
def test_a_batch_in_parts_is_remembered_once_and_whole(rows):
    """Two steps in micro-batches, on which later times depend, against the same in one piece."""
    process = next(p for p in PROCESSES if hasattr(p, "transition"))
    x0, network, memories = data(process), network_of(process), []
    for size in (BATCH, rows):
        objective, drawn = ImportanceTimes(VariationalBound(), process.num_steps, history=1), []
        for step in range(6):
            for share, mine in zip(shares(size, seed=step), x0.split(size), strict=True):
                drawn.append(losses(objective, process, network, mine, share)[0])
        memories.append((objective.losses, objective.seen, torch.cat(drawn)))
    assert (memories[0][1] >= 1).all()  # later times were drawn by what was remembered
    for one, many in zip(*memories, strict=True):
        torch.testing.assert_close(one, many, rtol=1e-12, atol=0)


def test_a_step_that_broke_off_is_forgotten():
    process = next(p for p in PROCESSES if hasattr(p, "transition"))
    x0, network = data(process), network_of(process)
    objective = ImportanceTimes(VariationalBound(), process.num_steps)
    for share in (*shares(8, seed=1)[:1], *shares(8, seed=2)):
        objective(process, network, x0[share.first : share.first + 8], generator=share)
    assert int(objective.seen.sum()) == BATCH


def test_rows_that_are_not_the_batch_s_are_refused():
    with pytest.raises(D3PMError, match="rows 12 to 19 of 16"):
        Share(0, 12, 8, BATCH)
    share = Share(0, 8, 8, BATCH)
    for shape in ((16, 3), (2, 8), ()):
        with pytest.raises(D3PMError, match=r"share of 8 out of 16.*first axis"):
            uniforms(torch.Size(shape), CPU, share)
    assert whole(8, share)[:2] == (16, slice(8, 16))


def test_code_that_knows_nothing_of_shares_gets_independent_noise():
    one, other = (torch.rand(1000, generator=share) for share in shares(8))
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.15


def test_seeds_of_steps_are_unrelated():
    seeds = {mixed(seed, step) for seed, step in itertools.product(range(100), range(100))}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 2**63 for seed in seeds)
    bits = torch.tensor([[seed >> bit & 1 for bit in range(63)] for seed in sorted(seeds)]).double()
    assert float((bits.mean(0) - 0.5).abs().max()) < 0.03


class TestEvenly:
    @pytest.mark.parametrize("batch", [1, 2, 7, 12, 64, 96, 1000])
    def test_it_is_an_order(self, batch):
        assert evenly(batch, CPU).sort().values.tolist() == list(range(batch))

    @pytest.mark.parametrize(("batch", "rows"), [(64, 32), (64, 4), (128, 8), (2, 1)])
    def test_times_of_parts_are_stratified_too(self, batch, rows):
        u = stratified(torch.zeros(batch, 1), plain())
        for part in u.split(rows):
            assert sorted((part * rows).long().tolist()) == list(range(rows))

    @pytest.mark.parametrize(("batch", "rows"), [(96, 32), (60, 12), (372, 12), (1552, 16), (1675, 25)])
    def test_other_parts_are_nearly_so(self, batch, rows):
        """The number of times below any bound is within five of what it should be."""
        for part in stratified(torch.zeros(batch, 1), plain()).split(rows):
            below = torch.arange(1, rows + 1) - part.sort().values * rows
            assert float(below.abs().max()) < 5

    @pytest.mark.parametrize("place", [0, 5, 11])
    def test_every_example_has_every_time(self, place):
        generator = plain()
        u = [float(stratified(torch.zeros(12, 1), generator)[place]) for _ in range(2000)]
        assert kstest(u, "uniform").pvalue > 1e-3


class TestStreams:
    def test_a_stream_does_not_depend_on_who_else_walks(self):
        everyone = Streams.begin(torch.zeros(3, 4), plain())
        some = everyone[torch.tensor([1, 7])]
        assert torch.equal(everyone.uniforms()[[1, 7]], some.uniforms())
        assert torch.equal(some.uniforms(), everyone[torch.tensor([1, 7])].uniforms())

    def test_the_published_numbers(self):
        """Of SplitMix64 from 0: Vigna's reference implementation gives these first."""
        stream = Streams(torch.zeros(1, dtype=torch.int64))
        for bits in (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F):
            assert stream.uniforms().item() == (bits >> 11) * 2.0**-53

    def test_numbers_are_uniform_and_independent_along_and_across(self):
        streams = Streams.begin(torch.zeros(20_000), plain())
        u, v = streams.uniforms(), streams.uniforms()
        assert float(u.min()) >= 0
        assert float(u.max()) < 1
        for one, other in ((u, v), (u[::2], u[1::2])):
            cells = (one * 10).long() * 10 + (other * 10).long()
            counts = torch.bincount(cells, minlength=100)[None]
            assert chi_square(counts, torch.full((1, 100), 0.01)) > 1e-4
