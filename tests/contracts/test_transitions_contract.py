"""What every kernel and the operators it makes promise, then the formulas of the named kernels."""

import itertools

import pytest
import torch
from oracle import chi_square, concrete_subclasses, times
from torch.testing import assert_close

from d3pm.errors import ConfigError, D3PMError
from d3pm.schedules import LinearSchedule, ReciprocalSchedule, UnsquaredCosineSchedule
from d3pm.transitions import AbsorbingTransition, MarginalTransition, MatrixTransition, UniformTransition
from d3pm.transitions.base import Transition
from d3pm.transitions.operators import Operator

TRANSITIONS = concrete_subclasses(Transition)
SIZES = [(2, 1), (2, 3), (3, 4), (5, 6), (27, 5)]
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def all_steps(num_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Every pair s <= t as two batches, s = t included."""
    pairs = [(s, t) for t in range(num_steps + 1) for s in range(t + 1)]
    return torch.tensor([s for s, _ in pairs]), torch.tensor([t for _, t in pairs])


@pytest.fixture(params=TRANSITIONS, ids=lambda cls: cls.__name__)
def kernel(request) -> type:
    return request.param


@pytest.fixture(params=SIZES, ids=lambda size: f"K{size[0]}-T{size[1]}")
def transition(request, kernel) -> Transition:
    num_states, num_steps = request.param
    return kernel.example(num_states=num_states, num_steps=num_steps)


class TestEveryTransition:
    def test_it_has_the_size_that_was_asked_for(self, kernel):
        transition = kernel.example(num_states=5, num_steps=3)
        assert (transition.num_states, transition.num_steps) == (5, 3)
        assert transition.absorbing_state in (None, *range(5))

    def test_rows_are_laws(self, transition):
        dense = transition.between(*all_steps(transition.num_steps)).dense()
        assert dense.dtype == torch.float64
        assert dense.shape[1:] == (transition.num_states, transition.num_states)
        assert (dense >= 0).all()
        assert_close(dense.sum(-1), torch.ones(dense.shape[:2], dtype=torch.float64), **EXACT)

    def test_no_time_is_the_identity(self, transition):
        t = torch.arange(transition.num_steps + 1)
        eye = torch.eye(transition.num_states, dtype=torch.float64).expand(len(t), -1, -1)
        assert torch.equal(transition.between(t, t).dense(), eye)

    def test_steps_are_the_products_of_single_steps(self, transition):
        t = torch.arange(1, transition.num_steps + 1)
        single = transition.between(t - 1, t).dense()
        for s, t in zip(*all_steps(transition.num_steps), strict=True):
            product = torch.eye(transition.num_states, dtype=torch.float64)
            for step in single[s:t]:
                product = product @ step
            assert_close(transition.between(s[None], t[None]).dense()[0], product, **EXACT)

    def test_operators_compose_in_time(self, transition):
        triples = list(itertools.combinations_with_replacement(range(transition.num_steps + 1), 3))
        r, s, t = torch.tensor(triples).unbind(-1)
        first, then = transition.between(r, s), transition.between(s, t)
        assert_close(first.compose(then).dense(), transition.between(r, t).dense(), **EXACT)
        assert_close(first.dense() @ then.dense(), transition.between(r, t).dense(), **EXACT)

    def test_stationary_law_stays(self, transition):
        stationary = transition.stationary()
        assert stationary.dtype == torch.float64
        assert stationary.shape == (transition.num_states,)
        assert (stationary >= 0).all()
        assert_close(stationary.sum(), torch.ones((), dtype=torch.float64), **EXACT)
        if transition.moving:  # then it is what every start ends in
            t = times(transition.num_steps)
            ends = transition.between(t * 0, t).dense()[0]
            assert_close(ends, stationary.expand_as(ends), **EXACT)
            return
        steps = transition.between(*all_steps(transition.num_steps))
        moved = steps.dense().mT @ stationary
        assert_close(moved, stationary.expand_as(moved), **EXACT)

    def test_the_absorbing_state_is_never_left(self, transition):
        state = transition.absorbing_state
        if state is None:
            pytest.skip("no absorbing state")
        rows = transition.between(*all_steps(transition.num_steps)).dense()[:, state]
        expected = torch.nn.functional.one_hot(torch.tensor(state), transition.num_states).double()
        assert_close(rows, expected.expand_as(rows), **EXACT)

    def test_tables_stay_float64_and_take_any_integer_time(self, transition):
        t = transition.num_steps
        wide, narrow = (
            transition.between(times(0), times(t)),
            transition.between(times(0).int(), times(t).int()),
        )
        assert torch.equal(wide.dense(), narrow.dense())


@pytest.mark.parametrize("trailing", [(), (3,), (2, 3)], ids=str)
class TestEveryOperator:
    def operator(self, transition) -> Operator:
        return transition.between(*all_steps(transition.num_steps))

    def states(self, operator_batch: int, num_states: int, trailing: tuple) -> torch.Tensor:
        return torch.randint(num_states, (operator_batch, *trailing), generator=generator(1))

    def test_rows_and_columns_are_those_of_the_matrix(self, transition, trailing):
        operator = self.operator(transition)
        dense = operator.dense()
        x = self.states(len(dense), transition.num_states, trailing)
        batch = torch.arange(len(dense)).view(-1, *[1] * len(trailing)).expand_as(x)
        assert_close(operator.rows(x), dense[batch, x], **EXACT)
        assert_close(operator.cols(x), dense.mT[batch, x], **EXACT)

    def test_apply_is_the_vector_times_the_matrix(self, transition, trailing):
        operator = self.operator(transition)
        dense = operator.dense()
        p = torch.rand(
            (len(dense), *trailing, transition.num_states), generator=generator(2), dtype=torch.float64
        )
        p = p / p.sum(-1, keepdim=True)
        assert_close(operator.apply(p), torch.einsum("b...i,bij->b...j", p, dense), **EXACT)

    def test_apply_is_linear_also_for_gradients(self, transition, trailing):
        operator = self.operator(transition)
        dense = operator.dense()
        shape = (len(dense), *trailing, transition.num_states)
        p = torch.rand(shape, generator=generator(2), dtype=torch.float64, requires_grad=True)
        weight = torch.randn(shape, generator=generator(3), dtype=torch.float64)
        (gradient,) = torch.autograd.grad((operator.apply(p) * weight).sum(), p)
        assert_close(gradient, torch.einsum("b...j,bij->b...i", weight, dense), **EXACT)

    def test_samples_have_the_shape_and_only_possible_states(self, transition, trailing):
        operator = self.operator(transition)
        dense = operator.dense()
        x = self.states(len(dense), transition.num_states, trailing)
        drawn = operator.sample(x, generator(4))
        assert drawn.shape == x.shape
        assert drawn.dtype == torch.int64
        assert (operator.rows(x).gather(-1, drawn[..., None]) > 0).all()

    def test_equal_generators_draw_equal_samples(self, transition, trailing):
        operator = self.operator(transition)
        x = self.states(operator.dense().shape[0], transition.num_states, trailing)
        assert torch.equal(operator.sample(x, generator(5)), operator.sample(x, generator(5)))


def test_samples_follow_the_rows(transition):
    """Every row of several steps in one chi-square test, at fixed seeds."""
    num_states, last = transition.num_states, transition.num_steps
    s, t = times(0, last - 1, 0), times(last, last, (last + 1) // 2)
    operator = transition.between(s, t)
    draws = 3000 if num_states < 10 else 1000
    x = torch.arange(num_states).repeat_interleave(draws).expand(3, -1)
    drawn = operator.sample(x, generator(6)).view(3 * num_states, draws)
    counts = torch.nn.functional.one_hot(drawn, num_states).sum(1)
    assert chi_square(counts, operator.dense().flatten(0, 1)) > 1e-3


def test_samples_of_neighbours_are_independent(transition):
    """Two entries of one row that start in the same state must not share their noise."""
    num_states, last = transition.num_states, transition.num_steps
    if num_states > 5:
        pytest.skip("the table of pairs is too large for few draws")
    operator = transition.between(times(0), times((last + 1) // 2))
    pairs = operator.sample(torch.zeros(1, 8000, 2, dtype=torch.int64), generator(7))[0]
    row = operator.dense()[0, 0]
    counts = torch.bincount(pairs[:, 0] * num_states + pairs[:, 1], minlength=num_states**2)
    assert chi_square(counts[None], torch.kron(row, row)[None]) > 1e-3


@pytest.mark.parametrize(("first", "then"), itertools.product(TRANSITIONS, TRANSITIONS))
def test_different_structures_compose(first, then):
    a = first.example(num_states=4, num_steps=3).between(times(0, 1), times(2, 2))
    b = then.example(num_states=4, num_steps=3).between(times(1, 0), times(3, 2))
    assert_close(a.compose(b).dense(), a.dense() @ b.dense(), **EXACT)


def test_every_structure_is_made_by_some_kernel():
    """So that no operator escapes the tests above."""
    made = set()
    for kernel in TRANSITIONS:
        operator = kernel.example(num_states=3, num_steps=2).between(times(1), times(2))
        made |= {type(operator), type(operator.compose(operator))}
    assert set(concrete_subclasses(Operator)) <= made


@pytest.mark.parametrize("num_states", [2, 5, 27, 300])
def test_sampled_rows_are_those_of_the_product_of_dense_steps(kernel, num_states):
    transition = kernel.example(num_states=num_states, num_steps=8)
    t = torch.arange(1, 9)
    steps = transition.between(t - 1, t).dense()
    x = torch.randint(num_states, (1, 40), generator=generator(13))
    for s, t in ((0, 8), (0, 3), (2, 7)):
        product = torch.linalg.multi_dot(list(steps[s:t])) if t - s > 1 else steps[s]
        operator = transition.between(times(s), times(t))
        assert_close(operator.rows(x)[0], product[x[0]], rtol=1e-9, atol=1e-12)
        assert_close(operator.cols(x)[0], product.T[x[0]], rtol=1e-9, atol=1e-12)


# The named kernels against their formulas


@pytest.mark.parametrize("num_states", [2, 5])
@pytest.mark.parametrize("schedule", [ReciprocalSchedule(), UnsquaredCosineSchedule()])
class TestFormulas:
    num_steps = 7

    def steps(self, transition) -> torch.Tensor:
        t = torch.arange(1, self.num_steps + 1)
        return transition.between(t - 1, t).dense()

    def expected(self, schedule, noise: torch.Tensor) -> torch.Tensor:
        eye = torch.eye(len(noise), dtype=torch.float64)
        return torch.stack([(1 - beta) * eye + beta * noise for beta in schedule.betas(self.num_steps)])

    def test_uniform_puts_its_share_on_the_diagonal_too(self, schedule, num_states):
        transition = UniformTransition(num_states=num_states, num_steps=self.num_steps, schedule=schedule)
        noise = torch.full((num_states,), 1 / num_states, dtype=torch.float64)
        assert_close(self.steps(transition), self.expected(schedule, noise), **EXACT)
        assert_close(transition.stationary(), noise, **EXACT)
        assert transition.absorbing_state is None

    @pytest.mark.parametrize("mask_index", [-1, 0, 1])
    def test_absorbing_jumps_to_the_mask(self, schedule, num_states, mask_index):
        transition = AbsorbingTransition(
            num_states=num_states, num_steps=self.num_steps, schedule=schedule, mask_index=mask_index
        )
        noise = torch.zeros(num_states, dtype=torch.float64)
        noise[mask_index] = 1
        assert_close(self.steps(transition), self.expected(schedule, noise), **EXACT)
        assert torch.equal(transition.stationary(), noise)
        assert transition.absorbing_state == mask_index % num_states

    def test_marginal_jumps_to_the_frequencies(self, schedule, num_states):
        noise = torch.arange(1, num_states + 1, dtype=torch.float64)
        noise = noise / noise.sum()
        transition = MarginalTransition(noise, num_steps=self.num_steps, schedule=schedule)
        assert_close(self.steps(transition), self.expected(schedule, noise), **EXACT)
        assert_close(transition.stationary(), noise, **EXACT)


def test_defaults_are_those_of_the_paper():
    t = torch.arange(1, 11)
    absorbing = AbsorbingTransition(num_states=3, num_steps=10).between(t - 1, t).dense()
    assert_close(absorbing[:, 0, 2], ReciprocalSchedule().betas(10), **EXACT)
    uniform = UniformTransition(num_states=3, num_steps=10).between(t - 1, t).dense()
    assert_close(uniform[:, 0, 2], UnsquaredCosineSchedule().betas(10) / 3, **EXACT)


def test_matrices_are_taken_as_they_are():
    matrices = torch.rand(4, 3, 3, generator=generator(8), dtype=torch.float64)
    matrices = matrices / matrices.sum(-1, keepdim=True)
    transition = MatrixTransition(matrices, law=torch.full((3,), 1 / 3, dtype=torch.float64))
    assert (transition.num_states, transition.num_steps) == (3, 4)
    t = torch.arange(1, 5)
    assert_close(transition.between(t - 1, t).dense(), matrices, **EXACT)


# Size


def tensor_bytes(value, seen: set[int] | None = None) -> int:
    """Bytes of all tensors reachable from an object's attributes."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        return value.untyped_storage().nbytes()
    if isinstance(value, dict):
        return sum(tensor_bytes(item, seen) for item in value.values())
    if isinstance(value, list | tuple | set):
        return sum(tensor_bytes(item, seen) for item in value)
    attributes = dict(getattr(value, "__dict__", {}))
    attributes |= {name: getattr(value, name, None) for name in getattr(type(value), "__slots__", ())}
    return tensor_bytes(attributes, seen)


@pytest.mark.parametrize(
    "build",
    [
        lambda: AbsorbingTransition(num_states=128_000, num_steps=1000),
        lambda: UniformTransition(num_states=128_000, num_steps=1000),
        lambda: MarginalTransition(torch.full((128_000,), 1 / 128_000, dtype=torch.float64), num_steps=1000),
    ],
    ids=["absorbing", "uniform", "marginal"],
)
def test_large_vocabularies_need_no_matrix(build):
    """A 128,000 x 128,000 matrix would be 131 GB; these kernels keep a few vectors."""
    transition = build()
    operator = transition.between(times(0, 400), times(500, 1000))
    x = torch.randint(127_999, (2, 64), generator=generator(9))
    drawn = operator.sample(x, generator(10))
    assert drawn.shape == x.shape
    assert (drawn >= 0).all()
    assert (drawn < 128_000).all()
    assert_close(operator.rows(x).sum(-1), torch.ones(2, 64, dtype=torch.float64), rtol=1e-9, atol=0)
    assert tensor_bytes(transition) + tensor_bytes(operator) < 8e6


def test_sampling_a_large_vocabulary_keeps_or_masks():
    transition = AbsorbingTransition(num_states=128_000, num_steps=1000)
    x = torch.randint(127_999, (1, 20_000), generator=generator(11))
    drawn = transition.between(times(0), times(250)).sample(x, generator(12))
    masked = drawn == 127_999
    assert torch.equal(drawn[~masked], x[~masked])
    assert float(masked.double().mean()) == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 20_000) ** 0.5)


# Bad input


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AbsorbingTransition(num_states=5, num_steps=4, mask_index=5), "mask_index"),
        (lambda: AbsorbingTransition(num_states=1, num_steps=4), "num_states"),
        (lambda: AbsorbingTransition(num_states=5, num_steps=0), "num_steps"),
        (lambda: UniformTransition(num_states=0, num_steps=4), "num_states"),
        (lambda: UniformTransition(num_states=3, num_steps=4, schedule=LinearSchedule()), "num_steps|T"),
        (lambda: MarginalTransition(torch.tensor([0.7, 0.7]), num_steps=4), "frequencies"),
        (lambda: MarginalTransition(torch.tensor([1.5, -0.5]), num_steps=4), "frequencies"),
        (lambda: MatrixTransition(torch.full((2, 3, 4), 0.25)), "matrices"),
        (lambda: MatrixTransition(torch.full((3, 3), 1 / 3)), "matrices"),
    ],
)
def test_values_that_cannot_work_are_named(build, message):
    with pytest.raises(D3PMError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


def test_a_row_that_is_no_law_is_found():
    """The message says which t, which row, what sum."""
    matrices = torch.eye(3, dtype=torch.float64).repeat(4, 1, 1)
    matrices[2, 1, 1] = 1.1
    with pytest.raises(D3PMError, match=r"row 1 at t=3.*1\.1"):
        MatrixTransition(matrices)
    matrices[2, 1] = torch.tensor([-0.5, 0.75, 0.75])
    with pytest.raises(D3PMError, match=r"\[1, 0\] at t=3.*-0\.5"):
        MatrixTransition(matrices)


def test_frequencies_with_all_mass_on_one_symbol_are_refused():
    with pytest.raises(ConfigError, match="one symbol only"):
        MarginalTransition([0.0, 1.0], num_steps=2)
