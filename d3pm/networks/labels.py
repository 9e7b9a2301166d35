"""Class labels as a network sees them: known, unknown (the null class), or hidden now and then in training."""

import torch
from torch import Tensor, nn

from d3pm.errors import ConfigError
from d3pm.networks.images import check_probability


class Labels(nn.Module):
    """What stands in for the labels an image network is called with.

    Classes are 0 … num_classes - 1. The null class, ``num_classes``, says that the class is not known; no
    labels at all mean the null class for every image. In training mode each label is replaced by the null
    class with probability ``drop``, independently, drawn from torch's global generator: so one network
    learns the law of all images and that of each class.

    Args:
        num_classes: How many classes there are; None for a network that takes no labels.
        drop: Probability with which a label is hidden in training.
        null: Whether the network has a null class. Without one every image needs its label, none is hidden.

    Raises:
        ConfigError: If a number is out of range; when called, if labels are missing, not wanted, not one an
            image, or out of range (looked at on a CPU only: elsewhere it would wait for the device).

    References:
        Ho and Salimans, *Classifier-Free Diffusion Guidance*, 2022, algorithm 1.

    >>> labels = Labels(num_classes=10, drop=0.1).eval()
    >>> labels(torch.tensor([3, 10]), like=torch.zeros(2)), labels(None, like=torch.zeros(2))
    (tensor([ 3, 10]), tensor([10, 10]))
    """

    def __init__(self, num_classes: int | None, drop: float = 0.0, null: bool = True) -> None:
        super().__init__()
        if num_classes is not None and num_classes < 1:
            raise ConfigError(
                f"num_classes={num_classes} leaves nothing to tell apart: take 1 or more, or None"
            )
        check_probability(label_drop=drop)
        self.num_classes, self.drop, self.null = num_classes, drop, null

    def forward(self, labels: Tensor | None, like: Tensor) -> Tensor | None:
        """Labels (B,) to embed, on the device of ``like`` (B, …); None if the network takes none."""
        if labels is None:
            return self._unknown(like)
        if self.num_classes is None:
            raise ConfigError(
                "labels were given to a network without classes: give it num_classes, or no labels"
            )
        labels = torch.as_tensor(labels)
        if labels.is_floating_point():
            raise ConfigError(f"labels are {labels.dtype}: give whole numbers")
        if labels.shape != like.shape[:1]:
            raise ConfigError(
                f"labels of shape {tuple(labels.shape)} for {like.shape[0]} images: give one label an image"
            )
        if labels.device.type == "cpu" and not torch.compiler.is_compiling():
            self._check_range(labels, self.num_classes)
        labels = labels.to(like.device)
        if not self.training or not self.null or self.drop == 0:
            return labels
        hidden = torch.rand(labels.shape, device=labels.device) < self.drop
        return labels.masked_fill(hidden, self.num_classes)

    def _unknown(self, like: Tensor) -> Tensor | None:
        if self.num_classes is None:
            return None
        if not self.null:
            raise ConfigError(
                f"labels=None, but this network has num_classes={self.num_classes} and no null class: "
                f"give every image its label"
            )
        return torch.full((like.shape[0],), self.num_classes, device=like.device)

    def _check_range(self, labels: Tensor, num_classes: int) -> None:
        wrong = labels[(labels < 0) | (labels >= num_classes + self.null)]
        if len(wrong):
            known = f"0 … {num_classes - 1}" + (f", or {num_classes} for none" if self.null else "")
            raise ConfigError(f"labels hold {wrong[0].item()}, but num_classes={num_classes}: take {known}")
