"""Our Copy-Paste against MMDetection's own on the same draws."""

import random

import cv2
import numpy as np
import pytest
import torch
from mmdet.datasets import MultiImageMixDataset
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope

from bacl.datasets import detection, index
from bacl.datasets.categories import Category
from bacl.datasets.copy_paste import CopyPasteDataset
from bacl.datasets.detection import seeded
from bacl.datasets.prepared import Prepared, Split
from bacl.datasets.samplers import Position

SIDE = 64
PACK = {"type": "PackDetInputs", "meta_keys": ("img_id", "position")}
LOAD = [
    {"type": "LoadImageFromFile"},
    {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
    {"type": "RandomFlip", "prob": 0.5},
    {"type": "Pad", "size": (SIDE, SIDE)},
]


@pytest.fixture(autouse=True)
def scope():
    init_default_scope("mmdet")


def triangle(draw):
    """A polygon with its box; some are so large that what they cover is gone."""
    points = [draw.uniform(0, SIDE - 8) for _ in range(6)]
    x1, y1, x2, y2 = min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])
    return [np.array(points)], [x1, y1, x2 - x1, y2 - y1]


@pytest.fixture
def images(tmp_path):
    """Ten images of up to nine objects, the last without any; crowds among them."""
    draw, rows, number = random.Random(0), [], 0
    for i in range(10):
        pixels = np.random.default_rng(i).integers(0, 256, (SIDE - 8, SIDE - 8, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"{i}.png"), pixels)
        annotations = []
        for _ in range(9 - i):
            number += 1
            polygon, box = triangle(draw)
            annotations.append(
                {
                    "id": number,
                    "label": number % 2,
                    "bbox": box,
                    "segmentation": polygon,
                    "iscrowd": int(number % 7 == 0),
                }
            )
        image = {"id": 10 + i, "width": SIDE - 8, "height": SIDE - 8}
        rows.append((image, f"{i}.png", annotations))
    index.write(tmp_path / "train.arrow", rows)
    split = Split(image_total=10, instance_total=number, masks=True)
    categories = [
        Category(id=i, name=name, frequency="f", image_count=1, instance_count=1)
        for i, name in [(1, "cup"), (2, "mug")]
    ]
    Prepared(
        digest="0", evaluation="lvis", train=split, val=split, categories=categories, warnings=[]
    ).save(tmp_path / "dataset.json")
    return {
        "type": "LVISFormatDataset",
        "ann_file": str(tmp_path / "train.arrow"),
        "dataset_info": str(tmp_path / "dataset.json"),
        "images": str(tmp_path),
        "pipeline": LOAD,
        "seed": 4,
    }


def ours(images, keep_masks):
    pipeline = [{"type": "QuickCopyPaste", "keep_masks": keep_masks}, PACK]
    return CopyPasteDataset(images, pipeline, seed=4)


JITTERED = [
    *LOAD[:2],
    {"type": "RandomResize", "scale": (SIDE,) * 2, "ratio_range": (0.8, 1.25), "keep_ratio": True},
    {
        "type": "RandomCrop",
        "crop_type": "absolute_range",
        "crop_size": (SIDE, SIDE),
        "recompute_bbox": True,
        "allow_negative_crop": True,
    },
    {"type": "FilterAnnotations", "min_gt_bbox_wh": (1e-2, 1e-2), "keep_empty": False},
    *LOAD[2:],
]


@pytest.mark.parametrize("pipeline", [LOAD, JITTERED], ids=["plain", "jittered"])
def test_samples_are_mmdetections_to_the_last_bit(images, pipeline, monkeypatch):
    images = {**images, "pipeline": pipeline}
    quick = ours(images, keep_masks=True)
    monkeypatch.setattr(detection, "_in_parts", lambda step: step)
    stock = MultiImageMixDataset(images, [{"type": "CopyPaste", "max_num_pasted": 100}, PACK])
    monkeypatch.undo()
    pasted = hidden = 0
    for number in range(60):
        position = Position(number, number % 10)
        one = quick[position]
        with seeded(4, number, "mix"):
            other = stock[position]
        assert one["inputs"].dtype == torch.uint8
        assert torch.equal(one["inputs"].long(), other["inputs"].long())
        assert one["data_samples"].metainfo == other["data_samples"].metainfo
        for part in ("gt_instances", "ignored_instances"):
            a, b = getattr(one["data_samples"], part), getattr(other["data_samples"], part)
            assert torch.equal(a.bboxes.tensor, b.bboxes.tensor)
            assert torch.equal(a.labels, b.labels)
            assert np.array_equal(a.masks.masks, b.masks.masks)
            assert a.masks.masks.dtype == b.masks.masks.dtype
        total = len(one["data_samples"].gt_instances) + len(one["data_samples"].ignored_instances)
        pasted += total > 9 - number % 10
        hidden += total < 9 - number % 10
    assert pasted > 20 and hidden > 0


def test_sample_without_masks_is_the_same_otherwise(images):
    kept, dropped = ours(images, keep_masks=True), ours(images, keep_masks=False)
    for number in range(20):
        position = Position(number, number % 10)
        one, other = kept[position]["data_samples"], dropped[position]["data_samples"]
        assert torch.equal(one.gt_instances.bboxes.tensor, other.gt_instances.bboxes.tensor)
        assert "masks" in one.gt_instances and "masks" not in other.gt_instances


def test_draws_depend_on_the_position_alone(images):
    first, second = ours(images, False), ours(images, False)
    one = [first[Position(p, p % 10)]["inputs"] for p in range(12)]
    np.random.seed(3)
    other = [second[Position(p, p % 10)]["inputs"] for p in reversed(range(12))]
    assert all(torch.equal(a, b) for a, b in zip(one, other[::-1], strict=True))


def test_samplers_learn_what_images_show(images):
    found = ours(images, False).presence()
    expected = DATASETS.build(images).presence()
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert 9 not in found[0]
