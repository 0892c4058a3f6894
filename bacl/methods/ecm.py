"""Effective class-margin loss, Cho and Krähenbühl 2022."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bacl.methods.cosine import CosineClassifier
from bacl.methods.counts import Counts
from bacl.precision import at_least_float32
from bacl.variants import BCE, METHODS

_TEMPERATURE = 20.0


@METHODS.register_module(name="ecm")
class ECM(BCE):
    """Sigmoids with objectness, trained on doubled logits with a margin of each column."""

    margins: Tensor
    weights: Tensor

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        background: float,
        classifier: str,
        counts: dict[str, Any],
    ) -> None:
        self.cosine = classifier == "cosine"
        super().__init__(width, categories, generator)
        shown = torch.tensor(Counts(**counts).images, dtype=torch.double).clamp_min(1)
        positives = torch.cat([shown, background * shown.sum()[None]])
        negatives = positives.sum() - positives
        margins = (positives / negatives).log() / 4  # m+ - m-: the sums in both cancel
        ratio = negatives / positives
        self.register_buffer("margins", margins.float(), persistent=False)
        self.register_buffer("weights", (ratio * (1 / ratio).log1p()).float(), persistent=False)

    def classifier(self, width: int, columns: int, generator: torch.Generator) -> nn.Module:
        if not self.cosine:
            return super().classifier(width, columns, generator)
        made = CosineClassifier(width, columns, _TEMPERATURE, generator, bias=True, learnable=False)
        nn.init.constant_(made.bias, self.prior_bias)  # type: ignore[arg-type]
        return made

    @classmethod
    def exported(cls, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        return None if settings["classifier"] == "cosine" else cls.stock_loss

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = at_least_float32(logits)
        targets = F.one_hot(labels, self.categories + 1).to(logits)
        losses = F.binary_cross_entropy_with_logits(
            2 * logits + self.margins, targets, self.weights.to(logits), reduction="none"
        )
        return losses.sum(dim=1)
