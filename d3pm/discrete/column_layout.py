"""Which kernel each column of a table has, and every refusal that has a column to name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from d3pm.data.base import Codec
from d3pm.discrete.columns import Grouping
from d3pm.errors import ConfigError, D3PMError
from d3pm.transitions.base import Transition


class Layout:
    """The kernels of C columns, by the name of each.

    Args:
        transitions: The kernels, all of them used.
        columns: Which of them each column has.
        names: Of the columns; their numbers if None.

    Attributes:
        cardinalities: How many states each column has.
        num_states: The largest of them.
        grouping: Columns of one kernel together.

    Raises:
        ConfigError: If they do not fit each other.
    """

    def __init__(self, transitions: list[Transition], columns: list[int], names: list[str] | None) -> None:
        if not columns or set(columns) != set(range(len(transitions))):
            raise ConfigError(
                f"columns is {columns}: give each column one of the {len(transitions)} transitions, counted from "
                "0, and leave none unused"
            )
        if names is not None and len(names) != len(columns):
            raise ConfigError(f"names has {len(names)} entries for {len(columns)} columns: name each once")
        self.kernels = [transitions[place] for place in columns]
        self.names = names
        self.cardinalities = tuple(kernel.num_states for kernel in self.kernels)
        self.num_states = max(self.cardinalities)
        self.grouping = Grouping(columns)
        self._limits = torch.tensor(self.cardinalities)

    def name(self, column: int) -> str:
        """What a message calls it."""
        return f"column {self.names[column] if self.names else column}"

    def check_num_steps(self, num_steps: int) -> None:
        """Refuse (ConfigError) a kernel with another number of steps."""
        for column, kernel in enumerate(self.kernels):
            if kernel.num_steps != num_steps:
                raise ConfigError(
                    f"{self.name(column)}: its kernel has num_steps={kernel.num_steps}, the process {num_steps}: "
                    "make them equal"
                )

    def check_width(self, shape: Sequence[int], what: str) -> None:
        """Refuse (ConfigError) a shape whose last axis is not the columns."""
        width = len(self.kernels)
        if not len(shape) or shape[-1] != width:
            raise ConfigError(
                f"{what} has shape {tuple(shape)}, but there are {width} columns: its last axis must be theirs"
            )

    def check_states(self, x: Tensor, what: str) -> None:
        """Refuse (D3PMError) a state that its column does not have."""
        if x.is_floating_point():
            raise D3PMError(f"{what} is {x.dtype}: a TableDiffusion is of states, give whole numbers")
        outside = (x < 0) | (x >= self._limits.to(x.device))
        if bool(outside.any()):
            entry = tuple(outside.nonzero()[0].tolist())
            raise D3PMError(
                f"{what}: {int(x[entry])} is no state of {self.name(entry[-1])}, which has 0 … "
                f"{self.cardinalities[entry[-1]] - 1} (entry {list(entry)}): encode with the codec of this model"
            )

    def check_reachable(self, x0: Tensor, x_t: Tensor, t: Tensor, reachable: Tensor) -> None:
        """Refuse (D3PMError) a pair that cannot occur."""
        if not bool(reachable.all()):
            entry = tuple((~reachable).nonzero()[0].tolist())
            raise D3PMError(
                f"posterior: in {self.name(entry[-1])} x_t={int(x_t[entry])} cannot come from "
                f"x_0={int(x0[entry])} at t={int(t[entry[0]])} (entry {list(entry)}): draw x_t with q_sample from "
                "the same x_0 and t"
            )

    def check_logits(self, shape: Sequence[int]) -> None:
        """Refuse (ConfigError) output (…, C, K) of other columns, or with fewer logits than a column has states."""
        self.check_width(shape[:-1], "output, its logits aside,")
        if shape[-1] < self.num_states:
            raise ConfigError(
                f"output has {shape[-1]} logits an entry, but {self._widest()}: give the network as many"
            )

    def check_network(self, network: nn.Module) -> None:
        """Refuse (ConfigError) a network of other columns, or with too few states for one of them."""
        given = getattr(network, "num_states", None)
        if given is not None and given < self.num_states:
            raise ConfigError(f"network.num_states is {given}, but {self._widest()}: raise it")
        known = getattr(network, "cardinalities", None)
        if known is None:
            return
        if len(known) != len(self.kernels):
            raise ConfigError(
                f"network.cardinalities has {len(known)} columns, the process {len(self.kernels)}: leave it out to "
                "have it filled in from the data"
            )
        for column, (states, theirs) in enumerate(zip(self.cardinalities, known, strict=True)):
            if states > theirs + 1:  # the network has one more for a mask
                raise ConfigError(
                    f"network.cardinalities is {theirs} for {self.name(column)}, whose kernel has "
                    f"num_states={states}: leave it out to have it filled in from the data"
                )

    def check_codec(self, codec: Codec) -> None:
        """Refuse (ConfigError) other columns, or one whose symbols are not its kernel's states, a mask aside."""
        table: Any = codec
        if not codec.columnwise:
            raise ConfigError(
                "process is a TableDiffusion, but the data have no columns: take a DiscreteDiffusion"
            )
        if len(table.columns) != len(self.kernels):
            raise ConfigError(
                f"process has {len(self.kernels)} columns, the data {len(table.columns)}: leave transitions and "
                "columns out to have them made for the data"
            )
        for kernel, column, symbols in zip(self.kernels, table.columns, table.cardinalities, strict=True):
            _check_symbols(kernel, f"column {column.name}", symbols)

    def _widest(self) -> str:
        return f"{self.name(self.cardinalities.index(self.num_states))} has {self.num_states} states"


def _check_symbols(kernel: Transition, name: str, symbols: int) -> None:
    masked = kernel.mask_state is not None
    if kernel.num_states != symbols + masked:
        raise ConfigError(
            f"{name}: num_states is {kernel.num_states}, but it has {symbols} symbols"
            f"{' and its kernel a mask' if masked else ''}: set num_states to {symbols + masked}, or leave it out"
        )
    if masked and kernel.mask_state != symbols:
        raise ConfigError(
            f"{name}: mask_index is {kernel.mask_state}, which the data uses: leave it at -1, the last state"
        )
