"""Rules for boxes: which are trained on, which are clipped and which count as instances.

Training boxes are clipped to their image; those without area inside it are left out of training and
of all counts. The validation split's boxes stay as they are, because lvis-api and pycocotools use
them unchanged. All boxes that are left out or changed are reported.

N annotations, I images.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from bacl.datasets.content import Content, Tally

VISIBLE = 0.5
"""Pixels by which a box must reach out of its image to be reported; less is taken for rounding."""
SHARES = 1.01
"""Largest coordinate, with rounding, at which boxes are taken for fractions of the image's
sides."""


def clipped(box: Sequence[float], width: int, height: int) -> list[float]:
    """The part of a box (x, y, width, height) inside an image; a side is 0 or less where there is
    none."""
    x, y, w, h = box
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    if x1 == x and y1 == y and x2 == x + w and y2 == y + h:
        return list(box)
    return [x1, y1, x2 - x1, y2 - y1]


def problems(content: Content, path: Path) -> list[str]:
    """A sentence if the boxes of a split cannot be in pixels; no sentence otherwise.

    YOLO's boxes, for example, lie within 0 to 1; taken as pixels, they would all be in the corner
    pixel.
    """
    boxes = [annotation["bbox"] for annotation in content.annotations]
    pixels = all(min(image["width"], image["height"]) > 2 for image in content.images)
    shares = all(min(b) >= 0 and b[0] + b[2] <= SHARES and b[1] + b[3] <= SHARES for b in boxes)
    if not (boxes and pixels and shares):
        return []
    return [
        f"{path}: annotations: bbox: expected pixels x, y, width, height, got {len(boxes):,} boxes "
        "that all lie within 0 and 1, as shares of the image's sides do: multiply x and width by "
        "the image's width, y and height by its height"
    ]


def examine(
    content: Content,
    path: Path,
    split: Literal["train", "val"],
    evaluation: Literal["lvis", "coco"],
) -> Tally:
    """Irregular boxes of a split, by annotation id, and how each kind is treated.

    evaluation: the rules by which the boxes of the validation split count.
    """
    odd = Tally(path.name, "annotation")
    judge = {"lvis": "lvis-api", "coco": "pycocotools"}[evaluation]
    here = {
        "train": ("which training leaves out", "which training clips"),
        "val": (f"which evaluation takes as {judge} does",) * 2,
    }[split]
    tiny = (
        "which training leaves out unless recipe.smallest_box is smaller"
        if split == "train"
        else here[0]
    )
    for annotation in content.annotations:
        image = content.images[annotation["image"]]
        width, height, number = image["width"], image["height"], annotation["id"]
        x, y, w, h = annotation["bbox"]
        if w <= 0 or h <= 0:
            odd.add(f"boxes without area, {here[0]}", number)
        elif x >= width or y >= height or x + w <= 0 or y + h <= 0:
            odd.add(f"boxes outside of their image, {here[0]}", number)
        elif max(-x, -y, x + w - width, y + h - height) > VISIBLE:
            odd.add(f"boxes (x, y, width, height) that reach out of their image, {here[1]}", number)
        elif w < 1 or h < 1:
            odd.add(f"boxes with a side under a pixel, {tiny}", number)
        if w > 0 and h > 0 and (area := annotation.get("area")) is not None:
            if area <= 0:
                odd.add("areas of 0 or less, in whose place their box's is taken", number)
            elif area > (w + 1) * (h + 1):
                odd.add("areas larger than their box", number)
    return odd


def area(annotation: dict[str, Any]) -> float:
    """The area of an annotation: the one given, or that of its box if none or a non-positive one is
    given.

    lvis-api ignores annotations without area, so all would be lost of a file whose converter writes
    0.
    """
    own: float | None = annotation.get("area")
    w, h = annotation["bbox"][2:]
    return w * h if own is None or own <= 0 < min(w, h) else own


def trained(content: Content) -> list[dict[str, Any]]:
    """Annotations to train on, their boxes inside the image."""
    kept = []
    for annotation in content.annotations:
        image = content.images[annotation["image"]]
        box = clipped(annotation["bbox"], image["width"], image["height"])
        if box[2] > 0 and box[3] > 0:
            kept.append(annotation if box == annotation["bbox"] else annotation | {"bbox": box})
    return kept
