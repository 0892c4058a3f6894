"""Seesaw loss, Wang et al. 2021, by MMDetection's own function."""

import torch
import torch.nn.functional as F
from mmdet.models.losses.seesaw_loss import seesaw_ce_loss
from torch import Tensor, nn

from bacl.methods.cosine import CosineClassifier
from bacl.precision import at_least_float32
from bacl.variants import METHODS, Batch, Variant

_TEMPERATURE = 20.0
_EPS = 0.01


@METHODS.register_module(name="seesaw")
class Seesaw(Variant):
    """Seesaw classifier: C columns of categories, then two for object and background. `seen` counts
    the samples of each category so far."""

    background_columns = 2
    stock_loss = None
    plain_loss = {"type": "SeesawLoss"}
    seen: Tensor

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        p: float,
        q: float,
        classifier: str,
    ) -> None:
        self.cosine = classifier == "cosine"
        super().__init__(width, categories, generator)
        self.p, self.q = p, q
        self.register_buffer("seen", torch.zeros(categories))

    def classifier(self, width: int, columns: int, generator: torch.Generator) -> nn.Module:
        if self.cosine:
            return CosineClassifier(
                width, columns, _TEMPERATURE, generator, bias=True, learnable=False
            )
        return super().classifier(width, columns, generator)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = at_least_float32(logits)
        foreground = labels < self.categories
        with logits.device:  # else it makes tensors on the CPU and waits for a copy
            among = seesaw_ce_loss(
                logits[:, :-2],
                labels.clamp_max(self.categories - 1),
                foreground.float(),
                self.seen,
                self.categories,
                self.p,
                self.q,
                _EPS,
                reduction="none",
            )
        object_or_not = F.cross_entropy(logits[:, -2:], (~foreground).long(), reduction="none")
        return among + object_or_not

    def probabilities(self, logits: Tensor) -> Tensor:
        logits = at_least_float32(logits)
        object_, background = logits[:, -2:].softmax(dim=1).split(1, dim=1)
        return torch.cat([logits[:, :-2].softmax(dim=1) * object_, background], dim=1)

    def increment(self, logits: Tensor, batch: Batch) -> Tensor:
        """Samples of each category (C,)."""
        return F.one_hot(batch.labels, self.categories + 1)[:, :-1].sum(dim=0).float()

    def add(self, increment: Tensor) -> None:
        self.seen += increment
