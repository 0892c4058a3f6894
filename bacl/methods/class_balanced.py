"""Class-balanced loss, Cui et al. 2019."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bacl.methods.counts import Counts
from bacl.methods.focal import focal
from bacl.precision import at_least_float32
from bacl.variants import METHODS, Sigmoid, Softmax, Variant

_BASES: dict[str, type[Variant]] = {"softmax": Softmax, "sigmoid": Sigmoid}


@METHODS.register_module(name="class_balanced")
class ClassBalanced(Variant):
    """Softmax or sigmoids, by `base`, with a weight for each sample's label."""

    weights: Tensor

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        beta: float,
        base: str,
        gamma: float,
        counts: dict[str, Any],
    ) -> None:
        self.background_columns = _BASES[base].background_columns
        self.prior_bias = _BASES[base].prior_bias
        super().__init__(width, categories, generator)
        self.base, self.gamma = base, gamma
        weights = F.pad(Counts(**counts).class_balanced(beta), (0, 1), value=1.0)
        self.register_buffer("weights", weights, persistent=False)

    @classmethod
    def exported(cls, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        return _BASES[settings["base"]].stock_loss

    @classmethod
    def plain(cls, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        return _BASES[settings["base"]].plain_loss

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.base == "softmax":
            losses = F.cross_entropy(logits.float(), labels, reduction="none")
        else:
            logits = at_least_float32(logits)
            targets = F.one_hot(labels, self.categories + 1)[:, :-1].to(logits)
            losses = focal(logits, targets, self.gamma).sum(dim=1)
        return self.weights[labels] * losses

    def probabilities(self, logits: Tensor) -> Tensor:
        if self.base == "softmax":
            return logits.float().softmax(dim=1)
        return F.pad(at_least_float32(logits).sigmoid(), (0, 1))
