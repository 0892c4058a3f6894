"""Variants as detectors that MMDetection runs where BACL is not installed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmdet.visualization import get_palette

from bacl.datasets.prepared import Prepared
from bacl.detector.plain import plain_detector, plain_text
from bacl_platform.inference.detector import Detector
from bacl_platform.store.names import CHECKPOINT

CONFIG = "config.py"


def write(
    folder: Path,
    detector: Detector,
    settings: Mapping[str, Any],
    prepared: Prepared,
    facts: Mapping[str, Any],
) -> None:
    """Write config.py and checkpoint.pth of a detector to a folder that exists.

    The configuration is a whole one: MMDetection's tools/test.py evaluates the detector with it on
    the validation split, as `prepared` has it. settings: of the variant. facts: kept in the
    checkpoint's `meta`.

    Raises:
        UsageError: MMDetection has no type for a part, or for the variant's scores.
    """
    config = detector.model.cfg.to_dict()
    model, state = plain_detector(config, detector.model, settings)
    whole = {
        "default_scope": "mmdet",
        "model": model,
        **_evaluation(config, detector, prepared, bool(model["roi_head"].get("mask_head"))),
        "visualizer": config["visualizer"],
        "log_level": "INFO",
    }
    (folder / CONFIG).write_text(plain_text(whole), encoding="utf-8")
    named = {
        "classes": tuple(detector.categories),
        "category_ids": detector.category_ids,
        "palette": "random",
    }
    meta = {"dataset_meta": named, **facts}
    torch.save({"state_dict": state, "meta": meta}, folder / CHECKPOINT)


def _evaluation(
    config: Mapping[str, Any], detector: Detector, prepared: Prepared, masks: bool
) -> dict[str, Any]:
    """What MMDetection's test loop needs: the validation split, and COCO's or LVIS's metrics."""
    names, split = list(detector.categories), prepared.val
    annotations, images = (str(Path(path).absolute()) for path in (split.annotations, split.images))
    what = ["bbox", "segm"] if masks and split.masks else ["bbox"]
    # COCO's own colours are too few for LVIS
    colours = [tuple(map(int, colour)) for colour in get_palette("random", len(names))]
    metric = "LVISMetric" if prepared.evaluation == "lvis" else "CocoMetric"
    return {
        "test_dataloader": {
            "batch_size": 1,
            "num_workers": 2,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "dataset": {
                "type": "CocoDataset",
                "metainfo": {"classes": names, "palette": colours},
                "ann_file": annotations,
                "data_prefix": {"img": images},
                "test_mode": True,
                "pipeline": config["test_dataloader"]["dataset"]["pipeline"],
            },
        },
        "test_evaluator": {"type": metric, "ann_file": annotations, "metric": what},
        "test_cfg": {"type": "TestLoop"},
    }
