"""How much detections overlap with the ground truth of their image, of all categories: matching
looks at one category at a time, but a wrong category shows only beside the others.

Letters: W detections and G boxes of the ground truth, all of one image.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from hotcoco.primitives import bbox_iou, mask_iou
from numpy.typing import NDArray

from bacl.evaluation import Detections, Evaluator
from bacl_platform.analysis.matching import Iou, Matched, detected_masks, true_masks

Overlaps = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
"""IoU (W, G) of one image's detections (W,) and boxes (G,), both as places in a `Matched`."""


def overlaps_of(
    matched: Matched, evaluator: Evaluator, detections: Detections, iou: Iou = "bbox"
) -> Overlaps:
    """The overlaps of what has been matched.

    evaluator, detections, iou: as they were matched. Nothing is kept between two calls, so memory
    is that of one image.
    """

    def of_boxes(found: NDArray[Any], truths: NDArray[Any]) -> NDArray[Any]:
        boxes = detections.bbox[matched.row[found]].astype(np.float64)
        return bbox_iou(boxes, matched.truth.bbox[truths], _no_crowd(truths))

    def of_masks(found: NDArray[Any], truths: NDArray[Any]) -> NDArray[Any]:
        masks = detected_masks(evaluator, detections, matched.row[found])
        return mask_iou(masks, true_masks(evaluator, truths), _no_crowd(truths))

    measure = of_masks if iou == "segm" else of_boxes

    def overlaps(found: NDArray[Any], truths: NDArray[Any]) -> NDArray[Any]:
        if not len(found) or not len(truths):
            return np.zeros((len(found), len(truths)))
        return measure(found, truths)

    return overlaps


def _no_crowd(truths: NDArray[Any]) -> NDArray[Any]:
    return np.zeros(len(truths), dtype=bool)
