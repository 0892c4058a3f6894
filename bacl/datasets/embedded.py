"""The embedded set: a procedural, long-tailed detection and segmentation set in LVIS v1 format.

Every silhouette comes in three categories: plain (frequent), with a bar across it (common) and
with a dot in it (rare). A rare category therefore looks like a frequent one but for a small mark,
as the paper's tricycle looks like its bicycle; colour, size, angle and background say nothing.
Training images are long-tailed; validation images show every category about equally often, so that
AP of rare categories can be measured at all.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bacl.settings import Dataset

SILHOUETTES = ("circle", "square", "triangle", "diamond", "hexagon", "star", "cross", "arrow")
MARKS = ("plain", "barred", "dotted")
MAX_OBJECTS = 5
DOT, BAR = 0.22, 0.17
"""Radius of a dot and half width of a bar, in radii of the silhouette."""
CONTRAST = 110
"""Difference of a mark from its silhouette's colour, of 255."""


@dataclass(frozen=True)
class _Size:
    side: int
    silhouettes: int
    train_images: int
    val_images: int
    val_images_per_category: int
    counts: tuple[tuple[int, int], ...]
    """Training images of the first and last category of each mark; the others in between."""


SIZES = {
    "standard": _Size(128, 8, 800, 160, 20, ((400, 150), (60, 12), (6, 1))),
    "small": _Size(96, 2, 130, 20, 8, ((120, 105), (40, 20), (8, 3))),
}


def generate(folder: Path, dataset: Dataset) -> None:
    """Write `train.json`, `val.json` and `images/` under `folder`; the same for equal settings."""
    size = SIZES[dataset.size]
    names = [f"{mark}_{shape}" for mark in MARKS for shape in SILHOUETTES[: size.silhouettes]]
    train_counts = np.concatenate(
        [
            np.geomspace(first, last, size.silhouettes).round().astype(int)
            for first, last in size.counts
        ]
    )
    val_counts = np.full(len(names), size.val_images_per_category)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    splits = {}
    for number, (split, images, counts) in enumerate(
        [("train", size.train_images, train_counts), ("val", size.val_images, val_counts)]
    ):
        rng = np.random.default_rng([dataset.seed, number])
        first_id = 1 + number * size.train_images
        splits[split] = _draw_split(folder, rng, size, images, counts, names, first_id)
    categories = _categories(names, splits["train"]["annotations"])
    for split, content in splits.items():
        content = {"info": _info(dataset), **content, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")


def _info(dataset: Dataset) -> dict[str, Any]:
    return {
        "description": "BACL embedded set (procedural)",
        "version": "1",
        "seed": dataset.seed,
        "size": dataset.size,
    }


def _categories(names: list[str], annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for category_id, name in enumerate(names, start=1):
        images = [a["image_id"] for a in annotations if a["category_id"] == category_id]
        image_count = len(set(images))
        rows.append(
            {
                "id": category_id,
                "name": name,
                "synset": f"{name}.n.01",
                "synonyms": [name],
                "def": name.replace("_", " "),
                "image_count": image_count,
                "instance_count": len(images),
                "frequency": "r" if image_count <= 10 else "c" if image_count <= 100 else "f",
            }
        )
    return rows


def _draw_split(
    folder: Path,
    rng: np.random.Generator,
    size: _Size,
    images: int,
    counts: NDArray[Any],
    names: list[str],
    first_id: int,
) -> dict[str, Any]:
    contents = _distribute(rng, images, counts)
    image_rows: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for offset, present in enumerate(contents):
        image_id = first_id + offset
        file_name = f"{image_id:06d}.png"
        picture, masks = _draw_image(rng, size.side, present, names)
        cv2.imwrite(str(folder / "images" / file_name), picture)
        absent = np.setdiff1d(np.arange(len(names)), present)
        verified = rng.random(len(absent)) < 0.7
        # Half of the images with a repeated category leave one instance of it out, and say so.
        repeated = [category for category in set(present) if present.count(category) > 1]
        incomplete = repeated[0] if repeated and rng.random() < 0.5 else None
        left_out = None if incomplete is None else present.index(incomplete)
        for index, (category, mask) in enumerate(zip(present, masks, strict=True)):
            if index != left_out:
                annotation_id = first_id * 100 + len(annotations)
                annotations.append(_annotation(annotation_id, image_id, category, mask))
        image_rows.append(
            {
                "id": image_id,
                "file_name": file_name,
                "coco_url": f"embedded/{file_name}",
                "width": size.side,
                "height": size.side,
                "neg_category_ids": [int(c) + 1 for c in absent[verified]],
                "not_exhaustive_category_ids": [] if incomplete is None else [incomplete + 1],
            }
        )
    return {"images": image_rows, "annotations": annotations}


def _distribute(rng: np.random.Generator, images: int, counts: NDArray[Any]) -> list[list[int]]:
    """Categories of each image: category c in exactly `counts[c]` images, some there twice."""
    contents: list[list[int]] = [[] for _ in range(images)]
    for category in np.argsort(counts):
        load = np.array([len(content) for content in contents]) + rng.random(images)
        for image in np.argsort(load)[: counts[category]]:
            contents[image].append(int(category))
    for content in contents:
        if content and len(content) < MAX_OBJECTS and rng.random() < 0.1:
            content.append(content[rng.integers(len(content))])
    order = rng.permutation(images)
    return [contents[index] for index in order]


def _annotation(
    annotation_id: int, image_id: int, category: int, mask: NDArray[Any]
) -> dict[str, Any]:
    ys, xs = np.nonzero(mask)
    x, y = int(xs.min()), int(ys.min())
    contours, _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    polygons = [c.reshape(-1).tolist() for c in contours if len(c) >= 3]
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category + 1,
        "bbox": [x, y, int(xs.max()) + 1 - x, int(ys.max()) + 1 - y],
        "area": int(mask.sum()),
        "segmentation": polygons,
        "iscrowd": 0,
    }


def _draw_image(
    rng: np.random.Generator, side: int, present: list[int], names: list[str]
) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    """A picture (side, side, 3) and the visible mask of each object in it."""
    picture = _background(rng, side)
    masks: list[NDArray[Any]] = []
    taken = np.zeros((side, side), bool)
    for category in present:
        mark, shape = names[category].split("_")
        for attempt in range(200):
            # Objects shrink when there is no room, so that every object finds its place.
            radius = rng.uniform(0.12, 0.22) * side * 0.985**attempt
            centre = rng.uniform(radius, side - radius, 2)
            silhouette = _fill(side, _outline(shape, rng.uniform(-0.35, 0.35)) * radius + centre)
            if not (silhouette & taken).any():
                break
        masks.append(silhouette)
        taken |= silhouette
        _paint(rng, picture, silhouette, mark, centre, radius)
    noise = rng.normal(0, 6, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8), masks


def _background(rng: np.random.Generator, side: int) -> NDArray[Any]:
    coarse = rng.uniform(60, 190, (4, 4, 3)).astype(np.float32)
    picture = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(2, 6)):
        start, end = (tuple(int(v) for v in rng.integers(0, side, 2)) for _ in range(2))
        colour = rng.uniform(30, 220, 3).tolist()
        cv2.line(picture, start, end, colour, int(rng.integers(1, 3)), cv2.LINE_AA)
    return picture


def _paint(
    rng: np.random.Generator,
    picture: NDArray[Any],
    silhouette: NDArray[Any],
    mark: str,
    centre: NDArray[Any],
    radius: float,
) -> None:
    side = len(picture)
    colour = rng.uniform(0, 255, 3)
    under = picture[silhouette].mean(0)
    if np.abs(colour - under).sum() < 150:
        colour = (colour + 128) % 256
    picture[silhouette] = colour
    contrast = np.where(colour > 128, colour - CONTRAST, colour + CONTRAST)
    grid = np.mgrid[:side, :side]
    dy, dx = grid[0] - centre[1], grid[1] - centre[0]
    if mark == "dotted":
        picture[silhouette & (dx**2 + dy**2 < (DOT * radius) ** 2)] = contrast
    elif mark == "barred":
        picture[silhouette & (np.abs(dy) < BAR * radius)] = contrast


def _fill(side: int, points: NDArray[Any]) -> NDArray[Any]:
    mask = np.zeros((side, side), np.uint8)
    cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 1)
    return mask.astype(bool)


def _outline(shape: str, angle: float) -> NDArray[Any]:
    """Corners of a silhouette of radius 1 about the origin, turned by `angle` radians."""
    corners = {"circle": 32, "square": 4, "triangle": 3, "hexagon": 6, "star": 10, "diamond": 4}
    if shape in corners:
        count = corners[shape]
        inner = {"star": 0.45, "diamond": 0.6}.get(shape, 1.0)
        radii = np.where(np.arange(count) % 2, inner, 1.0)
        turn = 2 * np.pi * np.arange(count) / count - np.pi / (4 if shape == "square" else 2)
    else:
        points = {
            "cross": [
                *[(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1)],
                *[(1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1)],
            ],
            "arrow": [(0, -3), (3, 0.3), (1.2, 0.3), (1.2, 3), (-1.2, 3), (-1.2, 0.3), (-3, 0.3)],
        }[shape]
        corner = np.array(points) / 3.1
        radii, turn = np.hypot(*corner.T), np.arctan2(corner[:, 1], corner[:, 0])
    return radii[:, None] * np.stack([np.cos(turn + angle), np.sin(turn + angle)], axis=1)
