"""Results of an experiment's jobs, read from the store."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bacl.datasets.prepared import Prepared
from bacl.errors import RunError
from bacl_platform.plan.job import Fidelity, Job, Plan
from bacl_platform.plan.judged import prepared_of, words
from bacl_platform.spec.experiment import Experiment
from bacl_platform.store.names import CHECKPOINT, SCALARS
from bacl_platform.store.store import Store

MEANS = ("AP", "mask_AP")
"""Over all categories: of boxes, and of masks where the detector has them."""


@dataclass(frozen=True)
class Result:
    """What one variant reached with one seed.

    metrics: fractions 0..1, None where no category is evaluated. categories: rows of the
    evaluation's `categories.csv` in the order of labels, with `AP` (and, of a detector with masks,
    `mask_AP`) a fraction or None.
    """

    variant: str
    job: Job
    folder: Path
    metrics: dict[str, float | None]
    evaluator: dict[str, str]
    categories: list[dict[str, Any]]

    @property
    def checkpoint(self) -> Path:
        """The exported detector's weights; its configuration lies beside them."""
        return self.folder / CHECKPOINT


@dataclass(frozen=True)
class Report:
    """An experiment's finished and unfinished jobs, and the results of the finished ones."""

    experiment: Experiment
    prepared: Prepared
    finished: list[Job]
    unfinished: list[Job]
    results: list[Result]
    scalars: dict[str, list[dict[str, float]]]
    """Rows of `scalars.jsonl` by the key of their job."""

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
        return self.of(variant)[0].job.features

    @property
    def replayed(self) -> list[str]:
        """The variants that were trained on stored features."""
        return [name for name in self.variants if self.features(name) == "replay"]

    def differences(self, variant: str, metric: str) -> list[float]:
        """The metric less the baseline's of the same seed, for each seed that has both; none where
        one of the two is replayed and the other exact."""
        baseline = self.experiment.baseline
        if baseline in (None, variant) or baseline not in self.variants:
            return []
        if self.features(variant) != self.features(baseline):
            return []
        base = {r.job.seed: r.metrics.get(metric) for r in self.of(baseline)}
        pairs = [(r.metrics.get(metric), base.get(r.job.seed)) for r in self.of(variant)]
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
        plan.experiment,
        prepared_of(plan.jobs[0].dataset_digest, store),
        finished,
        unfinished,
        [_read(job, variant, store) for job in finished for variant in job.variants],
        {job.key: _scalars(store.entry(job.key) / SCALARS) for job in finished},
    )


def _read(job: Job, variant: str, store: Store) -> Result:
    folder = store.entry(job.key) / "variants" / variant
    content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    with (folder / "categories.csv").open(newline="", encoding="utf-8") as file:
        categories: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in categories:
        row |= {name: float(row[name]) if row[name] else None for name in MEANS if name in row}
    return Result(variant, job, folder, content["metrics"], content["evaluator"], categories)


def _scalars(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
