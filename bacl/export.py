"""A bank's variants as plain detectors of MMDetection's own types."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bacl.config import bank_heads, config_text, stock_config
from bacl.variants import METHODS


def variant_state(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights of a stock detector with one variant's classifier, from a bank's."""
    mine = re.compile(rf"\.variants\.{re.escape(name)}\.fc_cls\.")
    return {
        mine.sub(".fc_cls.", key): value
        for key, value in state.items()
        if mine.search(key) or (".variants." not in key and ".statistics." not in key)
    }


def export_variants(
    config: Mapping[str, Any], state: Mapping[str, Tensor], classes: Sequence[str], folder: Path
) -> None:
    """Write `<folder>/<variant>/config.py` and `checkpoint.pth` for every variant of a bank.

    config: what `bacl.config.stage_config` made; state: the bank's weights; classes: category
    names in the order of labels. `mmdet.apis.init_detector(config, checkpoint)` reads the two.
    """

    for name, settings in bank_heads(config)[0]["variants"].items():
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        stock = stock_config(config, METHODS.get(settings["method"]).stock_loss)
        (target / "config.py").write_text(config_text(stock), encoding="utf-8")
        torch.save(
            {
                "state_dict": variant_state(state, name),
                "meta": {"dataset_meta": {"classes": tuple(classes)}, "variant": settings},
            },
            target / "checkpoint.pth",
        )
