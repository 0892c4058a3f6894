"""What can be compared: the detections of variants and of files, on one validation split."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bacl.datasets.content import some
from bacl.datasets.prepared import Prepared
from bacl.errors import UsageError
from bacl_platform.analysis.results import Report, Result
from bacl_platform.plan.job import Fidelity, digest_of
from bacl_platform.spec.experiment import Experiment

Origin = Fidelity | Literal["file"]
"""What detections come from: a variant trained on one kind of features, or a file."""


@dataclass(frozen=True)
class Contender:
    """A variant with the results of its seeds, or the one result of a file.

    name: as it is shown. place: the experiment or file that it is of, for messages. experiment:
    None of a file.
    """

    name: str
    place: str
    prepared: Prepared
    experiment: Experiment | None
    results: Sequence[Result]

    @property
    def features(self) -> Origin:
        """What it was trained on, where that is known."""
        return "file" if self.is_file else self.results[0].features

    @property
    def evaluated_with(self) -> str:
        """What tells its results from others', in words; empty where nothing does."""
        return self.results[0].evaluated_with

    @property
    def is_file(self) -> bool:
        return self.results[0].seed is None


def contender(report: Report, variant: str, name: str = "") -> Contender:
    """A variant of a report; name: as it is shown, where that is not the variant's own.

    Raises UsageError for a variant that the report lacks.
    """
    if variant not in report.variants:
        raise UsageError(
            f"{report.name}: expected one of {', '.join(report.variants)} that the store has, got "
            f"{variant}"
        )
    return Contender(
        name or variant, report.name, report.prepared, report.experiment, report.of(variant)
    )


def pairs(first: Contender, second: Contender) -> list[tuple[Result, Result]]:
    """The results of two contenders, seed by seed; a file's is set beside each seed of the other.

    Raises UsageError where they have no seed in common.
    """
    if first.is_file or second.is_file:
        return [(one, other) for one in first.results for other in second.results]
    others = {result.seed: result for result in second.results}
    found = [(one, others[one.seed]) for one in first.results if one.seed in others]
    if not found:
        where = first.place if first.place == second.place else f"{first.place}, {second.place}"
        raise UsageError(
            f"{where}: expected {first.name} and {second.name} to be finished with the same seed, "
            "they have none in common"
        )
    return found


def check_split(first: Contender, second: Contender) -> list[str]:
    """Notes on what differs between the datasets of two contenders that one split judges.

    Raises UsageError where the images, boxes or categories that they are judged by differ.
    """
    if first.prepared.digest == second.prepared.digest:
        return []
    prints = [_fingerprints(c.prepared.digest, c.prepared.val.annotations) for c in (first, second)]
    ids = [[(one.id, one.name) for one in c.prepared.categories] for c in (first, second)]
    if prints[0] != prints[1] or ids[0] != ids[1]:
        _refuse(first, second)
    if first.prepared.evaluation != second.prepared.evaluation:
        raise UsageError(
            f"{first.name} and {second.name}: expected one kind of evaluation, got "
            f"{first.prepared.evaluation} and {second.prepared.evaluation}: name the same "
            "`dataset.format` in both experiments"
        )
    if first.prepared.categories == second.prepared.categories:
        return []
    return [
        f"Frequency groups and training counts are those of {first.name}; {second.name} was "
        "trained on other images."
    ]


def _refuse(first: Contender, second: Contender) -> None:
    """Raise UsageError that says in what two validation splits differ."""
    one, other = (_judged_by(c.prepared) for c in (first, second))
    for what in ("categories", "images", "annotations"):
        if one[what] == other[what]:
            continue
        sizes = " and ".join(f"{len(content[what]):,}" for content in (one, other))
        files = [{image[0] for image in content["images"]} for content in (one, other)]
        apart = sorted(files[0] ^ files[1])
        such = f" (images of one alone: {some(apart)})" if apart else ""
        raise UsageError(
            f"{first.name} and {second.name}: expected the same validation split, got two that "
            f"differ in their {what.replace('annotations', 'boxes')} ({sizes}){such}: compare "
            "variants whose experiments name the same `dataset.val`"
        )


@functools.lru_cache(maxsize=64)
def _fingerprints(digest: str, annotations: str) -> tuple[str, str]:
    """Digests of a validation split's images and boxes, kept because many may be compared.

    digest: the dataset's, by which they are kept.
    """
    content = json.loads(Path(annotations).read_text(encoding="utf-8"))
    return digest_of(_images(content)), digest_of(_boxes(content))


def _judged_by(prepared: Prepared) -> dict[str, Any]:
    """The images, boxes and categories of a validation split, without counts of training."""
    content = json.loads(Path(prepared.val.annotations).read_text(encoding="utf-8"))
    return {
        "categories": [(one.id, one.name) for one in prepared.categories],
        "images": _images(content),
        "annotations": _boxes(content),
    }


def _images(content: dict[str, Any]) -> list[Any]:
    lists = ("neg_category_ids", "not_exhaustive_category_ids")
    return [
        (one["file_name"], *(tuple(one.get(name, ())) for name in lists))
        for one in content["images"]
    ]


def _boxes(content: dict[str, Any]) -> list[Any]:
    return [(one["image_id"], one["category_id"], *one["bbox"]) for one in content["annotations"]]
