"""Foreground classification balance loss, section III-D, as functions of tensors.

N samples, P foreground samples among them, C foreground categories. Logits have C + 1 columns; the
last is the background (the objectness branch), and label C is the background.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = 1e-3
"""Long-term indicators are clamped below at this before their ratio is taken (design.md)."""


def probabilities(logits: Tensor) -> Tensor:
    """Estimated probabilities of Eq. (5), shape (N, C + 1), from logits of the same shape."""
    sigmoid = logits.float().sigmoid()
    background = sigmoid[:, -1:]
    return torch.cat([sigmoid[:, :-1] * (1 - background), background], dim=1)


def bce(logits: Tensor, labels: Tensor) -> Tensor:
    """Eq. (2) with Eqs. (3)-(4), summed over samples and columns.

    logits (N, C + 1), labels (N,) in 0..C. Returns a scalar in float32.
    """
    logits = logits.float()
    return F.softplus(logits).sum() - logits.gather(1, labels[:, None]).sum()


def margin(own: Tensor, other: Tensor, alpha: float) -> Tensor:
    """Eq. (7): delta_ij = alpha * log(l_j / l_i).

    own: l_i of the sample's category and other: l_j of every category, shapes that broadcast to
    (P, C). Both are clamped below at `FLOOR`, so |delta| <= alpha * log(1000) for indicators in
    [0, 1].
    """
    return alpha * (other.clamp_min(FLOOR) / own.clamp_min(FLOOR)).log()


def weight(logits: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Weight term w_j of Eq. (9), without gradient, shape (P, C).

    logits (P, C + 1) of foreground samples, labels (P,) in 0..C-1. A sample's own category has
    p_j >= p_i and so weight 1.
    """
    short_term = probabilities(logits.detach())[:, :-1]
    own = short_term.gather(1, labels[:, None])
    return ((short_term >= own) | (short_term >= threshold)).to(short_term)


def fcbl(logits: Tensor, labels: Tensor, delta: Tensor | None, threshold: float) -> Tensor:
    """Eq. (6) for foreground and Eq. (2) for background samples, summed over samples.

    logits (N, C + 1), labels (N,) in 0..C, delta (P, C) the margins of the foreground samples in
    their order, 0 at a sample's own category, or None for no margin. Returns a scalar in float32.
    """
    categories = logits.size(1) - 1
    is_foreground = labels < categories
    logits = logits.float()
    background = logits[~is_foreground]
    logits, labels = logits[is_foreground], labels[is_foreground]
    shifted = logits[:, :-1] if delta is None else logits[:, :-1] + delta
    suppression = (weight(logits, labels, threshold) * F.softplus(shifted)).sum()
    foreground = (
        suppression - logits.gather(1, labels[:, None]).sum() + F.softplus(logits[:, -1]).sum()
    )
    return foreground + F.softplus(background).sum() - background[:, -1].sum()
