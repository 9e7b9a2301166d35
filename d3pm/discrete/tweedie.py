"""The analytic sampler: every entry from its exact reverse marginal."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from d3pm.discrete.rates import EntrywiseSampler, discrete
from d3pm.distributions import Categorical
from d3pm.process import Process


@dataclass(frozen=True)
class Tweedie(EntrywiseSampler):
    r"""Draw every entry from the marginal of the reverse chain that the belief implies.

    .. math:: p(x_s | x_t) = \sum_{x_0} \tilde p(x_0 | x_t)\, q(x_s | x_t, x_0)
              = \big[ s\, Q_{s \to t}^{-1} \big]_{x_s}\, Q_{s \to t}[x_s, x_t], \qquad
              s_y = \frac{q_t(x_t \text{ with this entry } y)}{q_t(x_t)}

    The second form is the paper's, from scores; the first needs no inverse and equals it where the belief is exact. The
    belief is read as :math:`q(x_0 | x_t)`, which is what the cross-entropy and the ``"mixture"`` form train. So this is
    :class:`~d3pm.sampling.Ancestral` in the ``"mixture"`` form whatever form the process has, and the same thing under
    the absorbing kernel. A model trained on the bound alone in the ``"d3pm"`` form holds another belief, without the
    evidence of the entry itself: its own reverse step, Ancestral, is the paper's formula already.

    One network call a step, for the kernel of any :class:`~d3pm.discrete.process.DiscreteDiffusion`. With an exact
    belief each entry is exact; entries are drawn apart, so that the error of their joint law is of first order in the
    step.

    References:
        Lou et al., *Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution*, 2024
        (arXiv 2310.16834), section 4.
    """

    def check_process(self, process: Process) -> None:
        """See the base class."""
        discrete(process, self, "Ancestral")

    def law(self, process: Process, output: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Categorical:
        """See the base class; at s = 0 the belief."""
        return discrete(process, self, "Ancestral").transition.reverse(output, x_t, s, t, "mixture")
