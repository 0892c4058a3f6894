"""Results of an experiment's jobs, read from the store, and of detections in files."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bacl.datasets.prepared import Prepared
from bacl.errors import RunError
from bacl.metric_names import BOUNDARY, CALIBRATION, FIXED, POOL, RECALL, kind_of
from bacl_platform.plan.job import Fidelity, Job, Plan
from bacl_platform.plan.judged import notes, prepared_of, words
from bacl_platform.spec.experiment import Experiment
from bacl_platform.store.names import BEYOND, CHECKPOINT, DETECTIONS, SCALARS
from bacl_platform.store.store import Store

if TYPE_CHECKING:
    from bacl.evaluation import Detections, Unlimited

MEANS = ("AP", "mask_AP")
"""Over all categories: of boxes, and of masks where the detector has them."""
_TABLES = (
    ("AP",),
    (FIXED, POOL),
    (RECALL, CALIBRATION),
    ("mask_AP", BOUNDARY),
    (f"mask_{FIXED}", f"mask_{POOL}"),
    (f"mask_{RECALL}",),
)
"""Kinds of metrics that are shown together."""
_UNLIMITED = (FIXED, POOL, f"mask_{FIXED}", f"mask_{POOL}")
"""Kinds of metrics that know no limit of detections per image."""


@dataclass(frozen=True)
class Result:
    """What one variant reached with one seed, or what the detections of a file reach.

    seed, key: of its job; None of a file. kind: of its stage, or `file`. metrics: fractions 0..1,
    None where no category is evaluated. categories: rows of the evaluation's `categories.csv` in
    the order of labels, with `AP` and other metrics a fraction or None. fixed_limit: the number of
    detections of an image to which those were cut that AP-Fixed is of; None where they were not.
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
    fixed_limit: int | None = None
    beyond: "Unlimited | None" = None
    """What was found beyond the limit per image, where it is in memory already."""
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
        """What AP-Fixed counts of what was found on the validation split, without a limit per
        image, and whether that is all of it; it is not of results that were cut, and of entries
        that were stored without it."""
        from bacl.evaluation import best_of_categories, read_unlimited

        found, path = self.detections(), self.folder / BEYOND
        beyond = self.beyond
        if beyond is None and self.found is None and path.exists():
            beyond = read_unlimited(found, path)
        if beyond is not None:
            return beyond.joined(found), True
        whole = self.found is not None and self.fixed_limit is None
        return found.at(best_of_categories(found, len(self.categories))), whole

    def limit(self, metric: str) -> int | None:
        """The number of detections per image to which those were cut that a metric is of, where it
        is one that should know no limit."""
        return self.fixed_limit if kind_of(metric) in _UNLIMITED else None


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
        said = notes([(self.experiment, self.prepared)])
        for limit in sorted(set(self.cut.values())):
            names = ", ".join(name for name, own in self.cut.items() if own == limit)
            said.append(
                f"Fixed of results that were cut at {limit} per image: {names}. APFixed and APPool "
                "there do not compare with those of results that were not cut."
            )
        return said

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
        return {kind: self._of(kind) for kind in MEANS if kind in self.metrics}

    @property
    def brief(self) -> list[list[str]]:
        """Names of the metrics of each table that is shown on a terminal: AP, AP-Fixed and, where
        there are masks, AP of masks."""
        kinds = ("AP", FIXED, "mask_AP")
        return [names for kind in kinds if (names := self._of(kind))]

    @property
    def tables(self) -> list[list[str]]:
        """Names of the metrics of each table of a page, which shows them all."""
        groups = ([name for kind in kinds for name in self._of(kind)] for kinds in _TABLES)
        return [names for names in groups if names]

    def _of(self, kind: str) -> list[str]:
        return [name for name in self.metrics if kind_of(name) == kind]

    @property
    def columns(self) -> list[str]:
        """Names of the metrics that each category has."""
        known = {name for result in self.results for row in result.categories[:1] for name in row}
        return [name for name in self.metrics if name in known]

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
        one of the two is replayed and the other exact, or where the metric is AP-Fixed's and one of
        the two was cut otherwise."""
        baseline = self.baseline
        if baseline in (None, variant) or baseline not in self.variants:
            return []
        if self.features(variant) != self.features(baseline):
            return []
        base = {r.seed: r for r in self.of(baseline)}
        pairs = [(r, base[r.seed]) for r in self.of(variant) if r.seed in base]
        return [
            own - other
            for one, its in pairs
            if (own := one.metrics.get(metric)) is not None
            and (other := its.metrics.get(metric)) is not None
            and one.limit(metric) == its.limit(metric)
        ]

    @property
    def cut(self) -> dict[str, int]:
        """The number of detections of an image to which those of some variants were cut that
        AP-Fixed is of, by the variants' names."""
        limits = {r.variant: r.fixed_limit for r in self.results if FIXED in r.metrics}
        return {name: limit for name, limit in limits.items() if limit is not None}

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
    """A job as each seed has it: an imported detector is the same for all, and so is what corrects
    its scores."""
    imported = {one.key for one in plan.jobs if one.kind == "imported"}
    if job.key not in imported and not (job.kind == "corrections" and job.parent in imported):
        return [job]
    return [job.model_copy(update={"seed": seed}) for seed in plan.experiment.seeds]


def read_result(job: Job, variant: str, store: Store) -> Result:
    """What a variant of a finished job reached."""
    folder = store.entry(job.key) / "variants" / variant
    facts = variant, job.seed, job.key, job.kind, job.features, folder
    with_ = ", ".join(job.recipe.evaluated_with)
    metrics, evaluator, categories, limit = read_folder(folder)
    return Result(
        *facts,
        metrics,
        evaluator,
        categories,
        evaluated_with=with_,
        fixed_limit=limit,
        stage1=_stage1(job, store),
    )


def _stage1(job: Job, store: Store) -> str:
    """The key of the first of the jobs that a job follows, one after the other."""
    key, parent = job.key, job.parent
    while parent is not None:
        key = parent
        parent = (store.description(key) or {}).get("parent")  # its entry may have been removed
    return key


def read_folder(
    folder: Path,
) -> tuple[dict[str, float | None], dict[str, str], list[dict[str, Any]], int | None]:
    """The metrics, the evaluator, the rows of categories and the limit of AP-Fixed that an
    evaluation has left."""
    content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    with (folder / "categories.csv").open(newline="", encoding="utf-8") as file:
        categories: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in categories:
        numbers = [name for name in row if kind_of(name) == name]
        row |= {name: float(row[name]) if row[name] else None for name in numbers}
    return content["metrics"], content["evaluator"], categories, content.get("fixed_limit")


def _scalars(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
