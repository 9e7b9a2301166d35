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
