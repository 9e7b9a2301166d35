"""Sharper beliefs: each cut against an obvious twin, their order, and what they must leave alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import chi_square

from d3pm import AbsorbingTransition, DiscreteDiffusion, UniformTransition
from d3pm.discrete.truncation import Truncated
from d3pm.errors import ConfigError
from d3pm.sampling import draw

K, T = 7, 30
ABSORBING = DiscreteDiffusion(AbsorbingTransition(K, T))
UNIFORM = DiscreteDiffusion(UniformTransition(K, T))
LAW = torch.tensor([0.31, 0.24, 0.2, 0.13, 0.08, 0.04], dtype=torch.float64)


def network(x_t, t):
    """A fixed belief at every entry; the mask's logit is the largest and means nothing."""
    logits = torch.cat([LAW.log(), torch.tensor([9.0], dtype=torch.float64)])
    return logits.expand(*x_t.shape, K)


network.time_conditioned = False


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slow(law: list[float], temperature: float, top_k: int | None, top_p: float, min_p: float) -> list[float]:
    """The cuts in words: one state after the other, from the likeliest down."""
    powered = [p ** (1 / temperature) for p in law]
    order = sorted(range(len(law)), key=lambda state: -powered[state])[: top_k or len(law)]
    total = sum(powered[state] for state in order)
    kept, mass = [], 0.0
    for state in order:
        if mass >= top_p:
            break
        kept.append(state)
        mass += powered[state] / total
    kept = [state for state in kept if powered[state] >= min_p * powered[order[0]]]
    total = sum(powered[state] for state in kept)
    return [powered[state] / total if state in kept else 0.0 for state in range(len(law))]


def sharpened(law: torch.Tensor, **cuts) -> torch.Tensor:
    """What the package makes of a law over K - 1 states, as the belief at one masked entry."""
    process = DiscreteDiffusion(AbsorbingTransition(len(law) + 1, T))
    logits = torch.cat([law.log(), torch.zeros(1, dtype=law.dtype)])[None, None]
    x_t, t = torch.full((1, 1), len(law)), torch.tensor([T])
    return process.predict(Truncated(process, lambda x_t, t: logits, **cuts)(x_t, t), x_t, t).probs[0, 0]


@settings(deadline=None)
@given(
    st.lists(st.floats(0.01, 1), min_size=2, max_size=9, unique=True),
    st.sampled_from([0.5, 1.0, 1.7]),
    st.sampled_from([None, 1, 2, 3, 20]),
    st.sampled_from([0.35, 0.72, 1.0]),
    st.sampled_from([0.0, 0.21, 0.73, 1.0]),
)
def test_every_combination_is_its_slow_twin(weights, temperature, top_k, top_p, min_p):
    law = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    found = sharpened(law, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    expected = slow(law.tolist(), temperature, top_k, top_p, min_p)
    torch.testing.assert_close(found[:-1], torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=0)
    assert found[-1] == 0


def test_the_likeliest_k_are_normalised_before_the_nucleus():
    """0.31 of 0.55 is 0.564: with both cuts one state reaches 0.56, of the whole law it takes three."""
    both = sharpened(LAW, top_k=2, top_p=0.56)
    assert (both[:-1] > 0).tolist() == [True, False, False, False, False, False]
    assert int((sharpened(LAW, top_p=0.56) > 0).sum()) == 3


def test_the_state_that_crosses_is_kept():
    assert int((sharpened(LAW, top_p=0.31 + 1e-9) > 0).sum()) == 2
    assert int((sharpened(LAW, top_p=0.31 - 1e-9) > 0).sum()) == 1


def test_min_p_counts_the_tempered_belief():
    """0.24 is 0.77 of 0.31, but of the squares only 0.6."""
    assert int((sharpened(LAW, min_p=0.7) > 0).sum()) == 2
    assert int((sharpened(LAW, min_p=0.7, temperature=0.5) > 0).sum()) == 1


@pytest.mark.parametrize(
    "cuts", [{"top_k": 3}, {"min_p": 0.4}, {"top_k": 4, "top_p": 0.8, "min_p": 0.3, "temperature": 0.8}]
)
def test_samples_follow_the_cut_law_and_are_revealed_at_their_rate(cuts):
    revealed = {}
    found = draw(
        ABSORBING,
        Truncated(ABSORBING, network, **cuts),
        (4, 5000),
        steps=[T, 15, 0],
        generator=seeded(1),
        watch=lambda s, x: revealed.update({s: float((x != K - 1).double().mean())}),
    )
    full = {"temperature": 1.0, "top_k": None, "top_p": 1.0, "min_p": 0.0, **cuts}
    law = torch.tensor([*slow(LAW.tolist(), **full), 0.0])
    counts = torch.bincount(found.x0.flatten(), minlength=K)
    assert chi_square(counts[None], law[None]) > 1e-3
    assert revealed[15] == pytest.approx(0.5, abs=4.5 * 0.5 / 20_000**0.5)


@pytest.mark.parametrize("process", [ABSORBING, UNIFORM])
def test_nothing_changes_at_the_ends_of_the_ranges(process):
    wrapped = Truncated(process, network, temperature=1.0, top_k=K, top_p=1.0, min_p=0.0)
    plain, same = (draw(process, net, (64, 8), steps=5, generator=seeded(2)) for net in (network, wrapped))
    assert torch.equal(plain.x0, same.x0)


@pytest.mark.parametrize("process", [ABSORBING, UNIFORM])
def test_what_is_kept_from_the_network_changes_no_sample(process):
    wrapped = Truncated(process, network, top_k=3)
    found = [draw(process, wrapped, (64, 5), generator=seeded(3), cache=cache) for cache in (True, False)]
    assert torch.equal(found[0].x0, found[1].x0)
    assert (found[1].calls == T).all()


def test_time_matters_where_the_network_or_the_kernel_looks_at_it():
    def timed(x_t, t):
        return network(x_t, t)

    timed.calls = 2
    assert Truncated(ABSORBING, network).time_conditioned is False
    assert Truncated(UNIFORM, network).time_conditioned
    assert Truncated(ABSORBING, timed).time_conditioned
    assert (Truncated(ABSORBING, network).calls, Truncated(ABSORBING, timed).calls) == (1, 2)
    found = draw(ABSORBING, Truncated(ABSORBING, network, min_p=0.1), (16, 3), generator=seeded(4))
    assert int(found.calls.max()) <= 3, "a row is looked at again only when it has changed"


def test_nothing_is_sorted_that_need_not_be(monkeypatch):
    sorted_widths = []
    sort = torch.Tensor.sort
    monkeypatch.setattr(
        torch.Tensor, "sort", lambda x, *a, **k: sorted_widths.append(x.shape[-1]) or sort(x, *a, **k)
    )
    for cuts, widths in (
        ({"temperature": 0.7, "min_p": 0.1}, []),
        ({"top_k": 2}, []),
        ({"top_k": 2, "top_p": 0.9}, [2]),
        ({"top_p": 0.9}, [7]),
    ):
        sorted_widths.clear()
        sharpened(LAW, **cuts)
        assert sorted_widths == widths


@pytest.mark.parametrize(
    ("cuts", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"top_p": 1.5}, r"top_p is 1\.5"),
        ({"top_k": 0}, "top_k is 0"),
        ({"min_p": -0.1}, r"min_p is -0\.1"),
        ({"min_p": 1.1}, r"min_p is 1\.1"),
    ],
)
def test_out_of_range_is_refused_in_one_line(cuts, message):
    with pytest.raises(ConfigError, match=message) as error:
        Truncated(ABSORBING, network, **cuts)
    assert "\n" not in str(error.value)
