"""Hard constraints: never violated, exact for one entry, and what they cost the law of several."""

import importlib
import itertools
import pkgutil

import pytest
import torch
from oracle import Chain, World, chi_square, random_law

import d3pm.discrete
from d3pm import AbsorbingTransition, DiscreteDiffusion, UniformTransition, sample
from d3pm.discrete.constraints import Constrained
from d3pm.discrete.patterns import pattern
from d3pm.discrete.truncation import Truncated
from d3pm.errors import ConfigError, D3PMError
from d3pm.sampling import Ancestral, Sampler, draw
from d3pm.transitions import BandDiagonalTransition, DiscretizedGaussianTransition

K, T, L = 6, 12, 5
KERNELS = {
    "absorbing": AbsorbingTransition(K, T),
    "uniform": UniformTransition(K, T),
    "band": BandDiagonalTransition(K, T, width=1),
    "gaussian": DiscretizedGaussianTransition.example(K, T),
}
ALLOWED = torch.tensor(
    [
        [1, 0, 0, 0, 0, 0],  # a prompt
        [0, 0, 0, 0, 1, 0],
        [1, 0, 0, 0, 1, 0],  # two ends
        [0, 1, 1, 0, 0, 1],
        [1, 1, 1, 1, 1, 1],
    ],
    dtype=torch.bool,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def wavering(x_t, t):
    """A belief that depends on the whole row and the time, and likes no constraint."""
    phase = x_t.double().sum(-1) + t.double()
    places = torch.arange(x_t.shape[1], dtype=torch.float64)[:, None]
    return 4 * torch.sin(phase[:, None, None] + 3 * places + torch.arange(K, dtype=torch.float64))


def samplers(process) -> list[Sampler]:
    """Ancestral, and whatever this wing has that serves the process and needs no arguments."""
    for module in pkgutil.iter_modules(d3pm.discrete.__path__, "d3pm.discrete."):
        importlib.import_module(module.name)
    found: list[Sampler] = []
    for kind in Sampler.__subclasses__():
        if kind is not Ancestral and not kind.__module__.startswith("d3pm.discrete."):
            continue
        try:
            sampler = kind()
            sampler.check_process(process)
        except (TypeError, ConfigError):
            continue
        found.append(sampler)
    return found


@pytest.mark.parametrize("form", ["d3pm", "mixture"])
@pytest.mark.parametrize("name", KERNELS)
def test_no_sample_violates_them(name, form):
    """In every sampler; 100,000 entries of each, in all steps and in few."""
    process = DiscreteDiffusion(KERNELS[name], form)
    allowed = ALLOWED.clone()
    if process.transition.mask_state is not None:
        allowed[4, -1] = True  # allowing the mask allows nothing
    network = Constrained(process, wavering, allowed)
    served = samplers(process)
    assert Ancestral() in served
    for sampler in served:
        for steps, batch in ((None, 10_000), (4, 10_000)):
            x = sample(process, network, (batch, L), steps=steps, sampler=sampler, generator=seeded(1))
            assert allowed[torch.arange(L), x].all(), f"{sampler} in {steps} steps"
            if process.transition.mask_state is not None:
                assert (x != process.transition.mask_state).all()
            if sampler == Ancestral():
                assert x[:, 2].unique().tolist() == [0, 4]


def test_a_band_never_loses_its_way():
    """The ends are eleven moves apart: whatever is drawn on the way, an allowed state can have led to it."""
    process = DiscreteDiffusion(BandDiagonalTransition(12, 40, width=1))
    allowed = torch.zeros(2, 12, dtype=torch.bool)
    allowed[0, 0] = allowed[1, [0, 11]] = True
    network = Constrained(process, lambda x_t, t: torch.zeros(*x_t.shape, 12), allowed)
    for steps in (40, 13, 1):
        x = sample(process, network, (2000, 2), steps=steps, generator=seeded(2))
        assert (x[:, 0] == 0).all()
        assert x[:, 1].unique().tolist() == [0, 11]


def test_a_start_out_of_reach_is_refused():
    """Three steps of one state do not lead from 0 to the prior's other end."""
    process = DiscreteDiffusion(BandDiagonalTransition(12, 3, width=1))
    allowed = torch.zeros(1, 12, dtype=torch.bool)
    allowed[0, 0] = True
    network = Constrained(process, lambda x_t, t: torch.zeros(*x_t.shape, 12), allowed)
    with pytest.raises(
        D3PMError, match=r"entry \[1, 0\] can have led to x_t=11 at t=3 under BandDiag"
    ) as error:
        sample(process, network, (2, 1), x_T=torch.tensor([[0], [11]]))
    assert "\n" not in str(error.value)


# The law that results


def world(kernel, length: int, seed: int) -> World:
    chain = Chain.of(kernel)
    return World(chain, length, random_law(chain, length, seed))


@pytest.mark.parametrize("steps", [6, 2])
def test_one_entry_follows_the_conditional_law(steps):
    kernel = AbsorbingTransition(6, 6)
    process, here = DiscreteDiffusion(kernel), world(kernel, 1, seed=3)
    allowed = torch.tensor([[True, False, True, False, True, True]])
    network = Constrained(process, here.network(here.exact_logits()), allowed)
    x = sample(process, network, (20_000, 1), steps=steps, generator=seeded(4))
    law = here.law * allowed[0]
    counts = torch.bincount(x[:, 0], minlength=6)
    assert chi_square(counts[None], (law / law.sum())[None]) > 1e-3


@pytest.mark.parametrize(
    "kernel", [AbsorbingTransition(5, 6), UniformTransition(5, 6)], ids=["masks", "uniform"]
)
def test_one_entry_enumerated_is_exact_in_the_mixture_form(kernel):
    here = world(kernel, 1, seed=5)
    allowed = torch.tensor([True, False, True, False, False])
    # -1e30 is log 0: a state that is not allowed cannot be reached, but the table has a row for it
    logits = here.exact_logits().masked_fill(~allowed, -1e30)
    law = here.law * allowed
    for grid in ([6, 5, 4, 3, 2, 1, 0], [6, 3, 0], [6, 0]):
        found = here.model_law(logits, grid, "mixture")
        torch.testing.assert_close(found, law / law.sum(), atol=1e-7, rtol=0)


def one_by_one(here: World, allowed: torch.Tensor) -> torch.Tensor:
    """The law of two entries revealed one at a time in a random order, each conditioned on its own constraint."""
    size = here.chain.num_states
    joint = here.law.view(size, size)
    both = torch.zeros(size, size, dtype=torch.float64)
    for first, table in ((0, joint), (1, joint.T)):
        one, two = allowed[first], allowed[1 - first]
        start = table.sum(1) * one
        then = table * two
        then = then / then.sum(1, keepdim=True).clamp(min=1e-300)
        drawn = (start / start.sum())[:, None] * then
        both += (drawn if first == 0 else drawn.T) / 2
    return both.flatten()


class TestTwoEntries:
    kernel = AbsorbingTransition(4, 64)
    allowed = torch.tensor([[True, True, False, False], [False, True, True, False]])

    def constrained(self, here: World) -> torch.Tensor:
        return here.exact_logits().masked_fill(~self.allowed, -1e30)

    def test_their_law_is_that_of_one_at_a_time_as_steps_grow(self):
        """Enumerated: the distance to it halves with the step, that to the conditional law does not vanish."""
        here = world(self.kernel, 2, seed=6)
        limit = one_by_one(here, self.allowed)
        pairs = self.allowed[0][:, None] & self.allowed[1]
        exact = here.law * pairs.flatten()
        exact = exact / exact.sum()
        logits = self.constrained(here)
        errors, gaps = [], []
        for steps in (8, 16, 32, 64):
            grid = list(range(64, -1, -64 // steps))
            found = here.model_law(logits, grid, "d3pm")
            errors.append(float((found - limit).abs().sum()) / 2)
            gaps.append(float((found - exact).abs().sum()) / 2)
        assert all(a / b == pytest.approx(2, abs=0.1) for a, b in itertools.pairwise(errors))
        assert errors[-1] < 3e-3
        assert gaps[-1] > 0.02

    def test_samples_follow_it(self):
        here, process = world(self.kernel, 2, seed=6), DiscreteDiffusion(self.kernel)
        exact = here.exact_logits()
        network = Constrained(process, here.network(exact[:1].expand_as(exact)), self.allowed)
        x = sample(process, network, (20_000, 2), generator=seeded(7))
        law = here.model_law(self.constrained(here), list(range(64, -1, -1)), "d3pm")
        counts = torch.bincount(here.index(x), minlength=16)
        assert chi_square(counts[None], law[None]) > 1e-3

    @pytest.mark.parametrize("steps", [64, 2])
    def test_one_state_left_is_a_prompt_and_exact(self, steps):
        """The free entry follows its law given the other, also where it is revealed first."""
        here, process = world(self.kernel, 2, seed=6), DiscreteDiffusion(self.kernel)
        allowed = torch.tensor([[False, True, False, True], [True] * 4])  # the mask does not count
        exact = here.exact_logits()
        network = Constrained(process, here.network(exact[:1].expand_as(exact)), allowed)
        x = sample(process, network, (20_000, 2), steps=steps, generator=seeded(10))
        assert (x[:, 0] == 1).all()
        law = here.law.view(4, 4)[1]
        counts = torch.bincount(x[:, 1], minlength=4)
        assert chi_square(counts[None], (law / law.sum())[None]) > 1e-3


# How it is wrapped, and what is refused


def test_the_sharpened_belief_stays_within_them():
    process = DiscreteDiffusion(KERNELS["uniform"])
    network = Truncated(process, Constrained(process, wavering, ALLOWED), temperature=0.5, top_k=1)
    x = sample(process, network, (500, L), generator=seeded(8))
    assert ALLOWED[torch.arange(L), x].all()
    with pytest.raises(ConfigError, match="put Truncated around Constrained"):
        Constrained(process, Truncated(process, wavering, top_k=1), ALLOWED)


def test_a_batch_axis_of_one_is_the_same_and_costs_are_passed_on():
    process = DiscreteDiffusion(KERNELS["absorbing"])

    def network(x_t, t):
        return torch.zeros(*x_t.shape, K)

    network.time_conditioned, network.calls = False, 2
    one, batched = (Constrained(process, network, a) for a in (ALLOWED, ALLOWED[None]))
    found = [draw(process, net, (64, L), generator=seeded(9)) for net in (one, batched)]
    assert torch.equal(found[0].x0, found[1].x0)
    assert (one.time_conditioned, one.calls) == (False, 2)
    assert int(found[0].calls.max()) <= 2 * L


def empty(entry: int, row: list[bool]) -> torch.Tensor:
    allowed = ALLOWED.clone()
    allowed[entry] = torch.tensor(row)
    return allowed


@pytest.mark.parametrize(
    ("kernel", "allowed", "message"),
    [
        ("absorbing", empty(3, [False] * 5 + [True]), r"entry \[3\] no state besides the mask"),
        ("uniform", empty(2, [False] * 6), r"entry \[2\] no state: allow"),
        ("uniform", ALLOWED.long(), "torch.int64: give bool"),
        ("uniform", ALLOWED[:, :5], r"\(5, 5\): give .* K=6"),
        ("uniform", torch.ones(6, dtype=torch.bool), r"\(6,\): give"),
    ],
)
def test_bad_constraints_are_refused_in_one_line(kernel, allowed, message):
    with pytest.raises(ConfigError, match=message) as error:
        Constrained(DiscreteDiffusion(KERNELS[kernel]), wavering, allowed)
    assert "\n" not in str(error.value)


def test_another_number_of_entries_is_refused_when_it_shows():
    process = DiscreteDiffusion(KERNELS["uniform"])
    with pytest.raises(ConfigError, match=r"allowed has shape \(5, 6\), a sample and its states \(4, 6\)"):
        sample(process, Constrained(process, wavering, ALLOWED), (3, 4))


# The little language


LETTERS = "abcdefghijklmnopqrstuvwxyz "


def read(text: str, **options) -> list[str]:
    """The symbols allowed at each place."""
    rows = pattern(text, LETTERS.index, len(LETTERS), **options)
    return ["".join(LETTERS[i] for i in row.nonzero().flatten()) for row in rows]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("cat", ["c", "a", "t"]),
        ("_ ", [LETTERS, " "]),
        ("[abc][x-z]", ["abc", "xyz"]),
        ("[^ ]", [LETTERS[:-1]]),
        ("[a-cx-z ]", ["abcxyz "]),
        ("[^a-z]", [" "]),
        ("[X-c]", None),
        ("a{3}b", ["a", "a", "a", "b"]),
        ("[ab]{2}", ["ab", "ab"]),
        ("_{0002}", [LETTERS, LETTERS]),
        (r"\a\b", ["a", "b"]),
        (r"[\a-\c]", ["abc"]),
    ],
)
def test_patterns_are_read(text, places):
    if places is None:
        with pytest.raises(ConfigError, match="'X'"):
            read(text)
        return
    assert read(text) == places


def test_escapes_give_back_what_has_a_meaning():
    symbols = "_[]{}^-\\a"
    rows = pattern(r"\_\[]\{}[\]\^\-\\][a-][^\^]", symbols.index, len(symbols))
    read = ["".join(symbols[i] for i in row.nonzero().flatten()) for row in rows]
    assert read == ["_", "[", "]", "{", "}", "]^-\\", "-a", "_[]{}-\\a"]


def test_another_blank_and_unknown_characters_within_a_range():
    assert read("?a", blank="?") == [LETTERS, "a"]
    rows = pattern("[0-9]", {"0": 0, "5": 1, "9": 2}.__getitem__, 3)
    assert rows.all(), "a range is of the characters that the data knows"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "pattern is empty"),
        ("ab[cd", "at position 2 stands a set that holds nothing or is not closed"),
        ("[]", "at position 0 stands a set"),
        ("a{x}", "at position 1 stands a repeat that is no number"),
        ("{2}", "at position 0 stands a repeat of nothing"),
        ("a{0}", "at position 1 stands a repeat of 0"),
        ("a{1000000}", "at position 1 stands a repeat that is too large: write a number of at most 6 digits"),
        ("a{" + "9" * 5000 + "}", "a repeat that is too large"),
        ("ab\\", "at position 2 stands a backslash"),
        ("aB", "at position 1 stands 'B', which the data does not know"),
        ("ab[cD]", "at position 4 stands 'D'"),
        ("[z-a]", "at position 1 stands a range from 'z' back to 'a'"),
        ("a[^a-z ]", "at position 1 stands a set that leaves no symbol"),
    ],
)
def test_patterns_that_cannot_be_read_are_refused_in_one_line(text, message):
    with pytest.raises(ConfigError, match=message) as error:
        read(text)
    assert "\n" not in str(error.value)
