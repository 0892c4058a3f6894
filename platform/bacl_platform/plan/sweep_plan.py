"""From sweeps to jobs: trials, packed into as few jobs as they allow.

Trials that differ in their variant alone train in one bank. A trial and a seed make a *cell*, which
has the key of its variant: what the store remembers it by, whichever sweep asked for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bacl.detector.two_stage import has_masks
from bacl.errors import UsageError
from bacl.metric_names import lower_is_better
from bacl.settings import Dataset
from bacl_platform.plan.job import Job, Plan
from bacl_platform.plan.metric_names import measurable
from bacl_platform.plan.planner import make_plan
from bacl_platform.plan.population import Population
from bacl_platform.plan.trials import SweepFile, Trial, with_corrected_alone, with_variants
from bacl_platform.spec.experiment import CorrectionsStage, image_recipe, variants_of
from bacl_platform.spec.sweep import VARIANT, Pbt, Sweep
from bacl_platform.store.disk import disk_errors
from bacl_platform.store.store import Store

if TYPE_CHECKING:
    from bacl.datasets.prepared import Prepared


@dataclass(frozen=True)
class Cell:
    """A trial with a seed, and the job that trains it."""

    trial: Trial
    seed: int
    job: Job

    @property
    def key(self) -> str:
        """The key of its variant."""
        return self.job.variant_keys[self.trial.variant]


@dataclass(frozen=True)
class SweepPlan:
    """The cells of a sweep and the jobs that train them, parents before children."""

    file: SweepFile
    cells: list[Cell]
    jobs: list[Job]
    confirms: bool = False
    """Whether these are the best of a sweep that screens, trained exactly."""

    @property
    def proposes(self) -> bool:
        """Whether a search proposes trials while others train."""
        return self.file.sweep.search == "tpe" and not self.confirms

    def missing(self, store: Store) -> list[Job]:
        """Jobs that have no complete entry in the store."""
        return [job for job in self.jobs if not store.complete(job.key)]


class Preparation:
    """Prepares datasets for a store, each once, and shows its progress on the standard error."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.warnings: list[str] = []
        self._known: dict[str, Prepared] = {}

    def __call__(self, dataset: Dataset) -> "Prepared":
        from rich.console import Console

        from bacl.datasets.prepare import prepare
        from bacl_platform.console import Watching

        key = dataset.model_dump_json()
        if key not in self._known:
            watching = Watching(Console(stderr=True), unit="images")
            with disk_errors(self.store.root), watching:
                self._known[key] = prepare(dataset, self.store.datasets, watching)
            self.warnings += self._known[key].warnings
        return self._known[key]


def plan_sweeps(
    files: Sequence[SweepFile],
    trials: Sequence[Sequence[Trial]],
    prepare: Preparation,
    store: Store,
) -> list[SweepPlan]:
    """Plans of sweeps; `trials` are each sweep's.

    Trials of all the sweeps that differ in their variant alone, and the seeds that they share, are
    packed into one experiment's banks.
    """
    names = [file.sweep.name for file in files]
    for file in files:
        if names.count(file.sweep.name) > 1:
            raise UsageError(
                f"{file.path}: name: expected one that no other of the sweeps has, "
                f"got {file.sweep.name!r}"
            )
    groups: dict[str, list[Trial]] = {}
    populations: dict[str, Population | None] = {}
    for file, its in zip(files, trials, strict=True):
        for trial in its:
            groups.setdefault(_shared(file, trial), []).append(trial)
            populations[_shared(file, trial)] = _population(file.sweep, its)
    for file, its in zip(files, trials, strict=True):
        _check_trial(file, its[0] if its else file.example(), prepare)
    planned: dict[str, Plan] = {}
    for shared, members in groups.items():
        first, stage = members[0], members[0].stage
        together = {
            name: settings
            for trial in members
            for name, settings in variants_of(stage, trial.experiment.stages[stage]).items()
        }
        experiment = with_variants(first.experiment, stage, together)
        experiment = with_corrected_alone(experiment, stage)
        prepared = prepare(experiment.dataset)
        try:
            planned[shared] = make_plan(experiment, prepared, store, populations[shared])
        except UsageError as error:
            raise UsageError(_of_a_trial(str(error), files, trials)) from error
    return [
        _plan_of(file, its, [planned[_shared(file, trial)] for trial in its])
        for file, its in zip(files, trials, strict=True)
    ]


def _of_a_trial(problem: str, files: Sequence[SweepFile], trials: Sequence[Sequence[Trial]]) -> str:
    """What a plan says of a variant or stage, with the sweep and the trial that it is of."""
    for file, its in zip(files, trials, strict=True):
        for trial in its:
            for mine in (f"variants.{trial.variant}", "classifier"):
                place = f"stages.{trial.stage}.{mine}"
                if problem.startswith(place):
                    field = f"variant{problem.removeprefix(place)}"
                    return f"{file.path}: trial {trial.label}: {field}"
    return f"{files[0].base_path}: {problem}"


def _check_trial(file: SweepFile, trial: Trial, prepare: Preparation) -> None:
    """Refuse a metric that no trial will have, and a scheduler without evaluations to judge trials
    by."""
    from bacl_platform.plan.judged import why_absent

    sweep, experiment = file.sweep, trial.experiment
    prepared, recipe = prepare(experiment.dataset), image_recipe(experiment, trial.stage)
    known = measurable(prepared.groups.names, has_masks(experiment.detector))
    if sweep.metric not in known:
        raise UsageError(
            f"{file.path}: metric: expected one of {', '.join(known)}, got {sweep.metric!r}"
        )
    if lower_is_better(sweep.metric) and sweep.mode == "max":
        raise UsageError(
            f"{file.path}: mode: expected min, for a lower {sweep.metric} is better, got max"
        )
    absent = why_absent(sweep.metric, prepared, experiment.detector)
    if sweep.adaptive and absent:
        raise UsageError(
            f"{file.path}: metric: expected one that trials can be judged by, got {sweep.metric}: "
            f"{absent}"
        )
    if sweep.scheduler is not None and isinstance(experiment.stages[trial.stage], CorrectionsStage):
        raise UsageError(
            f"{file.path}: scheduler: expected none for stage {trial.stage}, whose trials are "
            f"evaluated once, got {sweep.scheduler.type}"
        )
    if sweep.scheduler is not None and recipe.evaluate_every is None:
        raise UsageError(
            f"{file.path}: scheduler: expected evaluations to judge trials by, got none: set "
            f"`fixed: {{stages.{trial.stage}.recipe.evaluate_every: STEPS}}`"
        )
    if sweep.search == "tpe" and sweep.scheduler is not None and len(experiment.seeds) > 1:
        raise UsageError(
            f"{file.path}: seeds: expected one seed where a scheduler judges proposed trials, "
            f"got {len(experiment.seeds)}"
        )


def _plan_of(file: SweepFile, trials: Sequence[Trial], plans: Sequence[Plan]) -> SweepPlan:
    cells = [
        Cell(trial, job.seed, job)
        for trial, plan in zip(trials, plans, strict=True)
        for job in plan.jobs
        if job.stage == trial.stage and trial.variant in job.variants
    ]
    by_key = {job.key: job for plan in plans for job in plan.jobs}
    needed: dict[str, Job] = {}
    for cell in cells:
        before, parent = list[Job](), cell.job.parent
        while parent is not None:
            before.append(by_key[parent])
            parent = by_key[parent].parent
        needed |= {job.key: job for job in reversed(before)}
    for cell in cells:
        needed.setdefault(cell.job.key, cell.job)
    return SweepPlan(file, cells, list(needed.values()))


def _population(sweep: Sweep, trials: Sequence[Trial]) -> Population | None:
    """How the trials of a sweep compete, if they do."""
    if not isinstance(sweep.scheduler, Pbt):
        return None
    options = sweep.scheduler
    return Population(
        metric=sweep.metric,
        mode=sweep.mode,
        interval=options.interval,
        quantile=options.quantile,
        resample=options.resample,
        space={path.removeprefix(VARIANT): axis for path, axis in sweep.spaces[0].items()},
        members={
            trial.variant: {p.removeprefix(VARIANT): v for p, v in trial.values.items()}
            for trial in trials
        },
    )


def _shared(file: SweepFile, trial: Trial) -> str:
    """What trials that can be packed together have in common."""
    alone = file.sweep.name if file.sweep.competes else ""
    named = trial.experiment.model_copy(update={"name": "-"})
    return alone + trial.stage + with_variants(named, trial.stage, {}).model_dump_json()
