"""Balanced softmax in its sigmoid form for detectors, Ren et al. 2020."""

from typing import Any

import torch
from torch import Tensor

from bacl.methods.counts import Counts
from bacl.variants import METHODS, Sigmoid


@METHODS.register_module(name="balms")
class BALMS(Sigmoid):
    """Sigmoids; foreground samples train on z_j - log((1 - f_j) / f_j)."""

    shift: Tensor

    def __init__(
        self, width: int, categories: int, generator: torch.Generator, counts: dict[str, Any]
    ) -> None:
        super().__init__(width, categories, generator)
        known = Counts(**counts)
        least = 1 / known.total
        frequency = known.frequency().clamp(least, max(least, 1 - least))
        self.register_buffer("shift", frequency.logit(), persistent=False)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        foreground = (labels < self.categories)[:, None]
        return super().loss(logits.float() + foreground * self.shift, labels)
