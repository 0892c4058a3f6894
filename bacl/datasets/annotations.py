"""Annotation files in, one checked and normalised form out: LVIS v1, whatever came in.

`prepare` reads LVIS (v0.5 or v1) or COCO JSON, tells everything that is wrong with it at once, and
writes `<cache>/<digest>/{train.arrow, val.arrow, val.json, dataset.json}`: an index of each split
to load from, and the ground truth that the evaluator reads. The digest is over contents: the
normalised annotations and the names and bytes' number of the image files, never paths or times.
"""

import hashlib
import json
import math
import os
import re
import shutil
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel

from bacl import settings
from bacl.datasets import index
from bacl.datasets.sources import located
from bacl.errors import RunError, UsageError

LAYOUT = 3
"""Of what `prepare` writes; raise it with every change, so that older caches are not read."""
_CODE = (__file__, index.__file__)
"""What decides how inputs become a prepared dataset."""
VISIBLE = 0.5
"""Pixels that a box must reach out of its image for the warnings to count it; less is rounding."""


class Category(BaseModel):
    """A category and how often the training split shows it."""

    id: int
    name: str
    frequency: str
    """Name of its frequency group, `settings.Groups`; LVIS has r, c and f."""
    image_count: int
    instance_count: int


class Split(BaseModel):
    """A split, normalised. Its paths are empty until it has its place in a cache."""

    index: str = ""
    """Images and annotations to load, of `bacl.datasets.index`."""
    annotations: str = ""
    """The same as JSON for the evaluator; empty for the training split, which has none."""
    images: str = ""
    """The folder that file names start from."""
    image_total: int
    instance_total: int
    masks: bool
    """Whether every annotation has a segmentation."""


class Prepared(BaseModel):
    """A dataset that is ready to train on. `categories` is in the order of labels: by id."""

    digest: str
    evaluation: Literal["lvis", "coco"]
    train: Split
    val: Split
    categories: list[Category]
    groups: settings.Groups = settings.Groups()
    warnings: list[str]

    @classmethod
    def load(cls, path: Path) -> "Prepared":
        return cls.model_validate_json(path.read_bytes())

    def save(self, path: Path) -> None:
        """Write to `path`, whole or not at all."""
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        part.replace(path)


@dataclass(frozen=True)
class _Source:
    """What the user named for one split."""

    annotations: Path
    images: Path


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def prepare(dataset: settings.Dataset, cache: Path) -> Prepared:
    """Check and normalise a dataset into `cache`, or find it there.

    Training boxes are clipped to the image, and those without area inside it are left out. The
    validation split's boxes stay as they are, because lvis-api and pycocotools take them so:
    pycocotools holds a box without area for ground truth that nothing can match, lvis-api passes
    over it (by the annotation's `area`). `image_count`, `instance_count` and
    `frequency` are counted over the training split where the file does not give them; with groups
    of the dataset's own, `frequency` always goes by the counts.

    Unchanged inputs are known again by the size and time of the annotation files and the time of
    the folders that the images lie in; only then is nothing read but the result.

    Raises:
        UsageError: everything that is wrong with the input, one sentence a line.
        RunError: the cache cannot be written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        dataset = located(dataset)
        train, val = _sources(dataset, cache)
        known = _recall(dataset, train, val, cache)
        return known or _prepare(dataset, train, val, cache)
    except OSError as error:
        where = error.filename or cache
        reason = error.strerror or error
        raise RunError(f"{where}: the dataset could not be prepared: {reason}") from error


def _sources(dataset: settings.Dataset, cache: Path) -> tuple[_Source, _Source]:
    if dataset.format == "embedded":
        folder = _embedded(dataset, cache)
        images = folder / "images"
        return _Source(folder / "train.json", images), _Source(folder / "val.json", images)
    assert dataset.train and dataset.val and dataset.images  # by settings.Dataset's own check
    return (
        _Source(Path(dataset.train), Path(dataset.images)),
        _Source(Path(dataset.val), Path(dataset.val_images or dataset.images)),
    )


def _embedded(dataset: settings.Dataset, cache: Path) -> Path:
    """The folder of the embedded set, made where it is not there yet."""
    from bacl.datasets import embedded  # reading other formats needs nothing of it

    assert embedded.__file__
    code = hashlib.sha256(Path(embedded.__file__).read_bytes()).hexdigest()[:12]
    folder = cache / f"embedded-{dataset.size}-{dataset.seed}-{code}"
    if not folder.exists():
        part = _part(cache)
        try:
            embedded.generate(part, dataset)
            _place(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def _prepare(dataset: settings.Dataset, train: _Source, val: _Source, cache: Path) -> Prepared:
    problems: list[str] = []
    contents = _contents(dataset, train, val, problems, _compact)
    folders = _Folders()
    files = {
        name: _find_images(contents[name], source, folders, problems)
        for name, source in (("train", train), ("val", val))
    }
    _stop(problems)

    evaluation: Literal["lvis", "coco"] = "coco" if dataset.format == "coco" else "lvis"
    warnings: list[str] = []
    training = _usable(contents["train"], train.annotations, warnings)
    _warn_of_boxes_in_val(contents["val"], val.annotations, evaluation, warnings)
    _warn_of_overlap(files["train"], files["val"], train, val, warnings)
    groups = dataset.groups or settings.Groups()
    categories, items = _categories(contents["train"]["categories"], training, groups, warnings)

    part = _part(cache)
    try:
        digest = hashlib.sha256(f"{LAYOUT} {evaluation} {groups.model_dump_json()}".encode())
        labels = {category.id: label for label, category in enumerate(categories)}
        splits = {}
        for name, source, annotations in (
            ("train", train, training),
            ("val", val, contents["val"]["annotations"]),
        ):
            images = contents[name]["images"]
            rows = _by_image(images, files[name], annotations)
            path = part / f"{name}.arrow"
            digest.update(index.write(path, rows, labels, source.annotations).encode())
            if name == "val":
                path = part / "val.json"
                # lvis-api takes crowds for single objects, hotcoco does not: so there are none.
                _write_json(path, images, files[name], annotations, items, evaluation == "coco")
                digest.update(sha256(path).encode())
            sizes = [(file, folders.size(source.images, file)) for file in files[name]]
            digest.update(json.dumps(sizes).encode())
            splits[name] = Split(
                image_total=len(images),
                instance_total=len(annotations),
                masks=all(annotation.get("segmentation") for annotation in annotations),
            )
        prepared = Prepared(
            digest=digest.hexdigest(),
            evaluation=evaluation,
            categories=categories,
            groups=groups,
            warnings=warnings,
            **splits,
        )
        prepared.save(part / "dataset.json")
        _place(part, cache / prepared.digest)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    prepared = _located(prepared.digest, train, val, cache)
    _remember(prepared.digest, dataset, train, val, folders, cache)
    return prepared


# Reading and checking


@dataclass(frozen=True)
class Examined:
    """A split as its file has it: well-formed, but perhaps senseless.

    files: of each image, relative to the images folder; "" where it is missing.
    """

    annotations: Path
    images: Path
    content: dict
    files: list[str]


def examine(
    dataset: settings.Dataset, cache: Path, problems: list[str]
) -> tuple[Examined, Examined]:
    """The training and the validation split without changing or caching anything of them.

    Images that are missing and categories that disagree go to `problems`. The embedded set is made
    in `cache`.

    Raises:
        UsageError: annotation files that cannot be read as such, one sentence a line.
    """
    dataset = located(dataset)
    train, val = _sources(dataset, cache)
    contents = _contents(dataset, train, val, problems)
    folders = _Folders()
    splits = []
    for name, source in (("train", train), ("val", val)):
        files = _find_images(contents[name], source, folders, problems)
        files = files or [""] * len(contents[name]["images"])  # where even the folder is missing
        splits.append(Examined(source.annotations, source.images, contents[name], files))
    return splits[0], splits[1]


def category_counts(dataset: settings.Dataset, train: Examined) -> list[Category]:
    """Categories by id with their counts and groups, as `prepare` would have them."""
    groups = located(dataset).groups or settings.Groups()
    usable = _usable(train.content, train.annotations, [])
    return _categories(train.content["categories"], usable, groups, [])[0]


def synsets(dataset: settings.Dataset, cache: Path) -> dict[str, str]:
    """WordNet's name for each category that has one, by the category's name; LVIS gives them.

    They are read from the validation split's file, which is the smaller: `prepare` has seen that
    the categories of both are the same. Raises UsageError where it cannot be read.
    """
    _, val = _sources(located(dataset), cache)
    problems: list[str] = []
    content = _read(val.annotations, problems)
    _stop(problems)
    found = [(item["name"], item.get("synset")) for item in (content or {})["categories"]]
    return {name: synset for name, synset in found if isinstance(synset, str)}


def _contents(
    dataset: settings.Dataset,
    train: _Source,
    val: _Source,
    problems: list[str],
    change: Callable[[dict], dict] | None = None,
) -> dict[str, dict]:
    """The two annotation files; raises UsageError where they cannot be read as such.

    change: what to make of each object in them as soon as it is read.
    """
    contents = {}
    for name, source in (("train", train), ("val", val)):
        content = _read(source.annotations, problems, change)
        if content is not None:
            if dataset.groups:  # go by counts, whatever a file says
                for category in content["categories"]:
                    category.pop("frequency", None)
            federated = dataset.format == "lvis" and name == "val"
            _check(content, source.annotations, federated, problems)
            contents[name] = content
    _stop(problems)
    _check_categories(contents["train"], contents["val"], train, val, problems)
    return contents


def _stop(problems: list[str]) -> None:
    if problems:
        raise UsageError("\n".join(dict.fromkeys(problems)))


def _some(values: Iterable[Any]) -> str:
    """The first five of some values and how many more there are."""
    shown = [str(value) for value in values]
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    return ", ".join(shown[:5]) + more


def _compact(item: dict) -> dict:
    """An annotation with polygons as arrays, a quarter of what their numbers take as objects."""
    if isinstance(item.get("segmentation"), list):
        polygons = [index.as_polygon(polygon) for polygon in item["segmentation"]]
        if all(polygon is not None for polygon in polygons):
            item["segmentation"] = polygons
    return item


def _read(
    path: Path, problems: list[str], change: Callable[[dict], dict] | None = None
) -> dict | None:
    """A JSON file with the three lists of LVIS and COCO."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            content = json.load(file, object_hook=change)
    except FileNotFoundError:
        problems.append(f"{path}: expected an annotation file, found none")
        return None
    except OSError as error:
        problems.append(f"{path}: expected a readable annotation file, got: {error.strerror}")
        return None
    except json.JSONDecodeError as error:
        problems.append(
            f"{path}: line {error.lineno}, column {error.colno}: expected JSON, got: {error.msg}"
        )
        return None
    except UnicodeDecodeError as error:
        problems.append(f"{path}: expected JSON, got bytes that are no text ({error.reason})")
        return None
    if not isinstance(content, dict):
        problems.append(
            f"{path}: expected LVIS or COCO JSON, an object, got a {type(content).__name__}"
        )
        return None
    missing = [
        name
        for name in ("images", "annotations", "categories")
        if not isinstance(content.get(name), list)
        or not all(isinstance(item, dict) for item in content[name])
    ]
    if missing:
        problems.append(
            f"{path}: expected LVIS or COCO JSON, got none of its lists of objects {_some(missing)}"
        )
        return None
    return content


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _count(value: Any) -> bool:
    return value is None or (_integer(value) and value >= 0)


def _ids(value: Any) -> bool:
    return isinstance(value, list) and all(map(_integer, value))


def _box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_number, value))


_FIELDS: dict[str, dict[str, tuple[Any, str]]] = {
    "images": {
        "width": (lambda value: _integer(value) and value > 0, "a whole number above 0"),
        "height": (lambda value: _integer(value) and value > 0, "a whole number above 0"),
    },
    "annotations": {
        "image_id": (_integer, "a whole number"),
        "category_id": (_integer, "a whole number"),
        "bbox": (_box, "four finite numbers x, y, width, height"),
        "area": (lambda value: value is None or _number(value), "a finite number (or nothing)"),
    },
    "categories": {
        "name": (lambda value: isinstance(value, str), "text"),
        "frequency": (lambda value: value in (None, "r", "c", "f"), "r, c or f (or nothing)"),
        "image_count": (_count, "a whole number from 0 (or nothing)"),
        "instance_count": (_count, "a whole number from 0 (or nothing)"),
    },
}


def _check(content: dict, path: Path, federated: bool, problems: list[str]) -> None:
    """Tell of fields that are missing or wrong, of repeated ids and of ids that lead nowhere."""
    before = len(problems)
    for kind, fields in _FIELDS.items():
        items = content[kind]
        if not items and kind != "annotations":
            problems.append(f"{path}: {kind}: expected at least one, got none")
        unnamed = [place for place, item in enumerate(items) if not _integer(item.get("id"))]
        if unnamed:
            problems.append(
                f"{path}: {kind}: expected a whole number as id of each, "
                f"got none in those at {_some(unnamed)}"
            )
        counts = Counter(item["id"] for item in items if _integer(item.get("id")))
        repeated = [number for number, count in counts.items() if count > 1]
        if repeated:
            problems.append(f"{path}: {kind}: expected each id once, repeated: {_some(repeated)}")
        for field, (good, expected) in fields.items():
            bad = [item.get("id") for item in items if not good(item.get(field))]
            if bad:
                problems.append(
                    f"{path}: {kind}: expected {expected} as {field}, "
                    f"missing or something else in {len(bad)}: ids {_some(bad)}"
                )
    bad = [
        image.get("id")
        for image in content["images"]
        if not any(isinstance(image.get(key), str) for key in ("file_name", "coco_url"))
    ]
    if bad:
        problems.append(
            f"{path}: images: expected file_name or coco_url, missing in {len(bad)}: "
            f"ids {_some(bad)}"
        )
    if federated:
        for field in ("neg_category_ids", "not_exhaustive_category_ids"):
            count = sum(not _ids(image.get(field)) for image in content["images"])
            if count:
                problems.append(
                    f"{path}: images: expected LVIS's list of ids {field}, missing in {count} of "
                    f"{len(content['images'])}; for exhaustive annotations say format: coco"
                )
    if len(problems) > before:
        return
    for kind, field in (("images", "image_id"), ("categories", "category_id")):
        known = {item["id"] for item in content[kind]}
        lost = [item["id"] for item in content["annotations"] if item[field] not in known]
        if lost:
            problems.append(
                f"{path}: annotations: expected {field} to be one of {kind}, "
                f"unknown in {len(lost)}: ids {_some(lost)}"
            )


def _check_categories(
    train: dict, val: dict, train_source: _Source, val_source: _Source, problems: list[str]
) -> None:
    names = {category["id"]: category["name"] for category in train["categories"]}
    unknown = [
        f"{category['id']} ({category['name']})"
        for category in val["categories"]
        if category["id"] not in names
    ]
    if unknown:
        problems.append(
            f"{val_source.annotations}: categories: expected those of {train_source.annotations}, "
            f"which has no {_some(unknown)}"
        )
    renamed = [
        f"{category['id']} ({names[category['id']]} and {category['name']})"
        for category in val["categories"]
        if names.get(category["id"], category["name"]) != category["name"]
    ]
    if renamed:
        problems.append(
            f"{val_source.annotations}: categories: expected the names of "
            f"{train_source.annotations}, they differ in {_some(renamed)}"
        )


# Images


class _Folders:
    """Names and sizes of the files in the folders that were asked about, each read once."""

    def __init__(self) -> None:
        self.files: dict[Path, dict[str, int]] = {}

    def size(self, folder: Path, name: str) -> int | None:
        """Bytes of the file, or None where it is missing."""
        path = folder / name
        if path.parent not in self.files:
            try:
                with os.scandir(path.parent) as entries:
                    self.files[path.parent] = {
                        entry.name: entry.stat().st_size for entry in entries if entry.is_file()
                    }
            except (FileNotFoundError, NotADirectoryError):
                self.files[path.parent] = {}
        return self.files[path.parent].get(path.name)


def _file_names(image: dict) -> Iterator[str]:
    """Where under the images folder a file may lie, the likeliest first.

    LVIS v1 gives no file name, only `coco_url`; LVIS v0.5 gives names of COCO 2014, whose files
    COCO 2017 sorted into other folders without the prefix.
    """
    if isinstance(image.get("file_name"), str):
        yield image["file_name"]
        yield re.sub(r"COCO_(train|val|test)2014_", "", image["file_name"])
    if isinstance(image.get("coco_url"), str):
        parts = image["coco_url"].split("/")
        yield "/".join(parts[-2:])
        yield parts[-1]


def _find_images(
    content: dict, source: _Source, folders: _Folders, problems: list[str]
) -> list[str]:
    """The file of each image, relative to the images folder."""
    if not source.images.is_dir():
        problems.append(f"{source.images}: expected the folder of the images, found none")
        return []
    found, missing = [], []
    for image in content["images"]:
        names = list(_file_names(image))
        name = next((n for n in names if folders.size(source.images, n) is not None), None)
        found.append(name or "")
        if name is None:
            missing.append(names[0])
    if missing:
        problems.append(
            f"{source.images}: {len(missing)} of {len(found)} images of {source.annotations} "
            f"are missing: {_some(missing)}"
        )
    return found


def _warn_of_overlap(
    train_files: list[str],
    val_files: list[str],
    train: _Source,
    val: _Source,
    warnings: list[str],
) -> None:
    folders = {source.images: source.images.resolve() for source in (train, val)}
    seen = {folders[train.images] / name for name in train_files}
    both = [name for name in val_files if folders[val.images] / name in seen]
    if both:
        warnings.append(
            f"{len(both)} images are in both the training and the validation split: {_some(both)}"
        )


# Boxes


def _clip(box: list[float], width: int, height: int) -> tuple[list[float], bool]:
    """The part of a box (x, y, width, height) inside the image, and whether it stuck out."""
    x, y, w, h = box
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    out = max(x1 - x, y1 - y, x + w - x2, y + h - y2) > VISIBLE
    if x1 == x and y1 == y and x2 == x + w and y2 == y + h:
        return box, False
    return [x1, y1, x2 - x1, y2 - y1], out


def _usable(content: dict, path: Path, warnings: list[str]) -> list[dict]:
    """Annotations to train on, their boxes inside the image."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    kept, clipped, empty = [], [], []
    for annotation in content["annotations"]:
        box, out = _clip(annotation["bbox"], *sizes[annotation["image_id"]])
        if box[2] <= 0 or box[3] <= 0:
            empty.append(annotation["id"])
            continue
        if out:
            clipped.append(annotation["id"])
        kept.append(annotation if box is annotation["bbox"] else annotation | {"bbox": box})
    if clipped:
        warnings.append(
            f"{path.name}: {len(clipped)} boxes reach out of their image and are clipped: "
            f"annotations {_some(clipped)}"
        )
    if empty:
        warnings.append(
            f"{path.name}: {len(empty)} boxes have no area inside their image and are left out of "
            f"training: annotations {_some(empty)}"
        )
    return kept


def _warn_of_boxes_in_val(content: dict, path: Path, evaluation: str, warnings: list[str]) -> None:
    reference = {"lvis": "lvis-api", "coco": "pycocotools"}[evaluation]
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    odd = []
    for annotation in content["annotations"]:
        box, out = _clip(annotation["bbox"], *sizes[annotation["image_id"]])
        if out or box[2] <= 0 or box[3] <= 0:
            odd.append(annotation["id"])
    if odd:
        warnings.append(
            f"{path.name}: {len(odd)} boxes reach out of their image or have no area; evaluation "
            f"takes them as {reference} does: annotations {_some(odd)}"
        )


# Categories and files


def _categories(
    given: list[dict], annotations: list[dict], groups: settings.Groups, warnings: list[str]
) -> tuple[list[Category], list[dict]]:
    """Categories by id, as `Category` and as items of an LVIS file. Crowds are not counted."""
    single = [a for a in annotations if not a.get("iscrowd")]
    instances = Counter(annotation["category_id"] for annotation in single)
    images = Counter(pair[0] for pair in {(a["category_id"], a["image_id"]) for a in single})
    categories = []
    for item in sorted(given, key=lambda item: item["id"]):
        known = {key: value for key, value in item.items() if value is not None}
        image_count = known.get("image_count", images[item["id"]])
        instance_count = known.get("instance_count", instances[item["id"]])
        categories.append(
            Category(
                id=item["id"],
                name=item["name"],
                image_count=image_count,
                instance_count=instance_count,
                frequency=known.get("frequency") or groups.name(image_count, instance_count),
            )
        )
    unseen = [category.name for category in categories if not images[category.id]]
    if unseen:
        warnings.append(f"{len(unseen)} categories have no training image: {_some(unseen)}")
    return categories, [category.model_dump() for category in categories]


def _by_image(images: list[dict], files: list[str], annotations: list[dict]) -> Iterator[index.Row]:
    own = defaultdict(list)
    for annotation in annotations:
        own[annotation["image_id"]].append(annotation)
    for image, file in zip(images, files, strict=True):
        yield image, file, own.pop(image["id"], [])


def _write_json(
    path: Path,
    images: list[dict],
    files: list[str],
    annotations: list[dict],
    categories: list[dict],
    crowds: bool,
) -> None:
    """Write a split item by item, so that memory stays flat."""
    image_fields = ["id", "width", "height", "neg_category_ids", "not_exhaustive_category_ids"]
    fields = ["id", "image_id", "category_id", "bbox", "area", "segmentation"]
    if crowds:
        fields.append("iscrowd")
    lists = {
        "images": (
            {"file_name": file} | {key: image[key] for key in image_fields if key in image}
            for image, file in zip(images, files, strict=True)
        ),
        "annotations": (
            {"area": item["bbox"][2] * item["bbox"][3]}
            | {key: item[key] for key in fields if item.get(key) is not None}
            for item in annotations
        ),
        "categories": iter(categories),
    }
    with path.open("w", encoding="utf-8") as file:
        for number, (name, items) in enumerate(lists.items()):
            file.write(f'{"," if number else "{"}"{name}":[')
            for place, item in enumerate(items):
                file.write(
                    ("," if place else "") + "\n" + json.dumps(item, default=np.ndarray.tolist)
                )
            file.write("]")
        file.write("}\n")


# The cache


def _part(cache: Path) -> Path:
    """A new folder in the cache to build in, with the usual permissions, unlike `mkdtemp`."""
    part = cache / f".part-{uuid.uuid4().hex}"
    part.mkdir()
    return part


def _place(part: Path, folder: Path) -> None:
    """Move a finished folder to its place, unless another process was there first."""
    try:
        part.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _located(digest: str, train: _Source, val: _Source, cache: Path) -> Prepared:
    """The prepared dataset with the paths of this cache and these images."""
    folder = cache.resolve() / digest
    stored = Prepared.load(folder / "dataset.json")
    places = {
        name: getattr(stored, name).model_copy(
            update={
                "index": str(folder / f"{name}.arrow"),
                "annotations": str(folder / "val.json") if name == "val" else "",
                "images": str(source.images.resolve()),
            }
        )
        for name, source in (("train", train), ("val", val))
    }
    prepared = stored.model_copy(update=places)
    if prepared != stored:
        prepared.save(folder / "dataset.json")
    return prepared


def _input_key(dataset: settings.Dataset, train: _Source, val: _Source) -> str | None:
    """What tells unchanged annotation files without reading them; None where one is missing."""
    groups = dataset.groups.model_dump_json() if dataset.groups else ""
    code = [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in _CODE]
    key = [dataset.format, groups, *code]
    for source in (train, val):
        try:
            status = source.annotations.stat()
        except OSError:
            return None
        key += [
            str(source.annotations.resolve()),
            str(source.images.resolve()),
            str(status.st_size),
            str(status.st_mtime_ns),
        ]
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()


def _times(folders: Iterable[str | Path]) -> dict[str, int]:
    return {str(f): Path(f).stat().st_mtime_ns for f in folders if Path(f).is_dir()}


def _remember(
    digest: str,
    dataset: settings.Dataset,
    train: _Source,
    val: _Source,
    folders: _Folders,
    cache: Path,
) -> None:
    """Note which digest these inputs have."""
    note = cache / "inputs" / f"{_input_key(dataset, train, val)}.json"
    note.parent.mkdir(exist_ok=True)
    part = note.with_name(f".{note.name}.{os.getpid()}")
    looked = [folder.resolve() for folder, files in folders.files.items() if files]
    part.write_text(json.dumps({"digest": digest, "folders": _times(looked)}), encoding="utf-8")
    part.replace(note)


def _recall(
    dataset: settings.Dataset, train: _Source, val: _Source, cache: Path
) -> Prepared | None:
    """The prepared dataset of unchanged inputs, or None."""
    note = cache / "inputs" / f"{_input_key(dataset, train, val)}.json"
    if not note.exists():
        return None
    known = json.loads(note.read_text(encoding="utf-8"))
    if _times(known["folders"]) != known["folders"]:
        return None
    if not (cache / known["digest"] / "dataset.json").exists():
        return None
    return _located(known["digest"], train, val, cache)
