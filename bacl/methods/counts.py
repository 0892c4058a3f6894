"""Counts of the training split, for methods that use them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Counts:
    """Counts of each category in the training split, in the order of labels."""

    images: Sequence[int]
    instances: Sequence[int]
    groups: Sequence[int]
    """Frequency group of each category; 0 is the rarest."""
    total: int
    """Images."""

    def frequency(self) -> Tensor:
        """f_j (C,): share of images that show it."""
        return torch.tensor(self.images, dtype=torch.float) / self.total

    def tail(self, below: float | None) -> Tensor:
        """Mask (C,) of tail categories: those that a smaller share of images than `below` shows;
        with None, those of all groups but the most frequent."""
        if below is not None:
            return self.frequency() < below
        groups = torch.tensor(self.groups)
        return groups < groups.max()
