"""Float64 tables indexed by time: exact on the CPU, copied once to each device that asks."""

import torch
from torch import Tensor


class Table:
    """A constant float64 tensor whose first axis is time.

    It is deliberately neither a parameter nor a buffer: ``module.to(torch.bfloat16)`` must not round a
    noise schedule, and a non-persistent buffer would hold garbage after a lazy checkpoint load.

    >>> alpha_bars = Table(torch.tensor([1.0, 0.5, 0.0]))
    >>> alpha_bars[torch.tensor([2, 1])]
    tensor([0.0000, 0.5000], dtype=torch.float64)
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values.detach().to(device="cpu", dtype=torch.float64)
        self._copies = {self.values.device: self.values}

    def on(self, device: torch.device) -> Tensor:
        """The whole table on ``device``; the copy is made once."""
        if device not in self._copies:
            self._copies[device] = self.values.to(device)
        return self._copies[device]

    def __getitem__(self, index: Tensor) -> Tensor:
        return self.on(index.device)[index]

    def __len__(self) -> int:
        return len(self.values)


def before(t: Tensor) -> Tensor:
    """One step before t, which remembers what it is: whoever keeps tables of single steps need not ask a device for it.

    >>> t = torch.tensor([3, 7])
    >>> is_single(before(t), t), is_single(torch.tensor([2, 6]), t)
    (True, False)
    """
    s = t - 1
    if not torch.compiler.is_compiling():
        s.step_to = t  # type: ignore[attr-defined]
    return s


def is_single(s: Tensor, t: Tensor) -> bool:
    """Whether s is known to be t - 1 everywhere, which costs nothing; if not, it may be all the same."""
    return getattr(s, "step_to", None) is t
