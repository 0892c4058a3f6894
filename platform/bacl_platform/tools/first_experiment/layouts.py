"""Layouts in which tools write COCO and LVIS annotations: where the files of each split and their
images are.

| tool | annotations | images |
|---|---|---|
| COCO | `annotations/instances_train2017.json` | `train2017/` |
| LVIS | `annotations/lvis_v1_train.json` | `train2017/` |
| plain | `train.json`, `val.json` | `images/` |
| Roboflow | `train/_annotations.coco.json`, `valid/...`, `test/...` | beside them |
| CVAT | `annotations/instances_default.json`, or one file for each subset | `images/<subset>/` |
| Label Studio | `result.json` | `images/` |

No layout is asked for by name. The split of a file is told by a word in its name, or else in its
folder's; the images are where the file names of its entries lead to a file.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bacl.datasets import coco_json, images, reading
from bacl.datasets.content import Content, some
from bacl.errors import UsageError

WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""Words in names of files and folders, and the splits that they stand for."""
OTHERS = ("captions", "panoptic", "stuff", "image_info", "person_keypoints")
"""What names of files begin with that lie beside COCO's `instances_*.json` and have no boxes of
their own."""
LISTS = ("images", "annotations", "categories")
"""Lists of objects that an annotation file has."""
DEPTH = 2
"""Folders below the given one in which annotation files are looked for."""
SAMPLE = 40
"""Images of a file that are looked for in each folder."""
MOST_FOLDERS = 400
"""Folders that are looked at for images, at most."""


@dataclass(frozen=True)
class Found:
    """The annotation files of a data set. `val` is None where there is no validation split;
    `from_test` tells that it is the split called test, for want of another."""

    train: Path
    val: Path | None
    from_test: bool = False


def annotation_files(data: Path, val: Path | None = None) -> Found:
    """The annotation files that a user means by a folder, or by the training split's file.

    val: the validation split's file, where the user names it. Raises UsageError with a sentence
    where there is none, or more than one data set.
    """
    if not data.exists():
        raise UsageError(f"--data {data}: expected a folder or an annotation file, found none")
    if val is not None and not val.is_file():
        raise UsageError(f"--val {val}: expected an annotation file, found none")
    if data.is_file():
        if val is not None:
            return Found(data, val)
        folder = root_of(data)
        return _chosen(_sets(folder).get(_family(data, folder), {}) | {"train": data})
    sets = _sets(data)
    if not sets:
        raise UsageError(
            f"--data {data}: expected COCO or LVIS annotations, such as train.json or "
            "annotations/instances_train.json, found no JSON file with images, annotations and "
            f"categories there or {DEPTH} folders below; name the file if it is elsewhere"
        )
    trained = {name: own for name, own in sets.items() if own.keys() & {"train", ""}}
    if len(trained) > 1:
        files = [own.get("train") or own[""] for own in trained.values()]
        raise UsageError(
            f"--data {data}: expected one data set, got {len(files)}: "
            f"{some(file.relative_to(data) for file in files)}; name one of these files"
        )
    if not trained:
        files = [file for own in sets.values() for file in own.values()]
        raise UsageError(
            f"--data {data}: expected a training split, got only "
            f"{some(file.relative_to(data) for file in files)}; name the file to train on"
        )
    found = _chosen(next(iter(trained.values())))
    return found if val is None else Found(found.train, val)


def root_of(data: Path) -> Path:
    """The folder in which a data set lies, of a folder or an annotation file that a user named."""
    if data.is_dir():
        return data
    words = set(_words(data.parent.name))
    inner = words and words <= {*WORDS, "annotation", "annotations"}
    return data.parent.parent if inner else data.parent


def _chosen(own: dict[str, Path]) -> Found:
    train = own.get("train") or own[""]
    if "val" in own:
        return Found(train, own["val"])
    return Found(train, own.get("test"), from_test="test" in own)


def _sets(folder: Path) -> dict[str, dict[str, Path]]:
    """Annotation files below a folder by data set and split; the split is "" where no word tells
    it.

    Files that differ in the word of the split alone are of one data set.
    """
    sets: dict[str, dict[str, Path]] = {}
    for path in _candidates(folder):
        split = _split_of(path, folder)
        sets.setdefault(_family(path, folder), {}).setdefault(split, path)
    whole = [name for name, own in sets.items() if "" in own]
    named = [name for name, own in sets.items() if "train" in own]
    if len(named) == 1 and whole:  # a file of the whole set lies beside its splits
        sets = {name: own for name, own in sets.items() if name not in whole}
    return sets


def _candidates(folder: Path) -> Iterator[Path]:
    for path in sorted(_below(folder, DEPTH)):
        if not path.name.startswith((*OTHERS, ".")) and _has_boxes(path):
            yield path


def _below(folder: Path, depth: int) -> Iterator[Path]:
    """JSON files in a folder and in those below it; Windows and macOS write `.JSON` too."""
    for path in _entries(folder):
        if path.is_dir():
            if depth:
                yield from _below(path, depth - 1)
        elif path.suffix.lower() == ".json":
            yield path


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, hidden entries excluded; nothing where it may not be read."""
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError:
        return []


def _has_boxes(path: Path) -> bool:
    """Whether a file names COCO's lists of objects, without parsing it: that of LVIS has 1 GB."""
    wanted = {f'"{name}"'.encode() for name in LISTS}
    try:
        with path.open("rb") as file:
            end = b""
            while wanted and (block := file.read(1 << 22)):
                text = end + block
                wanted -= {name for name in wanted if name in text}
                end = text[-20:]
    except OSError:
        return False
    return not wanted


def _split_of(path: Path, folder: Path) -> str:
    """The split that a file's name tells, or else its folder's; "" where neither does."""
    return _split_in(path.stem) or (_split_in(path.parent.name) if path.parent != folder else "")


def _split_in(name: str) -> str:
    return next((WORDS[word] for word in _words(name) if word in WORDS), "")


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+", name.lower())


def _family(path: Path, folder: Path) -> str:
    """What names of a data set's files have in common: the path with the split's word blotted
    out."""

    def blotted(name: str) -> str:
        return re.sub(
            r"[a-z]+",
            lambda word: "*" if word[0] in WORDS else word[0],
            re.sub(r"20\d\d", "", name.lower()),
        )

    parts = [blotted(part) for part in path.relative_to(folder).parts]
    if "*" in parts[-1]:  # the name says it, so the folder may have any
        parts = parts[-1:]
    return "/".join(parts)


# Images


def images_of(content: Mapping[str, Any], annotations: Path, root: Path, option: str) -> Path:
    """The folder that a file's image names start from.

    content: the file's. root: the folder in which the data set lies. option: how the user can name
    the images' folder. Raises UsageError where no image is found.
    """
    names = _sample(content["images"], annotations)
    sample = Content(names, [], [])
    there = images.Folders()
    best, most = None, 0
    for folder in _image_folders(annotations, root):
        files, _ = images.find(sample, annotations, folder, there)
        if (count := sum(map(bool, files))) > most:
            best, most = folder, count
        if most == len(names):
            break
    if best is None:
        first = names[0].get("file_name") or names[0].get("coco_url")
        raise UsageError(
            f"{annotations}: expected its images in a folder beside it, found none of "
            f"{len(names)} that were looked for, such as {first!r}; name their folder with {option}"
        )
    return best


def _sample(entries: Sequence[Any], annotations: Path) -> list[dict[str, Any]]:
    """Some of a file's images, spread over it, by their names alone."""
    named = [
        {name: image[name] for name in ("file_name", "coco_url") if image.get(name)}
        for image in entries
        if isinstance(image, dict)
    ]
    if not (named := [names for names in named if names]):
        raise UsageError(f"{annotations}: images: expected file_name or coco_url, got none")
    return named[:: -(-len(named) // SAMPLE)]


def content_of(annotations: Path) -> dict[str, Any]:
    """A file's own lists, unchecked; raises UsageError where it cannot be read or lacks them."""
    try:
        content = coco_json.read(annotations)
    except OSError as error:
        raise UsageError(f"{annotations}: expected a readable file: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{annotations}: expected JSON, got: {error}") from None
    if not isinstance(content, dict) or any(
        not isinstance(content.get(name), list) for name in LISTS
    ):
        raise UsageError(
            f"{annotations}: expected COCO or LVIS JSON, an object with the lists {some(LISTS)}"
        )
    return content


def _image_folders(annotations: Path, root: Path) -> Iterable[Path]:
    """Folders in which a file's images may lie, the likeliest first: those with its split's name,
    then the nearest to it."""
    split = _split_in(annotations.stem) or _split_in(annotations.parent.name)
    bases = dict.fromkeys((annotations.parent, root))
    found: dict[Path, None] = {}
    for base in bases:
        for folder in (base, *_folders(base, DEPTH)):
            if len(found) < MOST_FOLDERS:
                found.setdefault(folder)

    def rank(folder: Path) -> tuple[bool, bool]:
        own = _split_in(folder.name)
        return own != split, own not in ("", split)

    return sorted(found, key=rank)


def _folders(folder: Path, depth: int) -> Sequence[Path]:
    below = sorted(path for path in _entries(folder) if path.is_dir())
    if depth > 1:
        below += [inner for path in below for inner in _folders(path, depth - 1)]
    return below


def is_federated(content: Mapping[str, Any]) -> bool:
    """Whether each image lists which categories are absent from it, as LVIS's do."""
    return bool(content["images"]) and all(
        isinstance(image, dict) and reading.LISTS.keys() <= image.keys()
        for image in content["images"]
    )
