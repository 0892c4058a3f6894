"""A stage's detector, begun from the checkpoint that its configuration names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bacl.register  # noqa: F401  before anything imports mmdet.models

# isort: split
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings

from bacl.datasets.prepared import Prepared
from bacl.detector.bank import BankBBoxHead, BankDetector
from bacl.detector.imports.fitting import Account, Wanted, take
from bacl.detector.imports.found import Options
from bacl.digests import sha256
from bacl.errors import RunError
from bacl.variants import BCE


def begin(model: BankDetector, config: Mapping[str, Any]) -> Account:
    """Give a bank of one variant the weights of the checkpoint that a stage's configuration names,
    and their first values to the parts that begin anew.

    config: what `bacl.config.imported_config` made. Raises RunError where the file is not the one
    that was planned with, or does not fit.
    """
    said = config["imported"]
    path = Path(said["checkpoint"])
    try:
        same = sha256(path) == said["sha256"]
    except OSError as error:
        raise RunError(f"{path}: expected a file that can be read: {error.strerror}") from None
    if not same:
        raise RunError(f"{path}: expected the file that was planned with, got one that has changed")
    model.init_weights()
    head = next(module for module in model.modules() if isinstance(module, BankBBoxHead))
    ((name, variant),) = head.bank().items()
    prepared = Prepared.load(Path(config["val_evaluator"]["dataset_info"]))
    pixels = config["model"].get("data_preprocessor", {})
    wanted = Wanted(
        categories=[category.name for category in prepared.categories],
        variant=name,
        background=variant.columns - len(prepared.categories),
        source=said["source"],
        own_categories=said["categories"],
        new_categories=said["new_categories"],
        pixels=(pixels["mean"], pixels["std"]) if "mean" in pixels else None,
        options=Options(said["norm_eps"]),
    )
    state, account = take(path, model.state_dict(), wanted)
    if account.source == "bacl_release" and not isinstance(variant, BCE):
        raise RunError(
            f"{path}: expected `classifier` to be of sigmoids with objectness, as the release's "
            "is: {method: bacl} for a checkpoint of its classifier stage, {method: bce} for one of "
            "its representation stage"
        )
    model.load_state_dict(state, strict=False)
    return account


def account_of(config: Mapping[str, Any]) -> Account:
    """The account of a stage that has not begun. Raises as `begin` does."""
    return begin_alone(config)[1]


def begin_alone(config: Mapping[str, Any]) -> tuple[BankDetector, Account]:
    """The detector of a stage's configuration with the weights of its checkpoint, outside of any
    job. Raises as `begin` does."""
    import_modules_from_strings(**config["custom_imports"])
    init_default_scope(config["default_scope"])
    with torch.random.fork_rng(devices=[]):
        model = MODELS.build(ConfigDict(config["model"]))
        return model, begin(model, config)
