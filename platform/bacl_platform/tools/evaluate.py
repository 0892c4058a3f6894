"""Judges detectors that no job of a store has made, by what they detect on a validation split.

Their detections stay beside the report, in the form of a store's, so that they can be judged and
compared again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from bacl import rle
from bacl.datasets.content import some
from bacl.datasets.prepared import Prepared
from bacl.digests import sha256
from bacl.errors import RunError, UsageError
from bacl.evaluation import BankMetric
from bacl_platform.analysis.files import report_of
from bacl_platform.analysis.results import Report, Result, read_folder
from bacl_platform.console import Watching, say
from bacl_platform.inference.detector import Detector, files_of, quiet
from bacl_platform.inference.images import as_pixels
from bacl_platform.plan.planner import IMPORTED
from bacl_platform.spec.experiment import (
    Experiment,
    ImportedStage,
    RepresentationStage,
    image_recipe,
)
from bacl_platform.store.disk import disk_errors

_ONE = "detector"
"""The name of the only variant."""

if TYPE_CHECKING:
    from rich.console import Console


def take_in(
    checkpoint: Path,
    source: str | None,
    experiment: Experiment,
    prepared: Prepared,
    folder: Path,
    console: "Console",
) -> tuple[Path, Path]:
    """Export a checkpoint of other tools as the detector of an experiment; returns the files of the
    exported one, as `files_of` does. Says what was loaded of it, and what not.

    It is read as a stage of kind `imported` reads it, with that stage's options where the
    experiment has one. source: where it is from; None recognises it. Raises RunError where it does
    not fit the detector or the dataset.
    """
    from bacl.config import imported_config
    from bacl.detector.imports.stage import begin_alone
    from bacl.export import export_variants

    known = [n for n, s in experiment.stages.items() if isinstance(s, ImportedStage)]
    first = [n for n, s in experiment.stages.items() if isinstance(s, RepresentationStage)]
    name = [*known, *first][0]
    stage = experiment.stages[name]
    if not isinstance(stage, ImportedStage):
        stage = ImportedStage(kind="imported", checkpoint=str(checkpoint))
    tools = get_args(get_args(ImportedStage.model_fields["source"].annotation)[0])
    if source and source not in tools:
        raise UsageError(f"--source: expected one of {', '.join(tools)}, got {source!r}")
    said = stage.model_dump(include=IMPORTED)
    said |= {"checkpoint": str(checkpoint), "sha256": sha256(checkpoint)}
    said |= {"source": source} if source else {}
    config = imported_config(
        experiment.detector,
        prepared,
        Path(prepared.val.annotations).with_name("dataset.json"),
        image_recipe(experiment, name),
        {_ONE: stage.classifier},
        said,
        experiment.imports,
    )
    with quiet():
        model, account = begin_alone(config)
    for line in account.lines():
        say(console, line)
    export_variants(config, model.state_dict(), prepared.categories, folder)
    return files_of(folder / _ONE, None)


def evaluate_checkpoint(
    checkpoint: Path,
    config: Path,
    name: str,
    prepared: Prepared,
    out: Path,
    device: str | None,
    console: "Console",
) -> Report:
    """What a checkpoint detects on the validation split, and what that reaches; shows progress.

    Writes its detections to `out`, some at a time. Raises UsageError where its categories are not
    the dataset's, and as `Detector.load` does.
    """
    from bacl.datasets.index import Index

    detector = Detector.load(checkpoint, config, device)
    from bacl.detector.unlimited import hand_on  # loading has backed the operators that it needs

    labels = labels_of(checkpoint, detector.categories, detector.category_ids, prepared)
    index = Index(prepared.val.index)
    masks = prepared.val.masks and bool(getattr(detector.model, "with_mask", False))
    images = (
        _read(Path(prepared.val.images) / index.image(place).file) for place in range(len(index))
    )
    with disk_errors(out), Watching(console, unit="images") as watching:
        out.mkdir(parents=True, exist_ok=True)
        if not len(index):
            raise UsageError("expected a validation split with images, got none")
        metric = _metric(prepared, out, masks)
        if np.array_equal(labels, np.arange(len(prepared.categories))):  # none left out or moved
            hand_on(detector.model, metric.beyond)
        for place, (_, found) in enumerate(detector.instances(images)):
            metric.process(None, [_sample(place, found, labels, masks)])
            watching("detecting", place + 1, len(index))
        metric.evaluate(len(index))
        for file in (out / _ONE).iterdir():
            file.replace(out / file.name)
        (out / _ONE).rmdir()
    metrics, evaluator, categories, limit = read_folder(out)
    result = Result(
        name,
        None,
        None,
        "file",
        "exact",
        out,
        metrics,
        evaluator,
        categories,
        fixed_limit=limit,
    )
    return report_of(result, prepared)


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        return as_pixels(path)
    except UsageError as error:  # the dataset's files are not what the user has named
        raise RunError(str(error)) from error


def labels_of(
    checkpoint: Path,
    names: Sequence[str],
    ids: Sequence[int | str] | None,
    prepared: Prepared,
) -> NDArray[Any]:
    """The dataset's label of each of a detector's, by id where it has these, else by name; -1 of
    categories that the dataset lacks.

    Raises UsageError where the detector lacks categories of the dataset.
    """
    categories = prepared.categories
    own: dict[int | str, int] = {category.id: label for label, category in enumerate(categories)}
    given: Sequence[int | str] = names
    if ids is not None and set(own) <= set(ids):
        given = ids
    else:
        own = {category.name: label for label, category in enumerate(categories)}
    if lacking := [name for name in own if name not in set(given)]:
        raise UsageError(
            f"{checkpoint}: expected a detector of the dataset's {len(own):,} categories, got one "
            f"of {len(names):,} that lacks {len(lacking):,} of them ({some(lacking)})"
        )
    return np.array([own.get(one, -1) for one in given])


def _metric(prepared: Prepared, out: Path, masks: bool) -> BankMetric:
    annotations = Path(prepared.val.annotations)
    return BankMetric(
        str(annotations),
        str(annotations.with_name("dataset.json")),
        [_ONE],
        prepared.evaluation,
        str(out),
        masks,
    )


def _sample(place: int, found: Any, labels: NDArray[Any], masks: bool) -> dict[str, Any]:
    """The detections of an image as the metric takes them, less those of foreign categories."""
    import torch

    called = torch.from_numpy(labels)[found.labels]
    known = called >= 0
    instances = {
        "bboxes": found.bboxes[known],
        "scores": found.scores[known],
        "labels": called[known],
        "variant": torch.zeros(int(known.sum()), dtype=torch.long),
    }
    if masks:
        instances["masks"] = rle.encode(found.masks[known])
    return {"img_id": place, "pred_instances": instances}
