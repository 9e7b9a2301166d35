"""The nearest-neighbour kernel: its graph, its exponentials in every form, its walks, and what it refuses."""

import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import chi_square, times
from scipy.linalg import expm as scipy_expm
from torch.testing import assert_close

from d3pm import DiscreteDiffusion
from d3pm.errors import ConfigError, DataError
from d3pm.schedules import MutualInformationSchedule, ReciprocalSchedule
from d3pm.specs import build, describe
from d3pm.transitions.anchors import anchor_chain
from d3pm.transitions.cooccurrence import cooccurrence_embeddings
from d3pm.transitions.diffusing_information import Information
from d3pm.transitions.expm import expm
from d3pm.transitions.heat import Heat
from d3pm.transitions.information import dense_information
from d3pm.transitions.nearest_neighbor import NearestNeighborTransition
from d3pm.transitions.neighbor_graph import components, neighbor_graph
from d3pm.transitions.symmetric import LEAK, Chain, SymmetricOperator

EXACT = {"rtol": 0, "atol": 1e-12}
TIMES = [0.0, 1e-5, 3e-3, 0.09, 0.4, 0.99, 1.01, 3.0, 13.0, 60.0, 400.0]


def points(num_states: int, dim: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_states, dim, generator=generator, dtype=torch.float64)


STRUCTURES = {
    "basis": lambda x, k: Heat(neighbor_graph(x, k)),
    "sparse": lambda x, k: Heat(neighbor_graph(x, k), whole=0),
    "anchors": lambda x, k: anchor_chain(x, max(2, len(x) // 4), min(k, len(x) // 4)),
}


@pytest.fixture(params=STRUCTURES)
def structure(request):
    return STRUCTURES[request.param]


def generator_of(chain: Chain) -> torch.Tensor:
    """R as it is run: with its leak."""
    leak = torch.full((chain.num_states,) * 2, LEAK, dtype=torch.float64)
    return chain.jumps.dense() + leak - chain.leak * torch.eye(chain.num_states, dtype=torch.float64)


def at(chain: Chain, *taus: float) -> SymmetricOperator:
    return SymmetricOperator(chain, torch.tensor(taus, dtype=torch.float64))


# The graph


def test_the_graph_is_that_of_the_paper():
    x, k = points(40), 3
    away = torch.cdist(x, x).fill_diagonal_(math.inf)
    ties = torch.zeros(40, 40, dtype=torch.float64).scatter_(1, away.topk(k, largest=False).indices, 1.0)
    mutual = (ties + ties.T) / (2 * k)
    graph = neighbor_graph(x, k)
    assert int(graph.degrees.sum()) == 2 * 40 * k  # connected as it is
    assert_close(graph.dense(), mutual - mutual.sum(1).diag(), **EXACT)
    assert float(graph.rates(torch.arange(40)).mean()) == pytest.approx(1)


def test_of_equally_near_states_the_first_is_taken():
    line = torch.arange(6, dtype=torch.float64).unsqueeze(1)
    near = [1, 0, 1, 2, 3, 4]
    ties = torch.zeros(6, 6, dtype=torch.float64)
    ties[torch.arange(6), torch.tensor(near)] = 0.5
    assert_close(neighbor_graph(line, 1).dense().fill_diagonal_(0), ties + ties.T, **EXACT)


def test_parts_are_joined_by_the_fewest_and_shortest_ties():
    ends = [0.0, 100.0, 250.0, 450.0]
    x = torch.tensor([end + i for end in ends for i in range(5)], dtype=torch.float64).unsqueeze(1)
    graph = neighbor_graph(x, 2)
    extra = graph.degrees.sum() // 2 - 20 * 2
    assert int(extra) == 3
    for last, first in ((4, 5), (9, 10), (14, 15)):
        assert float(graph.dense()[last, first]) == 1 / 4
    source = torch.repeat_interleave(torch.arange(20), graph.degrees)
    assert int(components(20, torch.stack([source, graph.targets], 1)).max()) == 0
    rates = graph.dense()
    assert_close(rates.sum(0), torch.zeros(20, dtype=torch.float64), **EXACT)


@pytest.mark.parametrize("ties", [1, 2, 3])
def test_anchors_make_a_connected_doubly_stochastic_graph_of_low_rank(ties):
    chain = anchor_chain(points(60), 12, ties)
    shares = chain.jumps.dense() + torch.eye(60, dtype=torch.float64)
    assert (shares >= -1e-15).all()
    assert_close(shares.sum(0), torch.ones(60, dtype=torch.float64), **EXACT)
    assert_close(shares, shares.T, **EXACT)
    values = torch.linalg.eigvalsh(shares)
    assert float(values[0]) > -1e-12
    assert int((values > 1e-12).sum()) <= 12
    assert float(values[-2]) < 1 - 1e-9


# Its exponentials


def test_rows_are_those_of_scipy_at_500_states(structure):
    chain = structure(points(500, dim=8), 7)
    rates = chain.jumps.dense().numpy()
    for tau in (1e-4, 0.5, 6.0, 40.0):
        expected = torch.from_numpy(scipy_expm(tau * rates))
        assert_close(at(chain, tau).dense()[0], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [5, 33, 150])
def test_they_are_markov_chains_at_all_times(structure, size):
    chain = structure(points(size), 3)
    operator = at(chain, *TIMES, math.inf)
    dense = operator.dense()
    assert torch.equal(dense[0], torch.eye(size, dtype=torch.float64))
    assert (dense[-1] == 1 / size).all()
    assert (dense[1:] > 0).all()
    assert_close(dense.sum(-1), torch.ones_like(dense[..., 0]), **EXACT)
    assert_close(dense, dense.mT, **EXACT)
    for i, j in ((1, 2), (4, 6), (5, 5), (7, 8), (8, 11), (2, 9)):
        both = operator.elapsed[i] + operator.elapsed[j]
        assert_close(dense[i] @ dense[j], SymmetricOperator(chain, both[None]).dense()[0], **EXACT)
        assert_close(at(chain, TIMES[i]).compose(at(chain, [*TIMES, math.inf][j])).elapsed, both[None])


def test_small_entries_are_as_good_as_large_ones(structure):
    """States in single file: after a short time far ones are reached by the leak alone, nearer ones precisely."""
    line = torch.arange(40, dtype=torch.float64).unsqueeze(1) ** 1.1
    chain = structure(line, 2)
    for tau in (1e-6, 1e-3, 0.05):
        expected = expm(generator_of(chain), torch.tensor([tau], dtype=torch.float64))[0]
        assert float(expected.min()) < 1e-12 * tau
        assert_close(at(chain, tau).dense()[0], expected, rtol=1e-7, atol=0)


def test_every_reading_is_of_one_matrix(structure):
    chain = structure(points(70), 4)
    taus = torch.tensor([*TIMES, math.inf], dtype=torch.float64)[
        torch.randperm(12, generator=torch.manual_seed(0))
    ]
    operator = SymmetricOperator(chain, taus)
    dense = torch.cat([SymmetricOperator(chain, tau[None]).dense() for tau in taus])
    x, y = torch.randint(70, (2, 12, 50), generator=torch.manual_seed(1))
    batch = torch.arange(12).unsqueeze(1)
    assert_close(operator.rows(x), dense[batch, x], **EXACT)
    assert_close(operator.cols(x), dense.mT[batch, x], **EXACT)
    assert_close(operator.at(x, y), dense[batch, x, y], rtol=1e-9, atol=1e-15)
    p = torch.rand(12, 3, 70, generator=torch.manual_seed(2), dtype=torch.float64, requires_grad=True)
    weight = torch.randn(12, 3, 70, generator=torch.manual_seed(3), dtype=torch.float64)
    assert_close(operator.apply(p), p @ dense, **EXACT)
    (gradient,) = torch.autograd.grad((operator.apply(p) * weight).sum(), p)
    assert_close(gradient, weight @ dense, rtol=0, atol=1e-11)
    assert operator.apply(p.detach().float()).dtype == torch.float32


def test_walks_follow_the_rows(structure):
    chain = structure(points(20), 3)
    operator = at(chain, 0.0, 0.05, 1.5, 30.0, math.inf)
    x = torch.arange(20).repeat_interleave(2000).expand(5, -1)
    drawn = operator.sample(x, torch.Generator().manual_seed(0))
    again = operator.sample(x, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)
    assert torch.equal(drawn[0], x[0])
    counts = torch.nn.functional.one_hot(drawn[1:].reshape(-1, 2000), 20).sum(1)
    assert chi_square(counts, operator.dense()[1:].flatten(0, 1)) > 1e-3


def test_thousands_of_states_take_no_matrix():
    kernel = NearestNeighborTransition(points(3000, dim=16), num_steps=1000)
    t = times(1, 400, 990, 1000)
    x = torch.randint(3000, (4, 8), generator=torch.manual_seed(0))
    rows = kernel.between(t * 0, t).rows(x)
    assert_close(rows.sum(-1), torch.ones(4, 8, dtype=torch.float64), **EXACT)
    assert_close(
        kernel.between(t * 0, t).apply(rows),
        kernel.between(t * 0, t).compose(kernel.between(t * 0, t)).rows(x),
    )
    values = [v.numel() * 8 for f in kernel.chain._copies.values() for v in (f.double.values(), f.modes)]
    assert sum(values) < 10e6


# Its laws


@pytest.mark.parametrize("anchors", [None, 6])
@pytest.mark.parametrize("form", ["d3pm", "mixture"])
def test_divergences_are_finite_at_every_pair_of_states(anchors, form):
    kernel = NearestNeighborTransition(points(24, dim=1), 1000, num_neighbors=2, anchors=anchors)
    process = DiscreteDiffusion(kernel, reverse_form=form)
    x0, x_t = torch.cartesian_prod(torch.arange(24), torch.arange(24)).T
    for s, t in ((1, 2), (3, 4), (499, 500), (998, 999), (10, 700)):
        s, t = torch.full((1,), s), torch.full((1,), t)
        logits = torch.randn(1, len(x0), 24, generator=torch.manual_seed(t.item()), dtype=torch.float64)
        posterior = process.posterior(x0[None], x_t[None], s, t)
        divergence = posterior.kl(process.reverse(logits, x_t[None], s, t))
        assert torch.isfinite(divergence).all()
        assert (divergence > -1e-12).all()


def test_a_schedule_that_ends_at_zero_ends_in_the_uniform_law():
    kernel = NearestNeighborTransition(points(9), num_steps=6, schedule=ReciprocalSchedule())
    assert (kernel.between(times(0, 3, 5), times(6, 6, 6)).dense() == 1 / 9).all()
    assert torch.equal(kernel.between(times(6), times(6)).dense()[0], torch.eye(9, dtype=torch.float64))


def test_rate_is_a_faster_clock():
    slow, fast = (NearestNeighborTransition(points(12), num_steps=9, rate=rate) for rate in (1.0, 2.0))
    expected = slow.between(times(2), times(7))
    assert_close(fast.between(times(2), times(7)).dense(), expected.compose(expected).dense(), **EXACT)
    assert_close(fast.rates(), 2 * slow.rates())


def test_states_are_possible_once_time_has_passed():
    kernel = NearestNeighborTransition(points(12), num_steps=9)
    x_t = times(3, 4)[:, None]
    belief = kernel.belief(torch.zeros(2, 1, 12), x_t, times(0, 5)).probs
    assert_close(belief[0, 0], torch.eye(12)[3])
    assert_close(belief[1, 0], torch.full((12,), 1 / 12))
    assert kernel.reachable(times(1, 1)[:, None], x_t, times(0, 1)).flatten().tolist() == [False, True]


def test_it_is_saved_as_its_arguments():
    kernel = NearestNeighborTransition(points(12), num_steps=9, num_neighbors=3, rate=2.0)
    tensors: dict = {}
    same = build(describe(kernel, tensors), tensors=tensors)
    t = times(1, 5)
    assert torch.equal(same.between(t - 1, t).dense(), kernel.between(t - 1, t).dense())


# What is left of the data


def zipf(size: int) -> torch.Tensor:
    law = 1 / torch.arange(1, size + 1, dtype=torch.float64)
    return law / law.sum()


@pytest.mark.parametrize("anchors", [None, 6])
def test_information_is_that_of_the_matrices(anchors):
    kernel = NearestNeighborTransition(points(27), num_steps=9, anchors=anchors)
    levels = torch.tensor([1.0, 0.999, 0.5, 1e-3, 1e-30, 0.0], dtype=torch.float64)
    found = kernel.information(levels, zipf(27))
    assert_close(found[:1], torch.special.entr(zipf(27)).sum(-1, keepdim=True))
    assert float(found[-1]) == pytest.approx(0, abs=1e-14)
    taus = -levels[1:-1].log()
    assert_close(found[1:-1], dense_information(expm(kernel.rates(), taus), zipf(27)), rtol=1e-9, atol=1e-10)


def test_interpolated_information_is_close():
    chain, law = Heat(neighbor_graph(points(300), 5)), zipf(300)
    information, tau = (
        Information(chain, 750.0),
        torch.tensor([0.0, 1e-5, 0.003, 0.2, 2.0, 9.0, 70.0, math.inf]),
    )
    exact = information.exact(tau.double(), law)
    assert_close(information(tau.double(), law), exact, rtol=0, atol=3e-4 * float(exact[0]))
    by_rows = torch.cat([information._by_rows(t, law) for t in tau.double()[3:5].split(1)])
    assert_close(by_rows, exact[3:5], rtol=1e-10, atol=1e-10)


def test_a_schedule_by_information_falls_evenly():
    kernel = NearestNeighborTransition(points(27), num_steps=20)
    schedule = MutualInformationSchedule(zipf(27), kernel)
    timed = NearestNeighborTransition(points(27), num_steps=20, schedule=schedule)
    entropy = torch.special.entr(zipf(27)).sum()
    left = (
        dense_information(timed.between(torch.zeros(21).long(), torch.arange(21)).dense(), zipf(27)) / entropy
    )
    assert_close(left, 1 - torch.arange(21, dtype=torch.float64) / 20, rtol=0, atol=1e-9)


# From a text


def test_states_that_stand_in_like_places_are_neighbours():
    """Two kinds of words take turns: the neighbours of each are of its own kind."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randint(6, (2, 20_000), generator=generator) + torch.tensor([[0], [6]])
    stream = kinds.T.flatten()
    kernel = NearestNeighborTransition.from_cooccurrence(
        stream, num_steps=10, num_states=12, window=1, num_neighbors=3
    )
    inside = kernel.rates()[:6, :6].fill_diagonal_(0).sum()
    across = kernel.rates()[:6, 6:].sum()
    assert inside > 10 * across
    counts = torch.zeros(12, 12, dtype=torch.int64).index_put_(
        (stream[:-1], stream[1:]), torch.ones(39_999, dtype=torch.int64), accumulate=True
    )
    again = cooccurrence_embeddings(counts)
    assert_close(again @ again.T, kernel.embeddings @ kernel.embeddings.T, rtol=0, atol=1e-4)


def test_states_that_never_occur_have_a_place_of_their_own():
    rows = cooccurrence_embeddings(torch.tensor([0, 1, 0, 2, 0, 1] * 5), num_states=8, window=1)
    assert_close(rows.norm(dim=1), torch.ones(8, dtype=torch.float64))
    assert len(rows.unique(dim=0)) == 8


def test_the_script_writes_what_a_config_reads(tmp_path, monkeypatch, capsys):
    (tmp_path / "text.txt").write_text("the cat sat on the mat and the dog ran to the cat " * 40)
    out = tmp_path / "letters.npy"
    monkeypatch.setenv("D3PM_CACHE", str(tmp_path / "cache"))
    options = ["--source", str(tmp_path / "text.txt"), "--output", str(out), "--window", "1"]
    monkeypatch.setattr(sys, "argv", ["cooccurrence.py", *options])
    runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "cooccurrence.py"), run_name="__main__")
    assert "nearest" in capsys.readouterr().out
    spec = {
        "class_path": "d3pm.transitions.nearest_neighbor.NearestNeighborTransition",
        "init_args": {"embeddings": str(out), "num_steps": 5},
    }
    assert build(spec).num_states == 27


# Bad input


def bad(row: int, value: float) -> torch.Tensor:
    x = points(6)
    x[row, 1] = value
    return x


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NearestNeighborTransition(bad(4, math.nan), 5), "row 4 has a NaN"),
        (lambda: NearestNeighborTransition(bad(2, math.inf), 5), "row 2"),
        (
            lambda: NearestNeighborTransition(points(6)[torch.tensor([0, 1, 2, 1])], 5),
            "rows 1 and 3 are equal",
        ),
        (lambda: NearestNeighborTransition(points(6)[0], 5), "embeddings has shape"),
        (lambda: NearestNeighborTransition(points(1), 5), "embeddings has shape"),
        (lambda: NearestNeighborTransition("nowhere.npy", 5), "embeddings: there is no file nowhere.npy"),
        (lambda: NearestNeighborTransition(__file__, 5), "neither .npy nor .safetensors"),
        (lambda: NearestNeighborTransition(points(6), 5, num_neighbors=6), "num_neighbors is 6.*from 1 to 5"),
        (lambda: NearestNeighborTransition(points(6), 5, num_neighbors=0), "num_neighbors is 0"),
        (lambda: NearestNeighborTransition(points(6), 5, anchors=7), "anchors is 7.*from 2 to"),
        (lambda: NearestNeighborTransition(points(6), 5, anchors=1), "anchors is 1"),
        (lambda: NearestNeighborTransition(points(6), 5, anchors=3, num_neighbors=4), "num_neighbors is 4"),
        (lambda: NearestNeighborTransition(points(6), 0), "num_steps"),
        (lambda: NearestNeighborTransition(points(6), 5, rate=0.0), "rate is 0"),
        (lambda: cooccurrence_embeddings(torch.tensor([0, 1, 5]), num_states=3), "5 is no state"),
        (lambda: cooccurrence_embeddings(torch.tensor([0, 1])), "num_states is None"),
        (lambda: cooccurrence_embeddings(torch.tensor([0]), num_states=3), "no two stand side by side"),
        (lambda: cooccurrence_embeddings(torch.tensor([0.5, 1.0]), num_states=3), "stream of integers"),
        (lambda: cooccurrence_embeddings(torch.tensor([0, 1]), num_states=3, window=0), "window is 0"),
        (lambda: cooccurrence_embeddings(torch.ones(2, 3)), "counts has shape"),
        (lambda: cooccurrence_embeddings(torch.tensor([[0, 1], [-1, 0]])), r"counts\[1, 0\] is -1"),
    ],
)
def test_values_that_cannot_work_are_named(build, message):
    with pytest.raises((ConfigError, DataError), match=message) as error:
        build()
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_array_is_named(tmp_path):
    (tmp_path / "broken.npy").write_bytes(b"no array")
    with pytest.raises(ConfigError, match=r"embeddings: .*broken.npy cannot be read"):
        NearestNeighborTransition(tmp_path / "broken.npy", 5)
    np.save(tmp_path / "good.npy", points(6).numpy())
    assert torch.equal(NearestNeighborTransition(tmp_path / "good.npy", 5).embeddings, points(6))
