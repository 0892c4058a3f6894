"""Repeat factor sampling of images and objects, Chang et al. 2021: the object-level memory."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bacl.methods.counts import Counts
from bacl.methods.memory import Memory
from bacl.variants import METHODS, Batch, Softmax


class MagnitudeClassifier(nn.Module):
    """Classifier z_j = s g_j cos(h, w_j) with a learnable magnitude g_j of each column."""

    def __init__(self, width: int, columns: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        weight = torch.empty(columns, width).normal_(0, 0.01, generator=generator)
        self.weight = nn.Parameter(weight)
        self.magnitude = nn.Parameter(torch.ones(columns))
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        cosines = F.linear(F.normalize(features, dim=1, eps=1e-5), F.normalize(self.weight, dim=1))
        return self.scale * self.magnitude * cosines


@METHODS.register_module(name="rio")
class RIO(Softmax):
    """Softmax with replay of a rare category's last features whenever an image shows it."""

    stock_loss = None
    plain_loss = None
    not_plain = (
        "its cosine classifier has a magnitude for each category, "
        "MMDetection's NormedLinear one for all"
    )
    training_only = ("memory",)
    targets: Tensor

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        most_images: int,
        slots: int,
        samples: int,
        scale: float,
        batch: int,
        counts: dict[str, Any],
    ) -> None:
        self._scale = scale
        super().__init__(width, categories, generator)
        self.samples = samples
        targets = torch.tensor(Counts(**counts).images) <= most_images
        self.register_buffer("targets", F.pad(targets, (0, 1)), persistent=False)
        self.memory = Memory(categories, width, slots, batch, samples)

    def classifier(self, width: int, columns: int, generator: torch.Generator) -> nn.Module:
        return MagnitudeClassifier(width, columns, self._scale, generator)

    def replay(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Replayed features (H, D) and labels (H,): the last of each rare category that an image
        shows."""
        wanted = torch.where(self.targets[batch.labels], batch.labels, -1)
        # one transfer of all values, so that the host waits for the device only once
        values = torch.cat([wanted, self.memory.pushed]).tolist()
        shown, pushed = values[: len(wanted)], values[len(wanted) :]
        rare = []
        for size in batch.sizes:
            rare += sorted({label for label in shown[:size] if label >= 0})
            shown = shown[size:]
        features, labels = self.memory.newest(rare, pushed, self.samples)
        return features.to(batch.features), labels

    def terms(self, logits: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        features, labels = self.replay(batch)
        logits = torch.cat([logits, self.logits(features)]).float()
        shown = batch.with_made(labels, torch.ones_like(labels, dtype=torch.bool))
        return {"cls": shown.total(F.cross_entropy(logits, shown.labels, reduction="none"))}

    def increment(self, logits: Tensor, batch: Batch) -> Tensor:
        return self.memory.increment(batch, self.targets[batch.labels])

    def add(self, increment: Tensor) -> None:
        self.memory.add(increment)
