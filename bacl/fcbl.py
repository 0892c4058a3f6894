"""Foreground classification balance loss, section III-D, as functions of tensors.

N samples, P foreground samples among them, C foreground categories. Logits have C + 1 columns; the
last is the background (the objectness branch), and label C is the background.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bacl.precision import at_least_float32
from bacl.rows import rows_of, taken

FLOOR = 1e-3
"""Long-term indicators are clamped below at this before their ratio is taken
(docs/architecture.md)."""


def probabilities(logits: Tensor) -> Tensor:
    """Estimated probabilities of Eq. (5), shape (N, C + 1), from logits of the same shape."""
    sigmoid = at_least_float32(logits).sigmoid()
    background = sigmoid[:, -1:]
    return torch.cat([sigmoid[:, :-1] * (1 - background), background], dim=1)


def bce(logits: Tensor, labels: Tensor) -> Tensor:
    """Eq. (2) with Eqs. (3)-(4), summed over columns.

    logits (N, C + 1), labels (N,) in 0..C. Returns (N,) in float32.
    """
    logits = logits.float()
    return F.softplus(logits).sum(dim=1) - logits.gather(1, labels[:, None])[:, 0]


def margin(own: Tensor, other: Tensor, alpha: float) -> Tensor:
    """Eq. (7): delta_ij = alpha * log(l_j / l_i).

    own: l_i of the sample's category and other: l_j of every category, shapes that broadcast to
    (P, C). Both are clamped below at `FLOOR`, so |delta| <= alpha * log(1000) for indicators in
    [0, 1].
    """
    return alpha * (other.clamp_min(FLOOR) / own.clamp_min(FLOOR)).log()


def weight(logits: Tensor, labels: Tensor, threshold: float, term: str = "both") -> Tensor:
    """Weight term w_j of Eq. (9), without gradient, shape (P, C).

    logits (P, C + 1) of foreground samples, labels (P,) in 0..C-1. `term` says which condition of
    Eq. (9) counts (Table IX): `misclassified` (p_j >= p_i), `overconfident` (p_j >= p_t), or
    `both`. A sample's own category always has weight 1, for Eq. (6) does not weight it, but under
    `overconfident_own`, which is `overconfident` for every category.
    """
    short_term = probabilities(logits.detach())[:, :-1]
    own = short_term.gather(1, labels[:, None])
    if term == "overconfident_own":
        return (short_term >= threshold).to(short_term)
    least = {
        "both": own.clamp_max(threshold),
        "misclassified": own,
        "overconfident": torch.full_like(own, threshold),
    }[term]
    return (short_term >= least).scatter(1, labels[:, None], True).to(short_term)


def fcbl(
    logits: Tensor, labels: Tensor, delta: Tensor | None, threshold: float, term: str = "both"
) -> Tensor:
    """Eq. (6) for foreground and Eq. (2) for background samples.

    logits (N, C + 1), labels (N,) in 0..C, delta the margins of the foreground samples' rows (those
    that `bacl.rows.rows_of` selects), 0 at a sample's own category, or None for no margin. `term`
    is `weight`'s, or `none` for weights of 1. Returns (N,) in float32.
    """
    logits = logits.float()
    categories = logits.size(1) - 1
    foreground = labels < categories
    rows = rows_of(foreground)
    own = taken(labels, rows).clamp_max(categories - 1)
    right = logits.gather(1, labels[:, None])[:, 0]
    if delta is None:
        delta = logits.new_zeros(len(own), categories)
    if term != "none":
        # A margin of -inf acts as a weight of 0, because softplus of -inf and its gradient are 0.
        kept = weight(taken(logits, rows), own, threshold, term)
        delta = delta.masked_fill(kept == 0, -math.inf)
        if term == "overconfident_own":
            counted = kept.gather(1, own[:, None])[:, 0]
            if isinstance(rows, slice):
                right = torch.where(foreground, counted * right, right)
            else:
                right = right.index_copy(0, rows, counted * right[rows])
    shift = F.pad(delta, (0, 1))
    if isinstance(rows, slice):
        shifted = logits + shift.masked_fill(~foreground[:, None], 0)
    else:
        shifted = logits.index_add(0, rows, shift)
    return F.softplus(shifted).sum(dim=1) - right
