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

    def class_balanced(self, beta: float) -> Tensor:
        """Weights (C,) of mean 1, in proportion to the inverse effective number of instances,
        (1 - beta) / (1 - beta^n), Cui et al. 2019."""
        known = torch.tensor(self.instances, dtype=torch.double).clamp_min(1)
        # 1 - beta^n, which rounds badly where it is small; the factor 1 - beta falls away
        weights = -1 / torch.expm1(known * torch.tensor(beta, dtype=torch.double).log())
        return (weights / weights.mean()).float()
