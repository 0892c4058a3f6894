"""Masks of annotations: conversion of a file's `segmentation`, and what is wrong with it.

A mask is a list of polygons, arrays (2 x points,) of x, y, x, y, ..., or the bytes of COCO's
compressed run-length encoding (RLE) of its whole image, or None where there is none.
"""

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from bacl import rle
from bacl.datasets.content import Content

Mask = list[NDArray[Any]] | bytes

LEAST_POINTS = 3
"""Least number of points of a polygon with an area."""


def compact(item: dict[str, Any]) -> dict[str, Any]:
    """An object of an annotation file with polygons as arrays, which take a quarter of the memory
    of lists."""
    given = item.get("segmentation")
    if isinstance(given, list) and not all(isinstance(polygon, np.ndarray) for polygon in given):
        polygons = [as_polygon(polygon) for polygon in given]
        if all(polygon is not None for polygon in polygons):
            item["segmentation"] = polygons
    return item


def as_polygon(given: Any) -> NDArray[Any] | None:
    """A list of numbers as an array of doubles; None where it is not a list of numbers."""
    try:
        numbers = np.asarray(given)
    except ValueError:  # lists of several lengths
        return None
    return (
        numbers.astype(np.float64, copy=False)
        if numbers.ndim == 1 and numbers.dtype.kind in "iuf"
        else None
    )


def understand(content: Content) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Make `segmentation` of each annotation a `Mask`, or leave it out where there is none.

    A polygon of fewer than three points has no area, so it is left out. A segmentation without
    another polygon is left out as a whole.

    Returns:
        Ids of the annotations by a description of what is wrong, and by one of what was left out.
    """
    wrong: dict[str, list[Any]] = defaultdict(list)
    left_out: dict[str, list[Any]] = defaultdict(list)
    encoded: list[tuple[dict[str, Any], bytes, int]] = []
    for annotation in content.annotations:
        given = annotation.pop("segmentation", None)
        image = content.images[annotation["image"]]
        width, height = image["width"], image["height"]
        if given is None or (isinstance(given, list | dict) and not given):
            continue
        if isinstance(given, list):
            problem = _polygons_problem(given)
            if problem:
                wrong[problem].append(annotation["id"])
                continue
            kept = [polygon for polygon in given if len(polygon) >= 2 * LEAST_POINTS]
            if len(kept) < len(given):
                words = "polygons of fewer than three points, which have no area and are left out"
                left_out[words].append(annotation["id"])
            if kept:
                annotation["segmentation"] = kept
            continue
        counts, problem = _counts(given, width, height)
        if counts is None:
            wrong[problem].append(annotation["id"])
        else:
            encoded.append((annotation, counts, width * height))
    covered, _ = rle.measure([counts for _, counts, _ in encoded])
    for (annotation, counts, pixels), runs in zip(encoded, covered.tolist(), strict=True):
        if runs == pixels:
            annotation["segmentation"] = counts
        else:
            wrong["RLE whose runs do not fill the image"].append(annotation["id"])
    return wrong, left_out


def _polygons_problem(given: list[Any]) -> str:
    """Description of what is wrong with a list that should hold polygons; "" where nothing is."""
    if not all(isinstance(p, np.ndarray) and np.isfinite(p).all() for p in given):
        return "segmentations that are neither lists of finite numbers nor COCO's RLE"
    if any(len(polygon) % 2 for polygon in given):
        return "polygons with an odd number of coordinates"
    return ""


def _counts(given: Any, width: int, height: int) -> tuple[bytes | None, str]:
    """The counts of an RLE of an image, compressed, and ""; or None and a description of what is
    wrong."""
    size, counts = (
        (given.get(k) for k in ("size", "counts")) if isinstance(given, dict) else 2 * [0]
    )
    if not isinstance(size, list) or not isinstance(counts, str | list):
        return None, "segmentations that are neither lists of finite numbers nor COCO's RLE"
    if size != [height, width]:
        return None, "RLE of another size than their image's"
    if isinstance(counts, str):
        return counts.encode(errors="replace"), ""
    if not all(type(run) is int and 0 <= run <= width * height for run in counts):
        return None, "RLE whose runs do not fill the image"
    if sum(counts) != width * height:  # checked before pycocotools, which accepts any runs
        return None, "RLE whose runs do not fill the image"
    return coco.frPyObjects({"counts": counts, "size": size}, height, width)["counts"], ""


def as_coco(mask: Mask, width: int, height: int) -> list[Any] | dict[str, Any]:
    """Value of a mask in COCO's JSON."""
    if isinstance(mask, bytes):
        return {"size": [height, width], "counts": mask.decode("ascii")}
    return [polygon.tolist() for polygon in mask]
