"""Balanced group softmax, Li et al. 2020."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bacl.methods.counts import Counts
from bacl.variants import METHODS, Batch, Variant


def groups_of(instances: Sequence[int], bounds: Sequence[int]) -> list[list[int]]:
    """Labels of each group: categories of the first have fewer instances than the first bound, and
    so on."""
    groups: list[list[int]] = [[] for _ in range(len(bounds) + 1)]
    for label, count in enumerate(instances):
        groups[bisect_right(bounds, count)].append(label)
    return groups


@METHODS.register_module(name="bags")
class BAGS(Variant):
    """Columns: the C categories, one for the others of each of G groups, background, foreground."""

    stock_loss = None
    plain_loss = None
    not_plain = "its scores are softmaxes within groups of categories, MMDetection's is over all"
    of_label: Tensor
    place: Tensor

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        bounds: Sequence[int],
        others: int,
        counts: dict[str, Any],
    ) -> None:
        self.members = groups_of(Counts(**counts).instances, bounds)
        self.background_columns = len(self.members) + 2
        super().__init__(width, categories, generator)
        self.others = others
        of_category = torch.empty(categories, dtype=torch.long)
        place = torch.empty(categories, dtype=torch.long)
        for number, members in enumerate(self.members):
            columns = torch.tensor([*members, categories + number])
            self.register_buffer(f"columns_{number}", columns, persistent=False)
            of_category[members] = number
            place[members] = torch.arange(len(members))
        self.register_buffer("of_label", F.pad(of_category, (0, 1), value=-1), persistent=False)
        self.register_buffer("place", F.pad(place, (0, 1)), persistent=False)

    def _group(self, logits: Tensor, number: int) -> Tensor:
        """Logits of a group: those of its categories, then that of its column for all others."""
        columns: Tensor = getattr(self, f"columns_{number}")
        return logits.index_select(1, columns)

    def terms(self, logits: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        labels, logits = batch.labels, logits.float()
        order = batch.uniform(len(self.members))
        terms = {}
        for number, members in enumerate(self.members):
            own = self.of_label[labels] == number
            others = batch.few(~own, self.others * batch.of_images(own), order[:, number])
            kept = own | others
            targets = torch.where(own, self.place[labels], len(members))
            losses = F.cross_entropy(self._group(logits, number), targets, reduction="none")
            terms[f"group{number}"] = ((losses * kept).sum(), kept.sum())
        foreground = labels < self.categories
        losses = F.cross_entropy(logits[:, -2:], foreground.long(), reduction="none")
        terms["foreground"] = batch.total(losses)
        return terms

    def probabilities(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        background, foreground = logits[:, -2:].softmax(dim=1).split(1, dim=1)
        scores = logits.new_zeros(len(logits), self.categories)
        for number, members in enumerate(self.members):
            columns: Tensor = getattr(self, f"columns_{number}")
            found = self._group(logits, number).softmax(dim=1)[:, : len(members)]
            scores[:, columns[:-1]] = found
        return torch.cat([scores * foreground, background], dim=1)
