"""No graph breaks: the loss and the reverse step are one graph each, and what they compute stays the same.

What draws from a ``torch.Generator`` stays outside: a graph takes tensors. So the region that is compiled in
training is the network (``training.compile``), between the draw of :math:`x_t` and the loss. That the loss and the
step could join it is what is held here; with torch's own generator they are one graph with their draws, too.
"""

import pytest
import torch
from torch import nn
from torch._dynamo import lookup_backend
from torch._dynamo.utils import counters

from d3pm.discrete import DiscreteDiffusion
from d3pm.discrete.continuous import ContinuousTimeBound
from d3pm.gaussian import GaussianDiffusion, LearnedVarianceHybrid, SimpleError
from d3pm.model import DiffusionModel
from d3pm.networks import TransformerDenoiser, UNetDenoiser
from d3pm.objectives import AuxiliaryBound, VariationalBound
from d3pm.schedules import CosineSchedule
from d3pm.transitions import AbsorbingTransition, MarginalTransition, UniformTransition

K, T = 6, 12
FREQUENCIES = torch.tensor([0.4, 0.3, 0.2, 0.1, 0.0, 0.0], dtype=torch.float64)
KERNELS = {
    "absorbing": AbsorbingTransition(K, T),
    "uniform": UniformTransition(K, T),
    "marginal": MarginalTransition(FREQUENCIES, T),
}


class Graphs:
    """A compiler that counts what it is given, and hands it on to one that changes no arithmetic."""

    def __init__(self, inner="eager"):
        torch._dynamo.reset()
        counters.clear()
        self.inner, self.count = lookup_backend(inner), 0

    def __call__(self, graph, inputs):
        self.count += 1
        return self.inner(graph, inputs)

    @property
    def breaks(self):
        return sum(counters["graph_break"].values())

    def of(self, function):
        """The function, which must be one graph."""
        return torch.compile(function, backend=self, fullgraph=True)


def text(dim=16, **more):
    torch.manual_seed(0)
    network = TransformerDenoiser(num_states=K, dim=dim, depth=1, heads=2, **more)
    for parameter in network.parameters():  # the last layers start at zero, where there is little to compare
        torch.nn.init.normal_(parameter, std=0.2)
    return network.double()


class Painter(nn.Module):
    """The least network that says something of pictures."""

    def __init__(self, out_channels):
        super().__init__()
        self.draw = nn.Conv2d(1, out_channels, 3, padding=1)

    def forward(self, x_t, t):
        return self.draw(x_t) * (1 + t.view(-1, 1, 1, 1) / T)


def gradients(loss, network):
    network.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]


def agree(process, network, objective, x0):
    """One graph of draw, corruption, network and loss, and the way back; equal to the plain call."""

    def loss(x0):
        return objective(process, network, x0).sum()

    graphs = Graphs()
    compiled = graphs.of(loss)
    torch.manual_seed(1)
    expected = loss(x0)
    wanted = gradients(expected, network)
    torch.manual_seed(1)
    found = compiled(x0)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradients(found, network), wanted, rtol=1e-7, atol=1e-9)
    assert (graphs.count, graphs.breaks) == (1, 0)


@pytest.mark.parametrize("name", KERNELS)
def test_a_loss_over_states_is_one_graph(name):
    """The auxiliary bound holds both others: the bound, and the cross-entropy."""
    x0 = torch.randint(4, (4, 7), generator=torch.Generator().manual_seed(0))
    agree(DiscreteDiffusion(KERNELS[name]), text(), AuxiliaryBound(), x0)


@pytest.mark.parametrize("name", KERNELS)
def test_so_is_one_whose_network_leaves_the_head_to_it(name):
    """More states than channels: hidden states come out, and only what counts is multiplied out."""
    x0 = torch.randint(4, (4, 7), generator=torch.Generator().manual_seed(0))
    agree(DiscreteDiffusion(KERNELS[name]), text(dim=4), AuxiliaryBound(), x0)


def test_so_is_the_bound_in_continuous_time():
    x0 = torch.randint(4, (4, 7), generator=torch.Generator().manual_seed(0))
    agree(DiscreteDiffusion(KERNELS["absorbing"]), text(), ContinuousTimeBound(), x0)


@pytest.mark.parametrize(
    ("variance", "objective"),
    [
        ("fixed_small", SimpleError()),
        ("fixed_large", VariationalBound()),
        ("learned_range", LearnedVarianceHybrid()),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_gaussian_loss_is_one_graph(variance, objective):
    process = GaussianDiffusion(CosineSchedule(), T, "eps", variance)
    x0 = torch.rand(4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.manual_seed(0)
    agree(process, Painter(2 if variance == "learned_range" else 1).double(), objective, x0)


def test_a_unet_is_one_graph():
    torch.manual_seed(0)
    network = UNetDenoiser(size=8, in_channels=1, channels=(8, 16), attention_at=(4,), layers=1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x_t, t, graphs = torch.randn(2, 1, 8, 8), torch.tensor([3, 7]), Graphs()
    torch.testing.assert_close(graphs.of(network)(x_t, t), network(x_t, t), rtol=1e-5, atol=1e-5)
    assert (graphs.count, graphs.breaks) == (1, 0)


def same_step(process, output, x_t, t):
    graphs = Graphs()
    compiled = graphs.of(lambda output, x_t, s, t: process.step(output, x_t, s, t))
    for s in (t - 1, t // 2, torch.zeros_like(t)):
        torch.manual_seed(2)
        expected = process.step(output, x_t, s, t)
        torch.manual_seed(2)
        torch.testing.assert_close(compiled(output, x_t, s, t), expected, rtol=1e-9, atol=1e-9)
    assert (graphs.count, graphs.breaks) == (1, 0)


@pytest.mark.parametrize("form", ["d3pm", "mixture"])
@pytest.mark.parametrize("name", KERNELS)
def test_a_reverse_step_over_states_is_one_graph(name, form):
    process = DiscreteDiffusion(KERNELS[name], form)
    generator = torch.Generator().manual_seed(0)
    t = torch.tensor([12, 9, 5, 2])
    x_t = process.q_sample(torch.randint(4, (4, 50), generator=generator), t, generator)
    same_step(process, 2 * torch.randn(4, 50, K, generator=generator), x_t, t)


@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
def test_a_gaussian_reverse_step_is_one_graph(variance):
    process = GaussianDiffusion(CosineSchedule(), T, "eps", variance)
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn(4, 1, 8, 8, generator=generator)
    output = torch.randn(4, 2 if variance == "learned_range" else 1, 8, 8, generator=generator)
    same_step(process, output, x_t, torch.tensor([12, 9, 5, 2]))


@pytest.mark.parametrize("masked", [False, True], ids=["whole rows", "padded rows"])
def test_training_compiles_the_network_once(masked):
    """As ``training.compile`` does, with a generator: every step after the first runs the same graph."""
    process, x0 = DiscreteDiffusion(KERNELS["uniform"]), torch.randint(K, (4, 7))
    cond = {"attention_mask": (torch.arange(7) < torch.tensor([[7], [5], [3], [1]])).long()} if masked else {}
    plain, model = (DiffusionModel(process=process, network=text(), shape=(7,)) for _ in range(2))
    graphs = Graphs()
    model.network.compile(backend=graphs, fullgraph=True)
    for step in range(3):
        found, expected = (
            each(x0, generator=torch.Generator().manual_seed(step), **cond).loss for each in (model, plain)
        )
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(gradients(found, model), gradients(expected, plain), rtol=1e-7, atol=1e-9)
    assert (graphs.count, graphs.breaks) == (1, 0)


def test_a_break_would_be_counted():
    graphs = Graphs("eager")

    def broken(x):
        return x + 1 if bool(x.sum() > 0) else x - 1

    torch.compile(broken, backend=graphs)(torch.ones(2))
    assert graphs.count + graphs.breaks > 1
    with pytest.raises(torch._dynamo.exc.TorchDynamoException):
        graphs.of(broken)(torch.ones(3))
