"""D3PM on tables: every column destroyed by a kernel of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from d3pm.data.base import Codec, DataSource
from d3pm.discrete.column_kernels import Kernels
from d3pm.discrete.column_layout import Layout
from d3pm.discrete.columns import ColumnLaws
from d3pm.discrete.process import DiscreteDiffusion
from d3pm.distributions import Categorical
from d3pm.errors import ConfigError
from d3pm.process import Process
from d3pm.transitions.absorbing import AbsorbingTransition
from d3pm.transitions.base import ReverseForm, Transition
from d3pm.transitions.matrix import MatrixTransition
from d3pm.transitions.uniform import UniformTransition

NOMINAL = "d3pm.transitions.AbsorbingTransition"
ORDINAL = "d3pm.transitions.DiscretizedGaussianTransition"


class TableDiffusion(Process):
    r"""Diffusion of rows int64 (B, C), column c under a kernel of its own on :math:`K_c` states.

    Columns are independent given the row they started from, so every law, divergence and step is that of
    :class:`~d3pm.discrete.process.DiscreteDiffusion` column by column, and the bound is the sum over columns.
    The network's output is logits (B, C, K), K at least the largest :math:`K_c`; column c uses the first
    :math:`K_c` and no others, which have no gradient. Columns that share a kernel are computed together: the
    cost is that of the kernels on their columns, and a few copies for each kernel beyond the first.

    Give ``num_steps`` and the two specs, and have :meth:`suited` make the kernels once the columns are known; or
    give ``transitions`` and ``columns``. A spec is a class path, or ``{"class_path": …, "init_args": …}``, of a
    :class:`~d3pm.transitions.base.Transition`; ``num_states``, ``num_steps`` and ``frequencies`` (those of the
    column in the training rows) are filled in where they must be given and are not, in nested schedules too.

    An ordinal column's missing value is its last state, and so a neighbour of the largest value under a kernel of
    neighbours: exact all the same, but give such a column another kernel if its gaps mean something else.

    Args:
        num_steps: T of every kernel.
        nominal: Spec for columns of unordered categories; the absorbing kernel if None.
        ordinal: Spec for columns of ordered values and of numbers; the discretized Gaussian if None.
        overrides: Specs for columns by name.
        reverse_form: ``"d3pm"`` or ``"mixture"``, as in ``DiscreteDiffusion``.
        checked: Whether states and posteriors that cannot be are refused; None: on the CPU only.
        transitions: The kernels, all of them used.
        columns: Which of them each column has.
        names: Of the columns, for messages; their numbers if not given.

    Raises:
        ConfigError: If the form is neither, transitions and columns do not fit each other, or a number of steps
            is not ``num_steps``.

    >>> from d3pm.transitions import AbsorbingTransition, UniformTransition
    >>> kernels = [AbsorbingTransition(num_states=3, num_steps=10), UniformTransition(num_states=5, num_steps=10)]
    >>> process = TableDiffusion(10, transitions=kernels, columns=[0, 1, 0])
    >>> process.cardinalities, process.num_states
    ((3, 5, 3), 5)
    >>> process.q_sample(torch.tensor([[0, 4, 1]]), torch.tensor([10]))[0, ::2]
    tensor([2, 2])
    """

    def __init__(
        self,
        num_steps: int,
        nominal: dict | str | None = None,
        ordinal: dict | str | None = None,
        overrides: dict | None = None,
        reverse_form: ReverseForm = "d3pm",
        checked: bool | None = None,
        transitions: list[Transition] | None = None,
        columns: list[int] | None = None,
        names: list[str] | None = None,
    ) -> None:
        self.num_steps = num_steps
        # Plain dicts to the parser of configs too: of a dict[str, Any] it would complete what is left open.
        self.nominal, self.ordinal, self.overrides = nominal, ordinal, overrides
        self.reverse_form: ReverseForm = reverse_form
        self.checked = checked
        self.transitions, self.columns, self.names = transitions, columns, names
        if reverse_form not in ("d3pm", "mixture"):
            raise ConfigError(f"reverse_form is {reverse_form!r}: choose 'd3pm' or 'mixture'")
        if (transitions is None) != (columns is None):
            raise ConfigError("transitions and columns go together: give both, or neither")
        self._layout: Layout | None = None
        if transitions is not None and columns is not None:
            self._layout = Layout(transitions, columns, names)
            self._layout.check_num_steps(num_steps)
            self.cardinalities, self.num_states = self._layout.cardinalities, self._layout.num_states
            self._parts = [DiscreteDiffusion(kernel, reverse_form, checked=False) for kernel in transitions]

    @classmethod
    def example(cls) -> Sequence[TableDiffusion]:
        """Four columns of three kernels in both forms."""
        kernels = [
            AbsorbingTransition.example(4, 5),
            UniformTransition.example(3, 5),
            MatrixTransition.example(2, 5),
        ]
        return [
            cls(5, reverse_form=form, transitions=list(kernels), columns=[1, 0, 2, 0])
            for form in ("d3pm", "mixture")
        ]

    def suited(self, data: DataSource) -> TableDiffusion:
        """See the base class: a kernel for each column of ``data``, by its name or its kind.

        Raises:
            ConfigError: If the data have no columns, an override names none of them, or a kernel refuses one.
        """
        if self._layout is not None:
            return self
        codec: Any = data.codec
        if not codec.columnwise:
            raise ConfigError("process is a TableDiffusion, but the data have no columns: take TableData")
        names = [column.name for column in codec.columns]
        kernels, overrides = Kernels(self.num_steps, data), self.overrides or {}
        for name in overrides.keys() - set(names):
            raise ConfigError(f"overrides names {name}, which is no column: choose among {', '.join(names)}")
        by_kind = {"nominal": self.nominal or NOMINAL}
        specs = [overrides.get(c.name) or by_kind.get(c.kind, self.ordinal or ORDINAL) for c in codec.columns]
        columns = [kernels.place(spec, i) for i, spec in enumerate(specs)]
        return TableDiffusion(
            self.num_steps,
            reverse_form=self.reverse_form,
            checked=self.checked,
            transitions=kernels.transitions,
            columns=columns,
            names=names,
        )

    @property
    def layout(self) -> Layout:
        """The kernel of each column.

        Raises:
            ConfigError: If columns have none yet.
        """
        if self._layout is None:
            raise ConfigError(
                "TableDiffusion has no columns yet: take process.suited(data), or give transitions and columns"
            )
        return self._layout

    def prior(self, shape: Sequence[int], device: torch.device | str = "cpu") -> ColumnLaws:
        """See the base class; the last axis of ``shape`` is the columns, or it is refused (ConfigError)."""
        self.layout.check_width(shape, "shape")
        sizes = zip(self._parts, self.layout.grouping.sizes, strict=True)
        return self._joined([part.prior((*shape[:-1], size), device) for part, size in sizes])

    def marginal(self, x0: Tensor, t: Tensor) -> ColumnLaws:
        """See the base class."""
        return self._joined([part.marginal(x, t) for part, x in self._each(x0=x0)])

    def posterior(self, x0: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> ColumnLaws:
        """See the base class.

        Raises:
            D3PMError: In checked mode, if :math:`q(x_t | x_0) = 0` somewhere; the message names the column.
        """
        groups = list(self._each(x0=x0, x_t=x_t))
        if self._checks(x_t):
            reachable = [part.transition.reachable(x, y, t) for part, x, y in groups]
            self.layout.check_reachable(x0, x_t, t, self.layout.grouping.together(reachable))
        return self._joined([part.posterior(x, y, s, t) for part, x, y in groups])

    def predict(self, output: Tensor, x_t: Tensor, t: Tensor) -> ColumnLaws:
        """See the base class: the belief in each column's own states."""
        groups = zip(self._each(x_t=x_t), self._logits(output), strict=True)
        return self._joined([part.predict(logits, x, t) for (part, x), logits in groups])

    def reverse(self, output: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> ColumnLaws:
        """See the base class."""
        groups = zip(self._each(x_t=x_t), self._logits(output), strict=True)
        return self._joined([part.reverse(logits, x, s, t) for (part, x), logits in groups])

    def q_sample(self, x0: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See the base class; kernel after kernel.

        Raises:
            D3PMError: In checked mode, if a state is none of its column's; the message names both.
        """
        noised = [part.q_sample(x, t, generator) for part, x in self._each(x0=x0)]
        return self.layout.grouping.together(noised)

    def hold(
        self, x_s: Tensor, x0: Tensor, known: Tensor, s: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """See the base class; under absorbing kernels known entries stand unmasked from the start.

        Filling in is conditioning, exactly, where all columns are absorbing. A known entry of another kernel is
        seen through the noise of time s, so what is decided early knows it only roughly.
        """
        given = torch.where(known, x0, x_s)  # what is not known may be anything
        split = self.layout.grouping.apart(known.expand_as(given))
        groups = zip(self._each(x_s=x_s, x0=given), split, strict=True)
        held = [part.hold(x, y, here, s, generator) for (part, x, y), here in groups]
        return self.layout.grouping.together(held)

    def finished(self, x_t: Tensor) -> Tensor | None:
        """See the base class: rows that are finished in all columns."""
        done = [part.finished(x) for part, x in self._each(x_t=x_t)]
        return None if any(each is None for each in done) else torch.stack(done).all(0)  # type: ignore[arg-type]

    def check_network(self, network: torch.nn.Module, shape: Sequence[int]) -> None:
        """Refuse a network, or a shape of rows, of other columns, or with too few states for one of them."""
        if len(shape):
            self.layout.check_width(shape, "shape")
        self.layout.check_network(network)

    def check_codec(self, codec: Codec) -> None:
        """Refuse data with other columns, or a column whose symbols are not its kernel's states, a mask aside."""
        self.layout.check_codec(codec)

    def _joined(self, laws: Sequence[Categorical]) -> ColumnLaws:
        return ColumnLaws(laws, self.layout.grouping)

    def _each(self, **states: Tensor) -> Iterator[tuple[Any, ...]]:
        """(process, its columns of every tensor) for each kernel."""
        for name, x in states.items():
            self.layout.check_width(x.shape, name)
            if self._checks(x):
                self.layout.check_states(x, name)
        return zip(self._parts, *(self.layout.grouping.apart(x) for x in states.values()), strict=True)

    def _logits(self, output: Tensor) -> list[Tensor]:
        """Each kernel's logits, in as many states as it has."""
        self.layout.check_logits(output.shape)
        parts = zip(self._parts, self.layout.grouping.apart(output, -2), strict=True)
        return [logits[..., : part.num_states] for part, logits in parts]

    def _checks(self, x: Tensor) -> bool:
        """Whether to look at values: elsewhere than on the CPU the device would have to wait for the host."""
        if self.checked is not None:
            return self.checked
        return x.device.type == "cpu" and not torch.compiler.is_compiling()
