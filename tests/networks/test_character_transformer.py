"""What the transformer for characters shares with the others; its own parts are tested beside the record run."""

import pytest
import torch
from torch import nn

from d3pm import AbsorbingTransition, DiscreteDiffusion, UniformTransition
from d3pm.networks import CharacterTransformer
from d3pm.objectives import AuxiliaryBound

K = 70


@pytest.fixture
def network():
    torch.manual_seed(0)
    made = CharacterTransformer(K, dim=32, depth=2, heads=2, window=1).double()
    for parameter in made.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return made


@pytest.mark.parametrize("kernel", [AbsorbingTransition(K, 10), UniformTransition(K, 10)])
def test_logits_may_be_left_to_the_loss(network, kernel):
    """The loss and every gradient are those of plain logits."""
    assert network.defers
    x0, found = torch.randint(K - 1, (6, 12)), []
    for asked in (network, lambda *args, **cond: network(*args, **cond)):  # a function does not defer
        generator = torch.Generator().manual_seed(3)
        loss = AuxiliaryBound()(DiscreteDiffusion(kernel), asked, x0, generator=generator)
        found.append([loss, *torch.autograd.grad(loss.sum(), tuple(network.parameters()))])
    for deferred, plain in zip(*found, strict=True):
        torch.testing.assert_close(deferred, plain, rtol=1e-9, atol=1e-11)


def test_hidden_states_and_head_are_the_logits(network):
    x = torch.randint(K, (3, 9))
    projection = network(x, defer=True)
    assert projection.hidden.shape == (3, 9, 32)
    torch.testing.assert_close(projection.logits(), network(x))


def test_few_states_are_not_worth_it():
    assert not CharacterTransformer(28, dim=32, depth=1, heads=2).defers
