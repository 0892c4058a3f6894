"""DropLoss, Hsieh et al. 2021."""

from typing import Any

import torch
from torch import Tensor

from bacl.methods.eql import EQL
from bacl.variants import METHODS, Batch


@METHODS.register_module(name="droploss")
class DropLoss(EQL):
    """EQL in which background discourages a tail category with the probability `share`, the tail's
    share of the last step's foreground samples, or 1 if that step had none."""

    share: Tensor

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.register_buffer("share", torch.ones(()))

    def kept(self, labels: Tensor, batch: Batch) -> Tensor:
        background = labels == self.categories
        dropped = batch.uniform(self.categories) >= self.share
        return super().kept(labels, batch) & ~(background[:, None] & dropped & self.is_tail)

    def increment(self, logits: Tensor, batch: Batch) -> Tensor:
        """Numbers of foreground samples and of those of tail categories, (2,)."""
        padded = torch.cat([self.is_tail, self.is_tail.new_zeros(1)])
        foreground = (batch.labels < self.categories).sum()
        return torch.stack([foreground, padded[batch.labels].sum()]).float()

    def add(self, increment: Tensor) -> None:
        foreground, tail = increment
        self.share.copy_(torch.where(foreground > 0, tail / foreground.clamp_min(1), 1.0))
