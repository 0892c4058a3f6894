"""Metrics of detections by explicit loops over their definitions, for tests.

Everything is taken from the annotation file and from lists of detections as JSON has them.
"""

from collections import defaultdict

import numpy as np
from pycocotools import mask as coco_mask

THRESHOLDS = np.linspace(0.5, 0.95, 10)


def box_iou(a, b):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0, 0.0
    shared = width * height
    return shared / (a[2] * a[3] + b[2] * b[3] - shared), shared / (a[2] * a[3])


def matched(truth, items, federated, overlap=None):
    """Each judged detection as (score, image, category, [right, wrong or passed at each IoU]).

    overlap: IoU of a detection and an annotation, and the share of the detection that is covered.
    """
    overlap = overlap or (lambda item, one: box_iou(item["bbox"], one["bbox"]))
    objects = defaultdict(list)
    for one in truth["annotations"]:
        if not federated or one["area"] > 0:
            objects[one["image_id"], one["category_id"]].append(one)
    images = {image["id"]: image for image in truth["images"]}
    groups = defaultdict(list)
    for item in items:
        groups[item["image_id"], item["category_id"]].append(item)
    found = []
    for (image, category), own in groups.items():
        there = objects[image, category]
        if federated:
            if not there and category not in images[image]["neg_category_ids"]:
                continue
            own = [item for item in own if item["area"] > 0]
        partial = federated and category in images[image]["not_exhaustive_category_ids"]
        own = sorted(own, key=lambda item: -item["score"])
        verdicts = [[] for _ in own]
        for threshold in THRESHOLDS:
            taken = set()
            for item, verdict in zip(own, verdicts, strict=True):
                best, choice = threshold, None
                for one in (o for o in there if not o.get("iscrowd")):
                    iou = overlap(item, one)[0]
                    if one["id"] not in taken and iou >= best:
                        best, choice = iou, one["id"]
                if choice is not None:
                    taken.add(choice)
                    verdict.append("right")
                    continue
                crowds = [o for o in there if o.get("iscrowd")]
                hidden = any(overlap(item, one)[1] >= threshold for one in crowds)
                verdict.append("passed" if partial or hidden else "wrong")
        found += [
            (item["score"], image, category, verdict)
            for item, verdict in zip(own, verdicts, strict=True)
        ]
    return found


def best_of_each(items, most):
    """The `most` best detections of each category."""
    by_category = defaultdict(list)
    for item in items:
        by_category[item["category_id"]].append(item)
    return [
        item
        for own in by_category.values()
        for item in sorted(own, key=lambda item: -item["score"])[:most]
    ]


def average_precision(found, total):
    """The mean over IoU thresholds of the AP of matched detections that are ranked together."""
    found = sorted(found, key=lambda one: -one[0])
    of_thresholds = []
    for step in range(len(THRESHOLDS)):
        points, right, wrong = [], 0, 0
        for *_, verdict in found:
            right += verdict[step] == "right"
            wrong += verdict[step] == "wrong"
            if right + wrong:
                points.append((right / total, right / (right + wrong)))
        heights = [
            max((precision for recall, precision in points if recall >= wanted), default=0.0)
            for wanted in np.linspace(0, 1, 101)
        ]
        of_thresholds.append(sum(heights) / 101)
    return sum(of_thresholds) / len(THRESHOLDS)


def totals(truth, federated):
    """Boxes that count, by category."""
    counts = defaultdict(int)
    for one in truth["annotations"]:
        if not one.get("iscrowd") and (one["area"] > 0 or not federated):
            counts[one["category_id"]] += 1
    return counts


def calibration_error(found, bins=15):
    """By the definition: bins of equal width, each counts by its share of the detections."""
    judged = [(score, v[0] == "right") for score, _, _, v in found if v[0] != "passed"]
    error = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        own = [
            (score, right)
            for score, right in judged
            if low <= score < high or (number == bins - 1 and score == 1)
        ]
        if own:
            confidence = sum(score for score, _ in own) / len(own)
            accuracy = sum(right for _, right in own) / len(own)
            error += len(own) / len(judged) * abs(confidence - accuracy)
    return error


def boundary(mask, share=0.02):
    """The boundary of a mask (H, W), by the definition: pixels of it that have a pixel outside of
    it, or of the image, in the square of that many pixels around them."""
    height, width = mask.shape
    reach = max(1, round(share * np.hypot(height, width)))
    framed = np.pad(mask, reach)
    whole = np.ones_like(mask)
    for y in range(2 * reach + 1):
        for x in range(2 * reach + 1):
            whole &= framed[y : y + height, x : x + width]
    return mask & ~whole


def boundary_iou(one, other):
    """The smaller of the IoU of two masks, as RLE, and of their boundaries."""
    masks = [coco_mask.decode(rle).astype(bool) for rle in (one, other)]

    def iou(a, b):
        union = np.sum(a | b)
        return np.sum(a & b) / union if union else 0.0

    return min(iou(*masks), iou(*(boundary(mask) for mask in masks)))
