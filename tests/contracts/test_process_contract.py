"""What every process promises, then the discrete one against Bayes' rule on dense float64 matrices."""

import itertools

import pytest
import torch
from oracle import Chain, concrete_subclasses, kl, times
from torch.testing import assert_close

from d3pm import DiscreteDiffusion
from d3pm.errors import D3PMError
from d3pm.objectives import vlb_estimate, vlb_terms
from d3pm.process import Process
from d3pm.sampling import sample
from d3pm.schedules import CosineSchedule, ReciprocalSchedule
from d3pm.transitions import AbsorbingTransition, MatrixTransition, UniformTransition
from d3pm.transitions.base import Transition

PROCESSES = [process for cls in concrete_subclasses(Process) for process in cls.example()]
SIZES = [(2, 1), (2, 3), (3, 4), (5, 3)]
FORMS = ["d3pm", "mixture"]
EXACT = {"rtol": 1e-12, "atol": 1e-12}
CLOSE = {"rtol": 1e-8, "atol": 1e-10}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(process: Process) -> torch.Tensor:
    """Data of either kind, float64 where it is real."""
    if hasattr(process, "num_states"):
        table, columns = hasattr(process, "columns"), []
        for kernel in (
            [process.transitions[c] for c in process.columns] if table else [process.transition] * 4
        ):
            states = torch.tensor([x for x in range(kernel.num_states) if x != kernel.mask_state])
            columns.append(states[torch.randint(len(states), (6, 2), generator=generator(10 + len(columns)))])
        return torch.stack(columns, -1)
    return torch.rand(6, 2, 4, generator=generator(10), dtype=torch.float64) * 2 - 1


def stranger(process: Process):
    """A network that knows nothing, and says something else at every place and time."""

    def network(x_t, t, **cond):
        discrete = hasattr(process, "num_states")
        channels = 2 * x_t.shape[1] if getattr(process, "variance", "") == "learned_range" else x_t.shape[1]
        shape = (*x_t.shape, process.num_states) if discrete else (len(x_t), channels, *x_t.shape[2:])
        noise = torch.randn(shape, generator=generator(11), dtype=torch.float64)
        return noise + 0.1 * t.view(-1, *[1] * (noise.dim() - 1))

    return network


def of(process: Process) -> str:
    return "-".join([type(process).__name__, *(v for v in vars(process).values() if isinstance(v, str))])


@pytest.mark.parametrize("process", PROCESSES, ids=of)
class TestEveryProcess:
    """Laws that need no knowledge of what the data look like."""

    shape = (6, 4)  # four entries: a table's columns

    def pairs(self, process):
        """(s, t) for an example each: 0 and the last steps among them."""
        T = process.num_steps
        t = torch.tensor([1, T, T, 2, T - 1, T])
        return torch.tensor([0, T - 1, 0, 1, 1, 1]), t

    def test_prior_has_the_shape_and_obeys_the_generator(self, process):
        prior = process.prior(self.shape)
        x = prior.sample(generator(1))
        assert x.shape == self.shape
        assert torch.equal(x, process.prior(self.shape).sample(generator(1)))
        assert torch.isfinite(prior.log_prob(x)).all()
        assert prior.mode.shape == self.shape

    def test_a_law_is_at_no_distance_from_itself(self, process):
        prior = process.prior(self.shape)
        assert_close(prior.kl(prior), torch.zeros(self.shape, dtype=prior.kl(prior).dtype))

    def test_time_is_counted(self, process):
        assert process.num_steps >= 1

    def test_at_no_time_nothing_has_happened(self, process):
        x0 = batch(process)
        zero = torch.zeros(len(x0), dtype=torch.int64)
        assert torch.equal(process.q_sample(x0, zero, generator(2)), x0)
        assert torch.equal(process.marginal(x0, zero).mode, x0)

    def test_the_posterior_at_the_start_is_the_data(self, process):
        x0, (_, t) = batch(process), self.pairs(process)
        x_t = process.q_sample(x0, t, generator(3))
        law = process.posterior(x0, x_t, torch.zeros_like(t), t)
        assert_close(law.mode, x0, rtol=0, atol=1e-12)
        assert_close(law.sample(generator(4)), x0, rtol=0, atol=1e-12)

    def test_what_it_predicts_is_the_reverse_step_to_the_data(self, process):
        x0, (_, t) = batch(process), self.pairs(process)
        x_t = process.q_sample(x0, t, generator(3))
        output = stranger(process)(x_t, t)
        step = process.reverse(output, x_t, torch.zeros_like(t), t)
        assert_close(process.predict(output, x_t, t).log_prob(x0), step.log_prob(x0))

    def test_at_the_data_the_divergence_is_the_surprise(self, process):
        """In a batch of mixed times too: those at s = 0 are not disturbed by the others."""
        x0, (s, t) = batch(process), self.pairs(process)
        x_t = process.q_sample(x0, t, generator(3))
        law = process.reverse(stranger(process)(x_t, t), x_t, s, t)
        value, first = process.posterior(x0, x_t, s, t).kl(law), s == 0
        assert_close(value[first], -law.log_prob(x0)[first])
        assert (value > -1e-12).all()
        assert torch.isfinite(value).all()

    def test_a_step_obeys_the_generator_and_each_example_has_its_own_time(self, process):
        x0, (s, t) = batch(process), self.pairs(process)
        x_t = process.q_sample(x0, t, generator(3))
        output = stranger(process)(x_t, t)
        x_s = process.step(output, x_t, s, t, generator(5))
        assert x_s.shape == x_t.shape
        assert torch.equal(x_s, process.step(output, x_t, s, t, generator(5)))
        together = process.reverse(output, x_t, s, t)
        for i in range(len(t)):
            one = slice(i, i + 1)
            alone = process.reverse(output[one], x_t[one], s[one], t[one])
            assert_close(alone.log_prob(x_s[one]), together.log_prob(x_s)[one])

    def test_the_bound_is_finite_and_its_estimate_agrees(self, process):
        x0 = batch(process).repeat(40, 1, 1)
        exact = vlb_terms(process, stranger(process), x0, generator=generator(6))
        rough = vlb_estimate(process, stranger(process), x0, num_times=1, generator=generator(7))
        assert torch.isfinite(exact.total).all()
        error = (exact.total.std() ** 2 + rough.total.std() ** 2).sqrt() / len(x0) ** 0.5
        assert float(exact.total.mean()) == pytest.approx(float(rough.total.mean()), abs=5 * float(error))

    @pytest.mark.parametrize("steps", [None, 2])
    def test_samples_come_from_the_shared_loop(self, process, steps):
        x0 = batch(process)
        options = {"steps": steps, "generator": generator(8)}
        x = sample(process, stranger(process), tuple(x0.shape), **options)
        assert x.shape == x0.shape
        assert torch.isfinite(x.double()).all()
        again = sample(process, stranger(process), tuple(x0.shape), **{**options, "generator": generator(8)})
        assert torch.equal(x, again)
        known = torch.zeros_like(x0, dtype=torch.bool)
        known[:, 0] = True
        held = sample(process, stranger(process), tuple(x0.shape), known=known, x0=x0, steps=steps)
        assert_close(held[known], x0[known].to(held.dtype), rtol=0, atol=1e-6)


def test_some_process_is_found():
    assert any(isinstance(process, DiscreteDiffusion) for process in PROCESSES)


@pytest.fixture(params=concrete_subclasses(Transition), ids=lambda cls: cls.__name__)
def kernel(request) -> type:
    return request.param


@pytest.fixture(params=SIZES, ids=lambda size: f"K{size[0]}-T{size[1]}")
def transition(request, kernel) -> Transition:
    num_states, num_steps = request.param
    return kernel.example(num_states=num_states, num_steps=num_steps)


@pytest.fixture
def chain(transition) -> Chain:
    return Chain.of(transition)


@pytest.fixture(params=FORMS)
def process(request, transition) -> DiscreteDiffusion:
    return DiscreteDiffusion(transition, reverse_form=request.param)


def steps(num_steps: int) -> list[tuple[int, int]]:
    return [(s, t) for t in range(1, num_steps + 1) for s in range(t)]


def cases(chain: Chain) -> tuple[torch.Tensor, ...]:
    """Every (x_0, x_t, s, t) that occurs, as four batches; the states have a trailing axis of one."""
    rows = [(x0, x_t, s, t) for s, t in steps(chain.num_steps) for x0, x_t in chain.pairs(t)]
    x0, x_t, s, t = torch.tensor(rows).unbind(-1)
    return x0[:, None], x_t[:, None], s, t


def random_logits(x_t: torch.Tensor, num_states: int, scale: float = 2.0) -> torch.Tensor:
    shape = (*x_t.shape, num_states)
    return scale * torch.randn(shape, generator=generator(3), dtype=torch.float64)


def dense_reverse(chain: Chain, logits: torch.Tensor, x_t, s, t, form: str) -> torch.Tensor:
    """The oracle's reverse step, case by case: (N, 1, K)."""
    rows = zip(logits[:, 0], x_t[:, 0].tolist(), s.tolist(), t.tolist(), strict=True)
    return torch.stack([chain.reverse(*row, form) for row in rows])[:, None]


def dense_posterior(chain: Chain, x0, x_t, s, t) -> torch.Tensor:
    rows = zip(x0[:, 0].tolist(), x_t[:, 0].tolist(), s.tolist(), t.tolist(), strict=True)
    return torch.stack([chain.posterior(*row) for row in rows])[:, None]


class TestForward:
    def test_prior_is_the_stationary_law(self, process, transition):
        prior = process.prior((2, 3))
        assert prior.probs.shape == (2, 3, transition.num_states)
        assert_close(prior.probs.double(), transition.stationary().expand(2, 3, -1), **EXACT)

    def test_marginal_is_a_row_of_the_product(self, process, chain):
        for t in range(chain.num_steps + 1):
            x0 = torch.tensor(chain.data_states)
            law = process.marginal(x0[:, None], torch.full_like(x0, t))
            assert_close(law.probs[:, 0], chain.between(0, t)[x0], **EXACT)

    def test_marginals_compose(self, process, transition, chain):
        for s, t in steps(chain.num_steps):
            x0 = torch.tensor(chain.data_states)
            middle = process.marginal(x0[:, None], torch.full_like(x0, s)).probs
            moved = transition.between(torch.full_like(x0, s), torch.full_like(x0, t)).apply(middle)
            assert_close(moved, process.marginal(x0[:, None], torch.full_like(x0, t)).probs, **EXACT)

    def test_q_sample_draws_from_the_marginal_and_obeys_the_generator(self, process, chain):
        t = (chain.num_steps + 1) // 2
        x0 = torch.tensor(chain.data_states)[:, None].expand(-1, 4000)
        time = torch.full((len(x0),), t)
        x_t = process.q_sample(x0, time, generator(4))
        assert torch.equal(x_t, process.q_sample(x0, time, generator(4)))
        shares = torch.nn.functional.one_hot(x_t, chain.num_states).double().mean(1)
        law = chain.between(0, t)[chain.data_states]
        assert ((shares - law).abs() <= 5 * (law * (1 - law) / 4000).sqrt() + 1e-12).all()


class TestPosterior:
    def test_it_is_bayes_rule(self, process, chain):
        x0, x_t, s, t = cases(chain)
        law = process.posterior(x0, x_t, s, t)
        assert_close(law.probs, dense_posterior(chain, x0, x_t, s, t), **EXACT)

    def test_at_no_time_it_is_the_data(self, process, chain):
        x0, x_t, s, t = cases(chain)
        start = s == 0
        law = process.posterior(x0[start], x_t[start], s[start], t[start])
        certain = torch.nn.functional.one_hot(x0[start], chain.num_states).double()
        assert_close(law.probs, certain, rtol=0, atol=1e-12)

    def test_a_pair_that_cannot_occur_has_none(self, process, chain):
        for s, t in steps(chain.num_steps):
            for x0 in chain.data_states:
                for x_t in range(chain.num_states):
                    if (x0, x_t) not in chain.pairs(t):
                        with pytest.raises(D3PMError):
                            process.posterior(times(x0)[:, None], times(x_t)[:, None], times(s), times(t))

    def test_it_averages_to_the_marginal(self, process, chain):
        """Sum over x_t of q(x_t | x_0) q(x_s | x_t, x_0) = q(x_s | x_0)."""
        for s, t in steps(chain.num_steps):
            for x0 in chain.data_states:
                x_t = torch.tensor([j for i, j in chain.pairs(t) if i == x0])[:, None]
                same, at = torch.full_like(x_t, x0), torch.full((len(x_t),), t)
                posterior = process.posterior(same, x_t, torch.full_like(at, s), at).probs[:, 0]
                weight = process.marginal(same, at).probs[:, 0].gather(-1, x_t)
                before = process.marginal(times(x0)[:, None], times(s)).probs[0, 0]
                assert_close((weight * posterior).sum(0), before, **EXACT)


class TestBelief:
    def test_it_is_a_softmax_over_what_can_have_been(self, process, chain):
        _, x_t, _, t = cases(chain)
        logits = random_logits(x_t, chain.num_states)
        rows = zip(logits[:, 0], x_t[:, 0].tolist(), t.tolist(), strict=True)
        expected = torch.stack([chain.belief(*row) for row in rows])[:, None]
        assert_close(process.predict(logits, x_t, t).probs, expected, **EXACT)

    def test_it_is_the_reverse_step_to_the_data(self, process, chain):
        _, x_t, s, t = cases(chain)
        logits = random_logits(x_t, chain.num_states)
        belief = process.predict(logits, x_t, t).probs
        assert_close(process.reverse(logits, x_t, torch.zeros_like(s), t).probs, belief, **EXACT)

    def test_it_never_expects_the_absorbing_state(self, process, chain):
        if chain.absorbing is None:
            pytest.skip("no absorbing state")
        _, x_t, _, t = cases(chain)
        logits = random_logits(x_t, chain.num_states)
        logits[..., chain.absorbing] = 1e4
        belief = process.predict(logits, x_t, t)
        assert (belief.probs[..., chain.absorbing] == 0).all()
        assert (belief.sample(generator(5)) != chain.absorbing).all()
        assert (belief.mode != chain.absorbing).all()

    @pytest.mark.parametrize("mask_index", [-1, 0])
    @pytest.mark.parametrize("form", FORMS)
    def test_an_unmasked_entry_is_certain(self, mask_index, form):
        """Whatever the network says: under the absorbing kernel a visible token is the data."""
        kernel = AbsorbingTransition(num_states=4, num_steps=5, mask_index=mask_index)
        process = DiscreteDiffusion(kernel, reverse_form=form)
        visible = torch.tensor([[x for x in range(4) if x != kernel.mask_state]])
        logits = 50 * torch.randn(1, 3, 4, generator=generator(6), dtype=torch.float64)
        certain = torch.nn.functional.one_hot(visible, 4).double()
        for s, t in steps(4):
            assert_close(process.predict(logits, visible, times(t)).probs, certain, rtol=0, atol=0)
            assert_close(process.reverse(logits, visible, times(s), times(t)).probs, certain, rtol=0, atol=0)
            assert (process.reverse(logits, visible, times(s), times(t)).log_prob(visible) == 0).all()


class TestReverse:
    def test_it_is_what_the_matrices_say(self, process, chain):
        _, x_t, s, t = cases(chain)
        logits = random_logits(x_t, chain.num_states)
        law = process.reverse(logits, x_t, s, t)
        assert_close(law.probs, dense_reverse(chain, logits, x_t, s, t, process.reverse_form), **EXACT)

    def test_certain_belief_gives_the_posterior(self, process, chain):
        x0, x_t, s, t = cases(chain)
        logits = 200.0 * torch.nn.functional.one_hot(x0, chain.num_states).double()
        law = process.reverse(logits, x_t, s, t)
        assert_close(law.probs, dense_posterior(chain, x0, x_t, s, t), rtol=0, atol=1e-12)

    def test_log_prob_mode_and_kl_are_those_of_the_probabilities(self, process, chain):
        x0, x_t, s, t = cases(chain)
        logits = random_logits(x_t, chain.num_states)
        law, posterior = process.reverse(logits, x_t, s, t), process.posterior(x0, x_t, s, t)
        for state in range(chain.num_states):
            x = torch.full_like(x_t, state)
            assert_close(law.log_prob(x), law.probs[..., state].log(), **EXACT)
            assert_close(posterior.log_prob(x), posterior.probs[..., state].log(), rtol=1e-12, atol=1e-11)
        # A tie may fall either way: the mode has the largest probability, whichever state it names.
        for each in (law, posterior, process.marginal(x0, t), process.predict(logits, x_t, t)):
            top = each.probs.gather(-1, each.mode[..., None])[..., 0]
            assert_close(top, each.probs.max(-1).values, rtol=0, atol=1e-15)
        assert_close(posterior.kl(law), kl(posterior.probs, law.probs), **CLOSE)
        marginal, prior = process.marginal(x0, t), process.prior(tuple(x0.shape))
        assert_close(marginal.kl(prior), kl(marginal.probs, prior.probs), **CLOSE)

    def test_any_two_laws_can_be_compared(self, process, chain):
        """The divergences the bound does not need too: infinite where support is missing, zero to itself."""
        x0, x_t, s, t = cases(chain)
        laws = [
            process.prior(tuple(x0.shape)),
            process.marginal(x0, t),
            process.posterior(x0, x_t, s, t),
            process.reverse(random_logits(x_t, chain.num_states), x_t, s, t),
            process.reverse(torch.zeros(*x_t.shape, chain.num_states, dtype=torch.float64), x_t, s, t),
            process.predict(random_logits(x_t, chain.num_states), x_t, t),
        ]
        for p, q in itertools.product(laws, laws):
            value, expected = p.kl(q), kl(p.probs, q.probs)
            # exp and log of the dense table may turn 0 into 1e-320 or back; only clear cases are compared.
            clear = ~((p.probs < 1e-12) & (p.probs > 0)).any(-1) & ~((q.probs < 1e-12) & (q.probs > 0)).any(
                -1
            )
            assert_close(value.expand_as(x0)[clear], expected[clear], rtol=1e-8, atol=1e-10)

    def test_samples_follow_the_probabilities(self, process, chain):
        _, x_t, s, t = cases(chain)
        draws = 4000
        logits = random_logits(x_t, chain.num_states).expand(-1, draws, -1)
        law = process.reverse(logits, x_t.expand(-1, draws), s, t)
        drawn = law.sample(generator(7))
        assert torch.equal(drawn, process.reverse(logits, x_t.expand(-1, draws), s, t).sample(generator(7)))
        probs = dense_reverse(chain, logits[:, :1], x_t, s, t, process.reverse_form)[:, 0]
        shares = torch.nn.functional.one_hot(drawn, chain.num_states).double().mean(1)
        assert (shares[probs < 1e-14] == 0).all()
        noise = (
            5.5 * (probs * (1 - probs) / draws).sqrt() + 3 / draws
        )  # a rare state may come up a time or two
        assert ((shares - probs).abs() <= noise).all()

    def test_at_the_data_the_divergence_is_the_surprise(self, process, chain):
        x0, x_t, s, t = cases(chain)
        start = torch.zeros_like(s)
        law = process.reverse(random_logits(x_t, chain.num_states), x_t, start, t)
        assert_close(process.posterior(x0, x_t, start, t).kl(law), -law.log_prob(x0), **EXACT)

    def test_the_bound_is_never_negative(self, process, chain):
        x0, x_t, s, t = cases(chain)
        law = process.reverse(random_logits(x_t, chain.num_states), x_t, s, t)
        assert (process.posterior(x0, x_t, s, t).kl(law) >= -1e-12).all()

    def test_entries_of_a_batch_do_not_meet(self, process, chain):
        """Times differ along the batch and states along the row; each entry is as if alone."""
        x0, x_t, s, t = cases(chain)
        logits = random_logits(x_t, chain.num_states)
        together = process.posterior(x0, x_t, s, t).kl(process.reverse(logits, x_t, s, t))
        for i in range(0, len(s), 7):
            one = slice(i, i + 1)
            law = process.reverse(logits[one], x_t[one], s[one], t[one])
            alone = process.posterior(x0[one], x_t[one], s[one], t[one]).kl(law)
            assert_close(together[one], alone, **EXACT)


class TestDenseTwin:
    """A kernel and the stack of its own matrices are one process, whatever shortcuts the kernel takes."""

    def test_they_agree(self, process, transition, chain):
        masked = type("Masked", (MatrixTransition,), {"mask_state": chain.absorbing})
        stack = masked(chain.steps, law=chain.stationary if transition.moving else None)
        twin = DiscreteDiffusion(stack, reverse_form=process.reverse_form)
        assert twin.transition.mask_state == transition.mask_state
        x0, x_t, s, t = cases(chain)
        logits = random_logits(x_t, chain.num_states)
        ours, theirs = (
            (
                each.prior(tuple(x0.shape)),
                each.marginal(x0, t),
                each.posterior(x0, x_t, s, t),
                each.predict(logits, x_t, t),
                each.reverse(logits, x_t, s, t),
            )
            for each in (process, twin)
        )
        for a, b in zip(ours, theirs, strict=True):
            assert_close(a.probs, b.probs, rtol=1e-10, atol=1e-12)
        assert_close(ours[2].kl(ours[4]), theirs[2].kl(theirs[4]), **CLOSE)


@pytest.mark.parametrize("size", SIZES)
def test_the_two_forms_agree_for_the_absorbing_kernel(size):
    kernel = AbsorbingTransition(num_states=size[0], num_steps=size[1])
    _, x_t, s, t = cases(Chain.of(kernel))
    logits = random_logits(x_t, size[0])
    both = [DiscreteDiffusion(kernel, reverse_form=form).reverse(logits, x_t, s, t) for form in FORMS]
    assert_close(both[0].probs, both[1].probs, **EXACT)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("first", "second"), itertools.product([AbsorbingTransition, UniformTransition], repeat=2)
)
def test_laws_of_different_processes_can_be_compared(first, second, form):
    """The same times and states do not make it the same step: a shortcut for a pair must know its kernel."""
    ours = DiscreteDiffusion(
        first(num_states=4, num_steps=6, schedule=ReciprocalSchedule()), reverse_form=form
    )
    theirs = DiscreteDiffusion(
        second(num_states=4, num_steps=6, schedule=CosineSchedule()), reverse_form=form
    )
    x0, x_t, s, t = times(0, 1, 2)[:, None], times(3, 3, 3)[:, None], times(1, 2, 0), times(2, 5, 4)
    posterior, reverse = ours.posterior(x0, x_t, s, t), theirs.reverse(random_logits(x_t, 4), x_t, s, t)
    assert_close(posterior.kl(reverse), kl(posterior.probs, reverse.probs), **CLOSE)


def test_the_two_forms_differ_for_the_uniform_kernel():
    kernel = UniformTransition(num_states=3, num_steps=4)
    logits = random_logits(times(1)[:, None], 3)
    both = [
        DiscreteDiffusion(kernel, reverse_form=form).reverse(logits, times(1)[:, None], times(1), times(3))
        for form in FORMS
    ]
    assert (both[0].probs - both[1].probs).abs().max() > 1e-3


def test_absorbing_reverse_reveals_at_the_published_rate():
    """p(x_s) = (a_s - a_t)/(1 - a_t) belief + (1 - a_s)/(1 - a_t) mask, at a masked entry."""
    kernel = AbsorbingTransition(num_states=4, num_steps=10)
    process = DiscreteDiffusion(kernel)
    masked = times(3)[:, None]
    logits = random_logits(masked, 4)
    belief = torch.softmax(logits[..., :3], -1)
    for s, t in steps(10):
        reveal = (t - s) / t  # alpha_bar = 1 - t/T
        expected = torch.cat([reveal * belief, torch.full((1, 1, 1), 1 - reveal, dtype=torch.float64)], -1)
        assert_close(process.reverse(logits, masked, times(s), times(t)).probs, expected, **EXACT)


def test_states_that_cannot_have_led_here_get_no_belief():
    """A kernel of two islands: from an island one can only have come from the same island."""
    island = torch.full((2, 2), 0.5, dtype=torch.float64)
    matrices = torch.block_diag(island, island).repeat(3, 1, 1)
    kernel = MatrixTransition(matrices, law=torch.full((4,), 0.25, dtype=torch.float64))
    for form in FORMS:
        process = DiscreteDiffusion(kernel, reverse_form=form)
        logits = random_logits(times(0)[:, None], 4)
        belief = process.predict(logits, times(0)[:, None], times(2)).probs[0, 0]
        assert_close(belief[:2], torch.softmax(logits[0, 0, :2], -1), **EXACT)
        assert (belief[2:] == 0).all()
        assert (process.reverse(logits, times(0)[:, None], times(1), times(2)).probs[0, 0, 2:] == 0).all()


class TestGradients:
    def terms(self, process, logits, x0, x_t, s, t) -> torch.Tensor:
        return process.posterior(x0, x_t, s, t).kl(process.reverse(logits, x_t, s, t))

    def test_they_are_those_of_the_dense_matrices(self, process, chain):
        x0, x_t, s, t = cases(chain)
        logits = random_logits(x_t, chain.num_states, scale=1.0).requires_grad_()
        value = self.terms(process, logits, x0, x_t, s, t)
        expected = kl(
            dense_posterior(chain, x0, x_t, s, t),
            dense_reverse(chain, logits, x_t, s, t, process.reverse_form),
        )
        assert_close(value, expected, **CLOSE)
        weight = torch.rand(value.shape, generator=generator(8), dtype=torch.float64)
        ours, theirs = (torch.autograd.grad((weight * each).sum(), logits)[0] for each in (value, expected))
        assert_close(ours, theirs, rtol=1e-8, atol=1e-8)

    def test_the_surprise_has_those_of_cross_entropy(self, process, chain):
        x0, x_t, s, t = cases(chain)
        logits = random_logits(x_t, chain.num_states, scale=1.0).requires_grad_()
        value = -process.reverse(logits, x_t, torch.zeros_like(s), t).log_prob(x0)
        (ours,) = torch.autograd.grad(value.sum(), logits)
        belief = process.predict(logits, x_t, t).probs
        assert_close(ours, belief - torch.nn.functional.one_hot(x0, chain.num_states), rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("scale", [1.0, 1e4])
    def test_they_are_finite_however_sure_the_network_is(self, process, chain, dtype, scale):
        x0, x_t, s, t = cases(chain)
        logits = scale * random_logits(x_t, chain.num_states, scale=1.0).sign()
        logits = logits.to(dtype).requires_grad_()
        value = self.terms(process, logits, x0, x_t, s, t)
        surprise = process.predict(logits, x_t, t).log_prob(x0)
        assert torch.isfinite(value).all()
        assert torch.isfinite(surprise).all()
        (gradient,) = torch.autograd.grad(value.sum() + surprise.sum(), logits)
        assert torch.isfinite(gradient).all()

    def test_states_ruled_out_by_the_network_do_no_harm(self, process, chain):
        """A logit of -inf for a state that is not the data."""
        x0, x_t, s, t = cases(chain)
        logits = random_logits(x_t, chain.num_states)
        other = (x0 + 1) % chain.num_states
        logits = logits.scatter(-1, other[..., None], -torch.inf).requires_grad_()
        value = self.terms(process, logits, x0, x_t, s, t)
        assert torch.isfinite(value).all()
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert torch.isfinite(gradient).all()

    def test_what_involves_the_network_has_its_precision(self, process, chain):
        x0, x_t, s, t = cases(chain)
        double = random_logits(x_t, chain.num_states)
        for given, kept in {
            torch.float64: torch.float64,
            torch.float32: torch.float32,
            torch.bfloat16: torch.float32,
            torch.float16: torch.float32,
        }.items():
            logits = double.to(given)
            law = process.reverse(logits, x_t, s, t)
            assert law.log_prob(x_t).dtype == kept
            assert process.predict(logits, x_t, t).log_prob(x0).dtype == kept
            assert process.posterior(x0, x_t, s, t).kl(law).dtype == kept

    def test_devices_that_may_not_branch_get_the_same(self, process, chain, monkeypatch):
        """Away from the CPU and under the compiler all rows are read: same terms, same gradients."""
        x0, x_t, s, t = cases(chain)
        logits = random_logits(x_t, chain.num_states).requires_grad_()
        results = []
        for compiling in (False, True):
            monkeypatch.setattr(torch.compiler, "is_compiling", lambda answer=compiling: answer)
            value = self.terms(process, logits, x0, x_t, s, t) - process.predict(logits, x_t, t).log_prob(x0)
            results.append((value, torch.autograd.grad(value.sum(), logits)[0]))
        for branching, straight in zip(*results, strict=True):
            assert_close(branching, straight, rtol=1e-12, atol=1e-14)

    def test_single_precision_is_close_to_double(self, process, chain):
        x0, x_t, s, t = cases(chain)
        logits = random_logits(x_t, chain.num_states).float()
        single = self.terms(process, logits, x0, x_t, s, t).double()
        assert_close(single, self.terms(process, logits.double(), x0, x_t, s, t), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("form", FORMS)
class TestLongChains:
    """A thousand steps: terms of 1e-6 nats, where a formula that cancels shows itself."""

    num_states, num_steps = 27, 1000
    s, t = times(0, 1, 4, 499, 250, 998, 999, 0), times(1, 2, 5, 500, 750, 999, 1000, 1000)

    def draw(self, kernel, form) -> tuple:
        transition = kernel.example(num_states=self.num_states, num_steps=self.num_steps)
        process = DiscreteDiffusion(transition, reverse_form=form)
        x0 = torch.randint(self.num_states - 1, (len(self.t), 40), generator=generator(9))
        x_t = process.q_sample(x0, self.t, generator(10))
        return transition, process, x0, x_t, random_logits(x_t, self.num_states)

    def dense_terms(self, transition, logits, x0, x_t, form) -> torch.Tensor:
        values = []
        for b, (s, t) in enumerate(zip(self.s.tolist(), self.t.tolist(), strict=True)):
            reach, step, total = (
                transition.between(times(i), times(j)).dense()[0] for i, j in ((0, s), (s, t), (0, t))
            )
            joint = reach[:, None, :] * step.T[None]  # (x_0, x_t, x_s)
            evidence = total[..., None]
            posteriors = joint / torch.where(evidence > 0, evidence, 1.0)
            possible = total.T[x_t[b]] > 0
            if transition.mask_state is not None:
                possible[:, transition.mask_state] = False
            belief = logits[b].masked_fill(~possible, -torch.inf).softmax(-1)  # (L, x_0)
            weigh = posteriors if form == "mixture" else joint
            reverse = torch.einsum("lx,xlj->lj", belief, weigh[:, x_t[b]])
            reverse = belief if s == 0 else reverse / reverse.sum(-1, keepdim=True)
            values.append(kl(posteriors[x0[b], x_t[b]], reverse))
        return torch.stack(values)

    def test_terms_are_those_of_the_dense_matrices(self, kernel, form):
        transition, process, x0, x_t, logits = self.draw(kernel, form)
        value = process.posterior(x0, x_t, self.s, self.t).kl(process.reverse(logits, x_t, self.s, self.t))
        expected = self.dense_terms(transition, logits, x0, x_t, form)
        assert_close(value, expected, rtol=1e-7, atol=1e-13)

    def test_single_precision_keeps_the_sum(self, kernel, form):
        """Forty entries add up to their double-precision sum within 1e-4, or within a rounding error each."""
        _, process, x0, x_t, logits = self.draw(kernel, form)
        posterior = process.posterior(x0, x_t, self.s, self.t)
        single = posterior.kl(process.reverse(logits.float(), x_t, self.s, self.t)).double().sum(-1)
        double = posterior.kl(process.reverse(logits.float().double(), x_t, self.s, self.t)).sum(-1)
        assert_close(single, double, rtol=1e-4, atol=40 * 1.2e-7)


def test_absorbing_that_leaves_signal_is_charged_for_it():
    """The prior is all mask: a token that may survive to x_T makes L_T infinite; reaching the mask makes it zero."""
    x0 = times(0, 1)[:, None]
    for schedule, expected in ((CosineSchedule(), torch.inf), (ReciprocalSchedule(), 0.0)):
        process = DiscreteDiffusion(AbsorbingTransition(num_states=3, num_steps=8, schedule=schedule))
        divergence = process.marginal(x0, times(8, 8)).kl(process.prior((2, 1)))
        assert (divergence == expected).all()


@pytest.mark.parametrize(("form", "scale"), [(form, scale) for form in FORMS for scale in (1e2, 1e4)])
def test_a_confident_mistake_costs_what_it_should(form, scale):
    """Absorbing, masked entry: the term is the reveal probability times the surprise, however large."""
    process = DiscreteDiffusion(AbsorbingTransition(num_states=4, num_steps=10), reverse_form=form)
    x0, x_t = times(0)[:, None], times(3)[:, None]
    logits = torch.tensor([[[-scale, scale, 0.0, 0.0]]], dtype=torch.float64)
    value = process.posterior(x0, x_t, times(4), times(5)).kl(
        process.reverse(logits, x_t, times(4), times(5))
    )
    assert float(value) == pytest.approx(0.2 * 2 * scale, rel=1e-9)


@pytest.mark.parametrize("form", ["D3PM", "", None])
def test_an_unknown_form_is_named(form):
    with pytest.raises(D3PMError, match="reverse_form"):
        DiscreteDiffusion(UniformTransition(num_states=3, num_steps=2), reverse_form=form)
