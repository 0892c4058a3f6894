"""Named data sets: their archives and addresses, and the records of what a root folder holds.

Under a root lie `train2017/` and `val2017/` (COCO's photographs, which all of them share),
`annotations/`, `embedded/`, and in `.bacl/` a record for everything complete. Files without a
record are not used.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ValidationError

from bacl import settings
from bacl.download import Wanted
from bacl.errors import UsageError

RECORDS = ".bacl"

COCO = ("http://images.cocodataset.org", "https://s3.amazonaws.com/images.cocodataset.org")
"""Public address of COCO's files, and an address of the same bucket whose certificate is
Amazon's."""
LVIS = (
    "https://dl.fbaipublicfiles.com/LVIS",
    "https://s3-us-west-2.amazonaws.com/dl.fbaipublicfiles.com/LVIS",
)


@dataclass(frozen=True)
class Archive:
    """An archive to download, and the files under the root that come from it.

    Sizes are bytes; size and sha256 are None where none is published.
    """

    name: str
    addresses: Sequence[str]
    size: int | None
    sha256: str | None
    files: dict[str, int | None] = field(default_factory=dict)
    """Sizes, where known, of single files in the archive, by their path under the root."""
    folder: str | None = None
    """Folder in the archive, which has the same name under the root."""
    count: int = 0
    """Number of files in `folder`."""

    @property
    def zipped(self) -> bool:
        return self.name.endswith(".zip")

    @property
    def places(self) -> dict[str, str]:
        """Members to unpack and their places under the root, for `unpack`."""
        files = {Path(place).name: place for place in self.files}
        return files | ({f"{self.folder}/": self.folder} if self.folder else {})

    def wanted(self, mirrors: Sequence[str] = ()) -> Wanted:
        """The archive for `fetch`; `mirrors` are base addresses that replace the public ones."""
        mirrored = [f"{mirror.rstrip('/')}/{self.name}" for mirror in mirrors]
        return Wanted(self.name, mirrored or self.addresses, self.size, self.sha256)


def _at(bases: Sequence[str], path: str) -> list[str]:
    return [f"{base}/{path}" for base in bases]


# Sizes and SHA-256 of COCO's and of LVIS v1's files are TensorFlow Datasets' (checksums.tsv of
# lvis, url_checksums/coco.txt), which others have computed anew and published with equal results.
TRAIN_PHOTOGRAPHS = Archive(
    "train2017.zip",
    _at(COCO, "zips/train2017.zip"),
    19336861798,
    "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    folder="train2017",
    count=118287,
)
VAL_PHOTOGRAPHS = Archive(
    "val2017.zip",
    _at(COCO, "zips/val2017.zip"),
    815585330,
    "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    folder="val2017",
    count=5000,
)
COCO_ANNOTATIONS = Archive(
    "annotations_trainval2017.zip",
    _at(COCO, "annotations/annotations_trainval2017.zip"),
    252907541,
    "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    files={
        "annotations/instances_train2017.json": 469785474,
        "annotations/instances_val2017.json": 19987840,
    },
)
LVIS_V1 = (
    Archive(
        "lvis_v1_train.json.zip",
        _at(LVIS, "lvis_v1_train.json.zip"),
        350264821,
        "334a4caa374030a7817cf050364525e910f7960f9b6968cef47cffbf3893f8ba",
        files={"annotations/lvis_v1_train.json": 1097154875},
    ),
    Archive(
        "lvis_v1_val.json.zip",
        _at(LVIS, "lvis_v1_val.json.zip"),
        64026968,
        "5cae9a3c79aadb667550c2b5dcf7f4d86e059a41ec91ef690225b667e28e9ba5",
        files={"annotations/lvis_v1_val.json": 201235232},
    ),
)
LVIS_V05 = tuple(
    Archive(
        f"lvis_v0.5_{split}.json.zip",
        _at(LVIS, f"lvis_v0.5_{split}.json.zip"),
        None,
        None,
        files={f"annotations/lvis_v0.5_{split}.json": None},
    )
    for split in ("train", "val")
)
COCO_LT_INDEX = Archive(
    "class_to_imageid_and_inscount_coco_sampled.pt",
    [
        "https://raw.githubusercontent.com/twangnh/SimCal/"
        "e5f3076cefbe35297a403a753bb57e11503db818/class_to_imageid_and_inscount_coco_sampled.pt"
    ],
    1979750,
    "453787808408a31b4ac7a0c19081d4e5485d23ecb1ea7be45644cfa3bd6ebb2c",
    files={"annotations/class_to_imageid_and_inscount_coco_sampled.pt": 1979750},
)
COCO_LT_TRAIN = "annotations/coco_lt_train.json"
"""Path of the annotations that `coco_lt` makes from COCO's and the index."""
COCO_LT_GROUPS = settings.Groups(by="instances", bounds=[19, 399, 7999], names=["1", "2", "3", "4"])
"""AP1 to AP4 of the paper's Table XV: < 20, 20-400, 400-8000, >= 8000 training instances."""


@dataclass(frozen=True)
class Named:
    """A data set by name: its archives, and the settings that find it under a root.

    made: paths under the root of files that are made instead of downloaded.
    """

    archives: tuple[Archive, ...]
    made: tuple[str, ...]
    dataset: dict[str, str]
    groups: settings.Groups | None = None


NAMED = {
    "lvis_v0.5": Named(
        (TRAIN_PHOTOGRAPHS, VAL_PHOTOGRAPHS, *LVIS_V05),
        (),
        {
            "format": "lvis",
            "train": "annotations/lvis_v0.5_train.json",
            "val": "annotations/lvis_v0.5_val.json",
            "images": "train2017",
            "val_images": "val2017",
        },
    ),
    "lvis_v1": Named(
        (TRAIN_PHOTOGRAPHS, VAL_PHOTOGRAPHS, *LVIS_V1),
        (),
        {
            "format": "lvis",
            "train": "annotations/lvis_v1_train.json",
            "val": "annotations/lvis_v1_val.json",
            "images": ".",
        },
    ),
    "coco_lt": Named(
        (TRAIN_PHOTOGRAPHS, VAL_PHOTOGRAPHS, COCO_ANNOTATIONS, COCO_LT_INDEX),
        (COCO_LT_TRAIN,),
        {
            "format": "coco",
            "train": COCO_LT_TRAIN,
            "val": "annotations/instances_val2017.json",
            "images": "train2017",
            "val_images": "val2017",
        },
        COCO_LT_GROUPS,
    ),
    "embedded": Named(
        (),
        ("embedded",),
        {
            "format": "lvis",
            "train": "embedded/train.json",
            "val": "embedded/val.json",
            "images": "embedded/images",
        },
    ),
}


class Record(BaseModel):
    """Record that the content of an archive, or a generated file, is complete under the root."""

    name: str
    origin: str
    """Origin: an address, a file, or how it was made."""
    sha256: str | None
    """SHA-256 of the archive or of the generated file; None where files existed already."""
    files: dict[str, int]
    """Size in bytes of each file, by its path under the root."""


def record_path(root: Path, name: str) -> Path:
    return root / RECORDS / f"{Path(name).name}.json"


def read_record(root: Path, name: str) -> Record | None:
    """The record of an archive or a generated file; None where there is no readable one."""
    try:
        return Record.model_validate_json(record_path(root, name).read_bytes())
    except (OSError, ValidationError):
        return None


def write_record(root: Path, record: Record) -> None:
    """Write a record, whole or not at all."""
    path = record_path(root, record.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(record.model_dump_json(), encoding="utf-8")
    part.replace(path)


def spoilt(root: Path, record: Record) -> list[str]:
    """Paths of files that are missing or differ in size from the record."""
    sizes: dict[str, dict[str, int]] = {}
    for folder in {str(Path(place).parent) for place in record.files}:
        sizes[folder] = dict(_sizes(root / folder))
    return [
        place
        for place, size in record.files.items()
        if sizes[str(Path(place).parent)].get(Path(place).name) != size
    ]


def found(root: Path, archive: Archive) -> dict[str, int] | None:
    """Sizes of files that a user has unpacked, by path under the root, if they seem to be complete.

    A folder must hold the right number of files, and a single file must have the known size.
    """
    files: dict[str, int] = {}
    for place, size in archive.files.items():
        path = root / place
        if size is None or not path.is_file() or path.stat().st_size != size:
            return None
        files[place] = size
    if archive.folder:
        inside = {f"{archive.folder}/{name}": s for name, s in _sizes(root / archive.folder)}
        if len(inside) != archive.count or not all(inside.values()):
            return None
        files |= inside
    return files


def _sizes(folder: Path) -> Iterator[tuple[str, int]]:
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file():
                yield entry.name, entry.stat().st_size


def located(dataset: settings.Dataset) -> settings.Dataset:
    """Settings of a named data set as plain files under its root; other datasets unchanged.

    Raises:
        UsageError: the root does not hold it, or not all of it.
    """
    if dataset.root is None:
        return dataset
    return under(Path(dataset.root), dataset.format, dataset.groups)


def under(root: Path, name: str, groups: settings.Groups | None = None) -> settings.Dataset:
    """Settings of a named data set as plain files under a root, with its own groups or `groups`.

    Raises:
        UsageError: the root does not hold it, or not all of it.
    """
    named = NAMED[name]
    parts = [archive.name for archive in named.archives] + list(named.made)
    lacking = [Path(part).name for part in parts if read_record(root, part) is None]
    if lacking:
        raise UsageError(
            f"{root}: expected what `bacl data prepare {name} --root {root}` brings there, "
            f"got nothing whole of {', '.join(lacking)}"
        )
    paths = {k: v if k == "format" else str(root / v) for k, v in named.dataset.items()}
    return settings.Dataset.model_validate({**paths, "groups": groups or named.groups})


def all_spoilt(root: Path, name: str) -> list[str]:
    """Sentences about missing or damaged files of a named data set, one for each record."""
    named = NAMED[name]
    sentences = []
    for part in [archive.name for archive in named.archives] + list(named.made):
        record = read_record(root, part)
        if record and (places := spoilt(root, record)):
            sentences.append(
                f"{root}: {len(places):,} of {len(record.files):,} files of {Path(part).name} are "
                f"missing or have another size, such as {places[0]}"
            )
    return sentences
