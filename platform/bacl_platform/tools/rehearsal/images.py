"""Which images a rehearsal shows: those that take most memory, and some of each split."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bacl.datasets.index import Index, write_some
from bacl.datasets.prepared import Prepared, Split
from bacl.digests import sha256_of
from bacl.settings import Recipe


@dataclass(frozen=True)
class Shown:
    """A part of a dataset, prepared by itself."""

    prepared: Prepared
    dataset_info: Path


def worst(index: Index, places: NDArray[np.int64], recipe: Recipe, count: int) -> list[list[int]]:
    """Images that take most memory when `count` of them pass together, in three such batches.

    The widest with the highest and the largest, because a batch is padded to the widest and the
    highest; those with most boxes; and those with most of both. Sizes are those that images have at
    the largest of the recipe's scales.

    places: of the images that train, in the index. Returns numbers of elements of `places`.
    """
    width, height, boxes = index.shapes()[places].astype(float).T
    w, h = resized(width, height, recipe)
    area = w * h
    extremes = [int(np.lexsort((-area, -side))[0]) for side in (w, h)]
    by_area = np.argsort(-area, kind="stable")
    padded = list(dict.fromkeys([*extremes, *by_area[: count + 2].tolist()]))[:count]
    crowded = np.lexsort((-area, -boxes))[:count]
    both = np.argsort(-area * np.maximum(boxes, 1), kind="stable")[:count]
    return [filled(list(found), count) for found in (padded, crowded.tolist(), both.tolist())]


def filled(values: Sequence[int], count: int) -> list[int]:
    """So many values, from the front again where there are fewer."""
    return [values[n % len(values)] for n in range(count)]


def resized(
    width: NDArray[np.float64], height: NDArray[np.float64], recipe: Recipe
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Width and height of images at the largest of a recipe's training scales."""
    if recipe.augmentation == "copy_paste":  # which makes all of them one size
        return width, height
    long, short = max(recipe.scales, key=lambda scale: scale[0] * scale[1])
    long, short = max(long, short), min(long, short)
    factor = np.minimum(long / np.maximum(width, height), short / np.minimum(width, height))
    return width * factor, height * factor


def spread(index: Index, count: int, large: int) -> list[int]:
    """Places of `count` images of a split: first the `large` largest, then others at equal
    distances."""
    width, height, _ = index.shapes().T
    first = np.argsort(-(width.astype(np.int64) * height), kind="stable")[: min(large, count)]
    others = np.setdiff1d(np.arange(len(width)), first)
    count = min(count - len(first), len(others))
    chosen = others[np.linspace(0, len(others) - 1, count).round().astype(int)] if count else []
    return [*map(int, first), *map(int, chosen)]


def prepare_some(
    prepared: Prepared, train: Sequence[int], val: Sequence[int], cache: Path
) -> Shown:
    """Some images of a dataset as one that is prepared in `cache`; categories keep their counts."""
    digest = sha256_of([prepared.digest.encode(), json.dumps([list(train), list(val)]).encode()])
    folder = cache / digest
    folder.mkdir(parents=True)
    places = {"train": train, "val": val}
    splits: dict[str, Split] = {}
    for name, chosen in places.items():
        split: Split = getattr(prepared, name)
        index = folder / f"{name}.arrow"
        write_some(index, Index(split.index), chosen)
        annotations = ""
        if name == "val":
            annotations = str(folder / "val.json")
            _write_annotations(Path(split.annotations), chosen, Path(annotations))
        splits[name] = split.model_copy(
            update={
                "index": str(index),
                "annotations": annotations,
                "image_total": len(chosen),
                "instance_total": int(Index(index).shapes()[:, 2].sum()),
            }
        )
    some = prepared.model_copy(update={"digest": digest, "warnings": [], **splits})
    some.save(folder / "dataset.json")
    return Shown(some, folder / "dataset.json")


def _write_annotations(whole: Path, places: Sequence[int], path: Path) -> None:
    """Write the evaluator's annotations of some images, numbered by where they are among these."""
    content = json.loads(whole.read_bytes())
    number = {place: n for n, place in enumerate(places)}
    own = [one for one in content["annotations"] if one["image_id"] in number]
    images = {image["id"]: image for image in content["images"]}
    content["images"] = [images[place] | {"id": n} for place, n in number.items()]
    content["annotations"] = [
        one | {"id": n, "image_id": number[one["image_id"]]} for n, one in enumerate(own, start=1)
    ]
    path.write_text(json.dumps(content), encoding="utf-8")
