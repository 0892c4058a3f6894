"""Logit adjustment in training, Menon et al. 2021."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bacl.variants import METHODS, Softmax


@METHODS.register_module(name="logit_adjusted")
class LogitAdjusted(Softmax):
    """Softmax; samples train on logits that are shifted by the logarithms of priors."""

    shift: Tensor

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        tau: float,
        shares: str,
        background: float | None,
        counts: dict[str, Any],
    ) -> None:
        super().__init__(width, categories, generator)
        known = torch.tensor(counts[shares], dtype=torch.double).clamp_min(1)
        priors = (known / known.sum()).log()
        if background is None:
            shift = F.pad(priors + math.log(categories), (0, 1))
        else:
            shift = F.pad(priors + math.log1p(-background), (0, 1), value=math.log(background))
        self.register_buffer("shift", (tau * shift).float(), persistent=False)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().loss(logits.float() + self.shift, labels)
