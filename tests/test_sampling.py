"""The reverse loop: grids, prompts, seeds, and sharpened beliefs."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from d3pm import AbsorbingTransition, DiscreteDiffusion, UniformTransition, sample
from d3pm.discrete.truncation import Truncated, nucleus
from d3pm.errors import ConfigError
from d3pm.guidance import ClassifierFreeGuidance
from d3pm.sampling import cosine_grid, draw, uniform_grid

K, T = 6, 40
ABSORBING = DiscreteDiffusion(AbsorbingTransition(K, T))
UNIFORM = DiscreteDiffusion(UniformTransition(K, T))


def network(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A fixed belief, the same at every entry; the mask's logit is the largest."""
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, 5.0], dtype=torch.float64)
    return logits.expand(*x_t.shape, K)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 300), st.data())
@pytest.mark.parametrize("grid", [uniform_grid, cosine_grid])
def test_grids_fall_from_T_to_0_in_the_steps_asked_for(grid, num_steps, data):
    steps = data.draw(st.integers(1, num_steps))
    times = grid(num_steps, steps)
    assert times[0] == num_steps
    assert times[-1] == 0
    assert len(times) == steps + 1
    assert all(a > b for a, b in pairwise(times))


def test_the_cosine_grid_takes_its_small_steps_first():
    sizes = [a - b for a, b in pairwise(cosine_grid(1000, 20))]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("process", [ABSORBING, UNIFORM])
def test_equal_seeds_give_equal_samples_and_others_do_not(process):
    draws = [sample(process, network, (8, 16), steps=7, generator=seeded(s)) for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("process", [ABSORBING, UNIFORM])
def test_a_network_is_called_once_a_step_with_falling_times(process):
    called = []

    def counting(x_t, t):
        called.append(int(t[0]))
        return network(x_t, t)

    sample(process, counting, (2, 3), steps=[T, 9, 4, 0], cache=False)
    assert called == [T, 9, 4]


@pytest.mark.parametrize("process", [ABSORBING, UNIFORM])
def test_known_entries_come_out_as_given(process):
    x0 = torch.randint(K - 1, (5, 12), generator=seeded(2))
    known = torch.rand(5, 12, generator=seeded(3)) < 0.4
    x = sample(process, network, (5, 12), steps=10, known=known, x0=x0, generator=seeded(4))
    assert torch.equal(x[known], x0[known])
    assert not torch.equal(x[~known], x0[~known])


def test_under_masks_the_known_stand_from_the_start_and_the_rest_is_revealed_at_its_rate():
    x0, known = torch.zeros(2000, 2, dtype=torch.int64), torch.tensor([True, False]).expand(2000, 2)
    masked = {}
    sample(
        ABSORBING,
        network,
        (2000, 2),
        steps=4,
        known=known,
        x0=x0,
        generator=seeded(5),
        watch=lambda s, x: masked.update({s: (x == K - 1).double().mean(0)}),
    )
    assert all(share[0] == 0 for share in masked.values())
    for s, share in masked.items():
        assert float(share[1]) == pytest.approx(s / T, abs=5 * 0.5 / 2000**0.5)


def test_bad_steps_are_refused_in_one_line():
    for steps in (0, T + 1, [T, 5], [T, 5, 5, 0], [T + 1, 0], [T, 1.5, 0]):
        with pytest.raises(ConfigError, match="steps is") as error:
            sample(ABSORBING, network, (1, 2), steps=steps)
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="go together"):
        sample(ABSORBING, network, (1, 2), known=torch.ones(1, 2, dtype=torch.bool))


class TestSharperBeliefs:
    def test_nothing_changes_at_one(self):
        plain = sample(ABSORBING, network, (64, 8), steps=5, generator=seeded(6))
        sharp = sample(ABSORBING, Truncated(ABSORBING, network), (64, 8), steps=5, generator=seeded(6))
        assert torch.equal(plain, sharp)

    def test_temperature_powers_the_belief_without_the_mask(self):
        x_t, t = torch.full((1, 1), K - 1), torch.tensor([T])
        belief = ABSORBING.predict(network(x_t, t), x_t, t).probs[0, 0]
        sharp = ABSORBING.predict(Truncated(ABSORBING, network, temperature=0.5)(x_t, t), x_t, t).probs[0, 0]
        assert torch.allclose(sharp, belief**2 / (belief**2).sum(), atol=1e-12)
        assert belief[K - 1] == sharp[K - 1] == 0

    def test_temperature_leaves_the_rate_of_revealing_alone(self):
        for temperature in (0.2, 5.0):
            masked = {}
            sample(
                ABSORBING,
                Truncated(ABSORBING, network, temperature=temperature),
                (4000,),
                steps=[T, 30, 10, 0],
                generator=seeded(7),
                watch=lambda s, x, seen=masked: seen.update({s: float((x == K - 1).double().mean())}),
            )
            assert masked[30] == pytest.approx(0.75, abs=0.035)
            assert masked[10] == pytest.approx(0.25, abs=0.035)

    @given(st.lists(st.floats(-5, 5), min_size=2, max_size=9), st.floats(0.01, 1))
    def test_the_nucleus_is_the_smallest_set_that_reaches_its_mass(self, logits, top_p):
        log_probs = torch.tensor(logits, dtype=torch.float64).log_softmax(-1)
        kept = nucleus(log_probs, top_p) > -torch.inf
        mass = float(log_probs.exp()[kept].sum())
        least = float(log_probs.exp()[kept].min())
        assert mass >= top_p - 1e-9
        assert kept.all() or mass - least < top_p + 1e-9

    def test_out_of_range_is_refused(self):
        with pytest.raises(ConfigError, match="temperature is 0"):
            Truncated(ABSORBING, network, temperature=0.0)
        with pytest.raises(ConfigError, match=r"top_p is 1\.5"):
            Truncated(ABSORBING, network, top_p=1.5)


class TestCalls:
    """What is kept from the network changes no sample, and what is sent is counted."""

    @staticmethod
    def table(time_free: bool):
        """A belief that depends on the whole row, and on the time unless it is free of it."""

        def belief(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            belief.rows += len(x_t)
            phase = x_t.double().sum(-1) if time_free else x_t.double().sum(-1) + t.double()
            places = torch.arange(x_t.shape[1], dtype=torch.float64)[:, None]
            states = torch.arange(K, dtype=torch.float64)
            return torch.sin(phase[:, None, None] + 3 * places + states)

        belief.rows, belief.time_conditioned = 0, not time_free
        return belief

    @pytest.mark.parametrize("process", [ABSORBING, UNIFORM])
    @pytest.mark.parametrize("time_free", [True, False])
    def test_samples_are_the_same_with_and_without(self, process, time_free):
        frugal, plain = self.table(time_free), self.table(time_free)
        a = draw(process, frugal, (32, 5), generator=seeded(8))
        b = draw(process, plain, (32, 5), generator=seeded(8), cache=False)
        assert torch.equal(a.x0, b.x0)
        assert int(a.calls.sum()) == frugal.rows
        assert (b.calls == T).all()
        assert b.forwards == T
        assert plain.rows == 32 * T

    def test_a_time_free_network_sees_a_masked_row_once_for_every_change(self):
        states = []
        found = draw(
            ABSORBING,
            self.table(True),
            (64, 5),
            generator=seeded(9),
            watch=lambda s, x: states.append(x.clone()),
        )
        path = torch.stack([torch.full((64, 5), K - 1), *states])
        seen = (path[1:] != path[:-1]).any(-1).sum(0)  # each change but the last asks for one more look
        assert torch.equal(found.calls, seen)
        assert int(found.calls.max()) <= 5

    def test_finished_rows_leave_the_batch_whatever_the_network_looks_at(self):
        states = []
        found = draw(
            ABSORBING,
            self.table(False),
            (64, 5),
            generator=seeded(10),
            watch=lambda s, x: states.append((x == K - 1).any(-1)),
        )
        unfinished = torch.stack([torch.ones(64, dtype=torch.bool), *states[:-1]])
        assert torch.equal(found.calls, unfinished.sum(0))

    def test_conditions_go_with_their_rows(self):
        shifts = torch.arange(16)

        def network(x_t, t, shifts):
            states = torch.arange(K)
            return torch.where(states == shifts[:, None, None] % (K - 1), 0.0, -40.0).expand(*x_t.shape, K)

        network.time_conditioned = False
        x = sample(ABSORBING, network, (16, 4), generator=seeded(11), shifts=shifts)
        assert torch.equal(x, (shifts % (K - 1))[:, None].expand(16, 4))

    def test_what_a_network_gave_is_not_written_into(self):
        kept = torch.randn(64, 5, K, dtype=torch.float64, generator=seeded(12))
        before = kept.clone()

        def network(x_t, t):
            return kept if len(x_t) == 64 else torch.zeros(*x_t.shape, K, dtype=torch.float64)

        network.time_conditioned = False
        sample(ABSORBING, network, (64, 5), generator=seeded(13))
        assert torch.equal(kept, before)

    def test_a_network_of_one_batch_only_is_told_how_to_go_on(self):
        logits = torch.zeros(64, 2, K)
        with pytest.raises(ConfigError, match="cache=False"):
            sample(ABSORBING, lambda x, t: logits, (64, 2), generator=seeded(15))
        sample(ABSORBING, lambda x, t: logits, (64, 2), generator=seeded(15), cache=False)

    def test_guidance_costs_two_calls(self):
        def network(x_t, t, labels):
            return torch.zeros(*x_t.shape, K)

        network.time_conditioned = False
        for scale, price in ((1, 1), (2, 2)):
            guided = ClassifierFreeGuidance(network, scale, {"labels": None})
            found = draw(ABSORBING, guided, (4, 3), steps=[T, 0], labels=torch.zeros(4), generator=seeded(14))
            assert found.calls.tolist() == [price] * 4
