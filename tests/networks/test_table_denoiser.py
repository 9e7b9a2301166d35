"""Laws of the table's transformer: every column its own, all of them seen, none of them in an order."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.networks.table import TableDenoiser

SYMBOLS, B = [5, 2, 9, 3], 3
C, K = len(SYMBOLS), max(SYMBOLS) + 1


def awake(time_conditioned: bool = True, symbols: list[int] = SYMBOLS, **options) -> TableDenoiser:
    """A float64 network moved off its initial zeros, where every part has a say."""
    torch.manual_seed(0)
    network = TableDenoiser(symbols, dim=16, depth=2, heads=2, time_conditioned=time_conditioned, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network.double().eval()


def rows(seed: int = 1) -> tuple[Tensor, Tensor]:
    """Rows with masks here and there: the state after a column's last symbol."""
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.randint(symbols + 1, (B,), generator=generator) for symbols in SYMBOLS]
    return torch.stack(columns, 1), torch.tensor([1, 40, 999])


both = pytest.mark.parametrize("time_conditioned", [True, False])


@both
def test_fresh_logits_are_the_uniform_belief(time_conditioned):
    network = TableDenoiser(SYMBOLS, dim=16, depth=2, heads=2, time_conditioned=time_conditioned)
    logits = network(*rows())
    assert logits.shape == (B, C, network.num_states) == (B, C, K)
    assert (logits == 0).all()


@both
def test_every_column_reaches_every_other(time_conditioned):
    network, (x, t) = awake(time_conditioned), rows()
    before = network(x, t)
    for changed in range(C):
        y = x.clone()
        y[:, changed] = (y[:, changed] + 1) % (SYMBOLS[changed] + 1)
        assert ((network(y, t) - before).abs().amax(-1) > 1e-4).all()


def test_one_state_means_another_thing_in_another_column():
    network, t = awake(), torch.tensor([3])
    logits = network(torch.ones(1, C, dtype=torch.int64), t)[0]
    assert torch.pdist(logits).min() > 1e-2


def test_columns_have_no_order():
    """A network whose columns are listed differently, weights moved along, says the same of each."""
    network, (x, t) = awake(), rows()
    order = torch.tensor([2, 0, 3, 1])
    other = awake(symbols=[SYMBOLS[c] for c in order])
    state = network.state_dict()
    state["embedding.weight"] = state["embedding.weight"].view(C, K, -1)[order].flatten(0, 1)
    state["head_weight"], state["head_bias"] = state["head_weight"][order], state["head_bias"][order]
    other.load_state_dict(state)
    torch.testing.assert_close(other(x[:, order], t), network(x, t)[:, order], rtol=0, atol=1e-10)


@both
def test_rows_do_not_see_each_other(time_conditioned):
    network, (x, t) = awake(time_conditioned), rows()
    torch.testing.assert_close(network(x, t)[1:2], network(x[1:2], t[1:2]), rtol=0, atol=1e-10)


def test_time_is_told_in_whole_and_broken_numbers_or_ignored():
    network, (x, t) = awake(), rows()
    assert torch.equal(network(x, t), network(x, t.double()))
    assert not torch.equal(network(x, t), network(x, t + 0.5))
    timeless = awake(time_conditioned=False)
    assert torch.equal(timeless(x, t), timeless(x, 0 * t))


@both
def test_gradients_reach_every_parameter_that_a_column_has(time_conditioned):
    network, (x, t) = awake(time_conditioned), rows()
    logits = network(x, t)
    loss = sum(F.cross_entropy(logits[:, c, : n + 1], x[:, c]) for c, n in enumerate(SYMBOLS))
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-8, name
    for column, symbols in enumerate(SYMBOLS):
        assert (network.head_weight.grad[column, :, symbols + 1 :] == 0).all()
        assert (network.embedding.weight.grad.view(C, K, -1)[column, symbols + 1 :] == 0).all()


def test_it_learns_one_column_from_the_others():
    torch.manual_seed(0)
    network = TableDenoiser([3, 3, 3], dim=32, depth=2, heads=2)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    x0 = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    x0 = torch.cat((x0, (x0.sum(1, keepdim=True)) % 3), 1)  # any two columns tell the third
    t = torch.full((9,), 500)
    for _ in range(150):
        hidden = F.one_hot(torch.randint(3, (9,)), 3).bool()
        logits = network(x0.masked_fill(hidden, 3), t)
        loss = F.cross_entropy(logits[hidden], x0[hidden])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for column in range(3):
        hidden = (torch.arange(3) == column).expand(9, 3)
        belief = network(x0.masked_fill(hidden, 3), t)[:, column].argmax(-1)
        assert (belief == x0[:, column]).double().mean() > 0.8, "chance is 1/3"


def test_a_thousand_columns_are_finite():
    torch.manual_seed(0)
    network = TableDenoiser([4] * 999 + [30], dim=8, depth=1, heads=1)
    x, t = torch.randint(5, (2, 1000)), torch.tensor([1, 1000])
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    logits = network(x, t)
    F.cross_entropy(logits[..., :5].flatten(0, 1), x.flatten()).backward()
    assert logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_dropout_acts_in_training_only():
    network, (x, t) = awake(dropout=0.5), rows()
    assert torch.equal(network(x, t), network(x, t))
    network.train()
    assert not torch.equal(network(x, t), network(x, t))


@both
def test_compiles_to_one_graph(time_conditioned):
    network, (x, t) = awake(time_conditioned), rows()
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, t), network(x, t), rtol=0, atol=1e-10)


@both
def test_autocast_trains(time_conditioned):
    network, (x, t) = awake(time_conditioned).float(), rows()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(x, t)
    logits.float().square().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in network.parameters())
    assert (logits - network(x, t)).abs().max() < 0.1 * logits.abs().max()


def test_weights_made_without_memory_load_without_loss():
    network, (x, t) = awake().float(), rows()
    with torch.device("meta"):
        empty = TableDenoiser(SYMBOLS, dim=16, depth=2, heads=2)
    assert not list(empty.buffers()), "a lazy load would leave a buffer unfilled"
    empty.load_state_dict(network.state_dict(), assign=True)
    assert torch.equal(empty.eval()(x, t), network(x, t))


def test_constructor_arguments_are_kept():
    arguments = {
        "cardinalities": SYMBOLS,
        "dim": 16,
        "depth": 1,
        "heads": 2,
        "mlp_ratio": 2,
        "dropout": 0.1,
        "time_conditioned": False,
    }
    network = TableDenoiser(**arguments)
    assert {name: getattr(network, name) for name in arguments} == arguments


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cardinalities": []}, "cardinalities"),
        ({"cardinalities": [3, 0]}, "cardinalities"),
        ({"depth": 0}, "depth=0"),
        ({"dim": 30}, "dim=30"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_bad_sizes_are_refused(options, words):
    with pytest.raises(ConfigError, match=words) as caught:
        TableDenoiser(**{"cardinalities": SYMBOLS, "dim": 16, "depth": 1, **options})
    assert "\n" not in str(caught.value)


class TestSuited:
    def test_columns_come_from_the_data(self):
        class Codec:
            cardinalities = (4, 2)

        class Data:
            codec = Codec()

        options = {
            "dim": 16,
            "depth": 1,
            "heads": 2,
            "mlp_ratio": 2,
            "dropout": 0.1,
            "time_conditioned": False,
        }
        network = TableDenoiser(**options).suited(Data())
        assert network.cardinalities == [4, 2]
        assert {name: getattr(network, name) for name in options} == options

    def test_data_without_columns_are_refused(self):
        class Data:
            codec = None

        with pytest.raises(ConfigError, match="no columns"):
            TableDenoiser(dim=16, depth=1).suited(Data())

    def test_nothing_is_said_before_the_columns_are_known(self):
        with pytest.raises(ConfigError, match="no columns yet"):
            TableDenoiser(dim=16, depth=1)(*rows())

    @pytest.mark.parametrize("shape", [(3, 5), (4,), (2, 4, 4)])
    def test_rows_of_other_columns_are_refused(self, shape):
        with pytest.raises(ConfigError, match="4 columns"):
            awake()(torch.zeros(shape, dtype=torch.int64), torch.ones(shape[0]))
