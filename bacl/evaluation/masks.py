"""Overlap of masks, and of their boundaries (Cheng et al. 2021, "Boundary IoU").

N detections, G masks of the ground truth, P pairs of a detection and a mask of its image and
category, H x W pixels of an image.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from bacl.evaluation.matching import Boxes, Overlap

BOUNDARY = 0.02
"""Width of a boundary as a share of the image's diagonal, as for COCO and LVIS."""

Rle = dict[str, Any]
"""A mask as pycocotools' `{"size": [H, W], "counts": bytes}`."""
Numbered = Callable[[int], Rle]
"""Masks by number, those of detections or of the ground truth."""


def mask_overlap(found: Numbered, truth: Boxes, masks: Numbered) -> Overlap:
    """IoU of masks: of detections, and of the ground truth."""

    def overlap(detection: NDArray[Any], box: NDArray[Any]) -> NDArray[Any]:
        iou = np.zeros(len(detection))
        for pairs in _groups(truth, box):
            detections, boxes = np.unique(detection[pairs]), np.unique(box[pairs])
            each = coco.iou(
                [found(number) for number in detections.tolist()],
                [masks(number) for number in boxes.tolist()],
                truth.crowd[boxes].tolist(),
            )
            places = np.searchsorted(detections, detection[pairs])
            iou[pairs] = each[places, np.searchsorted(boxes, box[pairs])]
        return iou

    return overlap


def boundary_overlap(found: Numbered, truth: Boxes, masks: Numbered, least: float) -> Overlap:
    """The smaller one of the IoU of masks and that of their boundaries, as Boundary AP matches by.

    least: of pairs whose masks overlap by less, boundaries are not looked at.
    """
    of_masks = mask_overlap(found, truth, masks)

    @lru_cache(maxsize=1000)  # the detections of one image's category
    def of_truth(number: int) -> Rle:
        return boundary(masks(number))

    def overlap(detection: NDArray[Any], box: NDArray[Any]) -> NDArray[Any]:
        iou = of_masks(detection, box)
        last, own = -1, Rle()
        for pair in np.flatnonzero(iou >= least).tolist():
            if detection[pair] != last:
                last = int(detection[pair])
                own = boundary(found(last))
            other = of_truth(int(box[pair]))
            crowd = [bool(truth.crowd[box[pair]])]
            iou[pair] = min(iou[pair], coco.iou([own], [other], crowd)[0, 0])
        return iou

    return overlap


def boundary(mask: Rle, share: float = BOUNDARY) -> Rle:
    """The pixels of a mask that are less far from its outline, the image's edge included, than
    `share` of the image's diagonal."""
    height, width = mask["size"]
    distance = max(round(share * math.hypot(height, width)), 1)
    whole: NDArray[np.uint8] = coco.decode(mask)
    x, y, w, h = (int(side) for side in coco.toBbox(mask))
    inside = np.pad(whole[y : y + h, x : x + w], 1)  # what lies outside of the box is no mask
    kernel = np.ones((2 * distance + 1, 2 * distance + 1), dtype=np.uint8)
    whole[y : y + h, x : x + w] -= cv2.erode(inside, kernel)[1:-1, 1:-1] if w * h else 0
    made: Rle = coco.encode(np.asfortranarray(whole))
    return made


def _groups(truth: Boxes, box: NDArray[Any]) -> list[NDArray[Any]]:
    """Numbers of the pairs of each image and category, which follow one another."""
    if not len(box):
        return []
    image, label = truth.image[box], truth.label[box]
    new = np.flatnonzero((np.diff(image) != 0) | (np.diff(label) != 0)) + 1
    return np.split(np.arange(len(box)), new)
