"""Configurations of two-stage detectors with banks: Faster, Cascade and Mask R-CNN with FPN by
short forms, others by a configuration of MMDetection's."""

from collections.abc import Mapping
from typing import Any

from bacl.backbones import BACKBONES
from bacl.detector import zoo
from bacl.detector.refusals import BOX_HEADS, ROI_HEADS, box_heads, kind, refusal
from bacl.detector.timm_networks import PREFIX, config_of
from bacl.errors import UsageError
from bacl.settings import Detector, Recipe
from bacl.weights import TORCHVISION

_PREPROCESSOR = {
    "type": "DetDataPreprocessor",
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
    "bgr_to_rgb": True,
    "pad_size_divisor": 32,
}

POOLED = 7
"""Height and width of a RoI's pooled features, in cells."""

CASCADE = (
    # foreground IoU, weight of the losses, target stds of the box deltas (Cascade R-CNN)
    (0.5, 1.0, (0.1, 0.1, 0.2, 0.2)),
    (0.6, 0.5, (0.05, 0.05, 0.1, 0.1)),
    (0.7, 0.25, (0.033, 0.033, 0.067, 0.067)),
)


def model_config(
    detector: Detector,
    recipe: Recipe,
    categories: int,
    seed: int,
    resampling: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Configuration of a detector whose box head, or each of its box heads, is a bank; the caller
    adds its `variants`.

    Of a configuration of MMDetection's, all parts stay that the bank does not replace; what
    decides evaluation, and how many proposals train, is the settings'.

    resampling: options of `bacl.detector.resampling`; None for the usual suppression of proposals
    in training.

    Raises:
        UsageError: the configuration cannot carry a bank.
    """
    model = plain_model(detector)
    masks = bool(model["roi_head"].get("mask_head"))
    rpn, test = model["rpn_head"], model.get("test_cfg") or {}
    suppression = {"type": "nms", "iou_threshold": 0.7}
    if resampling and kind(rpn) != "RPNHead":
        raise UsageError(
            f"recipe.proposal_nms: expected a detector whose proposals come from an RPNHead, got "
            f"{kind(rpn)}"
        )
    kept = {name: model[name] for name in ("neck",) if model.get(name)}
    return {
        "data_preprocessor": {**model["data_preprocessor"], "pad_mask": masks},
        "backbone": {**model["backbone"], "init_cfg": _weights(detector, model["backbone"])},
        **kept,
        "rpn_head": {**rpn, "type": "ResamplingRPNHead"} if resampling else rpn,
        "roi_head": _roi_head(model["roi_head"], categories, seed),
        "train_cfg": _training(detector, recipe, model["train_cfg"], seed, resampling),
        "test_cfg": {
            "rpn": {
                "nms": suppression,
                "min_bbox_size": 0,
                **test.get("rpn", {}),
                "nms_pre": detector.test_proposals,
                "max_per_img": detector.test_proposals,
            },
            "rcnn": {
                "mask_thr_binary": 0.5,
                **test.get("rcnn", {}),
                "score_thr": detector.score_threshold,
                "nms": {"type": "nms", "iou_threshold": detector.nms_iou},
                "max_per_img": detector.max_detections,
            },
        },
    }


def plain_model(detector: Detector) -> dict[str, Any]:
    """The detector as MMDetection configures it, without a bank.

    Raises:
        UsageError: the configuration that it names is not there, or cannot carry a bank.
    """
    if detector.config is None:
        return _short_form(detector)
    model = zoo.model_of(detector.config)
    if why := refusal(model):
        raise UsageError(f"detector.config {detector.config}: {why}")
    for part in zoo.parts_of(model):
        if part.get("type") == "MMSyncBN":  # mmcv's, which a single process cannot build
            part["type"] = "SyncBN"
    return model


def has_masks(detector: Detector) -> bool:
    """Whether it predicts masks."""
    return bool(plain_model(detector)["roi_head"].get("mask_head"))


def is_cascade(detector: Detector) -> bool:
    """Whether it has several box heads, one after another."""
    return isinstance(plain_model(detector)["roi_head"]["bbox_head"], list)


def frozen_trunk(model: Mapping[str, Any]) -> list[str]:
    """Parts of a configured detector that the classifier stage freezes: all that h depends on."""
    head = box_heads(model["roi_head"])[0]
    inside = ("shared_convs", "shared_fcs", "cls_convs", "cls_fcs")
    counts = {"num_shared_fcs": 2, **head}
    extractor = model["roi_head"]["bbox_roi_extractor"]
    # others have layers of their own
    learns = kind(extractor) != "SingleRoIExtractor"
    return [
        *(part for part in ("backbone", "neck") if model.get(part)),
        *(
            f"roi_head.{part}"
            for part in ("shared_head", "semantic_head")
            if model["roi_head"].get(part)
        ),
        *(["roi_head.bbox_roi_extractor*"] if learns else []),
        *(f"roi_head.bbox_head*.{part}" for part in inside if counts.get(f"num_{part}")),
    ]


def _weights(detector: Detector, backbone: Mapping[str, Any]) -> dict[str, str] | None:
    """Weights that the backbone starts from, which MMEngine reads."""
    if detector.weights is None:
        return None
    if detector.weights != TORCHVISION:
        return {"type": "Pretrained", "checkpoint": detector.weights}
    if detector.config is None:
        name = BACKBONES[detector.backbone].torchvision
        return {"type": "Pretrained", "checkpoint": f"torchvision://{name}"}
    own = (backbone.get("init_cfg") or {}).get("checkpoint", "")
    if not own.startswith("torchvision://"):
        raise UsageError(
            f"detector.weights: expected a file or null, got torchvision: {detector.config} starts "
            f"from {own or 'no weights'}"
        )
    return {"type": "Pretrained", "checkpoint": own}


def _training(
    detector: Detector,
    recipe: Recipe,
    training: Mapping[str, Any],
    seed: int,
    resampling: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """MMDetection's `train_cfg`, whose draws are keyed by the images' positions."""
    own = detector.model_fields_set if detector.config else ()
    rpn, rcnn = dict(training["rpn"]), training["rcnn"]
    if "rpn_samples" in own:
        rpn["sampler"] = {**rpn["sampler"], "num": detector.rpn_samples}
    stages = [dict(stage) for stage in (rcnn if isinstance(rcnn, list) else [rcnn])]
    for stage, settings in enumerate(stages):
        if "roi_samples" in own:
            settings["sampler"] = {**settings["sampler"], "num": detector.roi_samples}
        if "match_low_quality" in own and detector.match_low_quality is not None:
            low_quality = {"match_low_quality": detector.match_low_quality}
            settings["assigner"] = {**settings["assigner"], **low_quality}
        settings["sampler"] = keyed(settings["sampler"], f"roi{stage or ''}", seed)
    if "sampler" in rpn:
        rpn["sampler"] = keyed(rpn["sampler"], "rpn", seed)
    return {
        "rpn": rpn,
        "rpn_proposal": {
            **training["rpn_proposal"],
            "nms_pre": recipe.proposals_before_nms,
            "max_per_img": recipe.proposals,
            **(resampling or {}),
        },
        "rcnn": stages if isinstance(rcnn, list) else stages[0],
    }


def keyed(sampler: Mapping[str, Any], stream: str, seed: int) -> dict[str, Any]:
    """A sampler of regions, of MMDetection's, whose draws depend on the images' positions."""
    key = {"stream": stream, "seed": seed}
    if kind(sampler) == "RandomSampler":
        return {**sampler, "type": "KeyedRandomSampler", **key}
    if kind(sampler) == "PseudoSampler":  # draws nothing
        return dict(sampler)
    return {"type": "KeyedSampler", "sampler": dict(sampler), **key}


def _roi_head(roi_head: Mapping[str, Any], categories: int, seed: int) -> dict[str, Any]:
    heads = [_bank_head(head, categories, seed) for head in box_heads(roi_head)]
    cascade = isinstance(roi_head["bbox_head"], list)
    if cascade:
        heads = [{**head, "stage": stage} for stage, head in enumerate(heads)]
    found = {**roi_head, "type": ROI_HEADS[kind(roi_head)]}
    found["bbox_head"] = heads if cascade else heads[0]
    if masks := roi_head.get("mask_head"):
        found["mask_head"] = (
            [{**mask, "num_classes": categories} for mask in masks]
            if isinstance(masks, list)
            else {**masks, "num_classes": categories}
        )
    return found


_CLASSIFIER = ("type", "loss_cls", "cls_predictor_cfg", "init_cfg")
"""Options of a box head that the bank's variants stand in for."""


def _bank_head(head: Mapping[str, Any], categories: int, seed: int) -> dict[str, Any]:
    return {
        **BOX_HEADS[kind(head)],
        **{name: value for name, value in head.items() if name not in _CLASSIFIER},
        "type": "BankBBoxHead",
        "num_classes": categories,
        "seed": seed,
    }


def _backbone(name: str) -> tuple[dict[str, Any], tuple[int, ...]]:
    """MMDetection's configuration of a backbone, and the channels of its levels."""
    if name.startswith(PREFIX):
        return config_of(name)
    return BACKBONES[name].config, BACKBONES[name].channels


def _short_form(detector: Detector) -> dict[str, Any]:
    """What `detector.type` and `backbone` are short for."""
    width = detector.neck_channels
    backbone, channels = _backbone(detector.backbone)
    ious = [iou for iou, _, _ in CASCADE] if detector.type == "cascade_rcnn" else [0.5]
    rcnn = [_rcnn_train(detector, iou) for iou in ious]
    return {
        "type": "TwoStageDetector",
        "data_preprocessor": _PREPROCESSOR,
        "backbone": backbone,
        "neck": {
            "type": "FPN",
            "in_channels": list(channels),
            "out_channels": width,
            "num_outs": 5,
        },
        "rpn_head": {
            "type": "RPNHead",
            "in_channels": width,
            "feat_channels": width,
            "anchor_generator": {
                "type": "AnchorGenerator",
                "scales": [detector.anchor_scale],
                "ratios": [0.5, 1.0, 2.0],
                "strides": [4, 8, 16, 32, 64],
            },
            "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True},
            "loss_bbox": {"type": "L1Loss"},
        },
        "roi_head": _short_roi_head(detector),
        "train_cfg": {
            "rpn": {
                "assigner": {
                    "type": "MaxIoUAssigner",
                    "pos_iou_thr": 0.7,
                    "neg_iou_thr": 0.3,
                    "min_pos_iou": 0.3,
                    "match_low_quality": True,
                    "ignore_iof_thr": -1,
                },
                "sampler": {
                    "type": "RandomSampler",
                    "num": detector.rpn_samples,
                    "pos_fraction": 0.5,
                    "add_gt_as_proposals": False,
                },
                "allowed_border": -1,
                "pos_weight": -1,
            },
            "rpn_proposal": {"nms": {"type": "nms", "iou_threshold": 0.7}, "min_bbox_size": 0},
            "rcnn": rcnn if len(rcnn) > 1 else rcnn[0],
        },
    }


def _rcnn_train(detector: Detector, iou: float) -> dict[str, Any]:
    low_quality = detector.match_low_quality
    if low_quality is None:
        low_quality = detector.type != "cascade_rcnn"
    return {
        "assigner": {
            "type": "MaxIoUAssigner",
            "pos_iou_thr": iou,
            "neg_iou_thr": iou,
            "min_pos_iou": iou,
            "match_low_quality": low_quality,
            "ignore_iof_thr": -1,
        },
        "sampler": {
            "type": "RandomSampler",
            "num": detector.roi_samples,
            "pos_fraction": 0.25,
        },
        "mask_size": 28,
        "pos_weight": -1,
    }


def _short_roi_head(detector: Detector) -> dict[str, Any]:
    box_head = {
        "type": "Shared2FCBBoxHead",
        "in_channels": detector.neck_channels,
        "fc_out_channels": detector.fc_channels,
        "roi_feat_size": POOLED,
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_stds": [0.1, 0.1, 0.2, 0.2]},
        "loss_bbox": {"type": "L1Loss"},
    }
    head = {"bbox_roi_extractor": _extractor(detector, POOLED), "bbox_head": box_head}
    if detector.type == "cascade_rcnn":
        return {
            **head,
            "type": "CascadeRoIHead",
            "num_stages": len(CASCADE),
            "stage_loss_weights": [weight for _, weight, _ in CASCADE],
            "bbox_head": [
                {
                    **box_head,
                    "reg_class_agnostic": True,
                    "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_stds": list(stds)},
                    "loss_bbox": {"type": "SmoothL1Loss", "beta": 1.0},
                }
                for _, _, stds in CASCADE
            ],
        }
    if detector.type == "mask_rcnn":
        head |= {
            "mask_roi_extractor": _extractor(detector, 14),
            "mask_head": {
                "type": "FCNMaskHead",
                "num_convs": 4,
                "in_channels": detector.neck_channels,
                "conv_out_channels": detector.neck_channels,
                # as in the released configurations
                "predictor_cfg": {"type": "NormedConv2d", "temperature": 20},
                "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True},
            },
        }
    return {**head, "type": "StandardRoIHead"}


def _extractor(detector: Detector, size: int) -> dict[str, Any]:
    return {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0},
        "out_channels": detector.neck_channels,
        "featmap_strides": [4, 8, 16, 32],
    }
