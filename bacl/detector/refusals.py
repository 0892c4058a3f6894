"""Reasons why a detector's configuration cannot carry a bank.

A bank trains many classifiers over one detector. So nothing but the classifiers may learn from
their losses or see their scores while it trains, draws must be keyed by an image's position, and
what a part learns from must be in the annotations.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from bacl.detector.zoo import parts_of

ROI_HEADS = {
    "StandardRoIHead": "BankRoIHead",
    "CascadeRoIHead": "BankCascadeRoIHead",
    "HybridTaskCascadeRoIHead": "BankHybridTaskCascadeRoIHead",
}
"""RoI heads that have a bank's counterpart."""

BOX_HEADS: dict[str, dict[str, int]] = {
    "BBoxHead": {"num_shared_fcs": 0},
    "ConvFCBBoxHead": {"num_shared_fcs": 0},
    "Shared2FCBBoxHead": {},
    "Shared4Conv1FCBBoxHead": {"num_shared_convs": 4, "num_shared_fcs": 1},
}
"""Box heads that a bank replaces, and the options by which they differ from two shared FCs."""

_DETECTORS = ("CascadeRCNN", "FasterRCNN", "HybridTaskCascade", "MaskRCNN", "TwoStageDetector")

_SUPPORTED = (
    "expected a two-stage detector such as Faster, Mask or Cascade R-CNN, with an RPN and a "
    "standard or cascade RoI head"
)

_WHY_NOT = {
    "CrowdDet": "its two predictions of a proposal are matched by their classification losses",
    "DoubleHeadRoIHead": "its classifier and its regressor see different regions",
    "DynamicRoIHead": "its thresholds follow what it has seen, which no checkpoint would hold",
    "FastRCNN": "it takes its proposals from a file instead of an RPN",
    "GridRoIHead": "its boxes come from a grid of points instead of a regressor",
    "MaskScoringRoIHead": "its masks have scores of their own beside the classifier's",
    "PISARoIHead": "its box loss is weighted by the classifier's scores",
    "PanopticFPN": "it segments stuff, which annotations of objects do not have",
    "PointRendRoIHead": "its masks are made point by point from uncertain ones",
    "SABLHead": "its boxes come from buckets instead of a regressor",
    "SCNetRoIHead": "its box heads feed its mask heads and a classifier of whole images",
    "SparseRoIHead": "its queries are matched to objects by the classifier's loss",
    "TridentRoIHead": "its three branches are merged by the classifier's scores",
    "OHEMSampler": "it picks the regions to train on by the classifier's loss",
    "ScoreHLRSampler": "it picks the regions to train on by the classifier's loss",
}

_OPERATORS = {
    "CARAFE": "carafe",
    "CARAFEPack": "carafe",
    "FPN_CARAFE": "carafe",
    "CascadeRPNHead": "deform_conv",
    "DCN": "deform_conv",
    "DCNv2": "modulated_deform_conv",
    "DeformConv2dPack": "deform_conv",
    "DeformRoIPoolPack": "deform_roi_pool",
    "GARPNHead": "deform_conv and masked_conv2d",
    "ModulatedDeformConv2dPack": "modulated_deform_conv",
    "ModulatedDeformRoIPoolPack": "deform_roi_pool",
    "SAC": "deform_conv",
    "carafe": "carafe",
}
"""Compiled operators of mmcv that parts need and torchvision lacks, by the part's type."""


def refusal(model: Mapping[str, Any]) -> str | None:
    """Why a model of MMDetection's cannot carry a bank, in words; None where it can."""
    return next(_reasons(model), None)


def kind(part: Any) -> str:
    """Type of a part, or of the first of several, without the module that it is in."""
    first = part[0] if isinstance(part, list) else part
    return str((first or {}).get("type", "nothing")).rsplit(".", 1)[-1]


def _reasons(model: Mapping[str, Any]) -> Iterator[str]:
    detector, roi_head = kind(model), model.get("roi_head")
    if not roi_head:
        yield f"{detector} classifies no regions: {_SUPPORTED}"
        return
    own_head = kind(roi_head)
    for name in (detector, own_head):
        if name in _WHY_NOT:
            yield f"{name}: {_WHY_NOT[name]}: {_SUPPORTED}"
    if own_head not in ROI_HEADS or detector not in _DETECTORS:
        yield f"{detector} with {own_head} is not known here: {_SUPPORTED}"
    heads = roi_head.get("bbox_head")
    yield from _of_box_heads(heads, isinstance(heads, list))
    yield from _of_regions(model)
    yield from _of_parts(model)


def _of_box_heads(heads: Any, cascade: bool) -> Iterator[str]:
    box_head = kind(heads)
    if box_head not in BOX_HEADS:
        why = _WHY_NOT.get(box_head, "it is not known here")
        yield f"{box_head}: {why}: expected one of {', '.join(BOX_HEADS)}"
    elif cascade and not all(head.get("reg_class_agnostic") for head in heads):
        yield (
            "its cascade refines boxes by the classifier's scores: expected box heads with "
            "reg_class_agnostic=True"
        )


def _of_regions(model: Mapping[str, Any]) -> Iterator[str]:
    training = model.get("train_cfg") or {}
    if "rpn_head" not in model or not training.get("rcnn"):
        yield "it has no RPN, or no settings of training: " + _SUPPORTED
        return
    rcnn = training["rcnn"]
    for settings in rcnn if isinstance(rcnn, list) else [rcnn]:
        if (sampler := kind(settings.get("sampler"))) in _WHY_NOT:
            yield f"{sampler}: {_WHY_NOT[sampler]}: expected RandomSampler"


def _of_parts(model: Mapping[str, Any]) -> Iterator[str]:
    found = dict.fromkeys(str(part.get("type", "")) for part in parts_of(model))
    spec = find_spec("mmcv._ext")
    compiled = spec is not None and spec.loader is not None  # ours is a module without a loader
    for name in found:
        if (operator := _OPERATORS.get(name.rsplit(".", 1)[-1])) and not compiled:
            from bacl.detector.operators import HOW_TO_GET

            yield f"{name} needs mmcv's operators {operator}, which torchvision lacks: {HOW_TO_GET}"
        package = name.split(".", 1)[0] if "." in name else ""
        if package and find_spec(package) is None:
            yield f"{name} is of the package {package}, which is not installed: install it first"


def box_heads(roi_head: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """The box heads of a RoI head's configuration: one, or one for each stage of a cascade."""
    heads = roi_head["bbox_head"]
    return heads if isinstance(heads, list) else [heads]
