"""Distribution alignment, Zhang et al. 2021."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bacl.methods.cosine import CosineClassifier
from bacl.variants import METHODS, Batch, Softmax


@METHODS.register_module(name="disalign")
class DisAlign(Softmax):
    """A frozen classifier with a trained correction of its logits for each category and sample."""

    stock_loss = None
    plain_loss = None
    not_plain = "it corrects each region's logits by a confidence of its own"
    weights: Tensor

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        rho: float,
        shares: str,
        classifier: str,
        counts: dict[str, Any],
    ) -> None:
        self.cosine = classifier == "cosine"
        super().__init__(width, categories, generator)
        self.fc_cls.requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(categories))
        self.offset = nn.Parameter(torch.zeros(categories))
        self.confidence = nn.Linear(width, 1)
        nn.init.normal_(self.confidence.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.confidence.bias)
        known = torch.tensor(counts[shares], dtype=torch.float).clamp_min(1)
        weights = (known.sum() / known) ** rho
        weights = F.pad(weights / weights.mean(), (0, 1), value=1.0)
        self.register_buffer("weights", weights, persistent=False)

    def classifier(self, width: int, columns: int, generator: torch.Generator) -> nn.Module:
        if self.cosine:  # its scale comes from the stage before
            return CosineClassifier(width, columns, 1.0, generator)
        return super().classifier(width, columns, generator)

    def logits(self, features: Tensor) -> Tensor:
        categories, background = self.fc_cls(features).split([self.categories, 1], dim=1)
        correction = (self.scale - 1) * categories + self.offset
        confidence = self.confidence(features).sigmoid()
        return torch.cat([categories + confidence * correction, background], dim=1)

    def terms(self, logits: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        losses = F.cross_entropy(logits.float(), batch.labels, reduction="none")
        return {"cls": batch.total(losses, self.weights[batch.labels])}
