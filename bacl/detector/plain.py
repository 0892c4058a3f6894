"""Detectors of MMDetection's own types alone, for where BACL is not installed.

A store's own exports, `bacl.export`, are MMDetection's detectors with BACL's losses and its
post-processing, which is faster.
"""

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.registry import MODELS, TASK_UTILS
from torch import Tensor, nn

from bacl.config import config_text
from bacl.detector.objectness import register_scores
from bacl.detector.refusals import box_heads
from bacl.detector.zoo import parts_of
from bacl.errors import UsageError
from bacl.methods.cosine import CosineClassifier
from bacl.variants import METHODS, Variant

SAME_SCORE = 1e-6
"""Difference of scores that rounding may make where the same is computed in other steps."""


def plain_detector(
    config: Mapping[str, Any], detector: nn.Module, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Model and weights of the same detector in MMDetection's own types, except that
    `bacl.detector.objectness` has to be registered where `needs_scores` says so.

    config: a configuration of `export_variants`; detector: with the variant's weights; settings: of
    the variant.

    Raises:
        UsageError: MMDetection has no type that does the same as a part, or scores as it does.
    """
    model: dict[str, Any] = copy.deepcopy(dict(config["model"]))
    roi_head: Any = detector.roi_head
    cascade = isinstance(roi_head.bbox_head, nn.ModuleList)
    heads = list(roi_head.bbox_head) if cascade else [roi_head.bbox_head]
    variant = METHODS.get(settings["method"])
    state = {name: value for name, value in detector.state_dict().items() if ".fc_cls." not in name}
    register_scores()
    plain = []
    for number, (head, options) in enumerate(zip(heads, box_heads(model["roi_head"]))):
        classifier = _plain_classifier(head, variant, settings)
        plain.append({**_plain_head(options), **classifier.options})
        prefix = f"roi_head.bbox_head.{number}." if cascade else "roi_head.bbox_head."
        state |= {f"{prefix}{name}": value for name, value in classifier.state.items()}
    model["roi_head"]["bbox_head"] = plain if cascade else plain[0]
    for part in parts_of(model):
        if (place := _foreign(part)) is not None:
            raise UsageError(
                f"{part['type']} of {place}: expected a detector all of whose parts MMDetection "
                "has itself, where the package is not installed; format onnx may do"
            )
    return model, state


def needs_scores(model: Mapping[str, Any]) -> bool:
    """Whether a model of `plain_detector` needs `bacl.detector.objectness`."""
    return any(part.get("type") == "SigmoidWithObjectness" for part in parts_of(dict(model)))


def plain_text(config: Mapping[str, Any]) -> str:
    """Python source of a configuration with a model of `plain_detector`."""
    text = config_text(config)
    if not needs_scores(config["model"]):
        return text
    return f"{inspect.getsource(register_scores)}\n\nregister_scores()\n\n{text}"


@dataclass(frozen=True)
class _Plain:
    options: dict[str, Any]
    """Of the box head."""
    state: dict[str, Tensor]
    """Weights of its classifier and of its loss."""


def _plain_classifier(head: Any, variant: type[Variant], settings: Mapping[str, Any]) -> _Plain:
    loss = variant.plain(settings)
    own = getattr(head.fc_cls, "variant", None)
    classifier = head.fc_cls if own is None else own.source.fc_cls
    predictor = _predictor(classifier)
    if loss is None or predictor is None:
        why = variant.not_plain if loss is None else "its classifier is neither linear nor cosine"
        raise _not_plain(settings, why)
    if loss["type"] != "CrossEntropyLoss":  # which has a column for background and no more
        loss = {**loss, "num_classes": head.num_classes}
    scores: Any = MODELS.build(dict(loss))
    columns = head.num_classes + 1
    if getattr(scores, "custom_cls_channels", False):
        columns = scores.get_cls_channels(head.num_classes)
    found: Any = MODELS.build(
        {**predictor, "in_features": head.cls_last_dim, "out_features": columns}
    )
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            given = getattr(classifier, name)
            parameter.copy_(torch.zeros(()) if given is None else given[:columns])
    _check_scores(head, found, scores, settings)
    state = {f"fc_cls.{name}": value for name, value in found.state_dict().items()}
    state |= {f"loss_cls.{name}": value for name, value in scores.state_dict().items()}
    return _Plain({"cls_predictor_cfg": predictor, "loss_cls": loss}, state)


def _predictor(classifier: nn.Module) -> dict[str, Any] | None:
    """MMDetection's type of a classifier; None where it has none."""
    if type(classifier) is nn.Linear:
        return {"type": "Linear"}
    if type(classifier) is CosineClassifier:
        scale = classifier.scale.item()
        return {"type": "NormedLinear", "temperature": scale, "eps": 1e-12}
    return None


@torch.no_grad()
def _check_scores(
    head: Any, classifier: nn.Module, scores: Any, settings: Mapping[str, Any]
) -> None:
    """Raise UsageError where MMDetection's classifier scores otherwise than a box head with the
    variant, such as one whose method changes what it inherits."""
    weight: Tensor = classifier.weight  # type: ignore[assignment]
    features = torch.randn(64, head.cls_last_dim, generator=torch.Generator().manual_seed(0)).relu()
    features = features.to(weight)
    own = getattr(head.fc_cls, "variant", None)
    if own is not None and own.reads != ("fc2",):
        raise _not_plain(settings, "it reads other layers of a region than MMDetection's box head")
    expected, found = (
        loss.get_activation(logits)
        if getattr(loss, "custom_cls_channels", False)
        else logits.softmax(dim=1)
        for loss, logits in ((head.loss_cls, head.fc_cls(features)), (scores, classifier(features)))
    )
    apart = (expected[:, : head.num_classes] - found[:, : head.num_classes]).abs().max().item()
    if not apart <= SAME_SCORE:
        raise _not_plain(settings, f"its scores differ from those of MMDetection's by {apart:.1e}")


def _not_plain(settings: Mapping[str, Any], why: str) -> UsageError:
    return UsageError(
        f"method {settings['method']}: expected one whose scores MMDetection's own types give, but "
        f"{why}: format onnx or torchscript does it, and so does the store's own export where "
        "BACL is installed"
    )


def _plain_head(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of MMDetection's box head with the layers of a `ConvFCs`."""
    counts = {name: value for name, value in options.items() if name.startswith("num_shared_")}
    branches = [n for n in options if n.startswith("num_cls_") or n.startswith("num_reg_")]
    kept = {name: value for name, value in options.items() if name not in (*counts, *branches)}
    counts = {"num_shared_fcs": 2, **counts, **{name: options[name] for name in branches}}
    used = {name: value for name, value in counts.items() if value}
    if used == {"num_shared_fcs": 2}:
        return {**kept, "type": "Shared2FCBBoxHead"}
    if not used:
        return {**kept, "type": "BBoxHead"}
    return {**kept, **used, "type": "ConvFCBBoxHead"}


def _foreign(part: Mapping[str, Any]) -> str | None:
    """The module of a part's type where it is neither MMDetection's nor torch's."""
    name = part.get("type")
    found = MODELS.get(name) or TASK_UTILS.get(name) if isinstance(name, str) else None
    module = getattr(found, "__module__", "mmdet")
    return None if module.split(".")[0] in ("mmdet", "mmcv", "mmengine", "torch") else module
