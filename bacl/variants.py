"""Variants: one classifier over the shared RoI features, with its loss, state and probabilities.

N samples, C foreground categories, D feature width, K columns of a variant's logits; label C is the
background. The methods of others are in `bacl.methods`, a file each.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import Registry
from torch import Tensor, nn

from bacl import fcbl
from bacl.indicators import INDICATORS, Indicator
from bacl.precision import at_least_float32
from bacl.rows import rows_of, taken

LAYERS = ("pooled", "fc1", "fc2")
"""What variants may read of a RoI: its pooled features, flattened, and what each shared FC makes of
them, D wide, the last of which is h."""

METHODS = Registry("method", scope="bacl", locations=["bacl.variants", "bacl.methods"])
"""Methods by the name that experiment files use."""


@dataclass(frozen=True)
class Batch:
    """A step's samples on this rank, as a variant is shown them."""

    features: Tensor
    """What the variant reads, mostly h (N, D), of the real samples alone."""
    labels: Tensor
    """(N,) in 0..C."""
    images: Tensor
    """Which of the rank's images each sample is in, (N,)."""
    positions: Sequence[int]
    """Positions of the rank's images in the order of training, `bacl.draws`."""
    ids: Sequence[int]
    """Places of the rank's images in the dataset."""
    generator: Callable[..., torch.Generator]
    """Makes the generator of a key, of the variant's own."""
    weights: Tensor | None = None
    """How many samples each stands for, (N,): 0 where it stands for nothing, more than 1 where
    others like it were left out, which only samples of background are; None where each stands for
    itself."""
    drawn_for: Sequence[int] | None = None
    """Labels of the categories that the rank's images were drawn for; None where images were."""
    sampled: Sequence[int] | None = None
    """Samples of each image, where they are known without asking the device."""

    @cached_property
    def sizes(self) -> list[int]:
        """Samples of each image. They are together, in the images' order."""
        if self.sampled is not None:
            return list(self.sampled)
        numbers = self.images.long()
        return numbers.bincount(minlength=len(self.positions)).tolist()

    @property
    def pairs(self) -> list[int]:
        """Numbers of the image pairs whose draws this rank makes: of those that begin with it."""
        return [position // 2 for position in self.positions if position % 2 == 0]

    def of_images(self, samples: Tensor) -> Tensor:
        """How many of each of the rank's images `samples` (N,) holds."""
        images = self.images.long()
        return images.new_zeros(len(self.positions)).index_add_(0, images, samples.long())

    def total(self, losses: Tensor, shares: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Sum of losses (N,), and of how many samples it is; each counts as often as it stands for,
        times its share (N,) where there are any."""
        weights = self.weights if shares is None else shares
        if weights is None:
            return losses.sum(), self.labels.new_full((), len(losses))
        if shares is not None and self.weights is not None:
            weights = shares * self.weights
        return (losses * weights).sum(), weights.sum()

    def few(self, among: Tensor, wanted: Tensor, order: Tensor) -> Tensor:
        """(N,) at most `wanted` of each image's samples `among`, those first by `order` (N,) in
        [0, 1)."""
        return self.rank(among, order) < wanted[self.images.long()]

    def rank(self, among: Tensor, order: Tensor) -> Tensor:
        """Rank (N,) by `order`, in [0, 1), of the samples `among` those of their image; others come
        after any number. A sample that stands for several has the first place of these."""
        if self.weights is not None:
            order = 1 - (1 - order.double()) ** (1 / self.weights.clamp_min(1))
        keys = self.images + order.double() + ~among * len(self.positions)
        ranked = keys.argsort()
        place = torch.empty_like(ranked)
        place[ranked] = torch.arange(len(ranked), device=ranked.device)
        sizes = self.of_images(among)
        place = place - (sizes.cumsum(0) - sizes)[self.images.long()]
        return torch.where(among, place, torch.iinfo(place.dtype).max)

    def uniform(self, columns: int) -> Tensor:
        """(N, columns) in [0, 1), the same whichever rank holds an image."""
        device = self.labels.device
        parts = [
            torch.rand(size, columns, generator=self.generator("loss", position), device=device)
            for size, position in zip(self.sizes, self.positions, strict=True)
        ]
        return torch.cat(parts)

    def with_made(self, labels: Tensor, counted: Tensor) -> "Batch":
        """The batch with made samples behind the real ones: their labels, and which count."""
        real = counted.new_ones(len(self.labels)) if self.weights is None else self.weights
        return replace(
            self,
            labels=torch.cat([self.labels, labels]),
            weights=torch.cat([real, counted.to(real)]),
        )


class Variant(nn.Module):
    """What every method has: a classifier, a loss, probabilities, perhaps state.

    Subclasses set `prior_bias` (the sigmoid prior of the released heads, or 0) and `stock_loss`,
    the `loss_cls` with which MMDetection's own box head scores as this variant does from a linear
    `fc_cls`; None where there is none, and an export carries the variant itself. `plain_loss` is
    the same in MMDetection's own types, for where BACL is not installed, from the first columns of
    `fc_cls`; where there is none, `not_plain` says why.

    Parameters called `fc_cls...` start from those of an earlier stage where the shapes fit; in a
    module `copy`, so do `copy.fc_cls...`, and `copy.shared_fcs...` from the box head's own.
    """

    background_columns = 1
    prior_bias = 0.0
    reads: tuple[str, ...] = ("fc2",)
    """Which of LAYERS are the variant's features, side by side."""
    passes = 1
    """How often RoI features pass the box head; its features are then those of all passes side by
    side. With more than one, the variant has a trunk to itself, and `refine`."""
    stock_loss: dict[str, Any] | None = {"type": "CrossEntropyLoss", "use_sigmoid": False}
    plain_loss: dict[str, Any] | None = {"type": "CrossEntropyLoss", "use_sigmoid": False}
    not_plain = "its scores are not those of any of MMDetection's losses"
    training_only: tuple[str, ...] = ()
    """Names of modules that only training needs; an exported variant has none of them."""

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        hallucination: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.categories = categories
        self.hallucination = hallucination
        self.fc_cls = self.classifier(width, categories + self.background_columns, generator)

    @classmethod
    def exported(cls, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """`stock_loss` of a variant with these settings."""
        return cls.stock_loss

    @classmethod
    def plain(cls, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """`plain_loss` of a variant with these settings."""
        return cls.plain_loss

    @classmethod
    def stock_state(
        cls, settings: Mapping[str, Any], own: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """State of the linear classifier that `stock_loss` goes with, of a variant with these
        settings and the state `own`."""
        place = "fc_cls."
        return {n.removeprefix(place): v for n, v in own.items() if n.startswith(place)}

    def classifier(self, width: int, columns: int, generator: torch.Generator) -> nn.Module:
        """What makes logits (N, columns) of features (N, width), drawn from `generator`."""
        linear = nn.Linear(width, columns)
        nn.init.normal_(linear.weight, std=0.01, generator=generator)
        nn.init.constant_(linear.bias, self.prior_bias)
        return linear

    @property
    def columns(self) -> int:
        """K, at test."""
        return self.categories + self.background_columns

    def logits(self, features: Tensor) -> Tensor:
        """Logits (N, K) of features h (N, D)."""
        logits: Tensor = self.fc_cls(features)
        return logits

    @property
    def source(self) -> "Variant":
        """The variant whose logits `adjusted` makes this one's of: itself, where it is none that
        corrects another."""
        return self

    def adjusted(self, logits: Tensor) -> Tensor:
        """This variant's logits (N, K) of those of `source`."""
        return logits

    def refine(self, pooled: Tensor, features: Tensor, deltas: Tensor) -> Tensor:
        """Pooled RoI features (N, channels, height, width) for the next pass, of those of this one
        and of the variant's features and the box deltas that they gave."""
        raise NotImplementedError

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of each sample (N,), summed over its columns, of logits (N, K) and labels (N,)."""
        raise NotImplementedError

    def terms(self, logits: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """The loss in parts, which are added up: sums over samples, and what each is divided by.

        Both are of this rank; divided is by the mean over ranks. There are always the same parts.
        """
        return {"cls": batch.total(self.loss(logits, batch.labels))}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Scores (N, C + 1) of the variant's logits; the last column is the background's."""
        raise NotImplementedError

    def increment(self, logits: Tensor, batch: Batch) -> Tensor | None:
        """What the step's samples add to the variant's state, to be summed over ranks."""
        return None

    def add(self, increment: Tensor) -> None:
        """Take in the increment of all ranks, after the step's loss."""

    @torch.no_grad()
    def update(self, logits: Tensor, batch: Batch) -> None:
        """Take in the samples of the step where there are no other ranks."""
        if (increment := self.increment(logits, batch)) is not None:
            self.add(increment)

    def strength(self) -> Tensor:
        """Long-term indicator l_i in [0, 1], shape (C,), where the variant has one."""
        raise NotImplementedError

    def change(self, field: str, value: Any) -> None:
        """Go on with another value of a setting, one of `bacl.method_settings.paper.CHANGEABLE`."""
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
    plain_loss = {"type": "CrossEntropyCustomLoss", "use_sigmoid": True}

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = at_least_float32(logits)
        targets = F.one_hot(labels, self.categories + 1)[:, :-1].to(logits)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return losses.sum(dim=1)

    def probabilities(self, logits: Tensor) -> Tensor:
        return F.pad(at_least_float32(logits).sigmoid(), (0, 1))


@METHODS.register_module(name="bce")
class BCE(Variant):
    """Sigmoid classifier with objectness, Eqs. (2)-(5)."""

    prior_bias = -math.log(0.999 / 0.001)
    stock_loss = {"type": "SigmoidObjectnessLoss"}
    plain_loss = {"type": "SigmoidWithObjectness"}

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return fcbl.bce(logits, labels)

    def probabilities(self, logits: Tensor) -> Tensor:
        return fcbl.probabilities(logits)


@METHODS.register_module(name="fcbl")
@METHODS.register_module(name="bacl")
class FCBL(BCE):
    """FCBL, section III-D, guided by a long-term indicator; with hallucination it is BACL.

    The margin uses the indicator as it was before the step and the weight term the step's own
    scores; the indicator is updated after the loss, where Algorithm 1 lists the update first
    (docs/architecture.md).
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
        hallucination: dict[str, Any] | None = None,
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
            rows = rows_of(labels < self.categories)
            own, other = self.indicator.pairwise(taken(labels, rows).clamp_max(self.categories - 1))
            delta = fcbl.margin(own, other, self.alpha)
        return fcbl.fcbl(logits, labels, delta, self.threshold, self.weight_term)

    def increment(self, logits: Tensor, batch: Batch) -> Tensor:
        return self.indicator.increment(logits, batch.labels)

    def add(self, increment: Tensor) -> None:
        self.indicator.add(increment)

    def update(self, logits: Tensor, batch: Batch) -> None:
        self.indicator.update(logits, batch.labels)

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
