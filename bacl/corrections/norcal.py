"""Normalised calibration, Pan et al. 2021."""

from typing import Any

import torch
from torch import Tensor

from bacl.corrections.corrected import Corrected, counted
from bacl.variants import METHODS


@METHODS.register_module(name="norcal")
class NorCal(Corrected):
    """Scores divided by N_j^gamma and normalised, background apart.

    In a softmax, and in the softmax over a category and everything else that a sigmoid is, dividing
    exp(z_j) by N_j^gamma is lowering z_j by gamma log N_j.
    """

    shift: Tensor

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        base: dict[str, Any],
        of: str,
        gamma: float,
        by: str,
        counts: dict[str, Any],
    ) -> None:
        super().__init__(width, categories, generator, base, of)
        shift = -gamma * counted(counts, by).log()
        self.register_buffer("shift", shift.float(), persistent=False)

    def correction(self) -> tuple[None, Tensor]:
        return None, self.shift
