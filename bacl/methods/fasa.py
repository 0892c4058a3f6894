"""Feature augmentation and sampling adaptation, Zang et al. 2021."""

from typing import Any

import torch
import torch.nn.functional as F
from sklearn.cluster import AffinityPropagation
from torch import Tensor

from bacl.draws import seed_of
from bacl.hallucination import FeatureStatistics, moments
from bacl.methods.counts import Counts
from bacl.transfer import sent
from bacl.variants import METHODS, Batch, Softmax

_LEAST = 3
"""Least number of training images of a category of which some may be held out."""


@METHODS.register_module(name="fasa")
class FASA(Softmax):
    """Softmax with made features of categories, each with its own probability in a pair of images.

    Features are made from the second epoch on. `losses` holds the sums of held-out samples' losses
    by category and the numbers of such samples, of this epoch and the last.
    """

    chance: Tensor
    losses: Tensor
    epoch: Tensor
    spare: Tensor

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        rate: float,
        weight: float,
        up: float,
        down: float,
        held_out: float,
        epoch: int,
        counts: dict[str, Any],
    ) -> None:
        super().__init__(width, categories, generator)
        self.weight, self.up, self.down, self.held_out = weight, up, down, held_out
        self.epoch_images = epoch
        known = Counts(**counts)
        inverse = 1 / torch.tensor(known.instances, dtype=torch.float).clamp_min(1)
        self.register_buffer("chance", inverse / inverse.sum())
        self.register_buffer("losses", torch.zeros(2, categories, 2))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.long))
        spare = torch.tensor(known.images) >= _LEAST
        self.register_buffer("spare", F.pad(spare, (0, 1)), persistent=False)
        self.statistics = FeatureStatistics(categories, width, 1 - rate)
        self._epoch: int | None = None

    def terms(self, logits: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        if self._epoch is None:
            self._epoch = int(self.epoch)
        # an epoch begins with a step, so all ranks see it begin together
        if (number := batch.positions[0] // self.epoch_images) > self._epoch:
            self._epoch = number
            self.epoch.fill_(number)
            self.adapt()
        losses = F.cross_entropy(logits.float(), batch.labels, reduction="none")
        trained = ~self.held(batch)
        made, labels, counted = self.make(batch)
        of_made = F.cross_entropy(self.logits(made).float(), labels, reduction="none")
        return {
            "cls": batch.total(losses, trained),
            "made": (self.weight * (of_made * counted).sum(), counted.sum()),
        }

    def held(self, batch: Batch) -> Tensor:
        """Mask (N,) of the samples that are not trained on: those in held-out images, of categories
        with enough images."""
        draws = [seed_of("held out", image) / 2**63 for image in batch.ids]
        out = sent(torch.tensor([draw < self.held_out for draw in draws]), batch.labels.device)
        return out[batch.images.long()] & self.spare[batch.labels]

    @torch.no_grad()
    def make(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Made features (H, D), their labels (H,), and whether each counts (H,), False for
        categories never seen."""
        device, width = self.chance.device, self.statistics.prototype.size(1)
        drawn, noise = (
            [torch.zeros(0, dtype=torch.long, device=device)],
            [torch.zeros(0, width, device=device)],
        )
        for pair in batch.pairs if self._epoch else []:
            draw = batch.generator("made", pair)
            chosen = torch.rand(len(self.chance), generator=draw, device=device) < self.chance
            drawn.append(chosen.nonzero()[:, 0])
            noise.append(torch.randn(len(drawn[-1]), width, generator=draw, device=device))
        labels = torch.cat(drawn)
        deviation = self.statistics.variance[labels].sqrt()
        made = self.statistics.prototype[labels] + deviation * torch.cat(noise)
        return made, labels, self.statistics.seen[labels]

    @torch.no_grad()
    def increment(self, logits: Tensor, batch: Batch) -> Tensor:
        """Moments of the trained foreground samples, and sums of losses and numbers of held-out
        samples, by category, (C, 2D + 3)."""
        out, labels = self.held(batch), batch.labels
        losses = F.cross_entropy(logits.float(), labels, reduction="none")
        judged = torch.stack([losses * out, out.float()], dim=1)
        sums = judged.new_zeros(self.categories + 1, 2).index_add_(0, labels, judged)[:-1]
        shown = torch.where(out, self.categories, labels)
        packed = moments(batch.features.float(), shown, self.categories + 1)[:-1]
        return torch.cat([packed, sums], dim=1)

    def add(self, increment: Tensor) -> None:
        self.statistics.update(increment[:, :-2])
        self.losses[0] += increment[:, -2:]

    def adapt(self) -> None:
        """Raise or lower the probabilities of each group of categories, at an epoch's end."""
        now, before = self.losses
        if before[:, 1].any() and now[:, 1].any():
            group = self.groups()
            # a group's losses are divided by the number of all groups' samples, as in the release
            rises = now[:, 0] / now[:, 1].sum() - before[:, 0] / before[:, 1].sum()
            rise = rises.new_zeros(len(group) + 2).index_add_(0, group, rises)[group]
            factor = torch.where(rise > 0, self.down, torch.where(rise < 0, self.up, 1.0))
            self.chance.copy_((self.chance * factor).clamp(0, 1))
        self.losses[1] = now
        self.losses[0].zero_()

    def groups(self) -> Tensor:
        """Group of each category (C,): clusters of the categories seen, and one group of the
        others."""
        seen = self.statistics.seen.nonzero()[:, 0]
        groups = torch.zeros(self.categories, dtype=torch.long)
        if not len(seen):
            return groups.to(seen.device)
        means = self.statistics.prototype[seen].double().cpu()
        # squared distances as they are, not their negatives, as the release hands them over
        affinity = torch.cdist(means, means).square().numpy()
        found = AffinityPropagation(affinity="precomputed", random_state=0).fit(affinity).labels_
        groups[seen.cpu()] = torch.as_tensor(found, dtype=torch.long) + 2  # -1: no clusters found
        return groups.to(seen.device)
