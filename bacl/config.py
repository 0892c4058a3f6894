"""From settings to the mmengine configuration of a stage: plain dicts that a `Runner` takes.

The configuration is saved with each job; anyone can run it again by hand with mmengine alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bacl.datasets.annotations import Prepared
from bacl.settings import Detector, Recipe, Variant

FROZEN_TRUNK = ("backbone", "neck", "roi_head.bbox_head.shared_fcs")
"""What the classifier stage freezes, section III-A: the RoI feature extractor."""

_PREPROCESSOR = {
    "type": "DetDataPreprocessor",
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
    "bgr_to_rgb": True,
    "pad_size_divisor": 32,
}


def stage_config(
    detector: Detector,
    prepared: Prepared,
    dataset_info: Path,
    recipe: Recipe,
    variants: Mapping[str, Variant],
    freeze: list[str],
    seed: int,
    workers: int,
) -> dict[str, Any]:
    """The configuration of one stage's training with a bank of `variants` over `workers` ranks.

    dataset_info: path of the prepared dataset's `dataset.json`. The caller adds where to work, how
    ranks are launched and the evaluator's `folder`.
    """
    schedule = recipe.schedule
    images = prepared.train.image_total
    total = schedule.total_iterations(images)
    names = list(variants)
    return {
        "custom_imports": {"imports": ["bacl.register"], "allow_failed_imports": False},
        "default_scope": "mmdet",
        "model": {
            "type": "BankDetector",
            "freeze": freeze,
            **_two_stage(detector, recipe, len(prepared.categories), seed),
            "roi_head": {
                "type": "BankRoIHead",
                **_roi_head(detector),
                "bbox_head": {
                    "type": "BankBBoxHead",
                    **_bbox_head(detector, len(prepared.categories)),
                    "variants": {name: v.model_dump() for name, v in variants.items()},
                    "seed": seed,
                },
            },
        },
        "train_dataloader": {
            "batch_size": schedule.batch // workers,
            "num_workers": recipe.loader_workers,
            "persistent_workers": recipe.loader_workers > 0,
            "sampler": {"type": "OrderedSampler", "batch": schedule.batch, "seed": seed},
            "collate_fn": {"type": "pseudo_collate"},
            "dataset": {
                "type": "LVISFormatDataset",
                "ann_file": prepared.train.annotations,
                "images": prepared.train.images,
                "dataset_info": str(dataset_info),
                "pipeline": _train_pipeline(recipe),
                "seed": seed,
            },
        },
        "val_dataloader": {
            "batch_size": 1,
            "num_workers": recipe.loader_workers,
            "persistent_workers": recipe.loader_workers > 0,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "collate_fn": {"type": "pseudo_collate"},
            "dataset": {
                "type": "LVISFormatDataset",
                "ann_file": prepared.val.annotations,
                "images": prepared.val.images,
                "dataset_info": str(dataset_info),
                "pipeline": test_pipeline(recipe),
                "seed": seed,
                "test_mode": True,
            },
        },
        "val_evaluator": {
            "type": "BankMetric",
            "annotations": prepared.val.annotations,
            "dataset_info": str(dataset_info),
            "variants": names,
            "mode": prepared.evaluation,
        },
        "optim_wrapper": {
            "type": "OptimWrapper",
            "optimizer": {
                "type": "SGD",
                "lr": schedule.scaled_lr,
                "momentum": schedule.momentum,
                "weight_decay": schedule.weight_decay,
            },
        },
        "param_scheduler": [
            *_warmup(schedule.warmup),
            {
                "type": "MultiStepLR",
                "by_epoch": False,
                "begin": 0,
                "end": total,
                "milestones": schedule.milestone_iterations(images),
                "gamma": 0.1,
            },
        ],
        "train_cfg": {
            "type": "IterBasedTrainLoop",
            "max_iters": total,
            "val_interval": recipe.evaluate_every or total,
        },
        "val_cfg": {"type": "ValLoop"},
        "randomness": {"seed": seed},
        "log_level": "WARNING",
    }


def stock_config(config: Mapping[str, Any], loss_cls: Mapping[str, Any]) -> dict[str, Any]:
    """The plain single-variant detector of a stage's configuration, for stock inference.

    config: what `stage_config` made. loss_cls: the variant's `stock_loss`. The result has a model
    of MMDetection's own types and the test pipeline, as `mmdet.apis.init_detector` wants it.
    """
    model = {key: value for key, value in config["model"].items() if key != "freeze"}
    roi_head = dict(model["roi_head"])
    bbox_head = {
        key: value
        for key, value in roi_head["bbox_head"].items()
        if key not in ("variants", "seed")
    }
    model |= {"type": "FasterRCNN"}
    model["train_cfg"] = None
    model["backbone"] = {**model["backbone"], "init_cfg": None}
    roi_head |= {"type": "StandardRoIHead"}
    roi_head["bbox_head"] = {
        **bbox_head,
        "type": "Shared2FCBBoxHead",
        "loss_cls": dict(loss_cls),
    }
    model["roi_head"] = roi_head
    dataset = config["val_dataloader"]["dataset"]
    return {
        "custom_imports": config["custom_imports"],
        "default_scope": "mmdet",
        "model": model,
        "test_dataloader": {"dataset": {"type": "CocoDataset", "pipeline": dataset["pipeline"]}},
    }


def portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without what does not change results: paths, loading, how ranks share.

    Used for a job's key; the dataset enters the key by its digest.
    """
    drop = {
        "ann_file",
        "annotations",
        "images",
        "dataset_info",
        "folder",
        "batch_size",
        "num_workers",
        "persistent_workers",
        "log_level",
        "val_interval",
    }

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: clean(item) for key, item in value.items() if key not in drop}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        return value

    result: dict[str, Any] = clean(config)
    return result


def _warmup(iterations: int) -> list[dict[str, Any]]:
    if not iterations:
        return []
    return [
        {
            "type": "LinearLR",
            "start_factor": 0.001,
            "by_epoch": False,
            "begin": 0,
            "end": iterations,
        }
    ]


def test_pipeline(recipe: Recipe) -> list[dict[str, Any]]:
    """MMDetection's test pipeline at the recipe's scale."""
    return [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": recipe.test_scale, "keep_ratio": True},
        {
            "type": "PackDetInputs",
            "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
        },
    ]


def _train_pipeline(recipe: Recipe) -> list[dict[str, Any]]:
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "position")
    return [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True},
        {"type": "RandomChoiceResize", "scales": recipe.scales, "keep_ratio": True},
        {"type": "RandomFlip", "prob": recipe.flip},
        {"type": "PackDetInputs", "meta_keys": keys},
    ]


def _backbone(detector: Detector) -> dict[str, Any]:
    if detector.backbone == "tiny":
        return {
            "type": "ResNet",
            "depth": 18,
            "base_channels": 16,
            "out_indices": (0, 1, 2, 3),
            "norm_cfg": {"type": "GN", "num_groups": 8},
            "init_cfg": _weights(detector),
        }
    return {
        "type": "ResNet",
        "depth": int(detector.backbone.removeprefix("resnet")),
        "num_stages": 4,
        "out_indices": (0, 1, 2, 3),
        "frozen_stages": 1,
        "norm_cfg": {"type": "BN", "requires_grad": True},
        "norm_eval": True,
        "style": "pytorch",
        "init_cfg": _weights(detector),
    }


def _weights(detector: Detector) -> dict[str, str] | None:
    if detector.weights is None:
        return None
    if detector.weights == "torchvision":
        return {"type": "Pretrained", "checkpoint": f"torchvision://{detector.backbone}"}
    return {"type": "Pretrained", "checkpoint": detector.weights}


def _two_stage(detector: Detector, recipe: Recipe, categories: int, seed: int) -> dict[str, Any]:
    width = detector.neck_channels
    stage = 16 if detector.backbone == "tiny" else 256
    suppression = {"type": "nms", "iou_threshold": 0.7}
    return {
        "data_preprocessor": _PREPROCESSOR,
        "backbone": _backbone(detector),
        "neck": {
            "type": "FPN",
            "in_channels": [stage * 2**level for level in range(4)],
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
                "nms_pre": recipe.proposals,
                "max_per_img": recipe.proposals,
                "nms": suppression,
                "min_bbox_size": 0,
            },
            "rcnn": {
                "assigner": {
                    "type": "MaxIoUAssigner",
                    "pos_iou_thr": 0.5,
                    "neg_iou_thr": 0.5,
                    "min_pos_iou": 0.5,
                    "match_low_quality": False,
                    "ignore_iof_thr": -1,
                },
                "sampler": {
                    "type": "KeyedRandomSampler",
                    "num": detector.roi_samples,
                    "pos_fraction": 0.25,
                    "stream": "roi",
                    "seed": seed,
                },
                "pos_weight": -1,
            },
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
            },
        },
    }


def _roi_head(detector: Detector) -> dict[str, Any]:
    return {
        "bbox_roi_extractor": {
            "type": "SingleRoIExtractor",
            "roi_layer": {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 0},
            "out_channels": detector.neck_channels,
            "featmap_strides": [4, 8, 16, 32],
        },
    }


def _bbox_head(detector: Detector, categories: int) -> dict[str, Any]:
    return {
        "in_channels": detector.neck_channels,
        "fc_out_channels": detector.fc_channels,
        "roi_feat_size": 7,
        "num_classes": categories,
        "bbox_coder": {
            "type": "DeltaXYWHBBoxCoder",
            "target_stds": [0.1, 0.1, 0.2, 0.2],
        },
        "loss_bbox": {"type": "L1Loss"},
    }
