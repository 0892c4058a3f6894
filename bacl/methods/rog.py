"""Object-level and global-level objectives reconciled, Zhang et al. 2023."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bacl.precision import at_least_float32
from bacl.rows import rows_of
from bacl.variants import BCE, METHODS, Batch


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

        weights: how many samples each stands for, (N,). Samples of background are taken for
        positives that nothing is above.
        """
        foreground = labels < self.categories
        own = labels.clamp_max(self.categories - 1)
        positives = logits.gather(1, own[:, None])[:, 0].double()
        positives = torch.where(foreground, positives, torch.inf)
        same = (labels[:, None] == labels) & foreground
        share = torch.where(foreground, 1 / same.sum(dim=1).clamp_min(1).double(), 0.0)
        balance = self.seen.clamp_min(1).double() ** -self.gamma
        factor = self.weight * share * (balance / balance.mean())[own]
        steps = (positives - positives[:, None]) / (2 * self.slack) + 0.5
        right = torch.where(same, steps.clamp(0, 1), 0.0).sum(dim=1)

        targets = F.one_hot(labels, self.categories + 1)[:, :-1]
        negative = (1 - targets) * weights[:, None]
        error, update = self._ranked(positives, right, factor, logits, negative)
        update = update - targets * (factor * error)[:, None]
        found = targets.any(dim=0).sum()  # of no category are positives negatives
        return update.to(logits), (share * error).sum().to(logits), found

    def _ranked(
        self, positives: Tensor, right: Tensor, factor: Tensor, logits: Tensor, negative: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Errors F / (F + P) of positives (N,), and what they add to the updates of negatives
        (N, C).

        right: P, (N,); negative: how many negatives each logit is, (N, C). A logit counts in full
        for positives that lie `slack` and more below it and in part for those nearer than that.
        Among sorted positives both are ranges, so that sums over logits and over positives are
        differences of running sums.
        """
        order = positives.argsort()
        z, factor, right = positives[order], factor[order], right[order]
        known = z.isfinite()
        z = torch.where(known, z, z.new_zeros(()))
        edges = torch.where(known, z, torch.inf)
        rows = rows_of(logits.flatten() > edges[:1] - self.slack)  # others are above no positive
        some, counted = logits.flatten()[rows].double(), negative.flatten()[rows].double()
        low = torch.searchsorted(edges, some - self.slack)
        high = torch.searchsorted(edges, some + self.slack)

        def up_to(place: Tensor, values: Tensor) -> Tensor:
            return z.new_zeros(len(z) + 1).index_add_(0, place, values).cumsum(0)

        below = up_to(low, counted)
        partly = (below - up_to(high, counted))[:-1]
        moment = (up_to(low, counted * some) - up_to(high, counted * some))[:-1]
        wrong = below[-1] - below[:-1] + (moment - z * partly) / (2 * self.slack) + partly / 2
        wrong = torch.where(known, wrong.clamp_min(0), 0.0)
        rank = torch.where(known, wrong + right, 1.0)

        each = F.pad((factor / rank).cumsum(0), (1, 0))
        weighted = F.pad((factor / rank * z).cumsum(0), (1, 0))
        update = each[low] + (each[high] - each[low]) * (some / (2 * self.slack) + 0.5)
        update = update - (weighted[high] - weighted[low]) / (2 * self.slack)
        error = torch.empty_like(wrong)
        error[order] = wrong / rank
        of_all = update.new_zeros(logits.numel())
        of_all[rows] = update * counted
        return error, of_all.view_as(logits)

    def increment(self, logits: Tensor, batch: Batch) -> Tensor:
        """Samples of each category (C,)."""
        return F.one_hot(batch.labels, self.categories + 1)[:, :-1].sum(dim=0).float()

    def add(self, increment: Tensor) -> None:
        self.seen += increment
