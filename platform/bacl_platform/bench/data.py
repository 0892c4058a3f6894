"""Reading data: opening annotations of LVIS v1.0's size, and loading images with Copy-Paste.

Both beside MMDetection's own datasets on the same files.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bacl import settings
from bacl_platform.bench.drawn import Size, write_annotations, write_blanks, write_photographs
from bacl_platform.bench.measure import Clock, Row, Setting, in_turns, quiet
from bacl_platform.bench.memory import resident

WHOLE, PART = Size(), Size(images=2_000, annotations=25_400)
LOADED = Size(images=48, annotations=610)
MOST_SECONDS, MOST_MIB = 2.0, 300e6 / 2**20
"""What opening the index may cost another process at the whole size."""
READ = 1_000
"""Images that a process reads after it has opened a split."""
SIDE = 1280
RECIPE = settings.Recipe(schedule=settings.Schedule(iterations=1))
COPY_PASTE = RECIPE.model_copy(update={"augmentation": "copy_paste", "copy_paste_size": SIDE})

# Annotations


@dataclass(frozen=True)
class Taken:
    """Seconds to open, then MiB: private after reading, and at the peak, beyond the imports."""

    seconds: float
    private: float
    peak: float


def index(setting: Setting, size: Size | None = None) -> list[Row]:
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
    return _measure(lambda: prepare(dataset, folder / "cache"), lambda prepared: None)


def _open_ours(folder: Path) -> Taken:
    import bacl.register  # noqa: F401

    return _measure(lambda: _ours(folder), _read)


def _open_theirs(folder: Path) -> Taken:
    import bacl.register  # noqa: F401

    return _measure(lambda: _theirs(folder), _read)


def _measure(open_: Callable[[], Any], read: Callable[[Any], None]) -> Taken:
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
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 2**10


def _scope() -> Any:
    from mmengine.registry import DefaultScope

    return DefaultScope.overwrite_default_scope("mmdet")


# Images


def loader(setting: Setting, dataset: settings.Dataset | None = None) -> list[Row]:
    """Copy-Paste and multi-scale samples in one process, from `dataset` or a drawn one."""
    import cv2

    with TemporaryDirectory(prefix="bacl-bench-") as name:
        folder = Path(name)
        if dataset is None:
            path = folder / "both.json"
            write_photographs(folder / "images", write_annotations(path, LOADED))
            dataset = settings.Dataset(
                format="lvis", train=str(path), val=str(path), images=str(folder / "images")
            )
        threads = cv2.getNumThreads()
        cv2.setNumThreads(setting.threads if setting.threads > 1 else 0)
        try:
            return [
                _loaded("loader", f"Copy-Paste at {SIDE}", COPY_PASTE, setting, dataset, folder),
                _loaded("loader_multi_scale", "multi-scale", RECIPE, setting, dataset, folder),
            ]
        finally:
            cv2.setNumThreads(threads)


def _loaded(
    name: str,
    what: str,
    recipe: settings.Recipe,
    setting: Setting,
    dataset: settings.Dataset,
    folder: Path,
) -> Row:
    pair = _pair(dataset, recipe, folder / "cache")
    repeat = 40 if setting.repeat is None else setting.repeat
    ours, theirs = in_turns([_each(one) for one in pair], repeat, 4, setting.device)
    parts = dict(zip(("ours", "MMDetection"), _parts(pair, repeat)))
    what = f"{what}, {1000 / ours:.1f} images/s on {setting.threads} core(s)"
    return Row(name, what, ours, "MMDetection", theirs, 1.0, parts=parts)


def _pair(dataset: settings.Dataset, recipe: settings.Recipe, cache: Path) -> tuple[Any, Any]:
    """Our dataset as a stage's configuration has it, and MMDetection's with the same transforms."""
    from mmdet.registry import DATASETS

    import bacl.register  # noqa: F401
    from bacl.config import stage_config
    from bacl.datasets.prepare import prepare
    from bacl.method_settings.paper import BCE

    prepared = prepare(dataset, cache)
    info = Path(prepared.train.index).with_name("dataset.json")
    variants = {"bce": BCE(method="bce")}
    detector = settings.Detector()
    config = stage_config(detector, prepared, info, recipe, variants, [], seed=0, workers=1)
    ours = config["train_dataloader"]["dataset"]
    pasted = recipe.augmentation == "copy_paste"
    read = ours["dataset"] if pasted else ours
    pack = {**ours["pipeline"][-1], "meta_keys": ("img_id", "img_path", "img_shape", "flip")}
    theirs = {
        "type": "LVISV1Dataset" if prepared.evaluation == "lvis" else "CocoDataset",
        "ann_file": dataset.train,
        "data_prefix": {"img": dataset.images},
        "metainfo": {"classes": tuple(category.name for category in prepared.categories)},
        "pipeline": read["pipeline"] if pasted else [*read["pipeline"][:-1], pack],
    }
    if pasted:
        paste = {"type": "CopyPaste", "max_num_pasted": 100}
        theirs = {"type": "MultiImageMixDataset", "dataset": theirs, "pipeline": [paste, pack]}
    with _scope():
        return DATASETS.build(ours), DATASETS.build(theirs)


def _each(dataset: Any) -> Callable[[], object]:
    """A step that loads the next image; both sides go through the same, from the same draws."""
    places = itertools.cycle(range(len(dataset)))

    def step() -> object:
        place = next(places)
        np.random.seed(place)
        return dataset[place]

    return step


def _parts(datasets: Sequence[Any], repeat: int) -> list[dict[str, float]]:
    """Mean milliseconds of each part of a sample, of each dataset in turns."""
    watched = [(Clock("cpu"), dataset, _each(dataset)) for dataset in datasets]
    for _ in range(repeat):
        for clock, dataset, step in watched:
            read = getattr(dataset, "dataset", dataset)
            steps = [*read.pipeline.transforms, *(dataset.pipeline if read is not dataset else [])]
            calls = [(s, "transform", type(s).__name__.removeprefix("Quick")) for s in steps]
            calls.append((read, "get_data_info", "annotations of an image"))
            with clock.watching(calls), clock.part("the rest"):
                step()
    return [{name: taken / repeat for name, taken in clock.taken.items()} for clock, *_ in watched]
