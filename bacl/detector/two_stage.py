"""Detectors as MMDetection configurations: Faster, Cascade and Mask R-CNN with FPN."""

from typing import Any

from bacl.backbones import BACKBONES
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


def _backbone(detector: Detector) -> dict[str, Any]:
    return {**BACKBONES[detector.backbone].config, "init_cfg": _weights(detector)}


def _weights(detector: Detector) -> dict[str, str] | None:
    if detector.weights is None:
        return None
    if detector.weights == TORCHVISION:
        return {"type": "Pretrained", "checkpoint": f"torchvision://{detector.backbone}"}
    return {"type": "Pretrained", "checkpoint": detector.weights}


def two_stage(
    detector: Detector, recipe: Recipe, seed: int, resampling: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Configuration of a detector without its RoI head. resampling: options of
    `bacl.detector.resampling`; None for the usual suppression of proposals in training."""
    width = detector.neck_channels
    suppression = {"type": "nms", "iou_threshold": 0.7}
    ious = [iou for iou, _, _ in CASCADE] if detector.type == "cascade_rcnn" else [0.5]
    rcnn = [_rcnn_train(detector, iou, stage, seed) for stage, iou in enumerate(ious)]
    return {
        "data_preprocessor": {**_PREPROCESSOR, "pad_mask": detector.type == "mask_rcnn"},
        "backbone": _backbone(detector),
        "neck": {
            "type": "FPN",
            "in_channels": list(BACKBONES[detector.backbone].channels),
            "out_channels": width,
            "num_outs": 5,
        },
        "rpn_head": {
            "type": "ResamplingRPNHead" if resampling else "RPNHead",
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
                    "type": "KeyedRandomSampler",
                    "num": detector.rpn_samples,
                    "pos_fraction": 0.5,
                    "add_gt_as_proposals": False,
                    "stream": "rpn",
                    "seed": seed,
                },
                "allowed_border": -1,
                "pos_weight": -1,
            },
            "rpn_proposal": {
                "nms_pre": recipe.proposals_before_nms,
                "max_per_img": recipe.proposals,
                "nms": suppression,
                "min_bbox_size": 0,
                **(resampling or {}),
            },
            "rcnn": rcnn if len(rcnn) > 1 else rcnn[0],
        },
        "test_cfg": {
            "rpn": {
                "nms_pre": detector.test_proposals,
                "max_per_img": detector.test_proposals,
                "nms": suppression,
                "min_bbox_size": 0,
            },
            "rcnn": {
                "score_thr": detector.score_threshold,
                "nms": {"type": "nms", "iou_threshold": detector.nms_iou},
                "max_per_img": detector.max_detections,
                "mask_thr_binary": 0.5,
            },
        },
    }


def _rcnn_train(detector: Detector, iou: float, stage: int, seed: int) -> dict[str, Any]:
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
            "type": "KeyedRandomSampler",
            "num": detector.roi_samples,
            "pos_fraction": 0.25,
            "stream": f"roi{stage or ''}",
            "seed": seed,
        },
        "mask_size": 28,
        "pos_weight": -1,
    }


def roi_head(detector: Detector, categories: int, bank: dict[str, Any]) -> dict[str, Any]:
    """Configuration of the RoI head with its bank, or with one bank for each stage of a cascade."""
    head = {
        "bbox_roi_extractor": _extractor(detector, POOLED),
        "bbox_head": _bbox_head(detector, categories, bank),
    }
    if detector.type == "cascade_rcnn":
        return {
            **head,
            "type": "BankCascadeRoIHead",
            "num_stages": len(CASCADE),
            "stage_loss_weights": [weight for _, weight, _ in CASCADE],
            "bbox_head": [
                {
                    **head["bbox_head"],
                    "stage": stage,
                    "reg_class_agnostic": True,
                    "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_stds": list(stds)},
                    "loss_bbox": {"type": "SmoothL1Loss", "beta": 1.0},
                }
                for stage, (_, _, stds) in enumerate(CASCADE)
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
                "num_classes": categories,
                # as in the released configurations
                "predictor_cfg": {"type": "NormedConv2d", "temperature": 20},
                "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True},
            },
        }
    return {**head, "type": "BankRoIHead"}


def _extractor(detector: Detector, size: int) -> dict[str, Any]:
    return {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0},
        "out_channels": detector.neck_channels,
        "featmap_strides": [4, 8, 16, 32],
    }


def _bbox_head(detector: Detector, categories: int, bank: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "BankBBoxHead",
        "in_channels": detector.neck_channels,
        "fc_out_channels": detector.fc_channels,
        "roi_feat_size": POOLED,
        "num_classes": categories,
        "bbox_coder": {
            "type": "DeltaXYWHBBoxCoder",
            "target_stds": [0.1, 0.1, 0.2, 0.2],
        },
        "loss_bbox": {"type": "L1Loss"},
        **bank,
    }
