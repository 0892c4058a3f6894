"""Results of an experiment's jobs, read from the store, and of detections in files."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bacl.datasets.prepared import Prepared
from bacl.errors import RunError
from bacl_platform.plan.job import Fidelity, Job, Plan
from bacl_platform.plan.judged import notes, prepared_of, words
from bacl_platform.spec.experiment import Experiment
from bacl_platform.store.names import BEYOND, CHECKPOINT, DETECTIONS, SCALARS
from bacl_platform.store.store import Store

if TYPE_CHECKING:
    from bacl.evaluation import Detections

MEANS = ("AP", "mask_AP")
"""Over all categories: of boxes, and of masks where the detector has them."""


@dataclass(frozen=True)
class Result:
    """What one variant reached with one seed, or what the detections of a file reach.

    seed, key: of its job; None of a file. kind: of its stage, or `file`. metrics: fractions 0..1,
    None where no category is evaluated. categories: rows of the evaluation's `categories.csv` in
    the order of labels, with `AP` (and, of a detector with masks, `mask_AP`) a fraction or None.
    """

    variant: str
    seed: int | None
    key: str | None
    kind: str
    features: Fidelity
    folder: Path
    metrics: dict[str, float | None]
    evaluator: dict[str, str]
    categories: list[dict[str, Any]]
    found: "Detections | None" = None
    """Detections that are in memory already."""
    evaluated_with: str = ""
    """Averaged weights, several views or soft suppression, in words; empty without."""
    stage1: str | None = None
    """Key of the job that it all began with, as far as the store has it; None of a file."""

    @property
    def checkpoint(self) -> Path | None:
        """The exported detector's weights; its configuration lies beside them. None of a file."""
        return None if self.key is None else self.folder / CHECKPOINT

    def detections(self) -> "Detections":
        """What was found on the validation split."""
        from bacl.evaluation import Detections

        return self.found or Detections.read(self.folder / DETECTIONS)

    def unlimited(self) -> tuple["Detections", bool]:
        """What was found on the validation split without a limit per image, and whether that is all
        that AP-Fixed counts; it is not in entries that were stored without it."""
        from bacl.evaluation import Detections

        found, beyond = self.detections(), self.folder / BEYOND
        if self.found is not None or not beyond.exists():
            return found, False
        return Detections.join(found, Detections.read(beyond)), True


@dataclass(frozen=True)
class Report:
    """An experiment's finished and unfinished jobs, and the results of the finished ones; or,
    without an experiment, the results of files."""

    name: str
    experiment: Experiment | None
    prepared: Prepared
    finished: list[Job]
    unfinished: list[Job]
    results: list[Result]
    scalars: dict[str, list[dict[str, float]]]
    """Rows of `scalars.jsonl` by the key of their job."""

    @property
    def baseline(self) -> str | None:
        """The variant that differences are to."""
        return self.experiment.baseline if self.experiment else None

    @property
    def notes(self) -> list[str]:
        """What a reader must know to interpret the results."""
        return notes([(self.experiment, self.prepared)])

    @property
    def variants(self) -> list[str]:
        """Names in the order of the plan; a representation stage's is the stage's own."""
        return list(dict.fromkeys(result.variant for result in self.results))

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, those of boxes first."""
        return list(dict.fromkeys(name for result in self.results for name in result.metrics))

    @property
    def kinds(self) -> dict[str, list[str]]:
        """Metrics by the name of their mean over categories: AP, and mask_AP where it exists."""
        kinds = [name for name in MEANS if name in self.metrics]
        return {kind: [name for name in self.metrics if name.startswith(kind)] for kind in kinds}

    @property
    def groups(self) -> dict[str, str]:
        """The frequency groups' names, and what they are called in texts."""
        return words(self.prepared.groups)

    def of(self, variant: str) -> list[Result]:
        """The variant's results, one for each seed."""
        return [result for result in self.results if result.variant == variant]

    def values(self, variant: str, metric: str) -> list[float]:
        """The metric for each seed; empty where no category is evaluated."""
        found = [result.metrics.get(metric) for result in self.of(variant)]
        return [value for value in found if value is not None]

    def features(self, variant: str) -> Fidelity:
        """What the variant was trained on."""
        return self.of(variant)[0].features

    @property
    def evaluated_with(self) -> dict[str, str]:
        """What tells the results of some variants from the others', in words, by name."""
        found = {name: self.of(name)[0].evaluated_with for name in self.variants}
        return {name: words for name, words in found.items() if words}

    @property
    def replayed(self) -> list[str]:
        """The variants that were trained on stored features."""
        return [name for name in self.variants if self.features(name) == "replay"]

    def differences(self, variant: str, metric: str) -> list[float]:
        """The metric less the baseline's of the same seed, for each seed that has both; none where
        one of the two is replayed and the other exact."""
        baseline = self.baseline
        if baseline in (None, variant) or baseline not in self.variants:
            return []
        if self.features(variant) != self.features(baseline):
            return []
        base = {r.seed: r.metrics.get(metric) for r in self.of(baseline)}
        pairs = [(r.metrics.get(metric), base.get(r.seed)) for r in self.of(variant)]
        return [own - other for own, other in pairs if own is not None and other is not None]

    @property
    def evaluators(self) -> list[dict[str, str]]:
        """Name, version and ground truth of what made the metrics: one, if all compare."""
        return list({json.dumps(r.evaluator): r.evaluator for r in self.results}.values())


def collect(plan: Plan, store: Store, command: str) -> Report:
    """Read from the store what it has of a plan.

    command: what the user runs for the rest. Raises RunError where nothing is finished yet.
    """
    finished = [job for job in plan.jobs if store.complete(job.key)]
    unfinished = [job for job in plan.jobs if job not in finished]
    if not finished:
        raise RunError(
            f"no job of {plan.experiment.name} is in the store {store.url}: run `{command}` first"
        )
    return Report(
        plan.experiment.name,
        plan.experiment,
        prepared_of(plan.jobs[0].dataset_digest, store),
        finished,
        unfinished,
        [
            read_result(one, variant, store)
            for job in finished
            for one in _of_seeds(job, plan)
            for variant in job.variants
        ],
        {job.key: _scalars(store.entry(job.key) / SCALARS) for job in finished},
    )


def _of_seeds(job: Job, plan: Plan) -> list[Job]:
    """A job as each seed has it: an imported detector is the same for all."""
    if job.kind != "imported":
        return [job]
    return [job.model_copy(update={"seed": seed}) for seed in plan.experiment.seeds]


def read_result(job: Job, variant: str, store: Store) -> Result:
    """What a variant of a finished job reached."""
    folder = store.entry(job.key) / "variants" / variant
    facts = variant, job.seed, job.key, job.kind, job.features, folder
    with_ = ", ".join(job.recipe.evaluated_with)
    found = read_folder(folder)
    return Result(*facts, *found, evaluated_with=with_, stage1=_stage1(job, store))


def _stage1(job: Job, store: Store) -> str:
    """The key of the first of the jobs that a job follows, one after the other."""
    key, parent = job.key, job.parent
    while parent is not None:
        key = parent
        parent = (store.description(key) or {}).get("parent")  # its entry may have been removed
    return key


def read_folder(
    folder: Path,
) -> tuple[dict[str, float | None], dict[str, str], list[dict[str, Any]]]:
    """The metrics, the evaluator and the rows of categories that an evaluation has left."""
    content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    with (folder / "categories.csv").open(newline="", encoding="utf-8") as file:
        categories: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in categories:
        row |= {name: float(row[name]) if row[name] else None for name in MEANS if name in row}
    return content["metrics"], content["evaluator"], categories


def _scalars(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
