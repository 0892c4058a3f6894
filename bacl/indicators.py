"""Long-term indicators, Table II: how strongly the classifier leans to each category.

C foreground categories, P foreground samples among N; label C is the background. State is buffers,
so checkpoints hold it. Updates come in two steps, `increment` and `add`, so that the increments of
all variants of a bank can be summed over ranks in one reduction in between.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.registry import Registry
from torch import Tensor, nn

from bacl.rows import rows_of, taken

INDICATORS = Registry("indicator", scope="bacl", locations=["bacl.indicators"])
"""Indicators by the name that experiment files use."""


class Indicator(nn.Module):
    """Base of indicators, with what the margin and the sampling of categories need.

    One-dimensional indicators define `level`; the confusion matrix defines the rest itself.
    """

    def increment(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Increment of the state by samples with logits (N, C + 1) and labels (N,), in any
        shape."""
        return logits.new_zeros(0)

    def add(self, increment: Tensor) -> None:
        """Add the increment summed over all ranks to the state."""

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add the samples of this process to the state; for use with a single rank."""
        self.add(self.increment(logits, labels))

    def level(self) -> Tensor:
        """l_i (C,), in the indicator's own unit."""
        raise NotImplementedError

    def pairwise(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(l_i, l_j) of Eq. (7) for samples with labels i (P,); shapes that broadcast to (P, C)."""
        level = self.strength()
        return level[labels, None], level[None]

    def strength(self) -> Tensor:
        """l_i (C,) in [0, 1], for the margin's ratio and for the sampling of Eq. (12)."""
        return self.level()


class _Relative(Indicator):
    """Base of indicators that count; `strength` divides by the largest value, so that `1 - l_i` is
    in [0, 1]."""

    def strength(self) -> Tensor:
        level = self.level()
        return level / level.max().clamp_min(1)


@INDICATORS.register_module(name="image_frequency")
class ImageFrequency(_Relative):
    """f_i: training images that show the category. Constant."""

    counts: Tensor

    def __init__(self, image_counts: Sequence[int], **_: object) -> None:
        super().__init__()
        self.register_buffer("counts", torch.tensor(image_counts, dtype=torch.float))

    def level(self) -> Tensor:
        return self.counts


@INDICATORS.register_module(name="instance_frequency")
class InstanceFrequency(_Relative):
    """F_i: training instances of the category. Constant."""

    counts: Tensor

    def __init__(self, instance_counts: Sequence[int], **_: object) -> None:
        super().__init__()
        self.register_buffer("counts", torch.tensor(instance_counts, dtype=torch.float))

    def level(self) -> Tensor:
        return self.counts


@INDICATORS.register_module(name="instance_number")
class InstanceNumber(_Relative):
    """N_i: samples of the category since the start of the stage, hallucinated ones included."""

    counts: Tensor

    def __init__(self, categories: int, **_: object) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(categories))

    def increment(self, logits: Tensor, labels: Tensor) -> Tensor:
        return _per_category(torch.ones_like(labels, dtype=torch.float), labels, len(self.counts))

    def add(self, increment: Tensor) -> None:
        self.counts += increment

    def level(self) -> Tensor:
        return self.counts


@INDICATORS.register_module(name="mean_score")
class MeanScore(Indicator):
    """s_i: moving average of the sigmoid score p_i, Eq. (4), of samples of category i.

    It moves in the steps that show the category, by the mean over their samples; it starts at 0.
    """

    scores: Tensor

    def __init__(self, categories: int, gamma: float, **_: object) -> None:
        super().__init__()
        self.gamma = gamma
        self.register_buffer("scores", torch.zeros(categories))

    @torch.no_grad()
    def increment(self, logits: Tensor, labels: Tensor) -> Tensor:
        categories = len(self.scores)
        own = logits.float().gather(1, labels[:, None])[:, 0].sigmoid()
        ones = torch.ones_like(own)
        return torch.stack([_per_category(v, labels, categories) for v in (own, ones)])

    def add(self, increment: Tensor) -> None:
        sums, counts = increment
        moved = self.gamma * self.scores + (1 - self.gamma) * sums / counts.clamp_min(1)
        self.scores.copy_(torch.where(counts > 0, moved, self.scores))

    def level(self) -> Tensor:
        return self.scores


@INDICATORS.register_module(name="true_positive_rate")
class TruePositiveRate(Indicator):
    """TPR_i: share of the samples of category i whose best foreground score is i's."""

    tally: Tensor
    """(2, C): samples found right, and all samples."""

    def __init__(self, categories: int, **_: object) -> None:
        super().__init__()
        self.register_buffer("tally", torch.zeros(2, categories))

    @torch.no_grad()
    def increment(self, logits: Tensor, labels: Tensor) -> Tensor:
        right = (logits[:, :-1].argmax(dim=1) == labels).float()
        ones = torch.ones_like(right)
        return torch.stack([_per_category(v, labels, self.tally.size(1)) for v in (right, ones)])

    def add(self, increment: Tensor) -> None:
        self.tally += increment

    def level(self) -> Tensor:
        return self.tally[0] / self.tally[1].clamp_min(1)


@INDICATORS.register_module(name="confusion_matrix")
class ConfusionMatrix(Indicator):
    """M of Table II, last row: mean softmax score per (true, predicted) category pair.

    Running sums over all foreground samples since the start of the stage, hallucinated ones
    included.
    """

    tally: Tensor
    """(C, C + 1): row i sums the scores of samples of category i; the last column counts them."""

    def __init__(self, categories: int, **_: object) -> None:
        super().__init__()
        self.register_buffer("tally", torch.zeros(categories, categories + 1))

    def scores(self, logits: Tensor) -> Tensor:
        """Scores that each sample adds to its category's row, (P, C), from foreground logits (P,
        C)."""
        return logits.softmax(dim=1)

    def _rows(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Categories of the rows that `bacl.rows.rows_of` selects for the foreground samples, and
        the addition of each, C + 1 wide, to its category's row, which is 0 for background samples
        among them."""
        foreground = labels < self.tally.size(0)
        rows = rows_of(foreground)
        added = F.pad(self.scores(taken(logits, rows)[:, :-1].float()), (0, 1), value=1.0)
        if isinstance(rows, slice):
            added = added.masked_fill(~foreground[:, None], 0)
        return taken(labels, rows).clamp_max(self.tally.size(0) - 1), added

    @torch.no_grad()
    def increment(self, logits: Tensor, labels: Tensor) -> Tensor:
        return torch.zeros_like(self.tally).index_add_(0, *self._rows(logits, labels))

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor) -> None:
        # Added in place, because an increment would take as much memory as the state itself.
        self.tally.index_add_(0, *self._rows(logits, labels))

    def add(self, increment: Tensor) -> None:
        self.tally += increment

    def matrix(self) -> Tensor:
        """M (C, C); rows of categories never seen are zero."""
        return self.tally[:, :-1] / self.tally[:, -1:].clamp_min(1)

    def pairwise(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(l_i, l_j) of Eq. (7) for samples of category i: (M_ji, M_ij), each (P, C)."""
        matrix = self.matrix()
        return matrix.index_select(1, labels).T, matrix.index_select(0, labels)

    def strength(self) -> Tensor:
        """l_i = M_ii."""
        return self.matrix().diagonal()


@INDICATORS.register_module(name="hard_confusion_matrix")
class HardConfusionMatrix(ConfusionMatrix):
    """M of Eq. (14): the share of samples of category i whose best foreground score is j's."""

    def scores(self, logits: Tensor) -> Tensor:
        return torch.zeros_like(logits).scatter_(1, logits.argmax(dim=1, keepdim=True), 1.0)


def _per_category(values: Tensor, labels: Tensor, categories: int) -> Tensor:
    """Sums of values (N,) by foreground category (C,); background samples are left out."""
    return values.new_zeros(categories + 1).index_add_(0, labels, values)[:-1]
