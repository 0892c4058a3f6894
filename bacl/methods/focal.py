"""Focal loss, Lin et al. 2017."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bacl.precision import at_least_float32
from bacl.variants import METHODS, Batch, Sigmoid


def bias_of(prior: float) -> float:
    """The logit at which a sigmoid is `prior`."""
    return math.log(prior / (1 - prior))


def focal(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """(1 - p_t)^gamma times the binary cross-entropy of each logit; all are of the same shape."""
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if gamma == 0:
        return losses
    wrong = F.logsigmoid(torch.where(targets.bool(), -logits, logits))  # log(1 - p_t)
    return (gamma * wrong).exp() * losses


@METHODS.register_module(name="focal")
class Focal(Sigmoid):
    """Sigmoids whose loss fades where they are right."""

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        gamma: float,
        alpha: float,
        prior: float,
    ) -> None:
        self.prior_bias = bias_of(prior)
        super().__init__(width, categories, generator)
        self.gamma, self.alpha = gamma, alpha

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = at_least_float32(logits)
        targets = F.one_hot(labels, self.categories + 1)[:, :-1].to(logits)
        shares = torch.where(targets.bool(), self.alpha, 1 - self.alpha)
        return (shares * focal(logits, targets, self.gamma)).sum(dim=1)

    def terms(self, logits: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        total, _ = batch.total(self.loss(logits, batch.labels))
        return {"cls": (total, (batch.labels < self.categories).sum())}
