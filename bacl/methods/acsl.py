"""Adaptive class suppression loss, Wang et al. 2021."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bacl.methods.counts import Counts
from bacl.precision import at_least_float32
from bacl.variants import METHODS, Batch, Variant


@METHODS.register_module(name="acsl")
class ACSL(Variant):
    """Sigmoids, one of them the background's, each discouraged only where it is confident."""

    prior_bias = -math.log(0.999 / 0.001)
    stock_loss = None
    plain_loss = {"type": "CrossEntropyCustomLoss", "use_sigmoid": True}  # without background's
    group: Tensor
    shares: Tensor

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        threshold: float,
        background_shares: Sequence[float],
        counts: dict[str, Any],
    ) -> None:
        super().__init__(width, categories, generator)
        self.threshold = threshold
        groups = torch.tensor(Counts(**counts).groups)
        self.register_buffer("group", groups, persistent=False)
        self.register_buffer("shares", torch.tensor(background_shares), persistent=False)

    def terms(self, logits: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        labels, logits = batch.labels, at_least_float32(logits)
        targets = F.one_hot(labels, self.categories + 1)
        confident = logits.detach().sigmoid() >= self.threshold
        drawn = batch.uniform(len(self.shares)) < self.shares
        of_category = F.pad(drawn[:, self.group], (0, 1), value=True)
        foreground = (labels < self.categories)[:, None]
        weights = torch.where(foreground, confident, of_category) | targets.bool()
        losses = F.binary_cross_entropy_with_logits(
            logits, targets.to(logits), weights.to(logits), reduction="none"
        )
        return {"cls": batch.total(losses.sum(dim=1))}

    def probabilities(self, logits: Tensor) -> Tensor:
        return at_least_float32(logits).sigmoid()
