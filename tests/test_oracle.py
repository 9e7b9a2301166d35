"""The enumerated oracle: small worlds where every path can be written down, against the library.

The exact belief q(x_0^i | x_t) is the network; then the mixture form is the exact reverse step of one entry,
and what the bound must be is known without any sampling.
"""

import pytest
import torch
from oracle import Chain, World, chi_square, concrete_subclasses, random_law

import d3pm
from d3pm import AbsorbingTransition, DiscreteDiffusion
from d3pm.discrete.truncation import Truncated
from d3pm.errors import D3PMError
from d3pm.objectives import AuxiliaryBound, CrossEntropy, Hybrid, VariationalBound, vlb_estimate
from d3pm.transitions.base import Transition

WORLDS = [(2, 1, 6), (3, 1, 5), (4, 1, 4), (2, 2, 5), (3, 2, 3), (4, 2, 2), (3, 2, 1)]  # K, L, T
FORMS = ["d3pm", "mixture"]
SAMPLES = 20_000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=concrete_subclasses(Transition), ids=lambda cls: cls.__name__)
def kernel(request) -> type:
    return request.param


def make(kernel: type, size: tuple[int, int, int], sparse: bool = False) -> tuple[Transition, World]:
    num_states, length, num_steps = size
    transition = kernel.example(num_states=num_states, num_steps=num_steps)
    chain = Chain.of(transition)
    return transition, World(chain, length, random_law(chain, length, seed=sum(size), sparse=sparse))


def expected_bound(process: DiscreteDiffusion, world: World, logits: torch.Tensor) -> tuple[float, ...]:
    """L_T, the sum of L_{t-1}, and L_0 of the library's laws, weighed by the enumerated q(x_0, x_t)."""
    words, network = world.words, world.network(logits)

    def weighed(t: int, s: int) -> torch.Tensor:
        joint = world.law[:, None] * world.forward(0, t)
        i, j = joint.nonzero().unbind(-1)
        x0, x_t, time = words[i], words[j], torch.full((len(i),), t)
        law = process.reverse(network(x_t, time), x_t, torch.full_like(time, s), time)
        if s == 0:
            return (joint[i, j, None] * -law.log_prob(x0)).sum()
        return (joint[i, j, None] * process.posterior(x0, x_t, torch.full_like(time, s), time).kl(law)).sum()

    end = process.marginal(words, torch.full((len(words),), world.num_steps))
    possible = world.law > 0
    prior = end.kl(process.prior(tuple(words.shape)))[possible].sum(-1) @ world.law[possible]
    diffusion = sum((weighed(t, t - 1) for t in range(2, world.num_steps + 1)), torch.zeros(()))
    return float(prior), float(diffusion), float(weighed(1, 0))


@pytest.mark.parametrize("size", WORLDS, ids=str)
@pytest.mark.parametrize("form", FORMS)
class TestBound:
    @pytest.mark.parametrize("sparse", [False, True])
    def test_with_the_exact_belief_it_is_the_sum_over_paths(self, kernel, size, form, sparse):
        transition, world = make(kernel, size, sparse)
        logits = world.exact_logits()
        bound = sum(expected_bound(DiscreteDiffusion(transition, reverse_form=form), world, logits))
        assert bound == pytest.approx(world.bound(logits, form), abs=1e-10)
        assert bound >= world.entropy - 1e-10

    def test_with_any_belief_it_is_the_sum_over_paths(self, kernel, size, form):
        transition, world = make(kernel, size)
        logits = world.random_logits(seed=5)
        bound = sum(expected_bound(DiscreteDiffusion(transition, reverse_form=form), world, logits))
        assert bound == pytest.approx(world.bound(logits, form), abs=1e-10)
        assert bound >= world.entropy - 1e-10

    def test_it_is_above_the_likelihood_of_the_model(self, kernel, size, form):
        """E[-log p(x_0)], with p(x_0) the enumerated law of the reverse chain, lies between entropy and bound."""
        transition, world = make(kernel, size)
        logits = world.random_logits(seed=6)
        bound = sum(expected_bound(DiscreteDiffusion(transition, reverse_form=form), world, logits))
        law = world.model_law(logits, list(range(world.num_steps, -1, -1)), form)
        surprise = -float(torch.special.xlogy(world.law, law)[world.law > 0].sum())
        assert world.entropy - 1e-10 <= surprise <= bound + 1e-10


@pytest.mark.parametrize("size", WORLDS, ids=str)
def test_exact_belief_leaves_only_the_prior_and_the_correlations(kernel, size):
    """Mixture form: bound = entropy + KL(q(x_T) || prior) + the correlations that independent entries miss.

    For one entry there are none, and with an exact prior the bound is the entropy itself.
    """
    transition, world = make(kernel, size)
    process = DiscreteDiffusion(transition, reverse_form="mixture")
    bound = sum(expected_bound(process, world, world.exact_logits()))
    end = world.law @ world.forward(0, world.num_steps)
    mismatch = float((torch.special.xlogy(end, end) - torch.special.xlogy(end, world.prior)).nansum())
    correlation = world.conditional_correlation()
    assert bound == pytest.approx(world.entropy + mismatch + correlation, abs=1e-10)
    if world.length == 1:
        assert correlation == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("size", [(3, 1, 4), (3, 2, 4)], ids=str)
@pytest.mark.parametrize("form", FORMS)
class TestVlbTerms:
    def test_their_mean_is_the_expectation(self, kernel, size, form):
        transition, world = make(kernel, size)
        process = DiscreteDiffusion(transition, reverse_form=form)
        logits = world.exact_logits()
        drawn = torch.multinomial(world.law, 4000, replacement=True, generator=generator(1))
        terms = d3pm.vlb_terms(process, world.network(logits), world.words[drawn], generator=generator(2))
        expected = expected_bound(process, world, logits)
        for values, mean in zip(
            (terms.prior, terms.diffusion.sum(-1), terms.reconstruction, terms.total),
            (*expected, sum(expected)),
            strict=True,
        ):
            error = float(values.std()) / len(drawn) ** 0.5
            assert float(values.mean()) == pytest.approx(mean, abs=4.5 * error + 1e-10)

    def test_they_add_up(self, kernel, size, form):
        transition, world = make(kernel, size)
        process = DiscreteDiffusion(transition, reverse_form=form)
        x0 = world.words[world.law > 0]
        terms = d3pm.vlb_terms(process, world.network(world.random_logits(7)), x0, generator=generator(3))
        batch = len(x0)
        assert terms.prior.shape == terms.reconstruction.shape == terms.total.shape == (batch,)
        assert terms.diffusion.shape == (batch, world.num_steps - 1)
        total = terms.prior + terms.diffusion.sum(-1) + terms.reconstruction
        torch.testing.assert_close(terms.total, total, rtol=1e-12, atol=1e-12)
        bits = total / (world.length * torch.log(torch.tensor(2.0, dtype=torch.float64)))
        torch.testing.assert_close(terms.bits_per_dim(), bits.expand_as(terms.bits_per_dim()))

    def test_equal_generators_give_equal_terms(self, kernel, size, form):
        transition, world = make(kernel, size)
        process = DiscreteDiffusion(transition, reverse_form=form)
        network, x0 = world.network(world.random_logits(8)), world.words[world.law > 0]
        first, second = (d3pm.vlb_terms(process, network, x0, generator=generator(4)) for _ in range(2))
        assert torch.equal(first.total, second.total)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("size", "steps"),
    [((3, 1, 1), None), ((4, 1, 6), None), ((2, 2, 6), None), ((3, 2, 6), 3), ((3, 2, 6), 1)],
)
@pytest.mark.parametrize("belief", ["exact", "random"])
def test_samples_follow_the_law_of_the_model(kernel, form, size, steps, belief):
    """Chi-square of 20,000 ancestral samples against the enumerated law of the reverse chain, strided or not."""
    transition, world = make(kernel, size)
    logits = world.exact_logits() if belief == "exact" else world.random_logits(seed=9)
    network = world.network(logits)
    process = DiscreteDiffusion(transition, reverse_form=form)
    x0 = d3pm.sample(process, network, (SAMPLES, world.length), steps=steps, generator=generator(10))
    assert x0.shape == (SAMPLES, world.length)
    grid = [*dict.fromkeys(network.asked), 0]
    assert len(grid) == (steps or world.num_steps) + 1
    assert grid == torch.linspace(world.num_steps, 0, len(grid)).round().int().tolist()
    law = world.model_law(logits, grid, form)
    counts = torch.bincount(world.index(x0), minlength=len(world.words))
    assert chi_square(counts[None], law[None]) > 1e-3


def test_one_entry_with_exact_belief_gives_back_the_data(kernel):
    """Mixture form, L = 1, and a chain that starts from its own end: samples have the data's law, strided or not."""
    transition, world = make(kernel, (4, 1, 6))
    end = world.law @ world.forward(0, 6)
    if not torch.allclose(end, world.prior, atol=1e-3):
        pytest.skip("this chain does not reach its stationary law")
    process = DiscreteDiffusion(transition, reverse_form="mixture")
    for steps in (6, 3, 2, 1):
        network = world.network(world.exact_logits())
        x0 = d3pm.sample(process, network, (SAMPLES, 1), steps=steps, generator=generator(11))
        counts = torch.bincount(x0[:, 0], minlength=4)
        assert chi_square(counts[None], world.law[None]) > 1e-3


def test_equal_generators_give_equal_samples(kernel):
    transition, world = make(kernel, (3, 2, 5))
    process = DiscreteDiffusion(transition, reverse_form="mixture")
    network = world.network(world.exact_logits())
    first, second, third = (
        d3pm.sample(process, network, (64, 2), generator=generator(seed)) for seed in (12, 12, 13)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


# The losses trained on, and sampling under constraints


def expected_loss(objective, process, world: World, logits: torch.Tensor) -> float:
    """The objective's mean over t and x_t, entry by entry, from the enumerated q(x_0, x_t)."""
    total, network = 0.0, world.network(logits)
    for t in range(1, world.num_steps + 1):
        joint = world.law[:, None] * world.forward(0, t)
        i, j = joint.nonzero().unbind(-1)
        time = torch.full((len(i),), t)
        x_t = world.words[j]
        loss = objective.at(process, network(x_t, time), world.words[i], x_t, time).sum(-1)
        total += float(joint[i, j] @ loss) / world.num_steps
    return total


@pytest.mark.parametrize("form", FORMS)
class TestObjectives:
    size = (3, 2, 4)

    def test_the_bound_trained_on_is_the_bound_without_the_prior(self, kernel, form):
        transition, world = make(kernel, self.size)
        process, logits = DiscreteDiffusion(transition, reverse_form=form), world.random_logits(20)
        _, diffusion, reconstruction = expected_bound(process, world, logits)
        loss = expected_loss(VariationalBound(), process, world, logits)
        assert loss == pytest.approx(diffusion + reconstruction, abs=1e-10)

    def test_the_auxiliary_loss_adds_the_surprise_of_the_belief(self, kernel, form):
        transition, world = make(kernel, self.size)
        process, logits = DiscreteDiffusion(transition, reverse_form=form), world.random_logits(21)
        surprise = 0.0
        for t in range(1, 5):
            joint = world.law[:, None] * world.forward(0, t)
            for i, j in joint.nonzero().tolist():
                for entry, (x0, x_t) in enumerate(
                    zip(world.words[i].tolist(), world.words[j].tolist(), strict=True)
                ):
                    belief = world.chain.belief(logits[t - 1, j, entry], x_t, t)
                    surprise -= float(joint[i, j] * belief[x0].log()) / 4
        assert expected_loss(CrossEntropy(), process, world, logits) == pytest.approx(surprise, abs=1e-10)
        bound = expected_loss(VariationalBound(), process, world, logits)
        hybrid = expected_loss(Hybrid(VariationalBound(), CrossEntropy(), 0.3), process, world, logits)
        assert hybrid == pytest.approx(bound + 0.3 * surprise, abs=1e-10)
        auxiliary = expected_loss(
            AuxiliaryBound(0.3), process, world, logits
        )  # a share of every one of T terms
        assert auxiliary == pytest.approx(bound + 0.3 * 4 * surprise, abs=1e-10)

    @pytest.mark.parametrize("objective", [VariationalBound(), CrossEntropy(), AuxiliaryBound()])
    def test_one_time_an_example_is_unbiased(self, kernel, form, objective):
        transition, world = make(kernel, self.size)
        process, logits = DiscreteDiffusion(transition, reverse_form=form), world.random_logits(22)
        drawn = torch.multinomial(world.law, 6000, replacement=True, generator=generator(23))
        losses = objective(process, world.network(logits), world.words[drawn], generator=generator(24))
        assert losses.shape == (6000,)
        error = float(losses.std()) / 6000**0.5
        expected = expected_loss(objective, process, world, logits)
        assert float(losses.mean()) == pytest.approx(expected, abs=4.5 * error + 1e-10)

    @pytest.mark.parametrize("num_times", [1, 2, 3, 10])
    def test_a_few_times_estimate_the_bound(self, kernel, form, num_times):
        transition, world = make(kernel, (3, 1, 6))
        process, logits = DiscreteDiffusion(transition, reverse_form=form), world.random_logits(25)
        drawn = torch.multinomial(world.law, 6000, replacement=True, generator=generator(26))
        network = world.network(logits)
        estimate = vlb_estimate(
            process, network, world.words[drawn], num_times=num_times, generator=generator(27)
        )
        prior, diffusion, reconstruction = expected_bound(process, world, logits)
        for values, mean in (
            (estimate.prior, prior),
            (estimate.diffusion.sum(-1), diffusion),
            (estimate.reconstruction, reconstruction),
            (estimate.total, prior + diffusion + reconstruction),
        ):
            error = float(values.std()) / 6000**0.5
            assert float(values.mean()) == pytest.approx(mean, abs=4.5 * error + 1e-10)

    def test_padding_counts_for_nothing(self, kernel, form):
        """The same draws: what each entry costs alone adds up to what both cost together."""
        transition, world = make(kernel, self.size)
        process, x0 = DiscreteDiffusion(transition, reverse_form=form), world.words[world.law > 0]
        tables = world.network(world.random_logits(28))

        def network(x_t: torch.Tensor, t: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return tables(x_t, t)

        masks = [torch.tensor(mask).expand_as(x0) for mask in ([1, 1], [1, 0], [0, 1])]
        both, first, second = (
            d3pm.vlb_terms(process, network, x0, generator=generator(29), attention_mask=mask)
            for mask in masks
        )
        torch.testing.assert_close(first.total + second.total, both.total, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(first.bits_per_dim() + second.bits_per_dim(), 2 * both.bits_per_dim())


@pytest.mark.parametrize("form", FORMS)
def test_known_entries_stay(kernel, form):
    transition, world = make(kernel, (4, 2, 6))
    process = DiscreteDiffusion(transition, reverse_form=form)
    x0, known = torch.tensor([[1, 0]]).expand(200, 2), torch.tensor([[True, False]]).expand(200, 2)
    network = world.network(world.exact_logits())
    drawn = d3pm.sample(process, network, (200, 2), known=known, x0=x0, generator=generator(30))
    assert (drawn[:, 0] == 1).all()
    assert drawn[:, 1].unique().numel() > 1


@pytest.mark.parametrize("steps", [6, 2])
def test_infilling_under_the_absorbing_kernel_is_conditioning(steps):
    """With the exact belief, an entry filled in beside a known one follows the data's conditional law."""
    transition, world = make(AbsorbingTransition, (4, 2, 6))
    exact = world.exact_logits()
    logits = exact[:1].expand_as(exact)  # under this kernel the belief does not depend on t
    x0, known = torch.tensor([[1, 0]]).expand(SAMPLES, 2), torch.tensor([[True, False]]).expand(SAMPLES, 2)
    process = DiscreteDiffusion(transition)
    drawn = d3pm.sample(
        process, world.network(logits), (SAMPLES, 2), steps=steps, known=known, x0=x0, generator=generator(31)
    )
    conditional = world.law.view(4, 4)[1] / world.law.view(4, 4)[1].sum()
    counts = torch.bincount(drawn[:, 1], minlength=4)
    assert chi_square(counts[None], conditional[None]) > 1e-3


@pytest.mark.parametrize(("temperature", "top_p"), [(0.5, 1.0), (2.0, 1.0), (1.0, 0.6), (0.7, 0.9)])
def test_sharper_beliefs_change_which_token_and_not_how_many(temperature, top_p):
    """One absorbing entry: samples follow the tempered nucleus of the law, and half way half are revealed."""
    process = DiscreteDiffusion(AbsorbingTransition(num_states=6, num_steps=10))
    law = torch.tensor([0.4, 0.25, 0.2, 0.1, 0.05], dtype=torch.float64)
    logits = torch.cat(
        [law.log(), torch.tensor([30.0], dtype=torch.float64)]
    )  # the mask's logit means nothing
    network = Truncated(process, lambda x_t, t: logits.expand(*x_t.shape, 6), temperature, top_p)
    revealed = {}
    drawn = d3pm.sample(
        process,
        network,
        (4, 5000),
        generator=generator(32),
        watch=lambda s, x: revealed.update({s: float((x != 5).double().mean())}),
    )
    sharp = law ** (1 / temperature) / (law ** (1 / temperature)).sum()
    kept = sharp.cumsum(0) - sharp < top_p  # falling already; the token that crosses top_p is kept
    sharp = torch.where(kept, sharp, 0.0) / sharp[kept].sum()
    counts = torch.bincount(drawn.flatten(), minlength=6)
    assert chi_square(counts[None], torch.cat([sharp, torch.zeros(1)])[None]) > 1e-3
    assert revealed[5] == pytest.approx(0.5, abs=4.5 * 0.5 / 20_000**0.5)


@pytest.mark.parametrize("steps", [0, 7, -1, [6, 3], [6, 3, 3, 0], [7, 0], []])
def test_steps_that_do_not_fall_from_the_end_are_refused(steps):
    transition, world = make(AbsorbingTransition, (3, 1, 6))
    with pytest.raises(D3PMError, match="steps"):
        d3pm.sample(DiscreteDiffusion(transition), world.network(world.exact_logits()), (2, 1), steps=steps)
