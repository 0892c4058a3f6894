"""A stage's detector, begun from the checkpoint that its configuration names."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import bacl.register  # noqa: F401  before anything imports mmdet.models

# isort: split
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings
from torch import Tensor

from bacl.datasets.prepared import Prepared
from bacl.detector.anchors import TorchvisionAnchorGenerator
from bacl.detector.bank import BankBBoxHead, BankDetector
from bacl.detector.imports.fitting import Account, Wanted, take
from bacl.detector.imports.found import Options
from bacl.digests import sha256
from bacl.errors import RunError
from bacl.variants import BCE


def begin(model: BankDetector, config: Mapping[str, Any]) -> Account:
    """Give a bank of one variant the weights of the checkpoint that a stage's configuration names,
    and first values to the parts that begin anew.

    config: what `bacl.config.imported_config` made. Raises RunError where the file is not the one
    that was planned with, or does not fit.
    """
    state, account = _taken(model, config)
    if account.anew:
        model.init_weights()
    model.load_state_dict(state, strict=False)
    return account


def account_of(config: Mapping[str, Any]) -> Account:
    """The account of a stage that has not begun. Raises as `begin` does."""
    with torch.random.fork_rng(devices=[]):
        return _taken(_built(config), config)[1]


def begin_alone(config: Mapping[str, Any]) -> tuple[BankDetector, Account]:
    """The detector of a stage's configuration with the weights of its checkpoint, outside of any
    job. Raises as `begin` does."""
    with torch.random.fork_rng(devices=[]):
        model = _built(config)
        return model, begin(model, config)


def _built(config: Mapping[str, Any]) -> BankDetector:
    import_modules_from_strings(**config["custom_imports"])
    init_default_scope(config["default_scope"])
    model: BankDetector = MODELS.build(ConfigDict(config["model"]))
    return model


def _taken(model: BankDetector, config: Mapping[str, Any]) -> tuple[dict[str, Tensor], Account]:
    said = config["imported"]
    path = Path(said["checkpoint"])
    try:
        same = sha256(path) == said["sha256"]
    except OSError as error:
        raise RunError(f"{path}: expected a file that can be read: {error.strerror}") from None
    if not same:
        raise RunError(f"{path}: expected the file that was planned with, got one that has changed")
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
        deviations=_deviations(config["model"]["roi_head"]["bbox_head"]),
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
    anchors = model.rpn_head.prior_generator
    if account.source == "torchvision" and not isinstance(anchors, TorchvisionAnchorGenerator):
        raise RunError(
            f"{path}: expected `detector.config` to be one whose anchors and batch norm are "
            "torchvision's, such as torchvision_faster-rcnn_r50_fpn, got another"
        )
    if account.source == "detectron2":
        account = replace(account, remarks=[*account.remarks, _unsaid(config["model"])])
    return state, account


def _unsaid(model: Mapping[str, Any]) -> str:
    """What a checkpoint of detectron2 does not say of itself, and so is the configuration's, in a
    sentence."""
    images, backbone = model["data_preprocessor"], model["backbone"]
    order = "RGB" if images.get("bgr_to_rgb") else "BGR"
    mean, deviation = (", ".join(f"{v:g}" for v in images[name]) for name in ("mean", "std"))
    return (
        f"images are {order} with a mean of {mean} and a deviation of {deviation}, and the "
        f"backbone's style is {backbone.get('style', 'not said')}, as `detector.config` has it: "
        "most of detectron2's are BGR with 103.53, 116.28, 123.675 and 1, 1, 1, and caffe"
    )


def _deviations(heads: Any) -> dict[str, list[float]]:
    """What box deltas of a cascade are divided by, by the name of the box regressor."""
    return {
        f"roi_head.bbox_head.{stage}.fc_reg": head["bbox_coder"]["target_stds"]
        for stage, head in enumerate(heads if isinstance(heads, list) else [])
        if "target_stds" in head.get("bbox_coder", {})
    }
