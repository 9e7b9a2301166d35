r"""Classifier guidance: a classifier of noisy data bends the reverse step towards a class.

References:
    Dhariwal and Nichol, *Diffusion Models Beat GANs on Image Synthesis*, 2021, section 4, algorithms 1 and 2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d3pm.distributions import Normal, safe_divide
from d3pm.errors import ConfigError
from d3pm.gaussian.process import GaussianDiffusion, gaussian, like, spread
from d3pm.objectives import Network, full_precision
from d3pm.process import Process
from d3pm.sampling import Sampler


def class_gradient(classifier: Network, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    r""":math:`\nabla_{x_t} \log p(y | x_t)`, in the shape of x_t; one pass forth and back.

    Differentiable in x_t where x_t asks for it, as likelihoods do.

    Raises:
        ConfigError: If there is not one label an example, or (looked at on a CPU only) a label is no class.
    """
    wanted = torch.is_grad_enabled() and x_t.requires_grad
    with torch.enable_grad():
        x = x_t if wanted else x_t.detach().requires_grad_()
        log_probs = classifier(x, t).log_softmax(-1)
        _check_labels(labels, x, log_probs.shape[-1])
        chosen = log_probs.gather(-1, labels.to(x.device)[:, None]).sum()
        return torch.autograd.grad(chosen, x, create_graph=wanted)[0]


def _check_labels(labels: Tensor, x: Tensor, num_classes: int) -> None:
    if labels.shape != x.shape[:1]:
        raise ConfigError(
            f"labels have shape {tuple(labels.shape)}, but there are {len(x)} examples: give one label an example"
        )
    if labels.device.type == "cpu" and not bool(((labels >= 0) & (labels < num_classes)).all()):
        raise ConfigError(
            f"labels go from {int(labels.min())} to {int(labels.max())}, but the classifier knows classes "
            f"0 .. {num_classes - 1}: give one of them"
        )


class ClassifierGuidance:
    r"""A network whose noise is shifted along the classifier's gradient (algorithm 2).

    .. math:: \hat\epsilon = \epsilon_\theta(x_t) - s \sqrt{1 - \bar\alpha_t}\, \nabla \log p(y | x_t)

    It wraps the network, so every sampler can use it; written for DDIM, where there is no variance to weigh the
    gradient with. ``labels`` (B,) are taken from the call; the network below does not see them.

    Args:
        process: Between the network's words and the noise.
        network: Any, trained without labels.
        classifier: ``classifier(x_t, t)`` gives logits (B, number of classes), differentiable in x_t.
        scale: s; 0 changes nothing, and then the classifier is not called.
    """

    def __init__(
        self, process: GaussianDiffusion, network: Network, classifier: Network, scale: float
    ) -> None:
        self.process, self.network, self.classifier, self.scale = process, network, classifier, scale

    def __call__(self, x_t: Tensor, t: Tensor, *, labels: Tensor, **cond: Any) -> Tensor:
        """The output in the network's own terms, with a shifted noise; variance channels as they are."""
        output = self.network(x_t, t, **cond)
        if self.scale == 0:
            return output
        gradient = class_gradient(self.classifier, x_t, t, labels)
        with full_precision(x_t):
            prediction, _ = self.process.split(output, x_t)
            # A shift of the noise by -s sqrt(1 - abar) g moves x_0 by s (1 - abar) / sqrt(abar) g.
            of_x0, _ = self.process.affine(t, x_t)
            alpha_bar = self.process.alpha_bar(t)
            # Where no signal is left there is nothing to classify: no shift.
            shift = of_x0 * like(safe_divide(1 - alpha_bar, alpha_bar.sqrt()), x_t) * gradient
            return torch.cat([prediction + self.scale * shift, output[:, x_t.shape[1] :]], 1)


class GuidedAncestral(Sampler):
    r"""Ancestral steps from :math:`\mathcal N(\mu + s\, \Sigma\, \nabla \log p(y | x_t), \Sigma)` (algorithm 1).

    Args:
        classifier: ``classifier(x_t, t)`` gives logits (B, number of classes), differentiable in x_t.
        labels: The wanted classes, (B,).
        scale: s; 0 changes nothing.
    """

    def __init__(self, classifier: Network, labels: Tensor, scale: float = 1.0) -> None:
        self.classifier, self.labels, self.scale = classifier, labels, scale

    def step(
        self,
        process: Process,
        network: Network,
        x_t: Tensor,
        s: Tensor,
        t: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """See the base class; the mean without noise at s = 0."""
        process = gaussian(process, self, "Ancestral")
        output = network(x_t, t)
        law = process.reverse(output, x_t, s, t)
        mean = law.mean
        if self.scale != 0:
            gradient = class_gradient(self.classifier, x_t, t, self.labels)
            mean = mean + self.scale * law.std**2 * gradient
        drawn = Normal(mean, law.std).sample(generator)
        return torch.where(spread(s == 0, x_t), mean, drawn)
