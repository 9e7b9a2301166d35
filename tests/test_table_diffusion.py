"""A table's process is its columns' processes side by side: laws, gradients, samples and bound, then the refusals."""

import itertools
from functools import reduce

import pandas as pd
import pytest
import torch
import yaml
from oracle import Chain, World, chi_square, times
from torch.testing import assert_close

import d3pm
from d3pm import AbsorbingTransition, DiffusionModel, DiscreteDiffusion, MarginalTransition, UniformTransition
from d3pm.cli.parser import Parser
from d3pm.data.base import DataSource
from d3pm.data.table_codec import TableCodec
from d3pm.discrete.column_kernels import fill
from d3pm.discrete.columns import ColumnLaws, Grouping
from d3pm.discrete.table import TableDiffusion
from d3pm.discrete.truncation import Truncated
from d3pm.errors import ConfigError, D3PMError
from d3pm.networks.table import TableDenoiser
from d3pm.objectives import AuxiliaryBound, VariationalBound, vlb_terms
from d3pm.process import Process
from d3pm.schedules import LinearSchedule, MutualInformationSchedule, ReciprocalSchedule
from d3pm.transitions import MatrixTransition
from d3pm.transitions.discretized_gaussian import DiscretizedGaussianTransition
from d3pm.transitions.hybrid import HybridTransition

FORMS = ["d3pm", "mixture"]
T = 5
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixed(form: str = "d3pm", **options) -> TableDiffusion:
    """Seven columns of six kernels, in no order; the second and the fifth share theirs."""
    kernels = [
        AbsorbingTransition(4, T),
        UniformTransition(3, T),
        MarginalTransition([0.5, 0.3, 0.0, 0.15, 0.05], T),
        DiscretizedGaussianTransition(6, T, ReciprocalSchedule()),
        HybridTransition(4, T),
        MatrixTransition.example(2, T),
    ]
    options = {"names": list("abcdefg"), **options}
    return TableDiffusion(T, reverse_form=form, transitions=kernels, columns=[3, 0, 2, 1, 0, 4, 5], **options)


def singles(process: TableDiffusion) -> list[DiscreteDiffusion]:
    kernels = [process.transitions[place] for place in process.columns]
    return [DiscreteDiffusion(kernel, process.reverse_form) for kernel in kernels]


def data_rows(process: TableDiffusion, num: int, seed: int = 1) -> torch.Tensor:
    """Rows of states that data take."""
    columns = []
    for column, single in enumerate(singles(process)):
        possible = torch.tensor([x for x in range(single.num_states) if x != single.transition.mask_state])
        draws = torch.randint(len(possible), (num,), generator=generator(seed * 100 + column))
        columns.append(possible[draws])
    return torch.stack(columns, 1)


def situation(process: TableDiffusion, num: int = 60):
    """Rows at mixed steps, s = 0 among them, and logits whose padding is NaN: it must never be read."""
    x0 = data_rows(process, num)
    t = 1 + torch.randint(process.num_steps, (num,), generator=generator(2))
    s = (t * torch.rand(num, generator=generator(3), dtype=torch.float64)).long()
    x_t = process.q_sample(x0, t, generator(4))
    logits = torch.randn(*x0.shape, process.num_states + 1, generator=generator(5), dtype=torch.float64)
    for column, states in enumerate(process.cardinalities):
        logits[:, column, states:] = torch.nan
    return x0, x_t, s, t, logits.requires_grad_()


@pytest.mark.parametrize("form", FORMS)
class TestColumnByColumn:
    """Every law is that of the column's kernel alone."""

    def laws(self, form):
        """(the table's law, the laws of single columns) of each kind."""
        process = mixed(form)
        x0, x_t, s, t, logits = situation(process)
        one = singles(process)
        apart = [(x0[:, [c]], x_t[:, [c]], logits[:, [c], : p.num_states], p) for c, p in enumerate(one)]
        yield process.prior(x0.shape), [p.prior((len(x0), 1)) for p in one]
        yield process.marginal(x0, t), [p.marginal(x, t) for x, _, _, p in apart]
        yield process.posterior(x0, x_t, s, t), [p.posterior(x, y, s, t) for x, y, _, p in apart]
        yield process.predict(logits, x_t, t), [p.predict(out, y, t) for _, y, out, p in apart]
        yield process.reverse(logits, x_t, s, t), [p.reverse(out, y, s, t) for _, y, out, p in apart]

    def test_probabilities_scores_and_modes(self, form):
        x0 = data_rows(mixed(), 60)
        for law, alone in self.laws(form):
            assert_close(law.probs.sum(-1), torch.ones_like(law.probs[..., 0]), **EXACT)
            for column, single in enumerate(alone):
                states = single.probs.shape[-1]
                assert_close(law.probs[:, [column], :states], single.probs, **EXACT)
                assert (law.probs[:, column, states:] == 0).all()
                assert torch.equal(law.mode[:, [column]], single.mode)
                assert_close(
                    law.log_prob(x0)[:, [column]], single.log_prob(x0[:, [column]]).expand(60, 1), **EXACT
                )

    def test_divergences_and_their_gradients(self, form):
        process = mixed(form)
        x0, x_t, s, t, logits = situation(process)
        value = process.posterior(x0, x_t, s, t).kl(process.reverse(logits, x_t, s, t))
        (gradient,) = torch.autograd.grad(value.square().sum(), logits)
        prior = process.marginal(x0, t).kl(process.prior(x0.shape))
        for column, single in enumerate(singles(process)):
            x, y = x0[:, [column]], x_t[:, [column]]
            own = logits.detach()[:, [column], : single.num_states].requires_grad_()
            alone = single.posterior(x, y, s, t).kl(single.reverse(own, y, s, t))
            assert_close(value[:, [column]], alone, **EXACT)
            (expected,) = torch.autograd.grad(alone.square().sum(), own)
            assert_close(gradient[:, [column], : single.num_states], expected, **EXACT)
            assert_close(prior[:, [column]], single.marginal(x, t).kl(single.prior((len(x), 1))), **EXACT)

    def test_what_a_column_has_not_has_no_gradient(self, form):
        """The padded logits here are NaN, and stay without a say in value and gradient, of the belief too."""
        process = mixed(form)
        x0, x_t, s, t, logits = situation(process)
        loss = process.posterior(x0, x_t, s, t).kl(process.reverse(logits, x_t, s, t)).sum()
        loss = loss - process.predict(logits, x_t, t).log_prob(x0).sum()
        (gradient,) = torch.autograd.grad(loss, logits)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()
        for column, states in enumerate(process.cardinalities):
            assert (gradient[:, column, states:] == 0).all()

    def test_divergence_is_that_of_the_dense_laws(self, form):
        process = mixed(form)
        x0, x_t, s, t, logits = situation(process)
        posterior, reverse = process.posterior(x0, x_t, s, t), process.reverse(logits, x_t, s, t)
        fast = posterior.kl(reverse)
        strange = ColumnLaws(reverse.laws, Grouping(process.columns))  # not known to be of the same process
        assert_close(fast, posterior.kl(strange), rtol=1e-8, atol=1e-10)

    def test_samples_follow_the_laws(self, form):
        num = 3000
        process = mixed(form)
        x0, x_t, s, t, logits = (v.detach()[:6] for v in situation(process))
        many = [v.repeat_interleave(num, 0) for v in (x0, x_t, s, t, logits)]
        x0s, x_ts, ss, ts, outputs = many
        drawn = [
            (process.q_sample(x0s, ts, generator(6)), process.marginal(x0, t)),
            (process.prior((6 * num, 7)).sample(generator(7)), process.prior((6, 7))),
            (process.posterior(x0s, x_ts, ss, ts).sample(generator(8)), process.posterior(x0, x_t, s, t)),
            (process.step(outputs, x_ts, ss, ts, generator(9)), process.reverse(logits, x_t, s, t)),
            (process.predict(outputs, x_ts, ts).sample(generator(10)), process.predict(logits, x_t, t)),
        ]
        for x, law in drawn:
            counts = torch.nn.functional.one_hot(x.view(6, num, 7), process.num_states).sum(1)
            probs = law.probs.detach().double()
            assert chi_square(counts.flatten(0, 1), probs.flatten(0, 1)) > 1e-3


class TestOneKernelForAll:
    """Where all columns share a kernel the table adds nothing, and takes nothing away."""

    @pytest.mark.parametrize("kernel", [AbsorbingTransition, UniformTransition, MarginalTransition])
    def test_it_is_the_plain_process_draw_by_draw(self, kernel):
        shared = kernel.example(5, T)
        table = TableDiffusion(T, transitions=[shared], columns=[0] * 6)
        plain = DiscreteDiffusion(shared)
        logits = torch.randn(8, 6, 5, generator=generator(1))
        x0 = torch.randint(4, (8, 6), generator=generator(2))
        first, second = (
            (
                vlb_terms(process, lambda x, t: logits, x0, generator=generator(3)).total,
                d3pm.sample(process, lambda x, t: logits, (8, 6), generator=generator(4), cache=False),
            )
            for process in (table, plain)
        )
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])

    def test_divergences_take_the_one_pass_ways(self):
        """No dense law is made of any rank-one kernel, in whatever order its columns stand."""
        kernels = [AbsorbingTransition(4, T), UniformTransition(4, T), MarginalTransition.example(4, T)]
        process = TableDiffusion(T, transitions=kernels, columns=[0, 1, 2, 0, 1, 2])
        x0, x_t, s, t, logits = situation(process)
        posterior, reverse = process.posterior(x0, x_t, s, t), process.reverse(logits, x_t, s, t)
        posterior.kl(reverse).sum().backward()
        for law in (*posterior.laws, *reverse.laws):
            assert "log_probs" not in vars(law)


class TwoColumns(World):
    """The oracle's world of two columns, each with a chain of its own: the same sums over all rows and paths."""

    def __init__(self, chains: list[Chain], seed: int) -> None:
        object.__setattr__(self, "chains", chains)
        object.__setattr__(self, "chain", chains[0])
        object.__setattr__(self, "length", 2)
        object.__setattr__(self, "states", [chain.num_states for chain in chains])
        law = torch.rand(len(self.words), generator=generator(seed), dtype=torch.float64) + 0.05
        for column, chain in enumerate(chains):
            if chain.absorbing is not None:
                law[self.words[:, column] == chain.absorbing] = 0
        law[law.nonzero().flatten()[1::4]] = 0  # some rows never occur
        object.__setattr__(self, "law", law / law.sum())

    @property
    def words(self):
        return torch.tensor(list(itertools.product(*map(range, self.states))))

    @property
    def prior(self):
        return reduce(torch.kron, [chain.stationary for chain in self.chains])

    def forward(self, s, t):
        return reduce(torch.kron, [chain.between(s, t) for chain in self.chains])

    def index(self, x):
        return x[:, 0] * self.states[1] + x[:, 1]

    def exact_logits(self):
        width = max(self.states)
        value = torch.nn.functional.one_hot(self.words, width).double()
        tables = []
        for t in range(1, self.num_steps + 1):
            joint = self.law[:, None] * self.forward(0, t)
            total = joint.sum(0)
            belief = torch.einsum("xw,xlk->wlk", joint / torch.where(total > 0, total, 1.0), value)
            logits = torch.where(belief > 0, belief, 1.0).log().masked_fill(belief == 0, -1e30)
            tables.append(torch.where((total > 0)[:, None, None], logits, 0.0))
        return torch.stack(tables)

    def random_logits(self, seed):
        shape = (self.num_steps, len(self.words), 2, max(self.states))
        return torch.randn(shape, generator=generator(seed), dtype=torch.float64)

    def reverse(self, logits, s, t, form):
        rows = []
        for place, word in enumerate(self.words.tolist()):
            laws = [
                chain.reverse(logits[t - 1, place, i, : chain.num_states], x_t, s, t, form)
                if chain.possible(x_t, t).any()
                else torch.zeros(chain.num_states, dtype=torch.float64)
                for i, (chain, x_t) in enumerate(zip(self.chains, word, strict=True))
            ]
            rows.append(reduce(torch.kron, laws))
        return torch.stack(rows)


PAIRS = {
    "absorbing-uniform": lambda: [AbsorbingTransition(4, 3), UniformTransition(2, 3)],
    "gaussian-marginal": lambda: [
        DiscretizedGaussianTransition(4, 3, ReciprocalSchedule()),
        MarginalTransition([0.7, 0.2, 0.1], 3),
    ],
    "absorbing-gaussian": lambda: [
        AbsorbingTransition(3, 4),
        DiscretizedGaussianTransition(3, 4, ReciprocalSchedule()),
    ],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pair", PAIRS)
class TestOracle:
    """Two columns of different K and kernels, every path written down."""

    def world(self, pair, form):
        kernels = PAIRS[pair]()
        process = TableDiffusion(kernels[0].num_steps, reverse_form=form, transitions=kernels, columns=[0, 1])
        return process, TwoColumns([Chain.of(kernel) for kernel in kernels], seed=len(pair))

    def expected_bound(self, process, world, logits) -> float:
        """The library's laws weighed by the enumerated q(x_0, x_t)."""
        words, network, total = world.words, world.network(logits), 0.0
        for t in range(1, world.num_steps + 1):
            joint = world.law[:, None] * world.forward(0, t)
            i, j = joint.nonzero().unbind(-1)
            time = torch.full((len(i),), t)
            terms = VariationalBound().at(process, network(words[j], time), words[i], words[j], time)
            total += float(joint[i, j] @ terms.sum(-1)) / world.num_steps
        rows = words[world.law > 0]
        end = process.marginal(rows, torch.full((len(rows),), world.num_steps))
        return total + float(end.kl(process.prior(rows.shape)).sum(-1) @ world.law[world.law > 0])

    @pytest.mark.parametrize("belief", ["exact", "random"])
    def test_the_bound_is_the_sum_over_paths(self, pair, form, belief):
        process, world = self.world(pair, form)
        logits = world.exact_logits() if belief == "exact" else world.random_logits(1)
        bound = self.expected_bound(process, world, logits)
        assert bound == pytest.approx(world.bound(logits, form), abs=1e-10)
        assert bound >= world.entropy - 1e-10

    def test_samples_follow_the_law_of_the_model(self, pair, form):
        process, world = self.world(pair, form)
        logits, num = world.exact_logits(), 20_000
        for grid in (list(range(world.num_steps, -1, -1)), [world.num_steps, 1, 0]):
            x0 = d3pm.sample(process, world.network(logits), (num, 2), steps=grid, generator=generator(2))
            counts = torch.bincount(world.index(x0), minlength=len(world.words))
            assert chi_square(counts[None], world.model_law(logits, grid, form)[None]) > 1e-3


def test_the_bound_is_the_sum_over_columns():
    """One draw of x_t, so the terms agree to rounding: what each column costs alone adds up."""
    process = mixed()
    x0, x_t, _, t, logits = situation(process)
    together = VariationalBound().at(process, logits, x0, x_t, t).sum(-1)
    alone = [
        VariationalBound().at(one, logits[:, [c], : one.num_states], x0[:, [c]], x_t[:, [c]], t)
        for c, one in enumerate(singles(process))
    ]
    assert_close(together, torch.cat(alone, 1).sum(-1), **EXACT)


class TestKnownCells:
    def test_they_stand_unmasked_under_absorbing_kernels_and_noised_under_others(self):
        process = mixed()
        x0, known = data_rows(process, 4000)[:1].repeat(4000, 1), torch.zeros(7, dtype=torch.bool)
        known[:4] = True
        x_s, s = process.prior(x0.shape).sample(generator(1)), torch.full((4000,), 3)
        held = process.hold(x_s, x0, known, s, generator(2))
        assert torch.equal(held[:, 4:], x_s[:, 4:])
        assert torch.equal(held[:, 1], x0[:, 1])  # absorbing
        law = process.marginal(x0[:1], s[:1]).probs[0]
        counts = torch.nn.functional.one_hot(held, process.num_states).sum(0)
        others = [0, 2, 3]  # Gaussian, marginal, uniform
        assert chi_square(counts[others], law[others]) > 1e-3

    def test_unknown_cells_may_hold_anything(self):
        process = mixed()
        x0, known = data_rows(process, 50), torch.rand(50, 7, generator=generator(3)) < 0.5
        network = lambda x, t: torch.zeros(50, 7, process.num_states)  # noqa: E731
        drawn = [
            d3pm.sample(
                process,
                network,
                (50, 7),
                known=known,
                x0=torch.where(known, x0, junk),
                generator=generator(4),
            )
            for junk in (0, 1, -1)
        ]
        assert torch.equal(drawn[0][known], x0[known])
        assert torch.equal(drawn[0], drawn[1])
        assert torch.equal(drawn[0], drawn[2])

    def test_imputing_under_absorbing_kernels_is_conditioning(self):
        """With the exact belief, a cell filled in beside a known one follows the data's conditional law."""
        kernels = [AbsorbingTransition(3, 4), AbsorbingTransition(5, 4)]
        process = TableDiffusion(4, transitions=kernels, columns=[0, 1])
        world = TwoColumns([Chain.of(kernel) for kernel in kernels], seed=3)
        exact = world.exact_logits()
        network = world.network(exact[:1].expand_as(exact))  # under these kernels no belief depends on t
        x0, known = torch.tensor([[1, 0]]).expand(20_000, 2), torch.tensor([[True, False]]).expand(20_000, 2)
        drawn = d3pm.sample(process, network, (20_000, 2), known=known, x0=x0, generator=generator(5))
        assert (drawn[:, 0] == 1).all()
        given = world.law.view(3, 5)[1]
        counts = torch.bincount(drawn[:, 1], minlength=5)
        assert chi_square(counts[None], (given / given.sum())[None]) > 1e-3


def test_sharper_beliefs_stay_within_each_column():
    process = mixed()
    logits = torch.randn(400, 7, process.num_states + 1, generator=generator(1))
    network = Truncated(process, lambda x, t: logits, temperature=0.7, top_p=0.8)
    drawn = d3pm.sample(process, network, (400, 7), generator=generator(2))
    for column, one in enumerate(singles(process)):
        assert (drawn[:, column] < one.num_states).all()
        assert (
            drawn[:, column] != (one.transition.mask_state if one.transition.mask_state is not None else -1)
        ).all()


class TestThousandColumns:
    def wide(self) -> tuple[TableDiffusion, torch.Tensor]:
        kernels = [
            AbsorbingTransition(7, 100),
            DiscretizedGaussianTransition(16, 100),
            UniformTransition(3, 100),
            MarginalTransition.example(9, 100),
        ]
        process = TableDiffusion(100, transitions=kernels, columns=[i % 4 for i in range(1000)])
        return process, data_rows(process, 4)

    def test_a_training_step_is_finite_and_moves(self):
        process, x0 = self.wide()
        torch.manual_seed(0)
        network = TableDenoiser(list(process.cardinalities), dim=16, depth=1, heads=1)
        model = DiffusionModel(
            process=process, network=network, objective=AuxiliaryBound(0.01), shape=(1000,)
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        losses = []
        for _ in range(3):
            loss = model(x0, generator=generator(1)).loss
            optimizer.zero_grad()
            loss.backward()
            assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
            optimizer.step()
            losses.append(float(loss.detach()))
        assert torch.isfinite(torch.tensor(losses)).all()
        assert losses[2] < losses[0]

    def test_kernels_are_called_once_however_many_columns_there_are(self, monkeypatch):
        process, x0 = self.wide()
        called = []
        plain = DiscreteDiffusion.reverse
        monkeypatch.setattr(
            DiscreteDiffusion, "reverse", lambda self, *args: called.append(self) or plain(self, *args)
        )
        t = torch.full((4,), 50)
        process.reverse(torch.zeros(4, 1000, 16), x0, t - 1, t)
        assert len(called) == 4


class Rows(DataSource):
    """A frame as a data source."""

    def __init__(self, frame: pd.DataFrame, **kinds) -> None:
        self.codec = TableCodec.fit(frame, **kinds)
        self.rows = self.codec.encode_frame(frame)
        self.shape = (len(self.codec.columns),)
        self.asked: list[str] = []

    def split(self, name):
        self.asked.append(name)
        return [{"x0": row} for row in self.rows]

    def describe(self):
        return "rows"


FRAME = pd.DataFrame(
    {
        "colour": ["red", "blue", "red", "green"] * 50,
        "shape": ["round", "square"] * 100,
        "size": [1, 2, 3, 2] * 50,
        "weight": [0.1 * i for i in range(200)],
        "owner": ["Ann", "Bob", None, "Bob"] * 50,
    }
)
UNIFORM, MARGINAL = "d3pm.transitions.UniformTransition", "d3pm.transitions.MarginalTransition"
GAUSSIAN = {
    "class_path": "d3pm.transitions.discretized_gaussian.DiscretizedGaussianTransition",
    "init_args": {"schedule": {"class_path": "d3pm.schedules.ReciprocalSchedule"}},
}
ABSORBING = "d3pm.transitions.AbsorbingTransition"
BY_INFORMATION = {
    "class_path": UNIFORM,
    "init_args": {
        "schedule": {
            "class_path": "d3pm.schedules.MutualInformationSchedule",
            "init_args": {"transition": {"class_path": UNIFORM}},
        }
    },
}


def kernel(process: TableDiffusion, name: str):
    return process.transitions[process.columns[process.names.index(name)]]


class TestSuited:
    def data(self) -> Rows:
        return Rows(FRAME, bins=8)

    def test_each_column_gets_the_kernel_of_its_kind_with_its_states(self):
        data = self.data()
        process = TableDiffusion(9, nominal=ABSORBING, ordinal=UNIFORM).suited(data)
        assert process.names == ["colour", "shape", "size", "weight", "owner"]
        masked = [isinstance(kernel(process, name), AbsorbingTransition) for name in process.names]
        assert masked == [True, True, False, False, True]
        assert process.cardinalities == (
            4,
            3,
            3,
            8,
            4,
        )  # a mask more where there is one; a missing owner is a symbol
        assert process.num_states == 8
        process.check_codec(data.codec)
        assert data.asked == []  # nobody asked for frequencies

    def test_equal_kernels_are_one(self):
        process = TableDiffusion(9, nominal=ABSORBING, ordinal=UNIFORM).suited(self.data())
        assert process.columns[0] == process.columns[4]
        assert len(process.transitions) == 4

    def test_frequencies_are_those_of_the_column(self):
        process = TableDiffusion(9, nominal=MARGINAL, ordinal=MARGINAL).suited(self.data())
        assert_close(kernel(process, "colour").stationary(), torch.tensor([0.25, 0.25, 0.5]).double())
        assert_close(kernel(process, "owner").stationary(), torch.tensor([0.25, 0.5, 0.25]).double())
        assert_close(kernel(process, "weight").stationary(), torch.full((8,), 1 / 8).double())

    def test_overrides_go_by_name(self):
        schedule = {"class_path": "d3pm.schedules.LinearSchedule"}
        process = TableDiffusion(
            50,
            nominal=ABSORBING,
            ordinal=GAUSSIAN,
            overrides={"shape": {"class_path": UNIFORM, "init_args": {"schedule": schedule}}},
        ).suited(self.data())
        assert isinstance(kernel(process, "shape"), UniformTransition)
        assert isinstance(kernel(process, "shape").schedule, LinearSchedule)
        assert isinstance(kernel(process, "colour"), AbsorbingTransition)
        assert isinstance(kernel(process, "size"), DiscretizedGaussianTransition)

    def test_schedules_are_suited_too(self):
        process = TableDiffusion(9, nominal=BY_INFORMATION, ordinal=UNIFORM).suited(self.data())
        schedule = kernel(process, "colour").schedule
        assert isinstance(schedule, MutualInformationSchedule)
        assert_close(schedule.law, torch.tensor([0.25, 0.25, 0.5]).double())

    def test_a_config_may_leave_open_what_the_data_know(self):
        """The parser of configs hands a spec on as it was written, and writes it back so."""
        parser = Parser()
        parser.add_subclass_arguments(Process, "process")
        wanted = {
            "num_steps": 9,
            "nominal": BY_INFORMATION,
            "ordinal": UNIFORM,
            "overrides": {"size": GAUSSIAN},
        }
        config = {"process": {"class_path": "d3pm.discrete.table.TableDiffusion", "init_args": wanted}}
        parsed = parser.parse_object(config)
        again = parser.parse_object(yaml.safe_load(parser.dump(parsed)))
        for settings in (parsed, again):
            process = parser.instantiate(settings).process
            assert {name: getattr(process, name) for name in wanted} == wanted
        complete = process.suited(self.data())
        assert isinstance(kernel(complete, "colour").schedule, MutualInformationSchedule)
        assert isinstance(kernel(complete, "size"), DiscretizedGaussianTransition)

    def test_what_is_complete_is_left_alone(self):
        process = mixed()
        assert process.suited(self.data()) is process
        network = TableDenoiser([2, 3], dim=8, depth=1, heads=1)
        assert network.suited(self.data()) is network

    def test_masks_of_other_kernels_count_too(self):
        hybrid = "d3pm.transitions.hybrid.HybridTransition"
        process = TableDiffusion(9, nominal=hybrid, ordinal=UNIFORM).suited(self.data())
        assert kernel(process, "colour").num_states == 4
        process.check_codec(self.data().codec)

    def test_network_and_process_fit(self):
        data = self.data()
        process = TableDiffusion(9, nominal=ABSORBING, ordinal=GAUSSIAN).suited(data)
        network = TableDenoiser(dim=8, depth=1, heads=1).suited(data)
        model = DiffusionModel(process=process, network=network, codec=data.codec, shape=data.shape)
        frame = data.codec.frame(model.sample(20, seed=0))
        assert list(frame) == list(FRAME)
        assert set(frame["shape"]) <= {"round", "square"}  # no mask is left, no state beyond the column

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"overrides": {"colr": UNIFORM}}, "overrides names colr"),
            ({"nominal": "d3pm.transitions.Nothing"}, "column colour: class_path d3pm.transitions.Nothing"),
            ({"nominal": {"init_args": {}}}, "column colour: .* is no kernel"),
            ({"nominal": "d3pm.schedules.CosineSchedule"}, "column colour: CosineSchedule is no kernel"),
            ({"ordinal": {"class_path": UNIFORM, "init_args": {"speed": 2}}}, "column size: .*speed"),
            (
                {"overrides": {"size": {"class_path": UNIFORM, "init_args": {"num_states": 1}}}},
                "column size: num_states is 1",
            ),
            (
                {"overrides": {"size": {"class_path": UNIFORM, "init_args": {"num_steps": 4}}}},
                "column size: .*num_steps=4",
            ),
        ],
    )
    def test_specs_that_cannot_be_are_refused_by_column(self, options, words):
        with pytest.raises(ConfigError, match=words) as caught:
            TableDiffusion(9, **{"nominal": ABSORBING, "ordinal": UNIFORM, **options}).suited(self.data())
        assert "\n" not in str(caught.value)


def test_a_class_path_alone_is_a_spec_and_what_is_given_stays():
    facts = {"num_states": lambda: 3, "num_steps": lambda: 9, "frequencies": lambda: 1 / 0}
    assert fill(UNIFORM, facts)["init_args"] == {"num_states": 3, "num_steps": 9}
    assert fill({"class_path": UNIFORM, "init_args": {"num_steps": 4}}, facts)["init_args"] == {
        "num_states": 3,
        "num_steps": 4,
    }


def test_a_saved_model_is_the_model(tmp_path):
    data = Rows(FRAME, bins=8)
    process = TableDiffusion(9, nominal=MARGINAL, ordinal=GAUSSIAN, overrides={"shape": ABSORBING}).suited(
        data
    )
    torch.manual_seed(0)
    network = TableDenoiser(dim=8, depth=1, heads=1).suited(data)
    torch.nn.init.normal_(network.head_weight)
    model = DiffusionModel(process=process, network=network, codec=data.codec, shape=data.shape)
    model.save_pretrained(tmp_path)
    again = DiffusionModel.from_pretrained(tmp_path)
    assert again.codec == data.codec
    assert again.process.cardinalities == process.cardinalities
    assert again.process.names == process.names
    for ours, theirs in zip(process.transitions, again.process.transitions, strict=True):
        assert torch.equal(ours.stationary(), theirs.stationary())
    assert torch.equal(model.sample(30, seed=1), again.sample(30, seed=1))
    assert torch.equal(model.evaluate(data.rows[:20]).total, again.evaluate(data.rows[:20]).total)


class TestRefusals:
    """One line that names the column."""

    def refused(self, words: str, call, *args, **options) -> None:
        with pytest.raises(D3PMError, match=words) as caught:
            call(*args, **options)
        assert "\n" not in str(caught.value)

    def test_rows_of_other_columns(self):
        process, t = mixed(), times(1)
        for call in (lambda x: process.q_sample(x, t), lambda x: process.marginal(x, t)):
            self.refused(r"x0 has shape \(1, 6\), but there are 7 columns", call, torch.zeros(1, 6).long())
        self.refused("shape has shape .* 7 columns", process.prior, (4, 6))
        self.refused("x_t has shape", process.predict, torch.zeros(1, 7, 6), torch.zeros(1, 8).long(), t)
        self.refused("output.* 7 columns", process.predict, torch.zeros(1, 6, 6), torch.zeros(1, 7).long(), t)

    def test_too_few_logits(self):
        process, t, x = mixed(), times(1), torch.zeros(1, 7).long()
        self.refused(
            "5 logits an entry, but column a has 6 states", process.predict, torch.zeros(1, 7, 5), x, t
        )

    @pytest.mark.parametrize(("state", "column"), [(4, 1), (-1, 1), (2, 6)])
    def test_a_state_the_column_has_not(self, state, column):
        process, x0 = mixed(), torch.zeros(3, 7, dtype=torch.int64)
        x0[2, column] = state
        words = rf"{state} is no state of column {'abcdefg'[column]}.*entry \[2, {column}\]"
        self.refused(words, process.q_sample, x0, times(1, 2, 3))
        self.refused(words, process.marginal, x0, times(1, 2, 3))
        self.refused("whole numbers", process.q_sample, x0.double(), times(1, 2, 3))

    def test_a_pair_that_cannot_occur(self):
        process, x0 = mixed(), data_rows(mixed(), 2)
        x_t = x0.clone()
        x_t[1, 4] = (x0[1, 4] + 1) % 3  # another state that is not the mask
        self.refused("column e x_t=", process.posterior, x0, x_t, times(0, 1), times(1, 2))
        mixed(checked=False).posterior(x0, x_t, times(0, 1), times(1, 2))

    def test_networks(self):
        process = mixed()
        check = process.check_network
        self.refused(
            "num_states is 5, but column a has 6 states",
            check,
            d3pm.networks.TransformerDenoiser(5, 8, 1, 1),
            (),
        )
        self.refused("7 columns", check, torch.nn.Linear(1, 1), (6,))
        self.refused("cardinalities has 2 columns", check, TableDenoiser([6, 6], 8, 1, 1), (7,))
        few = [6, 4, 5, 3, 2, 4, 2]
        self.refused("cardinalities is 2 for column e", check, TableDenoiser(few, 8, 1, 1), (7,))
        check(TableDenoiser([5, 3, 4, 2, 3, 3, 1], 8, 1, 1), (7,))  # a mask's slot is always there

    def test_data(self):
        data = Rows(FRAME, bins=8)
        process = TableDiffusion(9, nominal=ABSORBING, ordinal=UNIFORM).suited(data)
        other = Rows(FRAME.assign(colour=FRAME["colour"] + ["", "", "ish", ""] * 50), bins=8)
        assert other.codec.cardinalities[0] != data.codec.cardinalities[0]
        self.refused(
            "column colour: num_states is 4, but it has 4 symbols and", process.check_codec, other.codec
        )
        fewer = Rows(FRAME.drop(columns="size"), bins=8)
        self.refused("process has 5 columns, the data 4", process.check_codec, fewer.codec)
        self.refused("no columns", process.check_codec, d3pm.data.TextCodec.characters("ab"))
        first = {"class_path": ABSORBING, "init_args": {"mask_index": 0}}
        masked_first = TableDiffusion(9, nominal=first, ordinal=UNIFORM).suited(data)
        self.refused("column colour: mask_index is 0", masked_first.check_codec, data.codec)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"reverse_form": "both"}, "reverse_form is 'both'"),
            ({"columns": [0]}, "go together"),
            ({"transitions": [UniformTransition(2, 9)], "columns": [0, 1]}, r"columns is \[0, 1\]"),
            ({"transitions": [UniformTransition(2, 9)] * 2, "columns": [0, 0]}, "none unused"),
            ({"transitions": [UniformTransition(2, 9)], "columns": [0], "names": ["a", "b"]}, "names has 2"),
            (
                {"transitions": [UniformTransition(2, 8)], "columns": [0], "names": ["a"]},
                "column a: .*num_steps=8",
            ),
        ],
    )
    def test_kernels_that_do_not_fit(self, options, words):
        self.refused(words, TableDiffusion, 9, **options)

    def test_a_process_before_its_columns_are_known(self):
        open_process = TableDiffusion(9, nominal=ABSORBING)
        self.refused("no columns yet", open_process.q_sample, torch.zeros(1, 2).long(), times(1))
        self.refused("no columns yet", open_process.prior, (1, 2))
        self.refused("no columns yet", open_process.check_network, torch.nn.Linear(1, 1), (2,))
