"""How strongly the columns of a table hang together, two by two."""

from collections.abc import Sequence

import torch
from torch import Tensor

from d3pm.evaluation.variation import numbered, owner_of_symbol


def cramers_v(x: Tensor, cardinalities: Sequence[int]) -> Tensor:
    r"""Cramér's V of every pair of columns, corrected for the bias of few rows.

    With :math:`\phi^2 = \chi^2 / n` of the table of counts (r by k symbols that occur):

    .. math::
        V = \sqrt{\frac{\max(0,\, \phi^2 - \frac{(r-1)(k-1)}{n-1})}{\min(\tilde r, \tilde k) - 1}}, \qquad
        \tilde r = r - \frac{(r-1)^2}{n-1}

    1 where each column tells the other, 0 (but for chance) where neither says anything of the other, however
    many symbols there are; uncorrected, two independent columns of 32 symbols have V = 0.08 in 5,000 rows. A column
    with one symbol only, or as many as rows, is associated with nothing: V = 0. The order of symbols plays no part.

    Costs O(N C²) for the counts and the square of the sum of cardinalities for the rest; what is in memory at a
    time is one column beside all the others.

    Args:
        x: Symbols, int64 (N, C).
        cardinalities: How many symbols each column has.

    Returns:
        float64 (C, C), symmetric; the diagonal is a column with itself.

    Raises:
        DataError: If ``x`` is no table of these columns, is empty, or holds a symbol that its column has not.

    References:
        Bergsma, *A bias-correction for Cramér's V and Tschuprow's T*, 2013.

    Examples:
        >>> x = torch.tensor([[0, 0], [1, 1], [2, 2], [0, 0]])
        >>> cramers_v(x, [3, 3]).tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """
    owners = owner_of_symbol(cardinalities)
    present = _present(x, cardinalities, owners)
    return _corrected(_phi_squared(x, cardinalities, owners), present, len(x))


def association_error(one: Tensor, other: Tensor, cardinalities: Sequence[int]) -> float:
    """Mean absolute difference of :func:`cramers_v` over the pairs of two columns; NaN if there is one column.

    Args:
        one: Symbols, int64 (N, C).
        other: Symbols, int64 (M, C).
        cardinalities: How many symbols each column has.
    """
    return mean_gap(cramers_v(one, cardinalities), cramers_v(other, cardinalities))


def mean_gap(one: Tensor, other: Tensor) -> float:
    """Mean absolute difference above the diagonal of two matrices (C, C); NaN for C = 1."""
    first, second = torch.triu_indices(len(one), len(one), offset=1)
    return float((one - other)[first, second].abs().mean())


def _present(x: Tensor, cardinalities: Sequence[int], owners: Tensor) -> Tensor:
    """How many symbols of each column occur, float64 (C,)."""
    occurs = torch.bincount(numbered(x, cardinalities).flatten(), minlength=len(owners)) > 0
    return torch.zeros(len(cardinalities), dtype=torch.float64).index_add_(0, owners, occurs.double())


def _phi_squared(x: Tensor, cardinalities: Sequence[int], owners: Tensor) -> Tensor:
    r""":math:`\sum_{ij} n_{ij}^2 / (n_{i\cdot} n_{\cdot j}) - 1` of every pair, float64 (C, C)."""
    numbers, total = numbered(x, cardinalities), len(owners)
    counts = torch.bincount(numbers.flatten(), minlength=total).double()
    parts = counts.split(list(cardinalities))
    phi = torch.zeros(len(parts), len(parts), dtype=torch.float64)
    for a, mine in enumerate(parts):  # one column beside itself and those after it
        pairs = x[:, a, None] * total + numbers[:, a:]
        joint = torch.bincount(pairs.flatten(), minlength=len(mine) * total).view(len(mine), total)
        # A symbol that never occurs has no pairs: 0 / 1 stands for 0 / 0.
        shares = joint.double().square() / (mine[:, None] * counts).clamp(min=1)
        phi[a].index_add_(0, owners, shares.sum(0))
    upper = phi.triu(1)
    return upper + upper.T + phi.diag().diag() - 1


def _corrected(phi: Tensor, present: Tensor, num_rows: int) -> Tensor:
    free, n = present - 1, max(num_rows - 1, 1)
    excess = (phi - free[:, None] * free / n).clamp(min=0)
    span = free - free.square() / n
    most = torch.minimum(span[:, None], span)
    return torch.where(most > 0, excess / most.where(most > 0, 1), 0).clamp(max=1).sqrt()
