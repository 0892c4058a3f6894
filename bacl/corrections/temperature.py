"""A temperature for each frequency group."""

from typing import Any

import torch
from torch import Tensor

from bacl.corrections.corrected import Corrected
from bacl.variants import METHODS


@METHODS.register_module(name="temperature")
class Temperature(Corrected):
    """z_j / T_g, g the frequency group of category j."""

    scale: Tensor

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        base: dict[str, Any],
        of: str,
        temperatures: list[float],
        counts: dict[str, Any],
    ) -> None:
        super().__init__(width, categories, generator, base, of)
        of_groups = 1 / torch.tensor(temperatures, dtype=torch.double)
        scale = of_groups[torch.tensor(counts["groups"])]
        self.register_buffer("scale", scale.float(), persistent=False)

    def correction(self) -> tuple[Tensor, None]:
        return self.scale, None
