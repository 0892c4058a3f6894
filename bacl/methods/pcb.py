"""Pairwise class balance, He et al. 2022: its regulariser."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bacl.methods.counts import Counts
from bacl.variants import METHODS, Batch, Softmax


@METHODS.register_module(name="pcb")
class PCB(Softmax):
    """Softmax with targets mixed by `confusion`: row i, how category i's samples are predicted."""

    confusion: Tensor
    expected: Tensor

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        mixing: float,
        momentum: float,
        start: int,
        counts: dict[str, Any],
    ) -> None:
        super().__init__(width, categories, generator)
        self.mixing, self.momentum = mixing, momentum
        self.start = start
        """Position of the image from which on targets are mixed."""
        self.register_buffer("confusion", torch.zeros(categories, categories))
        shown = torch.tensor(Counts(**counts).images) > 0
        self.register_buffer("expected", shown, persistent=False)

    def targets(self) -> Tensor:
        """(C, C): row i is column i of the confusion matrix, normalised."""
        columns = self.confusion.T
        return columns / columns.sum(dim=1, keepdim=True).clamp_min(1e-12)

    def terms(self, logits: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        labels = batch.labels
        logs = logits.float().log_softmax(dim=1)
        losses = F.nll_loss(logs, labels, reduction="none")
        if batch.positions[0] >= self.start:  # positions of a step are on one side on all ranks
            foreground = labels < self.categories
            target = self.targets()[labels.clamp_max(self.categories - 1)]
            divergence = (torch.xlogy(target, target) - target * logs[:, :-1]).sum(dim=1)
            all_seen = (self.confusion.sum(dim=1) > 0)[self.expected].all()
            mixed = self.mixing * (foreground & all_seen)
            losses = (1 - mixed) * losses + mixed * divergence
        return {"cls": (losses.sum(), labels.new_full((), len(labels)))}

    @torch.no_grad()
    def increment(self, logits: Tensor, batch: Batch) -> Tensor:
        """Sums of foreground softmaxes by category, and how many, (C, C + 1)."""
        scores = logits.float()[:, :-1].softmax(dim=1)
        rows = F.pad(scores, (0, 1), value=1.0)
        sums = rows.new_zeros(self.categories + 1, rows.size(1))
        return sums.index_add_(0, batch.labels, rows)[:-1]

    def add(self, increment: Tensor) -> None:
        sums, counts = increment[:, :-1], increment[:, -1:]
        seen = self.confusion.sum(dim=1, keepdim=True) > 0
        share = torch.where(seen, 1 - self.momentum, 1.0) * (counts > 0)
        self.confusion.copy_(self.confusion.lerp(sums / counts.clamp_min(1), share))
