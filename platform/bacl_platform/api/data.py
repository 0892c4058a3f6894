"""Datasets looked at: as pages, and in other tools."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bacl.errors import UsageError
from bacl_platform.api.experiment import Experiment
from bacl_platform.api.files import Overrides, dataset_of, prepare_dataset, store_of

if TYPE_CHECKING:
    from rich.console import Console

    from bacl_platform.store.store import Store

Split = Literal["train", "val"]


def browse(
    what: str | Path,
    out: str | Path = "data_browse.html",
    how: Literal["trained", "annotated"] | None = None,
    stage: str | None = None,
    split: Split = "train",
    categories: Sequence[str] = (),
    groups: Sequence[str] = (),
    images: int = 4,
    most: int = 240,
    seed: int | None = None,
    store: "str | Path | Store | None" = None,
    overrides: Overrides = None,
    root: Path = Path("bacl_data"),
    console: "Console | None" = None,
) -> Path:
    """Write one page of images with their boxes and masks, rare categories first; returns it.

    what: an experiment file, or the name of a data set under `root`. how: as training sees them,
    after all steps of its pipeline, or as they are annotated; None is trained, where that is
    possible. stage: whose training is shown, the first that trains on images if not given.
    categories, groups: show these alone. images: pictures of each category at most; most: in all.
    seed: whose training is shown, or that of the choice of images.
    """
    from bacl.datasets.sources import NAMED
    from bacl_platform.console import Console
    from bacl_platform.tools import browse as browsing

    page, named = Path(out), str(what) in NAMED
    chosen = how or ("annotated" if split == "val" or named else "trained")
    if chosen == "trained" and split == "val":
        raise UsageError("--split val: expected with --as annotated, because no stage trains on it")
    if chosen == "trained" and named:
        raise UsageError(f"--as trained: expected an experiment file, got the data set {what}")
    if chosen == "annotated" and stage is not None:
        raise UsageError("--stage: expected with --as trained only, got --as annotated")
    if not page.suffix.lower().startswith(".htm"):
        raise UsageError(f"--out: expected the name of an HTML file, got {page}")
    source: browsing.Source
    if chosen == "annotated":
        prepared = prepare_dataset(dataset_of(what, root, overrides=overrides), store_of(store))
        source = browsing.Annotated(prepared, split, seed or 0)
        title = f"{what if named else Path(what).stem}, {split}, as annotated"
    else:
        seeds = None if seed is None else [seed]
        experiment = Experiment.load(what, overrides, store, seeds)
        source, prepared = browsing.trained(experiment.jobs(), experiment.store, stage, images)
        title = f"{experiment.name} as training sees it"
    wanted = browsing.Wanted(images, most, categories, groups)
    browsing.browse(source, prepared, wanted, title, page, console or Console())
    return page


def export_fiftyone(
    what: str | Path,
    out: str | Path,
    variants: Sequence[str] = (),
    seed: int | None = None,
    split: Split = "val",
    score_threshold: float = 0.05,
    copy: bool = False,
    store: "str | Path | Store | None" = None,
    overrides: Overrides = None,
    root: Path = Path("bacl_data"),
    console: "Console | None" = None,
) -> None:
    """Write a split, and what finished variants detect in it, for FiftyOne to the folder `out`.

    what: an experiment file, or without variants the name of a data set under `root`. seed: of the
    variants, the first if not given. score_threshold: detections with a lower score are left out.
    copy: the images as well, so that the folder can be moved.
    """
    from bacl.datasets.sources import NAMED
    from bacl.evaluation import Detections
    from bacl_platform.console import Console
    from bacl_platform.store.names import DETECTIONS
    from bacl_platform.tools import to_fiftyone

    named = str(what) in NAMED
    if variants and named:
        raise UsageError(f"--variant: expected an experiment file, got the data set {what}")
    if variants and split != "val":
        raise UsageError(f"--split {split}: expected val with --variant, which detects there")
    if seed is not None and not variants:
        raise UsageError("--seed: expected with --variant")
    found = {}
    if variants:
        experiment = Experiment.load(what, overrides, store, None if seed is None else [seed])
        for name in variants:
            file = experiment.checkpoint(name).with_name(DETECTIONS)
            found[name] = Detections.read(file)
    prepared = prepare_dataset(dataset_of(what, root, overrides=overrides), store_of(store))
    title = str(what) if named else Path(what).stem
    to_fiftyone.export(
        prepared, split, found, title, Path(out), copy, score_threshold, console or Console()
    )
