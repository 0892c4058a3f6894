"""Opening annotations of LVIS v1.0's size beside MMDetection's own dataset on the same files."""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil

from bacl import settings
from bacl_platform.bench.drawn import Size, write_annotations, write_blanks
from bacl_platform.bench.measure import Row, Setting, quiet
from bacl_platform.train.memory import resident

WHOLE, PART = Size(), Size(images=2_000, annotations=25_400)
MOST_SECONDS, MOST_MIB = 2.0, 300e6 / 2**20
"""What opening the index may cost another process at the whole size."""
READ = 1_000
"""Images that a process reads after it has opened a split."""


@dataclass(frozen=True)
class Taken:
    """Seconds to open, then MiB: private after reading, and at the peak, beyond the imports."""

    seconds: float
    private: float
    peak: float


def measure(setting: Setting, size: Size | None = None) -> list[Row]:
    """Opening a training split in a process of its own, and reading some of its images.

    size: in place of what the setting's scale says.
    """
    size = size or (WHOLE if setting.full else PART)
    with TemporaryDirectory(prefix="bacl-bench-") as name:
        folder = Path(name)
        _draw(folder, size)
        prepared = _apart(_prepare, folder)
        reader = _ours(folder)  # other processes that train have read what a new one reads
        _read(reader)
        ours, theirs = _apart(_open_ours, folder), _apart(_open_theirs, folder)
    what = f"{size.images:,} images, {size.annotations:,} boxes"
    new = "private, of another process"
    peer = "MMDetection"
    return [
        Row("index_open", what, ours.seconds, peer, theirs.seconds, 0.1, "s"),
        Row("index_memory", new, ours.private, peer, theirs.private, 0.25, "MiB"),
        Row("index_open_most", what, ours.seconds, "at most", MOST_SECONDS, 1, "s"),
        Row("index_memory_most", new, ours.private, "at most", MOST_MIB, 1, "MiB"),
        Row(
            "index_prepare", "once", prepared.seconds, f"{peer}, always", theirs.seconds, None, "s"
        ),
        Row("index_prepare_memory", "peak", prepared.peak, peer, theirs.peak, None, "MiB"),
    ]


def _draw(folder: Path, size: Size) -> None:
    """Annotations, and images of their size in which there is nothing."""
    names = write_annotations(folder / "train.json", size)
    few = Size(images=10, annotations=100, categories=size.categories)
    names += write_annotations(folder / "val.json", few, first=1 + size.images)
    write_blanks(folder / "images", names)


def _apart(side: Callable[[Path], Taken], folder: Path) -> Taken:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_quietly, side, folder).result()


def _quietly(side: Callable[[Path], Taken], folder: Path) -> Taken:
    with quiet():
        return side(folder)


def _ours(folder: Path) -> Any:
    import bacl.register  # noqa: F401  before anything imports mmdet.models
    from bacl.datasets.detection import LVISFormatDataset
    from bacl.datasets.prepared import Prepared

    (info,) = folder.glob("cache/*/dataset.json")
    prepared = Prepared.load(info)
    with _scope():
        return LVISFormatDataset(
            prepared.train.index,
            str(info),
            prepared.train.images,
            [{"type": "LoadAnnotations", "with_mask": True}],
        )


def _theirs(folder: Path) -> Any:
    from mmdet.datasets import LVISV1Dataset

    with _scope():
        return LVISV1Dataset(
            ann_file=str(folder / "train.json"), data_prefix={"img": str(folder / "images")}
        )


def _prepare(folder: Path) -> Taken:
    from bacl.datasets.prepare import prepare  # imports are not counted

    dataset = settings.Dataset(
        format="lvis",
        train=str(folder / "train.json"),
        val=str(folder / "val.json"),
        images=str(folder / "images"),
    )
    return _taken(lambda: prepare(dataset, folder / "cache"), lambda prepared: None)


def _open_ours(folder: Path) -> Taken:
    import bacl.register  # noqa: F401

    return _taken(lambda: _ours(folder), _read)


def _open_theirs(folder: Path) -> Taken:
    import bacl.register  # noqa: F401

    return _taken(lambda: _theirs(folder), _read)


def _taken(open_: Callable[[], Any], read: Callable[[Any], None]) -> Taken:
    private, peak, start = _private(), resident(), time.perf_counter()
    opened = open_()
    seconds = time.perf_counter() - start
    read(opened)
    return Taken(seconds, _private() - private, resident() - peak)


def _read(dataset: Any) -> None:
    """Read annotations of some images, masks included."""
    for place in np.random.default_rng(0).integers(len(dataset), size=READ).tolist():
        for instance in dataset.get_data_info(place)["instances"]:
            for polygon in instance["mask"]:
                np.array(polygon)


def _private() -> float:
    """MiB that this process shares with no other."""
    private: int = psutil.Process().memory_full_info().uss
    return private / 2**20


def _scope() -> Any:
    from mmengine.registry import DefaultScope

    return DefaultScope.overwrite_default_scope("mmdet")
