"""Variants: one classifier over the shared RoI features, with its loss, state and probabilities.

N samples, C foreground categories, D feature width; label C is the background.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import Registry
from torch import Tensor, nn

from bacl import fcbl
from bacl.indicators import INDICATORS, Indicator

METHODS = Registry("method", scope="bacl", locations=["bacl.variants"])
"""Methods by the name that experiment files use."""


class Variant(nn.Module):
    """What every method has: a classifier, a loss, probabilities, perhaps state.

    Subclasses set `prior_bias` (the sigmoid prior of the released heads, or 0) and `stock_loss`
    (the `loss_cls` with which MMDetection's own box head scores as this variant does).
    """

    background_columns = 1
    prior_bias = 0.0
    stock_loss: dict[str, Any] = {"type": "CrossEntropyLoss", "use_sigmoid": False}

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        hallucination: dict | None = None,
    ) -> None:
        super().__init__()
        self.categories = categories
        self.hallucination = hallucination
        self.fc_cls = nn.Linear(width, categories + self.background_columns)
        nn.init.normal_(self.fc_cls.weight, std=0.01, generator=generator)
        nn.init.constant_(self.fc_cls.bias, self.prior_bias)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of each sample (N,), summed over its columns, of logits (N, C + 1) and labels (N,).

        The bank sums over samples and divides by their number.
        """
        raise NotImplementedError

    def probabilities(self, logits: Tensor) -> Tensor:
        """Scores (N, C + 1) of the variant's logits; the last column is the background's."""
        raise NotImplementedError

    def increment(self, logits: Tensor, labels: Tensor) -> Tensor | None:
        """What the step's samples add to the variant's state, to be summed over ranks."""
        return None

    def add(self, increment: Tensor) -> None:
        """Take in the increment of all ranks, after the step's loss."""

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Take in the samples of the step where there are no other ranks."""

    def strength(self) -> Tensor:
        """Long-term indicator l_i in [0, 1], shape (C,), where the variant has one."""
        raise NotImplementedError

    def change(self, field: str, value: Any) -> None:
        """Go on with another value of a setting, one of `bacl.settings.CHANGEABLE`."""
        if self.hallucination and field.startswith("hallucination."):
            self.hallucination = {**self.hallucination, field.split(".")[1]: value}
        else:
            setattr(self, field, value)


@METHODS.register_module(name="softmax")
class Softmax(Variant):
    """Cross-entropy with a background column: the plain detector."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), labels, reduction="none")

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(dim=1)


@METHODS.register_module(name="sigmoid")
class Sigmoid(Variant):
    """Sigmoid classifier without a background column: background samples have no target."""

    background_columns = 0
    prior_bias = -math.log(0.999 / 0.001)
    stock_loss = {"type": "SigmoidLoss"}

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        targets = F.one_hot(labels, self.categories + 1)[:, :-1].float()
        losses = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
        return losses.sum(dim=1)

    def probabilities(self, logits: Tensor) -> Tensor:
        return F.pad(logits.float().sigmoid(), (0, 1))


@METHODS.register_module(name="bce")
class BCE(Variant):
    """Sigmoid classifier with objectness, Eqs. (2)-(5)."""

    prior_bias = -math.log(0.999 / 0.001)
    stock_loss = {"type": "SigmoidObjectnessLoss"}

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return fcbl.bce(logits, labels)

    def probabilities(self, logits: Tensor) -> Tensor:
        return fcbl.probabilities(logits)


@METHODS.register_module(name="fcbl")
@METHODS.register_module(name="bacl")
class FCBL(BCE):
    """FCBL, section III-D, guided by a long-term indicator; with hallucination it is BACL.

    The margin uses the indicator as it was before the step and the weight term the step's own
    scores; the indicator is updated after the loss (design.md; Algorithm 1 lists the update first).
    """

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        alpha: float,
        threshold: float,
        weight_term: str,
        indicator: str,
        gamma: float,
        hallucination: dict | None = None,
        category_counts: dict[str, list[int]] | None = None,
    ) -> None:
        super().__init__(width, categories, generator, hallucination)
        self.alpha = alpha
        self.threshold = threshold
        self.weight_term = weight_term
        build = INDICATORS.get(indicator)
        self.indicator: Indicator = build(
            categories=categories, gamma=gamma, **(category_counts or {})
        )

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        delta = None
        if self.alpha:
            own, other = self.indicator.pairwise(labels[labels < self.categories])
            delta = fcbl.margin(own, other, self.alpha)
        return fcbl.fcbl(logits, labels, delta, self.threshold, self.weight_term)

    def increment(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.indicator.increment(logits, labels)

    def add(self, increment: Tensor) -> None:
        self.indicator.add(increment)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        self.indicator.update(logits, labels)

    def strength(self) -> Tensor:
        return self.indicator.strength()

    def change(self, field: str, value: Any) -> None:
        super().change(field, value)
        if field == "gamma" and hasattr(self.indicator, "gamma"):
            self.indicator.gamma = value


def build_variant(
    settings: dict[str, Any], width: int, categories: int, generator: torch.Generator
) -> Variant:
    """A variant from its plain settings, e.g. `{"method": "fcbl", "alpha": 0.85, ...}`.

    Its classifier is initialised from `generator`, whatever else is built before it.
    """
    options = dict(settings)
    method = METHODS.get(options.pop("method"))
    return method(width, categories, generator, **options)
