"""Laws of the transformer: what it may depend on, what it must not, and that it learns."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.networks import TransformerDenoiser
from d3pm.networks.blocks import Block
from d3pm.networks.rotary import rotary_table, rotate
from d3pm.networks.time_embedding import sinusoids

K, B, L = 11, 3, 10


def awake(time_conditioned: bool = True, **options) -> TransformerDenoiser:
    """A float64 network moved off its initial zeros, where every part has a say."""
    torch.manual_seed(0)
    network = TransformerDenoiser(K, dim=16, depth=2, heads=2, time_conditioned=time_conditioned, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network.double().eval()


def rows(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(K, (B, L), generator=generator), torch.tensor([1, 40, 999])


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


both = pytest.mark.parametrize("time_conditioned", [True, False])


@both
def test_fresh_logits_are_the_uniform_belief(time_conditioned):
    network = TransformerDenoiser(K, dim=16, depth=2, heads=2, time_conditioned=time_conditioned)
    assert (network(*rows()) == 0).all()


@pytest.mark.parametrize("cond_dim", [None, 5])
def test_fresh_block_is_the_identity(cond_dim):
    x, cond = torch.randn(B, L, 16), None if cond_dim is None else torch.randn(B, cond_dim)
    assert torch.equal(Block(16, heads=2, cond_dim=cond_dim)(x, cond), x)


def test_rotary_products_depend_on_the_distance_alone():
    q, k = torch.randn(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    table = rotary_table(torch.arange(300.0, dtype=torch.float64), head_dim=8)
    rotated_q, rotated_k = (rotate(v.expand(1, 300, 8), table)[0] for v in (q, k))
    products = rotated_q @ rotated_k.T
    close(products[:-7, :-7], products[7:, 7:])
    close(products.diagonal(), (q @ k).expand(300))
    assert products[0].std() > 0.1


def test_rotation_keeps_the_precision_of_its_input():
    x = torch.randn(1, 4, 2, 8, dtype=torch.bfloat16)
    exact = rotate(x.double(), rotary_table(torch.arange(4.0, dtype=torch.float64), 8))
    turned = rotate(x, rotary_table(torch.arange(4.0), 8))
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, exact.bfloat16())


@both
def test_only_distances_between_positions_matter(time_conditioned):
    network, (x, t) = awake(time_conditioned), rows()
    padding = torch.zeros(B, 4, dtype=torch.int64)
    real = torch.cat((torch.zeros(B, 4), torch.ones(B, L)), dim=1)
    close(network(torch.cat((padding, x), dim=1), t, attention_mask=real)[:, 4:], network(x, t))


def test_order_of_positions_matters():
    network, (x, t) = awake(), rows()
    order = torch.randperm(L, generator=torch.Generator().manual_seed(0))
    assert (network(x[:, order], t) - network(x, t)[:, order]).abs().max() > 1e-2


@both
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_padding_never_reaches_real_positions(time_conditioned, dtype):
    network, (x, t) = awake(time_conditioned), rows()
    other, _ = rows(seed=2)
    lengths = torch.tensor([[L], [6], [1]])
    mask = (torch.arange(L) < lengths).to(dtype)
    logits = network(x, t, attention_mask=mask)
    repadded = network(torch.where(mask.bool(), x, other), t, attention_mask=mask)
    assert torch.equal(logits[mask.bool()], repadded[mask.bool()])
    for row, length in enumerate(lengths.flatten()):
        alone = network(x[row : row + 1, :length], t[row : row + 1])
        close(logits[row, :length], alone[0])


def test_rows_of_padding_alone_stay_finite_in_value_and_gradient():
    network, (x, t) = awake(), rows()
    mask = torch.ones(B, L)
    mask[1] = 0
    logits = network(x, t, attention_mask=mask)
    assert logits.isfinite().all()
    logits.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@both
def test_rows_do_not_see_each_other(time_conditioned):
    network, (x, t) = awake(time_conditioned), rows()
    close(network(x, t)[1:2], network(x[1:2], t[1:2]))


@both
def test_the_last_entry_reaches_the_first_and_the_first_the_last(time_conditioned):
    network, (x, t) = awake(time_conditioned), rows()
    for changed, seen in ((-1, 0), (0, -1)):
        y = x.clone()
        y[:, changed] = (y[:, changed] + 1) % K
        assert ((network(y, t) - network(x, t))[:, seen].abs().amax(-1) > 1e-3).all()


def test_without_time_conditioning_time_is_ignored_bitwise():
    network, (x, t) = awake(time_conditioned=False), rows()
    assert torch.equal(network(x, t), network(x, 0 * t))
    assert torch.equal(network(x, t), network(x, t / 1000))


def test_a_few_training_steps_make_time_matter():
    torch.manual_seed(0)
    network, (x, t) = TransformerDenoiser(K, dim=16, depth=1, heads=2), rows()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    assert torch.equal(network(x, t), network(x, t + 50))
    for _ in range(3):
        loss = F.cross_entropy(network(x, t).flatten(0, 1), x.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert not torch.equal(network(x, t), network(x, t + 50))


def test_integer_and_float_times_are_one_clock():
    network, (x, t) = awake(), rows()
    assert torch.equal(network(x, t), network(x, t.double()))
    assert not torch.equal(network(x, t), network(x, t + 0.5))


def test_every_step_of_a_long_clock_has_its_own_sinusoids():
    waves = sinusoids(torch.arange(4001.0), dim=256)
    assert (waves[1:] - waves[:-1]).norm(dim=-1).min() > 1
    assert (torch.cdist(waves, waves) + 10 * torch.eye(4001)).min() > 1


@both
def test_gradients_reach_every_parameter(time_conditioned):
    network, (x, t) = awake(time_conditioned), rows()
    F.cross_entropy(network(x, t).flatten(0, 1), x.roll(1, 1).flatten()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-8, name


@both
def test_learns_to_fill_a_masked_entry_from_its_neighbours(time_conditioned):
    # Each row counts up from where it starts, so a hidden entry follows from either side of it.
    torch.manual_seed(0)
    network = TransformerDenoiser(K, dim=32, depth=2, heads=2, time_conditioned=time_conditioned)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    x0 = (torch.arange(8) + torch.arange(10)[:, None]) % 10
    for _ in range(140):
        hidden = torch.rand(x0.shape) < 0.4
        logits = network(x0.masked_fill(hidden, K - 1), torch.full((10,), 400))
        loss = F.cross_entropy(logits[hidden], x0[hidden])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    hidden = torch.zeros(8, dtype=torch.bool)
    hidden[[0, 3, 7]] = True
    belief = network(x0.masked_fill(hidden, K - 1), torch.full((10,), 400))
    right = belief.argmax(-1)[:, hidden] == x0[:, hidden]
    assert right.double().mean() > 0.75, "chance is 0.1"


def test_dropout_acts_in_training_only():
    network, (x, t) = awake(dropout=0.5), rows()
    assert torch.equal(network(x, t), network(x, t))
    network.train()
    assert not torch.equal(network(x, t), network(x, t))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1)])
def test_any_batch_and_length(shape):
    assert awake()(torch.zeros(shape, dtype=torch.int64), torch.ones(shape[0])).shape == (*shape, K)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precisions_follow_float64(time_conditioned, dtype):
    network, (x, t) = awake(time_conditioned), rows()
    exact = network(x, t)
    low = network.to(dtype)(x, t)
    assert low.dtype == dtype
    assert (low - exact).abs().max() < (1e-3 if dtype == torch.float32 else 0.1) * exact.abs().max()


@both
def test_autocast_trains(time_conditioned):
    network, (x, t) = awake(time_conditioned).float(), rows()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(x, t)
    F.cross_entropy(logits.float().flatten(0, 1), x.flatten()).backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in network.parameters())
    assert (logits - network(x, t)).abs().max() < 0.1 * logits.abs().max()


@both
def test_compiles_to_one_graph(time_conditioned):
    network, (x, t) = awake(time_conditioned), rows()
    mask = (torch.arange(L) < torch.tensor([[L], [4], [0]])).long()
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    for inputs in ((x, t, None), (x, t, mask), (x[:, :7], t, None)):
        close(compiled(*inputs), network(*inputs))
    logits = compiled(x, t)
    logits.sum().backward()


def test_weights_made_without_memory_load_without_loss():
    network, (x, t) = awake().float(), rows()
    with torch.device("meta"):
        empty = TransformerDenoiser(K, dim=16, depth=2, heads=2)
    assert not list(empty.buffers()), "a lazy load would leave a buffer unfilled"
    empty.load_state_dict(network.state_dict(), assign=True)
    assert torch.equal(empty.eval()(x, t), network(x, t))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"num_states": 1}, "num_states=1"),
        ({"dim": 30}, "dim=30"),
        ({"dim": 12, "heads": 4}, "dim=12"),
        ({"dim": 0}, "dim=0"),
        ({"heads": 0}, "heads=0"),
        ({"depth": 0}, "depth=0"),
        ({"mlp_ratio": 0}, "mlp_ratio=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"dropout": -0.1}, "dropout=-0.1"),
    ],
)
def test_bad_sizes_are_refused_with_the_field_and_the_value(options, field):
    with pytest.raises(ConfigError, match=field) as caught:
        TransformerDenoiser(**{"num_states": K, "dim": 16, "depth": 1, **options})
    assert "\n" not in str(caught.value)
    assert "take" in str(caught.value)


def test_constructor_arguments_are_kept():
    arguments = {
        "num_states": K,
        "dim": 16,
        "depth": 1,
        "heads": 2,
        "mlp_ratio": 2,
        "dropout": 0.1,
        "time_conditioned": False,
    }
    network = TransformerDenoiser(**arguments)
    assert {name: getattr(network, name) for name in arguments} == arguments
