"""Equalization loss v2, Tan et al. 2021."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bacl.precision import at_least_float32
from bacl.variants import BCE, METHODS, Batch

_FIRST = 100.0
"""Ratio of a category without gradients so far; the release's."""


@METHODS.register_module(name="eqlv2")
class EQLv2(BCE):
    """Sigmoids with objectness, weighted by each category's ratio of gradients so far."""

    gradients: Tensor

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        mu: float,
        gamma: float,
        alpha: float,
    ) -> None:
        super().__init__(width, categories, generator)
        self.mu, self.gamma, self.alpha = mu, gamma, alpha
        self.register_buffer("gradients", torch.zeros(2, categories))

    def weights(self) -> tuple[Tensor, Tensor]:
        """Weights of encouraging and of discouraging gradients, each (C,)."""
        positive, negative = self.gradients
        ratio = torch.where(positive + negative > 0, positive / (negative + 1e-10), _FIRST)
        discouraging = torch.sigmoid(self.gamma * (ratio - self.mu))
        return 1 + self.alpha * (1 - discouraging), discouraging

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = at_least_float32(logits)
        encouraging, discouraging = (F.pad(w, (0, 1), value=1.0) for w in self.weights())
        own = logits.gather(1, labels[:, None])[:, 0]
        losses = F.softplus(logits) * discouraging  # a matmul would be in half precision
        of_own = encouraging[labels] * F.softplus(-own)
        return losses.scatter(1, labels[:, None], of_own[:, None]).sum(dim=1)

    def increment(self, logits: Tensor, batch: Batch) -> Tensor:
        """Sums of the weighted gradients' sizes, encouraging and discouraging, (2, C)."""
        with torch.no_grad():
            encouraging, discouraging = self.weights()
            scores = at_least_float32(logits)[:, :-1].sigmoid()
            own = F.one_hot(batch.labels, self.categories + 1)[:, :-1].to(scores)
            positive = ((1 - scores) * own).sum(dim=0) * encouraging
            negative = scores * (1 - own)
            if batch.weights is not None:
                negative = negative * batch.weights[:, None]
            return torch.stack([positive, negative.sum(dim=0) * discouraging])

    def add(self, increment: Tensor) -> None:
        self.gradients += increment
