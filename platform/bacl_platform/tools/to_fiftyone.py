"""Writes a split, and what variants detect in it, as FiftyOne reads a dataset from the disk.

The form is `fiftyone.types.FiftyOneDataset` as every version reads it: `metadata.json` without a
version, and `samples.json` with a document for each image. FiftyOne itself needs a database server,
so nothing of it is used here.
"""

import base64
import io
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from bacl.datasets.index import Entry, Index
from bacl.datasets.prepared import Prepared, Split
from bacl.errors import UsageError
from bacl_platform.console import Watching, say
from bacl_platform.store.disk import disk_errors

if TYPE_CHECKING:
    from rich.console import Console

    from bacl.evaluation import Detections

METADATA, SAMPLES, DATA = "metadata.json", "samples.json", "data"
TRUTH = "ground_truth"


def field_of(variant: str) -> str:
    """The field of an image's document that has what a variant detects."""
    return f"predictions_{variant.replace('-', '_')}"


def export(
    prepared: Prepared,
    split: Literal["train", "val"],
    found: Mapping[str, "Detections"],
    name: str,
    out: Path,
    copy: bool,
    least_score: float,
    console: "Console",
) -> None:
    """Write the dataset to the folder `out`; shows progress.

    found: of each variant what it detects on the split; what scores less than `least_score` is
    left out. copy: whether images are copied beside, so that the folder can be moved, and not
    named by where they are. Raises UsageError where the folder has other things in it, or where
    images are missing that are to be copied.
    """
    own: Split = getattr(prepared, split)
    index = Index(own.index)
    if out.exists() and (not out.is_dir() or set(os.listdir(out)) - {METADATA, SAMPLES, DATA}):
        raise UsageError(f"--out {out}: expected a new or empty folder")
    fields = {variant: field_of(variant) for variant in found}
    grouped = {variant: _of_images(one, len(index), least_score) for variant, one in found.items()}
    names = [category.name for category in prepared.categories]
    metadata = {
        "name": name,
        "media_type": "image",
        "info": {
            "default_classes": names,
            "description": f"{split} split of {name}, written by BACL",
            "dataset_digest": prepared.digest,
            "fields": {field: variant for variant, field in fields.items()},
            "score_threshold": least_score,
        },
    }
    with disk_errors(out), Watching(console, unit="images") as watching:
        out.mkdir(parents=True, exist_ok=True)
        (out / METADATA).write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")
        part = out / f".{SAMPLES}.{os.getpid()}"
        try:
            with part.open("w", encoding="utf-8") as file:
                file.write('{"samples": [')
                for place in range(len(index)):
                    entry = index.image(place)
                    sample: dict[str, Any] = {
                        "filepath": _image(Path(own.images), entry, out, copy),
                        "tags": [split],
                        "metadata": {
                            "_cls": "ImageMetadata",
                            "width": entry.width,
                            "height": entry.height,
                        },
                        "image_id": str(entry.id),
                        TRUTH: _labels(_truth(entry, index.masks(place), prepared)),
                    }
                    for variant, field in fields.items():
                        rows = grouped[variant][place]
                        sample[field] = _labels(_predicted(found[variant], rows, entry, names))
                    file.write((",\n" if place else "\n") + json.dumps(sample))
                    watching("writing", place + 1, len(index))
                file.write("]}\n")
            part.replace(out / SAMPLES)
        finally:
            part.unlink(missing_ok=True)
    counts = [f"{sum(map(len, rows)):,} of {variant}" for variant, rows in grouped.items()]
    what = f"{len(index):,} images" + (f", detections: {', '.join(counts)}" if counts else "")
    say(console, f"written: {out} ({what})")
    say(
        console,
        "read it where FiftyOne is: fiftyone.Dataset.from_dir("
        f"{str(out)!r}, dataset_type=fiftyone.types.FiftyOneDataset)",
    )


def _of_images(found: "Detections", images: int, least_score: float) -> Sequence[NDArray[Any]]:
    """By image the rows of its detections that score enough, best first."""
    rows = np.flatnonzero(found.score >= least_score)
    rows = rows[np.lexsort((-found.score[rows], found.image[rows]))]
    return np.split(rows, np.searchsorted(found.image[rows], np.arange(1, images)))


def _image(images: Path, entry: Entry, out: Path, copy: bool) -> str:
    """What a document calls its image."""
    source = images / entry.file
    if not copy:
        return str(source.resolve())
    # a file that lies elsewhere keeps its last names
    inside = Path(DATA, *[part for part in Path(entry.file).parts if part not in ("/", "..")])
    target = out / inside
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        raise UsageError(f"{source}: expected an image to copy, found no such file") from None
    return str(inside)


def _labels(detections: Iterator[dict[str, Any]]) -> dict[str, Any]:
    return {"_cls": "Detections", "detections": list(detections)}


def _truth(entry: Entry, masks: Sequence[Any], prepared: Prepared) -> Iterator[dict[str, Any]]:
    size = (entry.width, entry.height)
    for label, box, crowd, mask in zip(
        entry.labels.tolist(), entry.boxes.tolist(), entry.crowd.tolist(), masks, strict=True
    ):
        category = prepared.categories[label]
        yield {
            **_detection(category.name, box, _decoded(mask, size), size),
            "iscrowd": int(crowd),
            "group": category.frequency,
        }


def _predicted(
    found: "Detections", rows: NDArray[Any], entry: Entry, names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    size = (entry.width, entry.height)
    for row in rows.tolist():
        mask = None
        if found.mask is not None:
            mask = coco.decode({"size": [entry.height, entry.width], "counts": found.mask[row]})
        box = found.bbox[row].tolist()
        made = _detection(names[int(found.label[row])], box, mask, size)
        yield {**made, "confidence": float(found.score[row])}


def _decoded(mask: Any, size: tuple[int, int]) -> NDArray[Any] | None:
    """The pixels (H, W) of a mask of the index."""
    if mask is None:
        return None
    if isinstance(mask, dict):
        return coco.decode(mask)
    width, height = size
    outlines = coco.frPyObjects([polygon.tolist() for polygon in mask], height, width)
    return coco.decode(coco.merge(outlines))


def _detection(
    name: str, box: Sequence[float], mask: NDArray[Any] | None, size: tuple[int, int]
) -> dict[str, Any]:
    """A `fiftyone.Detection`: its box in shares of the image, its mask within the box."""
    (x, y, wide, high), (width, height) = box, size
    made: dict[str, Any] = {
        "_cls": "Detection",
        "tags": [],
        "attributes": {},
        "label": name,
        "bounding_box": [x / width, y / height, wide / width, high / height],
    }
    if mask is not None:
        left, top = max(round(x), 0), max(round(y), 0)
        inside = mask[top : max(round(y + high), 0), left : max(round(x + wide), 0)]
        if inside.size:
            made["mask"] = _binary(inside.astype(bool))
    return made


def _binary(array: NDArray[Any]) -> dict[str, Any]:
    """An array as FiftyOne keeps it, in MongoDB's extended JSON."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    packed = base64.b64encode(zlib.compress(content.getvalue())).decode()
    return {"$binary": {"base64": packed, "subType": "00"}}
