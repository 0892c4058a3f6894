"""Preparation of a dataset: annotation files of any format become one checked, normalised form.

`prepare` reads LVIS (v0.5 or v1) or COCO JSON or a registered format, reports everything that is
wrong at once, and writes `<cache>/<digest>/{train.arrow, val.arrow, val.json, dataset.json}`: an
index of each split to load from, and the ground truth that the evaluator reads. The digest is over
contents: the normalised annotations, the names of the image files and their contents, never paths
or times.

The written files identify an image by its position in its annotation file and a category by its
label; the original ids are kept beside them for messages and for users' output.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bacl import settings
from bacl.datasets import boxes, images, index, reading, segmentations
from bacl.datasets.cache import in_cache, part_in, put_in_place, recall, remember
from bacl.datasets.categories import Category, Id
from bacl.datasets.content import some
from bacl.datasets.examine import Examined, categories_of, examine, stop
from bacl.datasets.plain import plain
from bacl.datasets.prepared import Prepared, Split
from bacl.digests import sha256
from bacl.errors import RunError
from bacl.watch import Watch, unwatched

LAYOUT = 4
"""Version of what `prepare` writes: raised with every change, so that older caches are not read."""


def prepare(dataset: settings.Dataset, cache: Path, watch: Watch = unwatched) -> Prepared:
    """Check and normalise a dataset into `cache`, or return the one that is there.

    `bacl.datasets.boxes` decides how boxes are treated, `bacl.datasets.segmentations` how masks
    are. `image_count`, `instance_count` and `frequency` are counted over the training split where
    the file does not give them; with groups of the dataset's own, `frequency` always goes by the
    counts.

    Inputs are taken for unchanged if the annotation files and all files in the images' folders have
    the same sizes and times; then only the result is read.

    Args:
        watch: receives the progress of reading images, which happens the first time.

    Raises:
        UsageError: the input is wrong; all problems, one sentence a line.
        RunError: the cache cannot be written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        dataset = plain(dataset, cache)
        return recall(dataset, cache) or _prepare(dataset, cache, watch)
    except OSError as error:
        where = error.filename or cache
        reason = error.strerror or error
        raise RunError(f"{where}: the dataset could not be prepared: {reason}") from error


def _prepare(dataset: settings.Dataset, cache: Path, watch: Watch) -> Prepared:
    problems: list[str] = []
    folders = images.Folders()
    splits = examine(dataset, cache, problems, watch, folders=folders)
    stop(problems)
    evaluation = splits[0].evaluation
    warnings = [sentence for split in splits for sentence in split.odd()]
    both = images.in_both(*((split.files, split.images) for split in splits))
    if both:
        warnings.append(
            f"{len(both):,} images are in both the training and the validation split: {some(both)}"
        )
    groups = dataset.groups or settings.Groups()
    splits[0].content.annotations = boxes.trained(splits[0].content)
    categories = categories_of(splits[0].content, groups, warnings)

    part = part_in(cache)
    try:
        digest = hashlib.sha256(f"{LAYOUT} {evaluation} {groups.model_dump_json()}".encode())
        written = {}
        for split in splits:
            digest.update(index.write(part / f"{split.name}.arrow", _by_image(split)).encode())
            if split.name == "val":
                path = part / "val.json"
                # lvis-api takes crowds for single objects, hotcoco does not; without crowds both
                # agree.
                _write_json(path, split, categories, crowds=evaluation == "coco")
                digest.update(sha256(path).encode())
            digest.update(b"".join(look.digest for look in split.looks if look))
            annotations = split.content.annotations
            without = [one["id"] for one in annotations if "segmentation" not in one]
            written[split.name] = Split(
                image_total=len(split.files),
                instance_total=len(annotations),
                masks=not without,
                without_mask=_without_mask(without, len(annotations)),
            )
        prepared = Prepared(
            digest=digest.hexdigest(),
            evaluation=evaluation,
            categories=categories,
            groups=groups,
            warnings=warnings,
            **written,
        )
        prepared.save(part / "dataset.json")
        put_in_place(part, cache / prepared.digest)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    prepared = in_cache(prepared.digest, dataset, cache)
    remember(prepared.digest, dataset, folders, cache)
    return prepared


def _without_mask(ids: Sequence[Id], total: int) -> str:
    return f"{len(ids):,} of {total:,} have none: {some(ids)}" if ids else ""


def _by_image(split: Examined) -> Iterator[index.Row]:
    own: list[list[dict[str, Any]]] = [[] for _ in split.files]
    for annotation in split.content.annotations:
        own[annotation["image"]].append(annotation)
    yield from zip(split.content.images, split.files, own, strict=True)


def _write_json(path: Path, split: Examined, categories: Sequence[Category], crowds: bool) -> None:
    """Write the ground truth that evaluators read, item by item, so that memory stays flat.

    Images are numbered from 0 by position, categories from 0 by label; annotations from 1, because
    pycocotools takes a match with annotation 0 for no match.
    """
    sizes = [(image["width"], image["height"]) for image in split.content.images]

    def annotation(number: int, item: dict[str, Any]) -> dict[str, Any]:
        found = {
            "id": number,
            "image_id": item["image"],
            "category_id": item["label"],
            "bbox": item["bbox"],
            "area": boxes.area(item),
        }
        if (mask := item.get("segmentation")) is not None:
            found["segmentation"] = segmentations.as_coco(mask, *sizes[item["image"]])
        return found | ({"iscrowd": item.get("iscrowd", 0)} if crowds else {})

    lists: dict[str, Iterator[dict[str, Any]]] = {
        "images": (
            {"id": number, "file_name": file, "width": image["width"], "height": image["height"]}
            | {name: image[name] for name in reading.LISTS if name in image}
            for number, (image, file) in enumerate(
                zip(split.content.images, split.files, strict=True)
            )
        ),
        "annotations": (
            annotation(number, item) for number, item in enumerate(split.content.annotations, 1)
        ),
        "categories": (
            category.model_dump() | {"id": label} for label, category in enumerate(categories)
        ),
    }
    with path.open("w", encoding="utf-8") as file:
        for number, (name, items) in enumerate(lists.items()):
            file.write(f'{"," if number else "{"}"{name}":[')
            for place, item in enumerate(items):
                file.write(("," if place else "") + "\n" + json.dumps(item))
            file.write("]")
        file.write("}\n")
