"""SimCal, Wang et al. 2020: a second box head that calibrates the first one's rare categories."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bacl.methods.counts import Counts
from bacl.transfer import sent
from bacl.variants import METHODS, Batch, Softmax


class BoxHead(nn.Module):
    """Box head of two FCs and a classifier, from pooled RoI features (N, pooled) to logits (N,
    columns)."""

    def __init__(self, pooled: int, width: int, fc_cls: nn.Module) -> None:
        super().__init__()
        self.shared_fcs = nn.ModuleList([nn.Linear(pooled, width), nn.Linear(width, width)])
        self.fc_cls = fc_cls

    def forward(self, x: Tensor) -> Tensor:
        for fc in self.shared_fcs:
            x = fc(x).relu()
        logits: Tensor = self.fc_cls(x)
        return logits


@METHODS.register_module(name="simcal")
class SimCal(Softmax):
    """The frozen classifier of the stage before, and a trained copy of the whole box head, whose
    scores count for categories with few instances. Columns are the former's logits, then the
    latter's."""

    stock_loss = None
    plain_loss = None
    not_plain = "it has a box head of its own beside the detector's"
    reads = ("pooled", "fc2")
    few: Tensor

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        threshold: int,
        pooled: int,
        counts: dict[str, Any],
    ) -> None:
        super().__init__(width, categories, generator)
        self.fc_cls.requires_grad_(False)
        self.widths = (pooled, width)
        self.copy = BoxHead(pooled, width, self.classifier(width, categories + 1, generator))
        for fc in self.copy.shared_fcs:
            nn.init.xavier_uniform_(fc.weight, generator=generator)  # type: ignore[arg-type]
            nn.init.zeros_(fc.bias)  # type: ignore[arg-type]
        few = torch.tensor(Counts(**counts).instances) < threshold
        self.register_buffer("few", F.pad(few, (0, 1)), persistent=False)

    @property
    def columns(self) -> int:
        return 2 * (self.categories + 1)

    def logits(self, features: Tensor) -> Tensor:
        pooled, h = features.split(self.widths, dim=1)
        return torch.cat([self.fc_cls(h), self.copy(pooled)], dim=1)

    def sampled(self, batch: Batch) -> Tensor:
        """Mask (N,) of the samples to train on: in each image, those of the category that it was
        drawn for, and as many of background."""
        drawn_for = sent(torch.tensor(batch.drawn_for), batch.labels.device)
        own = batch.labels == drawn_for[batch.images.long()]
        background = batch.labels == self.categories
        return own | batch.few(background, batch.of_images(own), batch.uniform(1)[:, 0])

    def terms(self, logits: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        _, calibrated = logits.float().chunk(2, dim=1)
        losses = F.cross_entropy(calibrated, batch.labels, reduction="none")
        sampled = self.sampled(batch)
        return {"cls": ((losses * sampled).sum(), sampled.sum())}

    def probabilities(self, logits: Tensor) -> Tensor:
        original, calibrated = (part.softmax(dim=1) for part in logits.float().chunk(2, dim=1))
        return torch.where(self.few, calibrated, original)
