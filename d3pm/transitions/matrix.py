"""Any transition matrices at all."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.tables import Table
from d3pm.transitions.cumulative import CumulativeTransition
from d3pm.transitions.laws import checked_law
from d3pm.transitions.operators import DenseOperator


class MatrixTransition(CumulativeTransition):
    r"""A stack of row-stochastic matrices :math:`Q_1 \ldots Q_T`, used as they are.

    Storage :math:`8 T K^2` bytes, and as much again for :math:`\bar Q_t`; rows and columns O(K) an entry, a reverse
    step O(K²). The slow, obvious twin of every structured kernel, and the way in for matrices of your own.

    Args:
        matrices: (T, K, K), or a ``.npy`` or ``.safetensors`` file of it (one tensor).
        law: That of x_T, (K,): the stationary law, which every step keeps, solved for if not given.

    Raises:
        ConfigError: If a matrix is not row-stochastic (the message names t, the row and its sum), or if no
            single law is kept by all of them and ``law`` is not given.

    References:
        Austin et al., 2021, section 3.

    >>> kernel = MatrixTransition(torch.tensor([[[0.9, 0.1], [0.1, 0.9]]]))
    >>> kernel.stationary()
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """

    def __init__(self, matrices: Tensor | str | Path, law: Tensor | None = None) -> None:
        stack = (
            read_tensor(matrices, "matrices")
            if isinstance(matrices, (str, Path))
            else torch.as_tensor(matrices, dtype=torch.float64)
        )
        self.matrices = checked_stack(stack)
        self.num_steps, self.num_states = self.matrices.shape[:2]
        self._steps = Table(self.matrices)
        self.law = None if law is None else checked_law(law, "law")
        self._stationary = solve_stationary(self.matrices) if self.law is None else self.law
        if len(self._stationary) != self.num_states:
            raise ConfigError(
                f"law has {len(self._stationary)} entries: the matrices have {self.num_states} states"
            )

    @classmethod
    def example(cls, num_states: int, num_steps: int) -> MatrixTransition:
        """Random doubly stochastic matrices: mixtures of permutations, lazy enough to carry signal."""
        generator = torch.Generator().manual_seed(num_states * 1000 + num_steps)
        eye = torch.eye(num_states, dtype=torch.float64)
        moves = torch.stack(
            [eye[torch.randperm(num_states, generator=generator)] for _ in range(3 * num_steps)]
        )
        weights = torch.rand(num_steps, 3, 1, 1, generator=generator, dtype=torch.float64)
        weights = 0.5 * weights / weights.sum(1, keepdim=True)
        shuffled = (weights * moves.view(num_steps, 3, num_states, num_states)).sum(1)
        return cls(0.3 * eye + 0.2 / num_states + shuffled)

    def stationary(self) -> Tensor:
        """See the base class."""
        return self._stationary

    def single(self, t: Tensor) -> DenseOperator:
        """See the base class: the matrices themselves."""
        return DenseOperator(self._steps[t - 1])

    @cached_property
    def absorbing_state(self) -> int | None:
        """See the base class; a given law that is a point must also be kept by every step."""
        state = super().absorbing_state
        kept = state is not None and bool((self.matrices[:, state, state] == 1).all())
        return state if kept else None


def checked_stack(stack: Tensor) -> Tensor:
    """Float64 (T, K, K) with rows that are laws."""
    if stack.dim() != 3 or stack.shape[1] != stack.shape[2] or 0 in stack.shape:
        raise ConfigError(
            f"matrices has shape {tuple(stack.shape)}: give (T, K, K), one square matrix a step"
        )
    stack = stack.detach().to("cpu", torch.float64)
    negative = (~(stack >= 0)).nonzero()
    if len(negative):
        t, i, j = negative[0].tolist()
        raise ConfigError(
            f"matrices: entry [{i}, {j}] at t={t + 1} is {stack[t, i, j].item():.6g}: it must be at least 0"
        )
    sums = stack.sum(-1)
    off = ((sums - 1).abs() > 1e-6).nonzero()
    if len(off):
        t, i = off[0].tolist()
        hint = (
            "; its columns do sum to 1: transpose it"
            if bool(((stack[t].sum(0) - 1).abs() < 1e-6).all())
            else ": divide it by its sum"
        )
        raise ConfigError(f"matrices: row {i} at t={t + 1} sums to {sums[t, i].item():.6g}, not to 1{hint}")
    # Rows within rounding of one are used as they are, so that a saved stack comes back to the last bit.
    return stack / torch.where((sums - 1).abs() > 1e-12, sums, 1.0).unsqueeze(-1)


def read_tensor(path: str | Path, name: str) -> Tensor:
    """The one tensor of a ``.npy`` or ``.safetensors`` file; errors call it ``name``."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{name}: there is no file {path}: give a .npy or .safetensors file")
    try:
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False))
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors = list(load_file(path).values())
            if len(tensors) != 1:
                raise ConfigError(f"{name}: {path} holds {len(tensors)} tensors: it must hold exactly one")
            return tensors[0]
    except ConfigError:
        raise
    except Exception as error:  # whatever a broken file makes its reader say
        pickled = "pickle" in str(error)
        reason = "it holds objects, not numbers" if pickled else " ".join(str(error).split())
        raise ConfigError(f"{name}: {path} cannot be read ({reason}): save it again") from error
    raise ConfigError(f"{name}: {path} is neither .npy nor .safetensors: convert it")


def solve_stationary(stack: Tensor, name: str = "matrices") -> Tensor:
    r"""The one law with :math:`\pi Q_t = \pi` for every t, from the null space of the average matrix."""
    num_states = stack.shape[-1]
    leak = torch.eye(num_states, dtype=torch.float64) - stack.mean(0)
    _, values, vectors = torch.linalg.svd(leak.T)
    law = vectors[-1].abs()
    law = (law / law.sum()).where(law > 1e-14, 0.0)
    law = law / law.sum()
    unique = num_states == 1 or float(values[-2]) > 1e-10
    if not (unique and keeps(law, stack)):
        why = "more than one law is" if not unique else "no single law is"
        raise ConfigError(f"{name}: {why} kept by every step: give law, that of x_T, a (K,) tensor")
    return law


def keeps(law: Tensor, matrices: Tensor) -> bool:
    """Whether every matrix (\\*, K, K) leaves the law (K,) as it is."""
    return float((law @ matrices - law).abs().max()) < 1e-8
