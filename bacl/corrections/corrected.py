"""A trained variant with corrected logits: the base of all corrections.

N regions, C categories, K columns of the trained variant's logits.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bacl.variants import METHODS, Batch, Variant, build_variant

WIDTH = 2
"""Feature width of a variant that is built only for its correction."""


class Corrected(Variant):
    """A trained variant, `base`, whose logits are corrected at test column by column.

    Logits z of a category become `scale` z + `shift`; those of the background stay as they are. The
    scores are what `base` makes of such logits. It does not train: in training its logits are
    those of `base`, and its loss is 0, so that a pass over training images can tell it statistics.
    """

    not_plain = "it corrects the scores of a classifier that is not linear"
    base: Variant

    def __init__(
        self, width: int, categories: int, generator: torch.Generator, base: dict[str, Any], of: str
    ) -> None:
        """base: options of the trained variant's method; of: its name."""
        nn.Module.__init__(self)  # it has no classifier of its own
        self.categories = categories
        self.hallucination = None
        self.of, self.options = of, base
        self.base = build_variant(base, width, categories, generator)
        for name in self.base.training_only:
            delattr(self.base, name)
        self.reads = self.base.reads

    @classmethod
    def exported(cls, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        base = settings["base"]
        return METHODS.get(base["method"]).exported(base)

    @classmethod
    def plain(cls, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        base = settings["base"]
        linear = cls.exported(settings) is not None
        return METHODS.get(base["method"]).plain(base) if linear else None

    @classmethod
    def stock_state(
        cls, settings: Mapping[str, Any], own: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The trained variant's classifier with the correction in its weights and biases."""
        weight, bias = own["base.fc_cls.weight"], own["base.fc_cls.bias"]
        categories = len(bias) - METHODS.get(settings["base"]["method"]).background_columns
        variant = build_variant(dict(settings), WIDTH, categories, torch.Generator())
        mine = {name: value for name, value in own.items() if not name.startswith("base.")}
        variant.load_state_dict(mine, strict=False)
        assert isinstance(variant, Corrected)
        scale, shift = variant.correction()
        if scale is not None:
            scale = _with_background(scale, len(bias), 1.0).to(bias)
            weight, bias = weight * scale[:, None], bias * scale
        if shift is not None:
            bias = bias + _with_background(shift, len(bias), 0.0).to(bias)
        return {"weight": weight, "bias": bias}

    @property
    def columns(self) -> int:
        return self.base.columns

    @property
    def source(self) -> Variant:
        return self.base

    def train(self, mode: bool = True) -> "Corrected":
        super().train(mode)
        self.base.eval()
        return self

    def correction(self) -> tuple[Tensor | None, Tensor | None]:
        """Scale and shift (C,) of the categories' logits; None for a scale of 1 and a shift of
        0."""
        return None, None

    def adjusted(self, logits: Tensor) -> Tensor:
        if self.training:
            return logits
        scale, shift = self.correction()
        if scale is not None:
            logits = logits * _with_background(scale, logits.size(1), 1.0)
        return logits if shift is None else logits + _with_background(shift, logits.size(1), 0.0)

    def logits(self, features: Tensor) -> Tensor:
        return self.adjusted(self.base.logits(features))

    def terms(self, logits: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        return {"cls": batch.total(logits.new_zeros(len(batch.labels)))}

    def probabilities(self, logits: Tensor) -> Tensor:
        return self.base.probabilities(logits)


def _with_background(values: Tensor, columns: int, neutral: float) -> Tensor:
    """Values (C,) of categories, and a neutral one for each column behind them, (columns,)."""
    missing = columns - len(values)
    return torch.cat([values, values.new_full((missing,), neutral)]) if missing else values


def counted(counts: Mapping[str, Any], by: str) -> Tensor:
    """N (C,) of training images or instances, at least 1."""
    return torch.tensor(counts[by], dtype=torch.double).clamp_min(1)


def share_bases(variants: Iterable[Variant]) -> None:
    """Have corrections of the same trained variant hold it once, so that its logits are computed
    once."""
    known: list[Corrected] = []
    for variant in variants:
        if not isinstance(variant, Corrected):
            continue
        alike = (one for one in known if (one.of, one.options) == (variant.of, variant.options))
        if (first := next(alike, None)) is not None:
            variant.base = first.base
        else:
            known.append(variant)
