"""Pairwise class balance, He et al. 2022: its regulariser, and its iterative box head."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bacl.methods.branch import branch
from bacl.methods.counts import Counts
from bacl.variants import METHODS, Batch, Softmax

_HIDDEN = 512
"""Hidden width of the branches that refine RoI features; the release's."""


@METHODS.register_module(name="pcb")
class PCB(Softmax):
    """Softmax with targets mixed by `confusion`, whose row i is the mean prediction of category i's
    samples.

    With several passes, RoI features go through the box head several times. Between passes a branch
    from the box deltas scales each cell of them, and a branch from the logits shifts each channel.
    Columns are the logits of each pass.
    """

    not_plain = "regions pass its box head several times"
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
        passes: Sequence[float] = (1.0,),
        refined: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(width, categories, generator)
        self.mixing, self.momentum = mixing, momentum
        self.start = start
        """Position of the image from which on targets are mixed."""
        self.weights, self.passes = passes, len(passes)
        if refined:
            # initially the identity, so that the first steps train the box head unchanged
            self.shift = branch(categories + 1, _HIDDEN, refined["channels"], generator)
            self.scale = branch(refined["deltas"], _HIDDEN, refined["places"], generator)
            nn.init.ones_(self.scale[-1].bias)  # type: ignore[arg-type]
        self.register_buffer("confusion", torch.zeros(categories, categories))
        shown = torch.tensor(Counts(**counts).images) > 0
        self.register_buffer("expected", shown, persistent=False)

    @classmethod
    def exported(cls, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        return cls.stock_loss if len(settings.get("passes", (1.0,))) == 1 else None

    @classmethod
    def plain(cls, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        return cls.plain_loss if len(settings.get("passes", (1.0,))) == 1 else None

    @property
    def columns(self) -> int:
        return self.passes * (self.categories + 1)

    def logits(self, features: Tensor) -> Tensor:
        of_passes: Tensor = self.fc_cls(features.unflatten(1, (self.passes, -1)))
        return of_passes.flatten(1)

    def refine(self, pooled: Tensor, features: Tensor, deltas: Tensor) -> Tensor:
        shift, scale = self.shift(self.fc_cls(features)), self.scale(deltas)
        return pooled * scale.view(-1, 1, *pooled.shape[2:]) + shift[:, :, None, None]

    def targets(self) -> Tensor:
        """Targets (C, C): row i is column i of the confusion matrix, normalised."""
        columns = self.confusion.T
        return columns / columns.sum(dim=1, keepdim=True).clamp_min(1e-12)

    def terms(self, logits: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        labels = batch.labels
        # the start falls between steps, so all ranks agree
        started = batch.positions[0] >= self.start
        if started:
            all_seen = ((self.confusion.sum(dim=1) > 0) | ~self.expected).all()
            mixable = (labels < self.categories) & all_seen
            target = self.targets()[labels.clamp_max(self.categories - 1)]
            entropy = torch.xlogy(target, target).sum(dim=1)
        of_all = logits.new_zeros(len(labels), dtype=torch.float)
        for number, (weight, own) in enumerate(zip(self.weights, self._of_passes(logits))):
            logs = own.log_softmax(dim=1)
            losses = F.nll_loss(logs, labels, reduction="none")
            if started:
                divergence = entropy - (target * logs[:, :-1]).sum(dim=1)
                mixed = self.mixing * mixable * self._share(number)
                losses = (1 - mixed) * losses + mixed * divergence
            of_all = of_all + weight * losses
        return {"cls": batch.total(of_all)}

    def _of_passes(self, logits: Tensor) -> Sequence[Tensor]:
        return logits.float().chunk(self.passes, dim=1)

    def _share(self, number: int) -> float:
        """Share of `mixing` in a pass: 0 in the first of several, 1 in the last or only one."""
        return number / (self.passes - 1) if self.passes > 1 else 1.0

    def probabilities(self, logits: Tensor) -> Tensor:
        return self._of_passes(logits)[-1].softmax(dim=1)

    @torch.no_grad()
    def increment(self, logits: Tensor, batch: Batch) -> Tensor:
        """Sums of foreground softmaxes by category, and numbers of samples, (passes, C, C + 1)."""
        sums = []
        for own in self._of_passes(logits):
            rows = F.pad(own[:, :-1].softmax(dim=1), (0, 1), value=1.0)
            zeros = rows.new_zeros(self.categories + 1, rows.size(1))
            sums.append(zeros.index_add_(0, batch.labels, rows)[:-1])
        return torch.stack(sums)

    def add(self, increment: Tensor) -> None:
        for of_pass in increment:
            sums, counts = of_pass[:, :-1], of_pass[:, -1:]
            seen = self.confusion.sum(dim=1, keepdim=True) > 0
            share = torch.where(seen, 1 - self.momentum, 1.0) * (counts > 0)
            self.confusion.copy_(self.confusion.lerp(sums / counts.clamp_min(1), share))
