"""A memory of features, which has the same content on all ranks and is kept in checkpoints."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bacl.rows import rows_of
from bacl.transfer import sent
from bacl.variants import Batch


class Memory(nn.Module):
    """The last `slots` features (D,) of each category, of any rank.

    New features are exchanged in the step's one reduction: each of the step's `images` has `rows`
    rows in it, which the rank that holds the image fills.
    """

    features: Tensor
    pushed: Tensor

    def __init__(self, categories: int, width: int, slots: int, images: int, rows: int) -> None:
        super().__init__()
        self.images, self.rows = images, rows
        self.register_buffer("features", torch.zeros(categories, slots, width))
        self.register_buffer("pushed", torch.zeros(categories, dtype=torch.long))

    @torch.no_grad()
    def increment(self, batch: Batch, wanted: Tensor) -> Tensor:
        """Up to `rows` samples of each image, drawn among the `wanted` (N,): features and label +
        1, which is 0 in unused rows, (images * rows, D + 1)."""
        rank = batch.rank(wanted, batch.uniform(1)[:, 0])
        chosen, most = rank < self.rows, self.images * self.rows
        positions = torch.tensor([position % self.images for position in batch.positions])
        first = sent(positions * self.rows, rank.device)[batch.images.long()]
        # samples that are not chosen go to an additional last row, which is cut off
        place = torch.where(chosen, first + rank, most)
        rows = rows_of(chosen)
        packed = self.features.new_zeros(most + 1, self.features.size(2) + 1)
        labels = batch.labels[rows, None] + 1
        # in the buffer's precision, because half precision cannot represent all labels
        packed[place[rows]] = torch.cat([batch.features[rows].to(packed), labels.to(packed)], dim=1)
        return packed[:-1]

    def add(self, packed: Tensor) -> None:
        """Push the new features of all ranks, in the order of images."""
        labels = packed[:, -1].round().long() - 1
        kept = (labels >= 0).nonzero()[:, 0]
        labels = labels[kept]
        slots = self.features.size(1)
        before = (labels[:, None] == labels[None]).tril(-1).sum(dim=1)
        after = (labels[:, None] == labels[None]).triu(1).sum(dim=1)
        last = after < slots  # if more come than fit, the first ones would be overwritten
        place = (self.pushed[labels] + before) % slots
        self.features[labels[last], place[last]] = packed[kept[last], :-1]
        self.pushed += labels.bincount(minlength=len(self.pushed))

    def held(self) -> Tensor:
        """Number of features held of each category, (C,)."""
        return self.pushed.clamp_max(self.features.size(1))

    def draw(self, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A drawn feature (H, D) of each of the categories `labels` (H,), and whether the memory
        has one (H,)."""
        held = self.held()[labels]
        uniform = torch.rand(len(labels), generator=generator, device=labels.device)
        return self.features[labels, (uniform * held).long()], held > 0

    def newest(
        self, labels: Sequence[int], pushed: Sequence[int], count: int
    ) -> tuple[Tensor, Tensor]:
        """The last features (H, D) of the categories `labels`, at most `count` of each, and their
        labels (H,). `pushed` are the values of the buffer of that name."""
        slots = self.features.size(1)
        at = [
            (label, number % slots)
            for label in labels
            for number in range(max(0, pushed[label] - min(count, slots)), pushed[label])
        ]
        found = torch.tensor(at, dtype=torch.long).view(-1, 2)
        labels_there, places = sent(found, self.features.device).unbind(dim=1)
        return self.features[labels_there, places], labels_there
