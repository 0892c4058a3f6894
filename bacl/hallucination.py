"""Feature hallucination module, section III-E: statistics of real features and synthesis of new
ones.

G ground-truth boxes, C categories, D feature width, H hallucinated features.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bacl.rows import rows_of
from bacl.transfer import sent

SIGNS = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4)))
"""The 16 sign patterns of (x1, y1, x2, y2) that Eq. (10)'s eta takes; magnitudes are uniform."""


def jitter_boxes(boxes: Tensor, magnitudes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """16 boxes around each ground-truth box, Eq. (10), clipped to the image.

    boxes (G, 4) as x1, y1, x2, y2 in pixels; magnitudes (16, 4) in [0, 1), one draw per image, on
    the CPU; image_size (height, width). Returns (G * 16, 4), the 16 of a box in consecutive rows.
    """
    height, width = image_size
    eta = sent(SIGNS * magnitudes, boxes.device).to(boxes)
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    jittered = boxes[:, None] + eta * sides[:, None] / 6
    jittered[..., 0::2].clamp_(0, width)
    jittered[..., 1::2].clamp_(0, height)
    return jittered.flatten(0, 1)


def moments(features: Tensor, labels: Tensor, categories: int) -> Tensor:
    """Per-category sums, squared sums and counts, packed as (C, 2D + 1) for one reduction.

    features (N, D), labels (N,) in 0..C-1. Computed in float64: where a category's deviation is
    small beside its mean, its variance is a small difference of large numbers, which would be lost
    in float32's rounding. Subtracting a shift instead would need one that all ranks agree on before
    a category is first seen.
    """
    width = features.size(1)
    rows = features.new_empty(len(features), 2 * width + 1, dtype=torch.float64)
    rows[:, :width] = features
    torch.square(rows[:, :width], out=rows[:, width:-1])
    rows[:, -1] = 1
    return rows.new_zeros(categories, rows.size(1)).index_add_(0, labels, rows)


class FeatureStatistics(nn.Module):
    """Prototypes mu and variances sigma of Eq. (11), shared by variants of equal beta.

    `ranks` keep their own, as the release's GPUs do: category c of rank k is in row k * C + c.

    The paper multiplies noise by sigma; sigma is moved by variances, so synthesis scales noise by
    its square root, as the released code does (docs/architecture.md). The first step that shows a
    category sets its statistics instead of moving them.
    """

    prototype: Tensor
    variance: Tensor
    seen: Tensor

    def __init__(self, categories: int, width: int, beta: float, ranks: int = 1) -> None:
        super().__init__()
        self.categories, self.beta, self.ranks = categories, beta, ranks
        rows = ranks * categories
        self.register_buffer("prototype", torch.zeros(rows, width))
        self.register_buffer("variance", torch.zeros(rows, width))
        self.register_buffer("seen", torch.zeros(rows, dtype=torch.bool))

    @torch.no_grad()
    def update(self, packed: Tensor) -> None:
        """Move the statistics by one step's `moments` (ranks * C, 2D + 1), summed over all
        processes."""
        width = self.prototype.size(1)
        counts = packed[:, -1]
        rows = rows_of(counts > 0)  # few categories are present
        sums, squares, count = packed[rows].split([width, width, 1], dim=1)
        mean = sums / count.clamp_min(1)
        variance = (squares - count * mean.square()).clamp_min(0) / (count - 1).clamp_min(1)
        move = torch.where(self.seen[rows, None], 1 - self.beta, 1.0) * (count > 0)
        for statistics, new in ((self.prototype, mean), (self.variance, variance)):
            old = statistics[rows]
            statistics[rows] = old.lerp(new.to(old), move)
        self.seen |= counts > 0

    @torch.no_grad()
    def synthesize(
        self,
        strength: Tensor,
        categories: int,
        samples: int,
        generators: Sequence[torch.Generator],
        pairs: Sequence[int] = (),
    ) -> tuple[Tensor, Tensor]:
        """Features of drawn categories, Eqs. (12)-(13), for each of some pairs of images.

        pairs: their numbers, where there are several ranks: pair k is of rank k modulo `ranks`.

        strength: l_i in [0, 1], shape (C,). From the generator of each pair, draws `categories`
        times with replacement with probability proportional to 1 - l_i and makes `samples` features
        per draw. Returns features (H, D) and labels (H,); for a category never seen nothing can be
        made: its rows are zeros and have the label C. They are not removed, because the host would
        have to wait for the device to know their number.
        """
        chance = (1 - strength).clamp_min(0)
        chance = torch.where(chance.sum() > 0, chance, torch.ones_like(chance))
        drawn_by_pair, noise_by_pair = [], []
        shape = (categories, samples, self.prototype.size(1))
        place: dict[str, Any] = {"device": strength.device, "dtype": self.prototype.dtype}
        for generator in generators:
            drawn_by_pair.append(
                torch.multinomial(chance, categories, replacement=True, generator=generator)
            )
            noise_by_pair.append(torch.randn(shape, generator=generator, **place))
        drawn, noise = torch.cat(drawn_by_pair), torch.cat(noise_by_pair)
        rows = drawn
        if self.ranks > 1:
            first = torch.tensor([pair % self.ranks * self.categories for pair in pairs])
            rows = drawn + sent(first.repeat_interleave(categories), drawn.device)
        deviation = self.variance[rows, None].sqrt()
        features = torch.addcmul(self.prototype[rows, None], deviation, noise)
        labels = torch.where(self.seen[rows], drawn, self.categories)
        return features.flatten(0, 1), labels.repeat_interleave(samples)
