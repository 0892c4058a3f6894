"""Equalization loss, Tan et al. 2020."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bacl.methods.counts import Counts
from bacl.precision import at_least_float32
from bacl.variants import METHODS, Batch, Sigmoid


@METHODS.register_module(name="eql")
class EQL(Sigmoid):
    """Sigmoids whose tail columns are not discouraged by foreground samples of other categories."""

    is_tail: Tensor

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        tail: float | None,
        counts: dict[str, Any],
    ) -> None:
        super().__init__(width, categories, generator)
        self.register_buffer("is_tail", Counts(**counts).tail(tail), persistent=False)

    def kept(self, labels: Tensor, batch: Batch) -> Tensor:
        """Mask (N, C) of the categories that each sample may discourage."""
        foreground = labels < self.categories
        return ~(foreground[:, None] & self.is_tail)

    def terms(self, logits: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        labels, logits = batch.labels, at_least_float32(logits)
        targets = F.one_hot(labels, self.categories + 1)[:, :-1]
        weights = self.kept(labels, batch) | targets.bool()
        losses = self.of_columns(logits, targets.to(logits)) * weights
        return {"cls": batch.total(losses.sum(dim=1))}

    def of_columns(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss (N, C) of each logit, all of which are (N, C) and of equal type."""
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
