"""How far the columns of two tables are apart, each column by itself."""

from collections.abc import Sequence

import torch
from torch import Tensor

from d3pm.errors import DataError


def total_variation(one: Tensor, other: Tensor, cardinalities: Sequence[int]) -> Tensor:
    r"""Half the sum of :math:`|p(k) - q(k)|` over the symbols k of each column: 0 if alike, 1 if disjoint.

    Also the largest difference between the two in the chance of any event of that column. O(N C).

    Args:
        one: Symbols, int64 (N, C).
        other: Symbols, int64 (M, C).
        cardinalities: How many symbols each column has.

    Returns:
        float64 (C,).

    Raises:
        DataError: As :func:`frequencies_by_column` does.

    Examples:
        >>> total_variation(torch.tensor([[0], [1]]), torch.tensor([[1], [1]]), [2]).tolist()
        [0.5]
    """
    gap = frequencies_by_column(one, cardinalities) - frequencies_by_column(other, cardinalities)
    owners = owner_of_symbol(cardinalities)
    return torch.zeros(len(cardinalities), dtype=torch.float64).index_add_(0, owners, gap.abs() / 2)


def frequencies_by_column(x: Tensor, cardinalities: Sequence[int]) -> Tensor:
    """Share of every symbol in its column, those of column 0 first, float64 (sum of cardinalities,).

    Raises:
        DataError: If ``x`` is no table of these columns, is empty, or holds a symbol that its column has not.
    """
    counts = torch.bincount(numbered(x, cardinalities).flatten(), minlength=sum(cardinalities))
    return counts.double() / len(x)


def numbered(x: Tensor, cardinalities: Sequence[int]) -> Tensor:
    """The symbols of all columns numbered through: no two columns share a number; int64 (N, C).

    Raises:
        DataError: If ``x`` is no table of these columns, is empty, or holds a symbol that its column has not.
    """
    if x.dim() != 2 or x.shape[1] != len(cardinalities) or not len(x):
        raise DataError(f"x: shape {tuple(x.shape)} is no table of {len(cardinalities)} columns: give (N, C)")
    sizes = torch.tensor(cardinalities)
    strange = (x < 0) | (x >= sizes)
    if strange.any():
        row, column = strange.nonzero()[0].tolist()
        raise DataError(
            f"x: row {row} has symbol {int(x[row, column])} in column {column}, which has 0 … "
            f"{cardinalities[column] - 1}: give symbols of the codec"
        )
    return x + (sizes.cumsum(0) - sizes)


def owner_of_symbol(cardinalities: Sequence[int]) -> Tensor:
    """The column of each symbol that :func:`numbered` gives, int64 (sum of cardinalities,)."""
    return torch.repeat_interleave(torch.tensor(cardinalities))
