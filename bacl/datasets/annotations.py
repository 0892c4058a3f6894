"""Annotation files in, one checked and normalised form out, whatever came in.

`prepare` reads LVIS (v0.5 or v1) or COCO JSON, tells everything that is wrong with it at once, and
writes `<cache>/<digest>/{train.arrow, val.arrow, val.json, dataset.json}`: an index of each split
to load from, and the ground truth that the evaluator reads. The digest is over contents: the
normalised annotations, the names of the image files and what is in them, never paths or times.

In what is written, an image goes by its position in its file and a category by its label; the
file's own ids stand beside them for messages and for what users get.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from bacl import settings
from bacl.datasets import boxes, decoding, images, index, reading, segmentations
from bacl.datasets.download import Watch
from bacl.datasets.images import Look
from bacl.datasets.reading import Content, Id, Tally, some
from bacl.datasets.sources import located
from bacl.digests import sha256
from bacl.errors import RunError, UsageError

LAYOUT = 4
"""Version of what `prepare` writes: raised with every change, so that older caches are not read."""
_CODE = [
    __file__,
    *(str(part.__file__) for part in (boxes, decoding, images, index, reading, segmentations)),
]
"""What decides how inputs become a prepared dataset."""


class Category(BaseModel):
    """A category and how often the training split shows it."""

    id: Id
    """The annotation file's own."""
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
    """Annotations as JSON for the evaluator; empty for the training split, which has none."""
    images: str = ""
    """The folder that file names start from."""
    image_total: int
    instance_total: int
    masks: bool
    """Whether every annotation has a segmentation."""
    without_mask: str = ""
    """Which have none, in words; nothing where all have one."""


class Prepared(BaseModel):
    """A dataset that is ready to train on. `categories` is in the order of labels: by id, numbers
    before text."""

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


def _silent(what: str, done: int, total: int | None) -> None:
    """Takes progress that nobody watches."""


def prepare(dataset: settings.Dataset, cache: Path, watch: Watch = _silent) -> Prepared:
    """Check and normalise a dataset into `cache`, or find it there.

    What becomes of boxes is `bacl.datasets.boxes`'s to say, of masks `segmentations`'.
    `image_count`, `instance_count` and `frequency` are counted over the training split where the
    file does not give them; with groups of the dataset's own, `frequency` always goes by the
    counts.

    Unchanged inputs are known again by the sizes and times of the annotation files and of all
    files in the folders that the images lie in; only then is nothing read but the result.

    Args:
        watch: is told of the images that are read, the first time.

    Raises:
        UsageError: everything that is wrong with the input, one sentence a line.
        RunError: the cache cannot be written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        dataset = located(dataset)
        train, val = _sources(dataset, cache)
        known = _recall(dataset, train, val, cache)
        return known or _prepare(dataset, train, val, cache, watch)
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


def _prepare(
    dataset: settings.Dataset, train: _Source, val: _Source, cache: Path, watch: Watch
) -> Prepared:
    problems: list[str] = []
    folders = images.Folders()
    splits = _examine(dataset, (train, val), folders, cache, problems, watch, look=True)
    _stop(problems)
    evaluation: Literal["lvis", "coco"] = "coco" if dataset.format == "coco" else "lvis"
    warnings = [sentence for split in splits for sentence in split.odd(evaluation)]
    both = images.in_both(*((split.files, split.images) for split in splits))
    if both:
        warnings.append(
            f"{len(both):,} images are in both the training and the validation split: {some(both)}"
        )
    groups = dataset.groups or settings.Groups()
    splits[0].content.annotations = boxes.trained(splits[0].content)
    categories = _categories(splits[0].content, groups, warnings)

    part = _part(cache)
    try:
        digest = hashlib.sha256(f"{LAYOUT} {evaluation} {groups.model_dump_json()}".encode())
        written = {}
        for split in splits:
            digest.update(index.write(part / f"{split.name}.arrow", _by_image(split)).encode())
            if split.name == "val":
                path = part / "val.json"
                # lvis-api takes crowds for single objects, hotcoco does not: so there are none.
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
        _place(part, cache / prepared.digest)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    prepared = _located(prepared.digest, train, val, cache)
    _remember(prepared.digest, dataset, train, val, folders, cache)
    return prepared


def _without_mask(ids: Sequence[Id], total: int) -> str:
    return f"{len(ids):,} of {total:,} have none: {some(ids)}" if ids else ""


# Reading and checking


@dataclass
class Examined:
    """A split as its file has it: well-formed, but perhaps senseless.

    annotations, images: the file and the folder. files: of each image, relative to the folder; ""
    where it is missing. looks: what is in each; None where it is missing or was not looked at.
    wrong, left_out: what was wrong with masks, and what was left out of them.
    """

    name: Literal["train", "val"]
    annotations: Path
    images: Path
    content: Content
    files: list[str]
    looks: Sequence[Look | None]
    wrong: Tally
    left_out: Tally

    def odd(self, evaluation: Literal["lvis", "coco"]) -> Iterator[str]:
        """Sentences on what is odd about its masks, boxes, images and names."""
        yield from self.left_out
        yield from boxes.examine(self.content, self.annotations, self.name, evaluation)
        if sentence := images.twice(self.content.images, self.files):
            yield f"{self.annotations.name}: images: {sentence}"
        if self.content.strange:
            yield self.content.strange
        if self.name == "train":
            yield from same_names(self)


def examine(
    dataset: settings.Dataset,
    cache: Path,
    problems: list[str],
    watch: Watch = _silent,
    look: bool = True,
) -> tuple[Examined, Examined]:
    """The training and the validation split, without preparing anything of them.

    What is missing, or wrong with images, masks and boxes, goes to `problems`. The embedded set is
    made in `cache`, and what is in images is remembered there.

    Args:
        watch: is told of the images that are read.
        look: whether to look at the images; else they are only looked for.

    Raises:
        UsageError: annotation files that cannot be read as such, one sentence a line.
    """
    dataset = located(dataset)
    sources = _sources(dataset, cache)
    return _examine(dataset, sources, images.Folders(), cache, problems, watch, look)


def _examine(
    dataset: settings.Dataset,
    sources: tuple[_Source, _Source],
    folders: images.Folders,
    cache: Path,
    problems: list[str],
    watch: Watch,
    look: bool,
) -> tuple[Examined, Examined]:
    annotated = dataset.sizes == "annotated"

    def examined(name: Literal["train", "val"], source: _Source, content: Content) -> Examined:
        path, folder = source.annotations, source.images
        files, missing = images.find(content, path, folder, folders)
        looks: Sequence[Look | None] = [None] * len(files)
        if look or not annotated:
            looks = images.look(folder, files, folders, cache, watch)
        own = [missing] * bool(missing)
        own += images.problems(content.images, files, looks, folder, annotated)
        if not annotated:
            for image, seen in zip(content.images, looks, strict=True):
                # what is missing or cannot be read is a problem already, and needs some size
                image["width"] = (seen and seen.width) or reading.LARGEST
                image["height"] = (seen and seen.height) or reading.LARGEST
        masks = segmentations.understand(content)
        wrong, left_out = (Tally(path.name, "annotation", ids) for ids in masks)
        problems.extend([*own, *wrong, *boxes.problems(content, path)])
        return Examined(name, path, folder, content, files, looks, wrong, left_out)

    first, second = _contents(dataset, *sources)
    return examined("train", sources[0], first), examined("val", sources[1], second)


def category_counts(dataset: settings.Dataset, train: Examined) -> list[Category]:
    """Categories by label with their counts and groups, as `prepare` would have them."""
    groups = located(dataset).groups or settings.Groups()
    usable = Content([], boxes.trained(train.content), train.content.categories)
    return _categories(usable, groups, [])


def synsets(dataset: settings.Dataset, cache: Path) -> dict[str, str]:
    """WordNet's name for each category that has one, by the category's name; LVIS gives them.

    They are read from the validation split's file, which is the smaller: `prepare` has seen that
    the categories of both are the same. Raises UsageError where it cannot be read.
    """
    _, val = _sources(located(dataset), cache)
    problems: list[str] = []
    content = reading.read(val.annotations, problems, federated=False, counted=True, sized=False)
    _stop(problems)
    assert content  # or there were problems
    found = [(item["name"], item.get("synset")) for item in content.categories]
    return {name: synset for name, synset in found if isinstance(synset, str)}


def _contents(dataset: settings.Dataset, train: _Source, val: _Source) -> tuple[Content, Content]:
    """The two annotation files; raises UsageError where they cannot be read as such."""
    problems: list[str] = []
    first, second = (
        reading.read(
            source.annotations,
            problems,
            federated=dataset.format != "coco" and source is val,
            counted=dataset.groups is not None,
            sized=dataset.sizes == "annotated",
        )
        for source in (train, val)
    )
    _stop(problems)
    assert first and second  # or there were problems
    first.categories = reading.by_label(first.categories)
    _check_categories(first, second, train, val, problems)
    for content, source in ((first, train), (second, val)):
        reading.relate(content, first.categories, source.annotations, problems)
    _stop(problems)
    return first, second


def _stop(problems: list[str]) -> None:
    if problems:
        raise UsageError("\n".join(dict.fromkeys(problems)))


def _check_categories(
    train: Content, val: Content, train_source: _Source, val_source: _Source, problems: list[str]
) -> None:
    names = {category["id"]: category["name"] for category in train.categories}
    unknown = [
        f"{category['id']!r} ({category['name']})"
        for category in val.categories
        if category["id"] not in names
    ]
    if unknown:
        problems.append(
            f"{val_source.annotations}: categories: expected those of {train_source.annotations}, "
            f"which has no {some(unknown)}"
        )
    renamed = [
        f"{category['id']!r} ({names[category['id']]} and {category['name']})"
        for category in val.categories
        if names.get(category["id"], category["name"]) != category["name"]
    ]
    if renamed:
        problems.append(
            f"{val_source.annotations}: categories: expected the names of "
            f"{train_source.annotations}, they differ in {some(renamed)}"
        )


def same_names(split: Examined) -> Iterator[str]:
    """The sentence on categories that share a name, which are trained as several all the same."""
    ids: dict[str, list[Id]] = {}
    for category in split.content.categories:
        ids.setdefault(category["name"], []).append(category["id"])
    shared = [f"{name} (ids {some(map(repr, own))})" for name, own in ids.items() if len(own) > 1]
    if shared:
        yield (
            f"{split.annotations.name}: categories: {len(shared):,} names belong to several "
            "categories, which are trained and evaluated apart; give each a name of its own, or "
            f"merge them: "
            f"{some(shared)}"
        )


# Categories and files


def _categories(content: Content, groups: settings.Groups, warnings: list[str]) -> list[Category]:
    """Categories by label, with what annotations have of them. Crowds are not counted."""
    single = [a for a in content.annotations if not a.get("iscrowd")]
    instances = Counter(annotation["label"] for annotation in single)
    shown = Counter(label for label, _ in {(a["label"], a["image"]) for a in single})
    categories = []
    for label, item in enumerate(content.categories):
        image_count = item.get("image_count", shown[label])
        instance_count = item.get("instance_count", instances[label])
        categories.append(
            Category(
                id=item["id"],
                name=item["name"],
                image_count=image_count,
                instance_count=instance_count,
                frequency=item.get("frequency") or groups.name(image_count, instance_count),
            )
        )
    unseen = [category.name for label, category in enumerate(categories) if not shown[label]]
    if unseen:
        warnings.append(f"{len(unseen)} categories have no training image: {some(unseen)}")
    return categories


def _by_image(split: Examined) -> Iterator[index.Row]:
    own: list[list[dict]] = [[] for _ in split.files]
    for annotation in split.content.annotations:
        own[annotation["image"]].append(annotation)
    yield from zip(split.content.images, split.files, own, strict=True)


def _write_json(path: Path, split: Examined, categories: Sequence[Category], crowds: bool) -> None:
    """Write the ground truth that evaluators read, item by item, so that memory stays flat.

    Images are numbered from 0 by position, categories from 0 by label; annotations from 1, because
    pycocotools holds a match with annotation 0 for none.
    """
    sizes = [(image["width"], image["height"]) for image in split.content.images]

    def annotation(number: int, item: dict) -> dict:
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

    lists: dict[str, Iterator[dict]] = {
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
    key = [dataset.format, groups, dataset.sizes, *code]
    for source in (train, val):
        try:
            status = source.annotations.stat()
        except OSError:
            return None
        key += [str(source.annotations.resolve()), str(source.images.resolve())]
        key += [str(fact) for fact in (status.st_size, status.st_mtime_ns, status.st_ctime_ns)]
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()


def _remember(
    digest: str,
    dataset: settings.Dataset,
    train: _Source,
    val: _Source,
    folders: images.Folders,
    cache: Path,
) -> None:
    """Note which digest these inputs have."""
    note = cache / "inputs" / f"{_input_key(dataset, train, val)}.json"
    note.parent.mkdir(exist_ok=True)
    part = note.with_name(f".{note.name}.{os.getpid()}")
    looked = {"folders": [str(f) for f in folders.files], "files": folders.fingerprint()}
    part.write_text(json.dumps({"digest": digest} | looked), encoding="utf-8")
    part.replace(note)


def _recall(
    dataset: settings.Dataset, train: _Source, val: _Source, cache: Path
) -> Prepared | None:
    """The prepared dataset of unchanged inputs, or None."""
    note = cache / "inputs" / f"{_input_key(dataset, train, val)}.json"
    if not note.exists():
        return None
    known = json.loads(note.read_text(encoding="utf-8"))
    folders = images.Folders()
    for folder in known["folders"]:
        folders.of(Path(folder))
    if folders.fingerprint() != known["files"]:
        return None
    if not (cache / known["digest"] / "dataset.json").exists():
        return None
    return _located(known["digest"], train, val, cache)
