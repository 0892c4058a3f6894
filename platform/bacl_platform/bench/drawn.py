"""Annotation files and photographs of LVIS's shape, drawn from a seed.

Categories are long-tailed, objects have polygons of some fifty points, as LVIS v1.0's have, whose
training split takes a gigabyte. Polygons repeat, which no reader of the file makes use of.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 640, 480
ADDRESS = "http://images.cocodataset.org/"
_SHAPES = 5_000


@dataclass(frozen=True)
class Size:
    """How much a file holds; the defaults are LVIS v1.0's training split."""

    images: int = 100_170
    annotations: int = 1_270_141
    categories: int = 1203
    image_counts: tuple[int, ...] = ()
    """Images of each category; drawn from a long tail where there are none."""
    negatives: int = 2
    """Categories that an image names as absent."""


def write_annotations(path: Path, size: Size, first: int = 1) -> list[str]:
    """Write a file as LVIS v1.0 gives them; returns where its images belong, by `coco_url`.

    first: id of the first image.
    """
    draw = np.random.default_rng(first)
    shapes = [_shape(draw) for _ in range(_SHAPES)]
    owners, labels = _owners_and_labels(draw, size)
    pairs = np.unique(np.stack([owners, labels]), axis=1)
    absent = _absent(draw, size, pairs)
    images = np.bincount(pairs[1], minlength=size.categories).tolist()
    instances = np.bincount(labels, minlength=size.categories).tolist()
    names = [f"train2017/{number:012d}.jpg" for number in range(first, first + size.images)]
    chosen = draw.integers(_SHAPES, size=size.annotations).tolist()

    lists: dict[str, Iterator[str]] = {
        "images": (
            json.dumps(
                {"id": first + n, "width": WIDTH, "height": HEIGHT, "coco_url": ADDRESS + name}
                | {"neg_category_ids": absent[n], "not_exhaustive_category_ids": []}
            )
            for n, name in enumerate(names)
        ),
        "annotations": (
            f'{{"id":{n},"image_id":{first + owner},"category_id":{label + 1},{shapes[shape]}}}'
            for n, (owner, label, shape) in enumerate(
                zip(owners.tolist(), labels.tolist(), chosen), start=1
            )
        ),
        "categories": (
            json.dumps({"id": n + 1, "name": f"category {n}", "image_count": images[n]})[:-1]
            + f', "instance_count": {instances[n]}}}'
            for n in range(size.categories)
        ),
    }
    with path.open("w", encoding="utf-8") as file:
        for number, (name, items) in enumerate(lists.items()):
            file.write(f'{"," if number else "{"}"{name}":[')
            for place, item in enumerate(items):
                file.write(f",{item}" if place else item)
            file.write("]")
        file.write("}")
    return names


def _owners_and_labels(
    draw: np.random.Generator, size: Size
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Image and category of each annotation, by image."""
    crowded = draw.gamma(1, size=size.images)
    crowded /= crowded.sum()
    if not size.image_counts:
        chance = 1 / np.arange(2, 2 + size.categories) ** 1.2
        owners = np.sort(draw.choice(size.images, size.annotations, p=crowded))
        return owners, draw.choice(size.categories, size.annotations, p=chance / chance.sum())
    counts = size.image_counts
    owners = np.concatenate(
        [draw.choice(size.images, count, replace=False, p=crowded) for count in counts]
    )
    labels = np.repeat(np.arange(size.categories), counts)
    again = draw.integers(len(owners), size=size.annotations - len(owners))
    owners, labels = np.append(owners, owners[again]), np.append(labels, labels[again])
    order = np.argsort(owners, kind="stable")
    return owners[order], labels[order]


def _absent(draw: np.random.Generator, size: Size, pairs: NDArray[np.int64]) -> list[list[int]]:
    """Ids of the categories that each image names as absent; pairs (2, P): who has what."""
    present = set((pairs[0] * size.categories + pairs[1]).tolist())
    proposed = draw.integers(size.categories, size=(size.images, size.negatives)).tolist()
    return [
        sorted({label + 1 for label in labels if image * size.categories + label not in present})
        for image, labels in enumerate(proposed)
    ]


def write_photographs(folder: Path, names: list[str]) -> None:
    """Write JPEG files with about as much detail as photographs have."""
    draw = np.random.default_rng(0)
    for name in names:
        coarse = draw.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), np.uint8)
        pixels = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        grain = draw.integers(0, 24, pixels.shape, np.uint8)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), cv2.add(pixels, grain))


def write_blanks(folder: Path, names: list[str]) -> None:
    """Write JPEG files that are all the same, and black."""
    content = cv2.imencode(".jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))[1].tobytes()
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _shape(draw: np.random.Generator) -> str:
    """The fields `segmentation`, `bbox` and `area` of an object, most of them small."""
    points = int(min(4 + draw.geometric(1 / 44), 600))
    radius = min(draw.lognormal(3.2, 0.8), HEIGHT / 2 - 1)
    centre = radius + draw.random(2) * (np.array([WIDTH, HEIGHT]) - 2 * radius)
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    reach = radius * draw.uniform(0.6, 1, points)
    outline = centre + reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    outline = outline.round(2)
    low, sides = outline.min(axis=0), np.ptp(outline, axis=0)
    box = np.concatenate([low, sides]).round(2).tolist()
    fields = {"segmentation": [outline.reshape(-1).tolist()], "bbox": box}
    return json.dumps(fields | {"area": round(float(np.prod(sides)) * 0.6, 2)})[1:-1]
