"""Label-distribution-aware margins with deferred re-weighting, Cao et al. 2019."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bacl.methods.cosine import CosineClassifier
from bacl.methods.counts import Counts
from bacl.variants import METHODS, Batch, Softmax


@METHODS.register_module(name="ldam")
class LDAM(Softmax):
    """Softmax over scaled cosines; in training the own category's is lowered by its margin."""

    stock_loss = None
    margins: Tensor
    weights: Tensor

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        margin: float,
        scale: float,
        deferred: int | None,
        beta: float,
        counts: dict[str, Any],
    ) -> None:
        self.scale = scale
        super().__init__(width, categories, generator)
        self.deferred = deferred
        """Position of the image from which on samples are weighted; None: never."""
        known = Counts(**counts)
        instances = torch.tensor(known.instances, dtype=torch.float).clamp_min(1)
        margins = margin * (instances.min() / instances) ** 0.25
        self.register_buffer("margins", F.pad(margins, (0, 1)), persistent=False)
        weights = F.pad(known.class_balanced(beta), (0, 1), value=1.0)
        self.register_buffer("weights", weights, persistent=False)

    def classifier(self, width: int, columns: int, generator: torch.Generator) -> nn.Module:
        return CosineClassifier(width, columns, self.scale, generator, learnable=False)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        margins = self.scale * self.margins[labels, None]
        own = F.one_hot(labels, self.categories + 1)
        return F.cross_entropy(logits.float() - own * margins, labels, reduction="none")

    def terms(self, logits: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        losses = self.loss(logits, batch.labels)
        # the start falls between steps, so all ranks agree
        weighted = self.deferred is not None and batch.positions[0] >= self.deferred
        shares = self.weights[batch.labels] if weighted else None
        return {"cls": batch.total(losses, shares)}
