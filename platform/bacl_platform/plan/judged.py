"""Which metrics a validation split can give, and notes on those that it cannot: groups without
boxes, and images with more boxes than a detector may find."""

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

from bacl.datasets.index import Index
from bacl.datasets.judged import Boxes, crowding_sentences
from bacl.datasets.prepared import Prepared
from bacl.detector.two_stage import has_masks
from bacl.settings import Detector, Groups
from bacl_platform.plan.metric_names import group_precision, measurable
from bacl_platform.spec.experiment import CorrectionsStage, Experiment
from bacl_platform.store.store import Store

WORDS = {"r": "rare", "c": "common", "f": "frequent"}
"""For groups that are named as LVIS's."""


def words(groups: Groups) -> dict[str, str]:
    """The frequency groups' names, and what they are called in texts."""
    return {name: WORDS.get(name, f"group {name}") for name in groups.names}


def prepared_of(digest: str, store: Store) -> Prepared:
    """The dataset with this digest, as a store has it."""
    return Prepared.load(store.datasets / digest / "dataset.json")


@functools.lru_cache(maxsize=8)
def _boxes(index: Path) -> Boxes:
    return Boxes.read(Index(index))


def measured(prepared: Prepared, detector: Detector) -> list[str]:
    """Names of the metrics that have a value: of boxes and, of a detector with masks, of masks."""
    seen = _seen_groups(prepared)
    return measurable(seen, has_masks(detector)) if seen else []


def _seen_groups(prepared: Prepared) -> list[str]:
    """Names of the groups that the validation split has boxes of."""
    total = _boxes(Path(prepared.val.index)).of_categories(len(prepared.categories))
    seen = {c.frequency for c, count in zip(prepared.categories, total, strict=True) if count}
    return [name for name in prepared.groups.names if name in seen]


def absence(prepared: Prepared) -> Iterator[str]:
    """Why AP, or that of a frequency group, is absent, in a sentence; nothing where none is."""
    seen = _seen_groups(prepared)
    if not seen:
        yield "AP is absent, for the validation split has no boxes to evaluate"
        return
    there = {category.frequency for category in prepared.categories}
    lost = [name for name in prepared.groups.names if name in there and name not in seen]
    if lost:
        names = " and ".join(map(group_precision, lost))
        kinds = " or ".join(words(prepared.groups)[name] for name in lost)
        of = f"a {kinds} category" if set(lost) <= WORDS.keys() else kinds
        verb = "is" if len(lost) == 1 else "are"
        yield f"{names} {verb} absent, for the validation split has no box of {of}"


def why_absent(metric: str, prepared: Prepared, detector: Detector) -> str | None:
    """Why a metric has no value, in words; None where it has one."""
    if metric in measured(prepared, detector):
        return None
    if not _seen_groups(prepared):
        return "the validation split has no boxes to evaluate"
    return "the validation split has no box of that group"


def chosen_on_val(experiments: Iterable[Experiment | None]) -> Iterator[str]:
    """That the best of several corrections of a variant is chosen on the split that is reported, in
    a sentence; nothing where there are no several of a kind."""
    found: dict[tuple[str, str], set[str]] = {}
    for experiment in experiments:
        for stage in experiment.stages.values() if experiment else ():
            for settings in stage.variants.values() if isinstance(stage, CorrectionsStage) else ():
                own = found.setdefault((settings.method, settings.of), set())
                own.add(settings.model_dump_json())
    several = [
        f"{len(own)} {method} of {of}" for (method, of), own in found.items() if len(own) > 1
    ]
    if several:
        yield (
            f"The best of several corrections ({', '.join(several)}) is optimistic, for the "
            "validation split that is reported chooses it: `bacl report --cross-fit` of a sweep "
            "chooses it on one half of the images and judges it on the other"
        )


def notes(experiments: Iterable[tuple[Experiment | None, Prepared]]) -> list[str]:
    """What a reader must know to interpret the results of experiments, each sentence once; None
    stands for detections of any detector."""
    experiments = list(experiments)
    said: dict[str, None] = dict.fromkeys(chosen_on_val(one for one, _ in experiments))
    for experiment, prepared in experiments:
        said |= dict.fromkeys(absence(prepared))
        if experiment is None:
            continue
        boxes = _boxes(Path(prepared.val.index))
        crowded = crowding_sentences(boxes, experiment.detector, prepared.evaluation)
        said |= dict.fromkeys(crowded)
    return [f"{sentence}." for sentence in said]
