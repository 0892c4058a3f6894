"""Balanced softmax in its sigmoid form for detectors, Ren et al. 2020."""

from typing import Any

import torch
from torch import Tensor

from bacl.methods.counts import Counts
from bacl.precision import at_least_float32
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
        least = min(1.0, known.total / 2)
        shown = torch.tensor(known.images, dtype=torch.double).clamp(least, known.total - least)
        shift = (shown / (known.total - shown)).log()  # 1 - f in float32 may be far off
        self.register_buffer("shift", shift.float(), persistent=False)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        foreground = (labels < self.categories)[:, None]
        return super().loss(at_least_float32(logits) + foreground * self.shift, labels)
