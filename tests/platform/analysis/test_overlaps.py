"""Overlaps of one image's detections and ground truth, beside loops over pixels."""

import dataclasses

import numpy as np
import pytest
from pycocotools import mask as coco

from bacl.evaluation import Detections
from bacl_platform.analysis.matching import match
from bacl_platform.analysis.overlaps import overlaps_of

SIDE = 12


def pixel_iou(one, other):
    shared = joined = 0
    for row in range(SIDE):
        for column in range(SIDE):
            shared += bool(one[row, column] and other[row, column])
            joined += bool(one[row, column] or other[row, column])
    return shared / joined if joined else 0


def blots(generator, count):
    """Masks of any shape, some of them in pieces, and empty ones."""
    made = generator.random((count, SIDE, SIDE)) < generator.random((count, 1, 1))
    made[::5] = False
    return made.astype(np.uint8)


def encoded(mask):
    return coco.encode(np.asfortranarray(mask))


@pytest.fixture
def drawn(trial, tmp_path):
    """A split of two images whose masks are pixels at random, a run's detections, and the masks of
    both."""
    generator = np.random.default_rng(0)
    truths, found = blots(generator, 9), blots(generator, 12)
    images = [{"id": k, "file_name": f"{k}.png", "width": SIDE, "height": SIDE} for k in (0, 1)]
    annotations = []
    for number, mask in enumerate(truths):
        rle = encoded(mask)
        annotations.append(
            {
                "id": number + 1,
                "image_id": number % 2,
                "category_id": number % 3,
                "bbox": coco.toBbox(rle).tolist(),
                "area": float(mask.sum()),
                "iscrowd": 0,
                "segmentation": {"size": [SIDE, SIDE], "counts": rle["counts"].decode()},
            }
        )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": trial(0).content["categories"],
    }
    evaluator = dataclasses.replace(trial(0, "coco"), content=content).evaluator(tmp_path)
    rles = [encoded(mask) for mask in found]
    detections = Detections(
        np.arange(len(found)) % 2,
        np.arange(len(found)) % 5,
        generator.random(len(found)),
        np.array([coco.toBbox(rle) for rle in rles]),
        np.array([rle["counts"] for rle in rles], dtype=object),
    )
    return evaluator, detections, truths, found


def test_masks_overlap_as_their_pixels_do(drawn):
    evaluator, detections, truths, found = drawn
    matched = match(evaluator, detections, "segm", 1)
    overlaps = overlaps_of(matched, evaluator, detections, "segm")
    for image in (0, 1):
        some = np.flatnonzero(matched.image == image)
        boxes = np.flatnonzero(matched.truth.image == image)
        expected = [
            [pixel_iou(found[matched.row[one]], truths[matched.truth.id[box] - 1]) for box in boxes]
            for one in some
        ]
        assert np.ptp(expected) > 0.3
        np.testing.assert_allclose(overlaps(some, boxes), expected, atol=1e-12)


def test_nothing_overlaps_with_nothing(drawn):
    evaluator, detections, _, _ = drawn
    none, some = np.zeros(0, dtype=int), np.arange(3)
    for iou in ("bbox", "segm"):
        overlaps = overlaps_of(match(evaluator, detections, iou, 1), evaluator, detections, iou)
        assert overlaps(none, some).shape == (0, 3)
        assert overlaps(some, none).shape == (3, 0)
