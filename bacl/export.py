"""Export of a bank's variants as stock MMDetection detectors."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bacl.config import bank_heads, config_text, stock_config
from bacl.datasets.categories import Category
from bacl.variants import METHODS, Variant


def stock_classifier(settings: Mapping[str, Any], categories: int) -> dict[str, Any]:
    """Options with which MMDetection's box head gives the scores of a variant with these settings.

    A linear classifier whose scores a `loss_cls` can compute is exported as such; any other is
    exported as the whole variant.
    """
    loss = METHODS.get(settings["method"]).exported(settings)
    if loss is not None:
        return {"loss_cls": dict(loss)}
    own = {"settings": dict(settings), "categories": categories}
    return {
        "type": "VariantBBoxHead",
        "cls_predictor_cfg": {"type": "VariantClassifier", **own},
        "loss_cls": {"type": "VariantLoss", **own},
    }


def variant_state(
    state: Mapping[str, Tensor],
    name: str,
    whole: bool = False,
    left_out: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Tensor]:
    """Weights of a stock detector with one variant's classifier, from a bank's weights. whole:
    export the whole variant, except its modules `left_out`, because its classifier alone does not
    give its scores. settings: of the variant, where its method may make a classifier of more than
    its `fc_cls`."""
    mine = re.compile(rf"(?P<head>.*)\.variants\.{re.escape(name)}\.(?P<rest>.+)")
    kept = {k: v for k, v in state.items() if ".variants." not in k and ".statistics." not in k}
    own: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        if (match := mine.fullmatch(key)) and not any(f".{part}." in key for part in left_out):
            own.setdefault(match["head"], {})[match["rest"]] = value
    method = Variant if settings is None else METHODS.get(settings["method"])
    for head, values in own.items():
        target = f"{head}.fc_cls.variant." if whole else f"{head}.fc_cls."
        found = values if whole else method.stock_state(settings or {}, values)
        kept |= {f"{target}{rest}": value for rest, value in found.items()}
    return kept


def export_variants(
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    categories: Sequence[Category],
    folder: Path,
) -> None:
    """Write `<folder>/<variant>/config.py` and `checkpoint.pth` for every variant of a bank.

    config: what `bacl.config.stage_config` made; state: the bank's weights; categories: in the
    order of labels, for their names and the annotation file's ids.
    `mmdet.apis.init_detector` and `DetInferencer` read the two files.
    """

    head = bank_heads(config)[0]
    named = {
        "classes": tuple(category.name for category in categories),
        "category_ids": [category.id for category in categories],
        "palette": "random",
    }
    for name, settings in head["variants"].items():
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        classifier = stock_classifier(settings, head["num_classes"])
        stock = stock_config(config, classifier)
        (target / "config.py").write_text(config_text(stock), encoding="utf-8")
        torch.save(
            {
                "state_dict": variant_state(
                    state,
                    name,
                    "cls_predictor_cfg" in classifier,
                    METHODS.get(settings["method"]).training_only,
                    settings,
                ),
                "meta": {"dataset_meta": named, "variant": settings},
            },
            target / "checkpoint.pth",
        )
