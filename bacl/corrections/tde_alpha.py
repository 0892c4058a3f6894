"""Another alpha of de-confounded training, which is of the test alone."""

from typing import Any

import torch

from bacl.corrections.corrected import Corrected
from bacl.variants import METHODS


@METHODS.register_module(name="tde_alpha")
class TDEAlpha(Corrected):
    """A trained `tde` variant with another alpha."""

    not_plain = "it takes the effect of a mean direction from the logits at test"

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        base: dict[str, Any],
        of: str,
        alpha: float,
    ) -> None:
        super().__init__(width, categories, generator, {**base, "alpha": alpha}, of)
