"""Federated loss, Zhou et al. 2021, as in CenterNet2, Detic and detectron2."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bacl.methods.counts import Counts
from bacl.methods.focal import bias_of
from bacl.precision import at_least_float32
from bacl.variants import METHODS, Batch, Sigmoid


@METHODS.register_module(name="federated")
class Federated(Sigmoid):
    """Sigmoids of which an image trains those of its own categories and of some that are drawn."""

    chances: Tensor

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        power: float,
        prior: float,
        trained: int,
        counts: dict[str, Any],
    ) -> None:
        self.prior_bias = bias_of(prior)
        super().__init__(width, categories, generator)
        self.trained = min(trained, categories)
        images = torch.tensor(Counts(**counts).images, dtype=torch.float)
        chances = torch.where(images > 0, images**power, 0.0)
        self.register_buffer("chances", chances, persistent=False)

    def kept(self, batch: Batch) -> Tensor:
        """Mask (images, C) of the categories that each of the rank's images trains."""
        device = batch.labels.device
        own = torch.zeros(
            len(batch.positions), self.categories + 1, dtype=torch.bool, device=device
        )
        own[batch.images.long(), batch.labels] = True
        own = own[:, :-1]
        pairs = [position // 2 for position in batch.positions]
        drawn = {
            pair: torch.rand(
                self.categories, generator=batch.generator("loss", pair), device=device
            )
            for pair in sorted(set(pairs))
        }
        # the first arrivals at rates `chances` are a draw without replacement by these
        arrivals = -(1 - torch.stack([drawn[pair] for pair in pairs])).log() / self.chances
        arrivals = torch.where(self.chances > 0, arrivals, torch.inf).masked_fill(own, -1)
        last = arrivals.kthvalue(self.trained, dim=1, keepdim=True).values
        return own | (arrivals <= last) & arrivals.isfinite()

    def terms(self, logits: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        logits = at_least_float32(logits)
        targets = F.one_hot(batch.labels, self.categories + 1)[:, :-1].to(logits)
        kept = self.kept(batch)[batch.images.long()].to(logits)
        losses = F.binary_cross_entropy_with_logits(logits, targets, kept, reduction="none")
        return {"cls": batch.total(losses.sum(dim=1))}
