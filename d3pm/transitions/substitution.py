"""Evolution as the noise: letters are replaced by those that they are aligned with in related sequences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from d3pm.data.alphabets import letters
from d3pm.errors import ConfigError
from d3pm.schedules import Schedule
from d3pm.transitions.generator import GeneratorTransition
from d3pm.transitions.laws import checked_law
from d3pm.transitions.score_matrix import read_scores


class SubstitutionTransition(GeneratorTransition):
    r"""Rates of substitution from a matrix of scores, such as BLOSUM62.

    A score is :math:`S_{ij} = \tfrac{1}{h} \log_2 \frac{q_{ij}}{\pi_i \pi_j}`: how much more often i and j are aligned,
    :math:`q_{ij}`, than by chance, in units of h bits. Given one letter the other is :math:`q_{ij} / \pi_i`, so

    .. math:: R_{ij} \propto \pi_j\, 2^{h S_{ij}} \quad (i \ne j), \qquad Q_{s+1} \cdots Q_t = e^{(a_t - a_s) R}

    with :math:`a_t = -\log \bar\alpha_t`. R is reversible, :math:`\pi_i R_{ij} = \pi_j R_{ji}`, so :math:`\pi` is its
    stationary law, and it is scaled to one substitution a unit of time under :math:`\pi`. The diagonal of the scores
    is not used: how long a letter stays is up to the schedule. Costs are those of :class:`GeneratorTransition`.

    Args:
        scores: A file as NCBI writes them (``#`` comments, a line of letters, a row a letter), or the numbers (K, K).
        num_steps: T.
        schedule: How fast; Hoogeboom's unsquared cosine by default.
        alphabet: The letters in the order of the data's codec: ``"dna"``, ``"rna"``, ``"protein"`` as in
            :class:`~d3pm.data.fasta.FastaData`, or the letters themselves; all of the file if not given.
        frequencies: :math:`\pi`, (K,), each above 0; all alike if not given.
        unit: h, the bits that a score of 1 is worth: 1/2 in BLOSUM62, 1/3 in PAM250.

    Raises:
        ConfigError: If the file is not there or not such a matrix (the message has the line), lacks a letter of the
            alphabet, or scores a pair both ways differently.

    References:
        Henikoff & Henikoff, *Amino acid substitution matrices from protein blocks*, 1992 (the scores). The
        exponential of a generator: Austin et al., 2021, appendix A.2.4.

    >>> kernel = SubstitutionTransition(torch.tensor([[2.0, 0, 0], [0, 2.0, 4.0], [0, 4.0, 2.0]]), num_steps=5)
    >>> kernel.rates[1] / kernel.rates[1, 0]
    tensor([ 1., -5.,  4.], dtype=torch.float64)
    """

    def __init__(
        self,
        scores: Tensor | str | Path,
        num_steps: int,
        schedule: Schedule | None = None,
        alphabet: str | None = None,
        frequencies: Tensor | Sequence[float] | None = None,
        unit: float = 0.5,
    ) -> None:
        self.alphabet = alphabet
        wanted = None if alphabet is None else letters(alphabet)
        if isinstance(scores, (str, Path)):
            found, wanted = read_scores(scores, wanted)
        else:
            found = torch.as_tensor(scores, dtype=torch.float64)
        self.scores = checked_scores(found, wanted)
        self.frequencies = None if frequencies is None else _checked(frequencies, len(self.scores))
        if not 0 < unit < float("inf"):
            raise ConfigError(f"unit is {unit}: give the bits that a score of 1 is worth, above 0")
        self.unit = unit
        law = torch.full((len(self.scores),), 1 / len(self.scores), dtype=torch.float64)
        law = law if self.frequencies is None else self.frequencies
        super().__init__(substitution_rates(self.scores, law, unit), num_steps, schedule, law)

    @classmethod
    def example(cls, num_states: int, num_steps: int) -> SubstitutionTransition:
        """Random scores, and frequencies falling like Zipf's."""
        generator = torch.Generator().manual_seed(num_states)
        scores = 4 * torch.randn(num_states, num_states, generator=generator, dtype=torch.float64)
        weights = 1 / torch.arange(1, num_states + 1, dtype=torch.float64)
        return cls(scores + scores.T, num_steps, frequencies=weights / weights.sum())


def substitution_rates(scores: Tensor, law: Tensor, unit: float = 0.5) -> Tensor:
    r""":math:`R_{ij} \propto \pi_j 2^{h S_{ij}}` with :math:`-\sum_i \pi_i R_{ii} = 1`, (K, K)."""
    eye = torch.eye(len(scores), dtype=torch.bool)
    highest = scores.masked_fill(eye, -torch.inf).max()  # only differences matter, and these do not overflow
    rates = (law * torch.exp2(unit * (scores - highest))).masked_fill(eye, 0.0)
    rates = rates / (law @ rates.sum(1))
    return rates - rates.sum(1).diag()


def checked_scores(scores: Tensor, alphabet: str | None = None) -> Tensor:
    """Float64 (K, K), the same both ways, of numbers; minus infinity forbids a substitution."""
    if scores.dim() != 2 or scores.shape[0] != scores.shape[1] or len(scores) < 2:
        raise ConfigError(f"scores has shape {tuple(scores.shape)}: give (K, K), K at least 2")
    if alphabet is not None and len(alphabet) != len(scores):
        raise ConfigError(f"alphabet has {len(alphabet)} letters: the scores are of {len(scores)}")
    names = alphabet or range(len(scores))
    wrong = (~(scores < torch.inf)).nonzero()
    if len(wrong):
        i, j = wrong[0].tolist()
        raise ConfigError(
            f"scores: that of {names[i]} and {names[j]} is {scores[i, j].item()}: give a number"
        )
    wrong = (~torch.isclose(scores, scores.T, rtol=1e-6, atol=1e-9)).nonzero()
    if len(wrong):
        i, j = wrong[0].tolist()
        raise ConfigError(
            f"scores: {names[i]} to {names[j]} is {scores[i, j].item():g}, but {names[j]} to {names[i]} "
            f"{scores[j, i].item():g}: give the same both ways, or the rates themselves to GeneratorTransition"
        )
    return scores


def _checked(frequencies: Tensor | Sequence[float], num_states: int) -> Tensor:
    law = checked_law(torch.as_tensor(frequencies, dtype=torch.float64), "frequencies")
    if len(law) != num_states:
        raise ConfigError(f"frequencies has {len(law)} entries: the scores are of {num_states} letters")
    if bool((law == 0).any()):
        raise ConfigError(f"frequencies[{int(law.argmin())}] is 0: leave that letter out of the alphabet")
    return law
