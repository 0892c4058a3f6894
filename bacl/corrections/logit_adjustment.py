"""Logit adjustment after training, Menon et al. 2021."""

from typing import Any

import torch
from torch import Tensor

from bacl.corrections.corrected import Corrected, counted
from bacl.variants import METHODS


@METHODS.register_module(name="logit_adjustment")
class LogitAdjustment(Corrected):
    """z_j - tau log pi_j, pi_j the share of category j in the foreground of training."""

    shift: Tensor

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        base: dict[str, Any],
        of: str,
        tau: float,
        by: str,
        counts: dict[str, Any],
    ) -> None:
        super().__init__(width, categories, generator, base, of)
        known = counted(counts, by)
        shift = -tau * (known / known.sum()).log()
        self.register_buffer("shift", shift.float(), persistent=False)

    def correction(self) -> tuple[None, Tensor]:
        return None, self.shift
