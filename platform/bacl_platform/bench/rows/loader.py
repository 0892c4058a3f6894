"""Loading images with Copy-Paste and at many scales beside MMDetection's own dataset and steps."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bacl import settings
from bacl_platform.bench.drawn import Size, write_annotations, write_photographs
from bacl_platform.bench.measure import Clock, Row, Setting, in_turns

LOADED = Size(images=48, annotations=610)
SIDE = 1280
RECIPE = settings.Recipe(schedule=settings.Schedule(iterations=1))
COPY_PASTE = RECIPE.model_copy(update={"augmentation": "copy_paste", "copy_paste_size": SIDE})


def measure(setting: Setting, dataset: settings.Dataset | None = None) -> list[Row]:
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
    from mmengine.registry import DefaultScope

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
    with DefaultScope.overwrite_default_scope("mmdet"):
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
            calls = [(s, "transform", _stock_name(s)) for s in steps]
            calls.append((read, "get_data_info", "annotations of an image"))
            with clock.watching(calls), clock.part("the rest"):
                step()
    return [{name: taken / repeat for name, taken in clock.taken.items()} for clock, *_ in watched]


def _stock_name(step: Any) -> str:
    """The name of a step, or of MMDetection's in whose place it is."""
    return type(step).__name__.removeprefix("Quick").removesuffix("InParts")
