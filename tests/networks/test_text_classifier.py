"""Laws of the classifier of states: one function of states and of weights over them, and it learns."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from d3pm import AbsorbingTransition, DiscreteDiffusion
from d3pm.classification import Classification
from d3pm.errors import ConfigError
from d3pm.networks import TextClassifier

K, C, B, L = 9, 4, 3, 10
both = pytest.mark.parametrize("time_conditioned", [True, False])


def awake(**options) -> TextClassifier:
    """A network moved off its initial zeros."""
    torch.manual_seed(0)
    network = TextClassifier(K, C, dim=16, depth=2, heads=2, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network.eval()


def rows(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(K, (B, L), generator=generator), torch.tensor([1, 40, 999])


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@both
def test_fresh_logits_are_zero(time_conditioned):
    assert (TextClassifier(K, C, 16, 1, 2, time_conditioned=time_conditioned)(*rows()) == 0).all()


@both
def test_states_and_their_one_hots_are_the_same(time_conditioned):
    network, (x, t) = awake(time_conditioned=time_conditioned), rows()
    assert network(x, t).shape == (B, C)
    close(network(F.one_hot(x, K).float(), t), network(x, t))
    close(network(F.one_hot(x, K).double(), t), network(x, t))


def test_weights_have_a_gradient_that_is_the_slope():
    network, (x, t) = awake().double(), rows()
    soft = (F.one_hot(x, K).double() * 3).softmax(-1).requires_grad_()
    (slope,) = torch.autograd.grad(network(soft, t)[:, 1].sum(), soft)
    step = torch.randn(B, L, K, dtype=torch.float64)
    rise = (network(soft + 1e-5 * step, t) - network(soft - 1e-5 * step, t))[:, 1] / 2e-5
    torch.testing.assert_close(rise, (slope * step).sum((1, 2)), rtol=1e-4, atol=1e-6)


@both
def test_only_real_entries_of_the_own_row_matter(time_conditioned):
    network, (x, t) = awake(time_conditioned=time_conditioned).double(), rows()
    mask = (torch.arange(L) < torch.tensor([[L], [6], [1]])).long()
    other, _ = rows(seed=2)
    logits = network(x, t, attention_mask=mask)
    close(network(torch.where(mask.bool(), x, other), t, attention_mask=mask), logits)
    for row, length in enumerate((L, 6, 1)):
        close(network(x[row : row + 1, :length], t[row : row + 1])[0], logits[row])
    close(network(x, t, attention_mask=torch.ones(B, L)), network(x, t))
    assert network(x, t, attention_mask=torch.zeros(B, L)).isfinite().all()


def test_order_and_time_matter_unless_time_is_left_out():
    network, (x, t) = awake(), rows()
    assert float((network(x.flip(1), t) - network(x, t)).detach().abs().max()) > 1e-2
    assert float((network(x, t + 100) - network(x, t)).detach().abs().max()) > 1e-3
    free = awake(time_conditioned=False)
    assert torch.equal(free(x, t), free(x, t + 100))


@both
def test_gradients_reach_every_parameter(time_conditioned):
    network, (x, t) = awake(time_conditioned=time_conditioned), rows()
    F.cross_entropy(network(x, t), torch.tensor([0, 1, 2])).backward()
    assert all(float(parameter.grad.abs().max()) > 1e-9 for parameter in network.parameters())


@both
def test_the_objective_trains_it_on_masked_rows(time_conditioned):
    """Two kinds of rows, counting up and down: the loss falls far below that of a guess."""
    torch.manual_seed(3)
    process = DiscreteDiffusion(AbsorbingTransition(K, 20))
    network = TextClassifier(K, 2, dim=32, depth=1, heads=2, time_conditioned=time_conditioned)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    up = (torch.arange(12) + torch.arange(K - 1)[:, None]) % (K - 1)
    x0, labels = (
        torch.cat([up, up.flip(1)]).repeat(2, 1),
        torch.tensor([0, 1]).repeat_interleave(K - 1).repeat(2),
    )
    losses = []
    for _ in range(200):
        loss = Classification()(process, network, x0, labels=labels).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(0.693, abs=0.01)
    assert sum(losses[-10:]) / 10 < 0.45
    clean = network.eval()(x0, torch.ones(len(x0)))
    assert float((clean.argmax(-1) == labels).double().mean()) > 0.95


def test_dropout_acts_in_training_only():
    network, (x, t) = awake(dropout=0.5), rows()
    assert torch.equal(network(x, t), network(x, t))
    network.train()
    assert not torch.equal(network(x, t), network(x, t))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"num_states": 1}, "num_states=1"),
        ({"num_classes": 1}, "num_classes=1"),
        ({"depth": 0}, "depth=0"),
        ({"dim": 30}, "dim=30"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"mlp_ratio": 0}, "mlp_ratio=0"),
    ],
)
def test_bad_sizes_are_refused_with_the_field_and_the_value(options, field):
    with pytest.raises(ConfigError, match=field) as error:
        TextClassifier(**{"num_states": K, "num_classes": C, "dim": 16, "depth": 1, **options})
    assert "\n" not in str(error.value)


def test_weights_over_other_states_are_refused():
    with pytest.raises(ConfigError, match=r"give states \(B, L\), or weights \(B, L, 9\)"):
        awake()(torch.zeros(2, 5, 8), torch.ones(2))


def test_constructor_arguments_are_kept():
    arguments = {
        "num_states": K,
        "num_classes": C,
        "dim": 16,
        "depth": 1,
        "heads": 2,
        "mlp_ratio": 2,
        "dropout": 0.1,
        "time_conditioned": False,
    }
    network = TextClassifier(**arguments)
    assert {name: getattr(network, name) for name in arguments} == arguments
