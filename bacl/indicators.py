"""Long-term indicators, Table II: how strongly the classifier leans to each category.

C foreground categories, P foreground samples. All state is buffers, so checkpoints hold it.
"""

import torch
from torch import Tensor, nn


class ConfusionMatrix(nn.Module):
    """M of Table II, last row: mean softmax score per (true, predicted) category pair.

    Running sums over all foreground samples since the start of the stage, hallucinated ones
    included. An update is made in two steps, so that several variants' increments can be summed
    over ranks in one reduction: `increment`, then `add` of the (reduced) result.
    """

    tally: Tensor
    """(C, C + 1): row i sums the scores of samples of category i; the last column counts them."""

    def __init__(self, categories: int) -> None:
        super().__init__()
        self.register_buffer("tally", torch.zeros(categories, categories + 1))

    @torch.no_grad()
    def increment(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What samples with logits (N, C + 1) and labels (N,) in 0..C add to `tally`."""
        is_foreground = labels < self.tally.size(0)
        scores = logits[is_foreground, :-1].float().softmax(dim=1)
        rows = torch.cat([scores, scores.new_ones(len(scores), 1)], dim=1)
        return torch.zeros_like(self.tally).index_add_(0, labels[is_foreground], rows)

    @torch.no_grad()
    def add(self, increment: Tensor) -> None:
        """Take in an increment that holds the samples of all ranks."""
        self.tally += increment

    def matrix(self) -> Tensor:
        """M (C, C); rows of categories never seen are zero."""
        return self.tally[:, :-1] / self.tally[:, -1:].clamp_min(1)

    def pairwise(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(l_i, l_j) of Eq. (7) for samples of category i: (M_ji, M_ij), each (P, C)."""
        matrix = self.matrix()
        return matrix[:, labels].T, matrix[labels]

    def strength(self) -> Tensor:
        """l_i = M_ii in [0, 1], shape (C,), for the sampling of Eq. (12)."""
        return self.matrix().diagonal()
