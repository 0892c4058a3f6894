"""Image files of a dataset: their location, their content, and whether either has changed.

Content is identified by SHA-256, so an image that is changed in place makes another dataset.
Reading all files of a large dataset takes minutes, so the cache holds a table of results for each
folder, and a file is read again only when its size or one of its times differs.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from bacl.datasets import decoding
from bacl.datasets.content import Content, Tally, some
from bacl.watch import Watch

_RULE = hashlib.sha256(Path(decoding.__file__).read_bytes()).hexdigest()
"""Digest of the decoder's source; results of another decoder are not used."""
WORKERS = 8
"""Files read at the same time by threads: reading waits for the disk, and hashing releases the
GIL."""


class Status(NamedTuple):
    """Status that identifies an unchanged file without reading it: bytes, and times in
    nanoseconds."""

    bytes: int
    modified: int
    changed: int


class Look(NamedTuple):
    """Result of reading a file: SHA-256 of its content, its size in pixels as training sees it, and
    the reason why it is not a readable image, "" if it is one."""

    digest: bytes
    width: int
    height: int
    problem: str


class Folders:
    """Names and statuses of the files in folders; each folder is listed once, at the first
    request."""

    def __init__(self) -> None:
        self.files: dict[Path, dict[str, Status]] = {}

    def status(self, path: Path) -> Status | None:
        """The status of a file, or None where there is none of that name."""
        return self.of(path.parent).get(path.name)

    def of(self, folder: Path) -> dict[str, Status]:
        """Files of a folder by name; none where it is no folder."""
        if folder not in self.files:
            self.files[folder] = dict(_scan(folder))
        return self.files[folder]

    def fingerprint(self) -> str:
        """A digest of all names and statuses, which changes when a file of these folders does."""
        digest = hashlib.sha256()
        for folder in sorted(self.files):
            digest.update(repr((str(folder), sorted(self.files[folder].items()))).encode())
        return digest.hexdigest()


def _scan(folder: Path) -> Iterator[tuple[str, Status]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file():
                    status = entry.stat()
                    yield (
                        entry.name,
                        Status(status.st_size, status.st_mtime_ns, status.st_ctime_ns),
                    )
    except (FileNotFoundError, NotADirectoryError):
        return


# Location


def find(content: Content, source: Path, folder: Path, folders: Folders) -> tuple[list[str], str]:
    """The file of each image, relative to `folder` where it lies in it, "" where it is missing.

    source: the annotation file, named in the second result: a sentence about missing images, or "".
    """
    try:
        if not folder.is_dir():
            return [""] * len(content.images), (
                f"{folder}: expected the folder of the images, found none"
            )
        found, missing = [], []
        for image in content.images:
            names = list(_file_names(image))
            name = next((n for n in names if folders.status(folder / n)), "")
            found.append(_relative(name, folder))
            if not name:
                missing.append(names[0])
    except OSError as error:
        return [""] * len(content.images), (
            f"{error.filename or folder}: expected a readable folder of images: {error.strerror}"
        )
    if not missing:
        return found, ""
    return found, (
        f"{folder}: {len(missing):,} of {len(found):,} images of {source} are missing: "
        f"{some(_with_hints(missing, folder, folders))}"
    )


def _file_names(image: dict[str, Any]) -> Iterator[str]:
    """Paths under the images folder where an image may lie, the likeliest first.

    LVIS v1 gives no file name, only `coco_url`; LVIS v0.5 gives names of COCO 2014, whose files
    COCO 2017 sorted into other folders without the prefix.
    """
    if (name := image.get("file_name")) is not None:
        yield name
        yield re.sub(r"COCO_(train|val|test)2014_", "", name)
    if (url := image.get("coco_url")) is not None:
        parts = url.split("/")
        yield "/".join(parts[-2:])
        yield parts[-1]


def _relative(name: str, folder: Path) -> str:
    """A name made relative where it is absolute and lies in the folder, so that datasets can be
    moved."""
    path = Path(name)
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else name


def _with_hints(missing: Sequence[str], folder: Path, folders: Folders) -> Iterator[str]:
    """Missing names, each with an existing file of a similar name where there is one."""
    alike: dict[Path, dict[str, str]] = {}
    for name in missing:
        path = folder / _plain(name)
        if path.parent not in alike:
            there = folders.of(path.parent)
            alike[path.parent] = {_plain(other).casefold(): other for other in there}
        other = alike[path.parent].get(path.name.casefold())
        yield f"{name} (there is {other!r}: {_difference(name, other)})" if other else name


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", unquote(name)).replace("\\", "/")


def _difference(name: str, other: str) -> str:
    """The difference between an annotated name and an existing one that `_plain` makes equal."""
    if "\\" in name:
        return "write / for \\"
    if "%" in name and unquote(name) != name:
        return "the name in the annotation file is percent-encoded, as in a URL"
    last = name.rsplit("/", 1)[-1]
    if unicodedata.normalize("NFC", last) == unicodedata.normalize("NFC", other):
        return "one is in Unicode's composed form NFC, the other in NFD"
    return "capital letters differ"


# Content


_MEMORY = pa.schema(
    [
        ("name", pa.string()),
        *((field, pa.int64()) for field in Status._fields),
        ("digest", pa.binary()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("problem", pa.string()),
    ],
    metadata={"rule": _RULE},
)


@dataclass
class Memory:
    """Results of reading the files of one folder, kept in the cache."""

    path: Path
    looks: dict[str, tuple[Status, Look]]
    new: bool = False

    @classmethod
    def of(cls, folder: Path, cache: Path) -> "Memory":
        name = hashlib.sha256(str(folder).encode(errors="surrogateescape")).hexdigest()[:24]
        path = cache / "images" / f"{name}.parquet"
        looks: dict[str, tuple[Status, Look]] = {}
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid):  # absent, or of a process that was killed
            return cls(path, looks)
        if table.schema.equals(_MEMORY) and table.schema.metadata == _MEMORY.metadata:
            columns = (column.to_pylist() for column in table.columns)
            for name, size, modified, changed, *look in zip(*columns, strict=True):
                looks[name] = (Status(size, modified, changed), Look(*look))
        return cls(path, looks)

    def save(self) -> None:
        """Write the table, whole or not at all, if anything is new. A cache that is missing or
        read-only is no error: the table only saves time."""
        if not self.new:
            return
        rows = [(name, *status, *look) for name, (status, look) in self.looks.items()]
        columns = list(zip(*rows, strict=True))
        table = pa.table(columns, schema=_MEMORY)
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with suppress(OSError):
            self.path.parent.mkdir(exist_ok=True)
            pq.write_table(table, part)
            part.replace(self.path)


def look(
    folder: Path, files: Sequence[str], folders: Folders, cache: Path, watch: Watch
) -> list[Look | None]:
    """The result of reading each of these files, from `cache` where it is there; None for "".

    Raises OSError where a file cannot be read.
    """
    paths = [folder / file if file else None for file in files]
    memories: dict[Path, Memory] = {}
    unknown: list[Path] = []
    for path in dict.fromkeys(path for path in paths if path):
        if path.parent not in memories:
            memories[path.parent] = Memory.of(path.parent.resolve(), cache)
        known = memories[path.parent].looks.get(path.name)
        if known is None or known[0] != folders.status(path):
            unknown.append(path)
    pool = ThreadPoolExecutor(WORKERS)
    try:
        for done, (path, found) in enumerate(zip(unknown, pool.map(_look, unknown)), start=1):
            status = folders.status(path)
            assert status is not None  # it was found there
            memories[path.parent].looks[path.name] = (status, found)
            memories[path.parent].new = True
            watch("reading images", done, len(unknown))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for memory in memories.values():
            memory.save()
    return [memories[path.parent].looks[path.name][1] if path else None for path in paths]


def _look(path: Path) -> Look:
    content = path.read_bytes()
    digest = hashlib.sha256(content).digest()
    try:
        width, height = decoding.seen_size(content)
    except decoding.ImageUnreadable as error:
        return Look(digest, 0, 0, str(error))
    return Look(digest, width, height, "")


def problems(
    images: Sequence[dict[str, Any]],
    files: Sequence[str],
    looks: Sequence[Look | None],
    folder: Path,
    annotated: bool,
) -> list[str]:
    """Sentences about images that cannot be read, and about those of another size than annotated.

    annotated: whether images must have the annotated sizes; otherwise their own sizes are used.
    """
    seen = [(i, file, look) for i, file, look in zip(images, files, looks, strict=True) if look]
    unreadable = Tally(folder, "image")
    for _, file, look in seen:
        if look.problem:
            unreadable.add(f"cannot be read, got {look.problem}", file)
    told = list(unreadable)
    other = [
        (
            f"{file} is {look.width} x {look.height}, annotated {i['width']} x {i['height']}",
            (look.height, look.width) == (i["width"], i["height"]),
        )
        for i, file, look in seen
        if annotated and not look.problem and (look.width, look.height) != (i["width"], i["height"])
    ]
    if other:
        turned = sum(exchanged for _, exchanged in other)
        hint = f" ({turned:,} by exchanging them, as EXIF orientation, which is followed, does)"
        told.append(
            f"{folder}: {len(other):,} of {len(images):,} images have another width and height "
            f"than annotated{hint if turned else ''}: {some(text for text, _ in other)}; correct "
            "the annotations, or say `dataset.sizes: from_images` to take boxes as pixels of the "
            "images as they are"
        )
    return told


def twice(images: Sequence[dict[str, Any]], files: Sequence[str]) -> str:
    """A sentence about files that several images of a split share, or ""."""
    owners: dict[str, list[Any]] = {}
    for image, file in zip(images, files, strict=True):
        if file:
            owners.setdefault(os.path.normpath(file), []).append(image["id"])
    shared = {file: ids for file, ids in owners.items() if len(ids) > 1}
    if not shared:
        return ""
    return (
        f"{len(shared):,} files are listed as several images, and the boxes of one are background "
        "in the others; merge their entries: "
        + some(f"{file} (ids {some(map(repr, ids))})" for file, ids in shared.items())
    )


def in_both(first: tuple[Sequence[str], Path], second: tuple[Sequence[str], Path]) -> list[str]:
    """Names of the files that are in both of two splits, each given as file names and their
    folder."""
    (ours, here), (theirs, there) = first, second
    seen = {here.resolve() / name for name in ours if name}
    resolved = there.resolve()
    return [name for name in theirs if name and resolved / name in seen]
