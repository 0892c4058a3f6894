"""Object-level and global-level objectives reconciled, Zhang et al. 2023."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bacl.precision import at_least_float32
from bacl.variants import BCE, METHODS, Batch

_AT_ONCE = 16
"""Foreground samples that are compared with all logits of an image at a time: 40 MB for each
intermediate result with 512 samples and 1203 categories."""


@METHODS.register_module(name="rog")
class ROG(BCE):
    """Sigmoids with objectness and a ranking loss over each image. `seen` counts the samples of
    each category so far."""

    seen: Tensor

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        weight: float,
        gamma: float,
        slack: float,
    ) -> None:
        super().__init__(width, categories, generator)
        self.weight, self.gamma, self.slack = weight, gamma, slack
        self.register_buffer("seen", torch.zeros(categories))

    def terms(self, logits: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        return {**super().terms(logits, batch), "rank": self.ranking(logits[:, :-1], batch)}

    def ranking(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum of the mean ranking errors of each image's categories, and how many these are.

        Errors are steps of ranks, so their gradient is not the value's: each error is an update of
        the logits that make it, as in the AP loss, times the category's weight.
        """
        logits = at_least_float32(logits)
        with torch.no_grad():
            samples = batch.sizes
            weights = logits.new_ones(len(logits)) if batch.weights is None else batch.weights
            parts = [
                self._of_image(*of_image)
                for of_image in zip(
                    logits.split(samples),
                    batch.labels.split(samples),
                    weights.to(logits).split(samples),
                    strict=True,
                )
            ]
            update = torch.cat([part[0] for part in parts])
            errors = torch.stack([part[1] for part in parts]).sum()
            found = torch.stack([part[2] for part in parts]).sum()
        slope = (update * logits).sum()
        return errors + slope - slope.detach(), found

    def _of_image(
        self, logits: Tensor, labels: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Updates (N, C), the sum of mean errors over categories, and the number of categories.

        weights: how many samples each stands for, (N,).
        """
        rows = (labels < self.categories).nonzero()[:, 0]
        own = labels[rows]
        positives = logits[rows, own]
        numbers = own.bincount(minlength=self.categories)
        share = 1 / numbers[own].to(logits)
        balance = self.seen.clamp_min(1).to(logits) ** -self.gamma
        factor = self.weight * share * (balance / balance.mean())[own]

        counted = weights[:, None].expand_as(logits).clone()
        counted[rows, own] = 0  # of no category are positives negatives
        same = own[:, None] == own[None]
        above = (self._above(positives, positives) * same).sum(dim=1)
        update = torch.zeros_like(logits).flatten()
        error = torch.zeros_like(positives)
        for some in torch.arange(len(rows), device=rows.device).split(_AT_ONCE):
            wrong = self._above(logits.flatten(), positives[some]) * counted.flatten()
            false = wrong.sum(dim=1)
            rank = above[some] + false
            error[some] = false / rank
            update += (wrong * (factor[some] / rank)[:, None]).sum(dim=0)
        update = update.view_as(logits)
        update[rows, own] = -factor * error
        return update, (share * error).sum(), (numbers > 0).sum()

    def _above(self, these: Tensor, those: Tensor) -> Tensor:
        """How far each of `these` (K,) is above each of `those` (P,), (P, K) in [0, 1]."""
        return ((these - those[:, None]) / (2 * self.slack) + 0.5).clamp(0, 1)

    def increment(self, logits: Tensor, batch: Batch) -> Tensor:
        """Samples of each category (C,)."""
        return F.one_hot(batch.labels, self.categories + 1)[:, :-1].sum(dim=0).float()

    def add(self, increment: Tensor) -> None:
        self.seen += increment
