"""Sweep files: one experiment, many trials, packed into as few jobs as they allow.

A *trial* is the base experiment with some fields set to values of the sweep's space. Trials that
differ in their variant alone train in one bank; a trial and a seed make a *cell*, which has the key
of its variant: what the store remembers it by, whichever sweep asked for it.
"""

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from bacl.errors import UsageError
from bacl.settings import CHANGEABLE, Dataset, Seed, Settings, meaning
from bacl_platform.plan.planner import Job, Plan, digest_of, make_plan
from bacl_platform.plan.population import Population
from bacl_platform.spec.experiment import (
    ClassifierStage,
    Experiment,
    Name,
    Paper,
    Title,
    assign,
    override_field,
    read,
    read_yaml,
    says_sweep,
    validated,
    variants_of,
)
from bacl_platform.spec.problems import translate, truths
from bacl_platform.spec.space import Space
from bacl_platform.store.store import Store, disk_errors

if TYPE_CHECKING:
    from bacl.datasets.annotations import Prepared

VARIANT = "variant."
"""What the paths of the trial's own variant start with, in a space."""
OF_STAGE = ("recipe.", "resources.")
"""What the paths of other fields of the trial's stage start with."""
STAGE = "stage"
"""The field of a space that says which stage a trial is of."""


class Asha(Settings):
    """Successive halving: at each rung of evaluations, only the best share goes on."""

    type: Literal["asha"]
    grace: int = Field(1, gt=0)
    """Evaluations that every trial gets."""
    reduction: int = Field(3, gt=1)
    """One of so many trials goes on from a rung, and rungs are so many times further apart."""


class Median(Settings):
    """Stops trials that do worse than the median of the others' running means."""

    type: Literal["median"]
    grace: int = Field(1, gt=0)
    """Evaluations that every trial gets."""
    least: int = Field(3, gt=0)
    """Trials that the median needs."""


class Pbt(Settings):
    """Population-based training: the worst trials go on from the best's state, with other values.

    Its trials are the members of one bank, and the fields of its space such as may change while a
    variant trains.
    """

    type: Literal["pbt"]
    interval: int = Field(1, gt=0)
    """Evaluations between copies."""
    quantile: float = Field(0.25, gt=0, le=0.5)
    """Share of the trials that are replaced, and of those that are copied."""
    resample: float = Field(0.25, ge=0, le=1)
    """Chance that a field is drawn anew; else it moves by a fifth, or to a list's next value."""


class Sweep(Settings):
    """One sweep file."""

    name: Title
    base: Annotated[str, meaning("the path of an experiment file")]
    """The experiment that trials are made of, relative to the sweep's folder."""
    stage: Name = "classifier"
    """The stage whose trials they are, where the space has no field `stage` that says it; other
    stages stay as far as it needs them."""
    variant: (
        Annotated[
            Annotated[str, meaning("the name of a variant"), Tag("string")]
            | Annotated[dict[str, Any], meaning("a mapping of its settings"), Tag("object")],
            Discriminator(lambda given: "object" if isinstance(given, dict) else "string"),
        ]
        | None
    ) = None
    """What the trial's variant starts from: a name from the base's stage, or settings."""
    fixed: dict[str, Any] = {}
    """Fields of the base that are set for all trials."""
    space: Annotated[
        Annotated[Space, Tag("object")] | Annotated[list[Space], Tag("array")],
        Discriminator(lambda given: "array" if isinstance(given, list) else "object"),
    ]
    """Fields and their values; of a list of spaces, the trials of all."""
    seeds: list[Seed] | None = Field(None, min_length=1)
    """Each trial runs once for each; without them, the base's."""
    metric: Annotated[str, meaning("the name of a metric such as AP")] = "AP"
    mode: Literal["max", "min"] = "max"
    search: Literal["grid", "random", "tpe"] = "grid"
    """`grid`: all combinations; `random` and `tpe` (Optuna's) draw `samples` trials."""
    samples: int | None = Field(None, gt=0)
    search_seed: Seed = 0
    scheduler: Annotated[Asha | Median | Pbt, Field(discriminator="type")] | None = None
    """Judges trials by the metric of their evaluations (`recipe.evaluate_every`): `asha` and
    `median` stop some early, `pbt` lets some go on from others."""
    max_concurrent: int | None = Field(None, gt=0)
    """Jobs at a time; without it, as many as the cluster has room for."""
    variants_per_job: int | None = Field(None, gt=0)
    """Trials that share one trunk; without it, all that can."""
    paper: Paper | None = None
    """The published table that the trials repeat, for `bacl report --paper`."""

    @model_validator(mode="after")
    def _search_and_space_agree(self) -> "Sweep":
        spaces = self.spaces
        if not spaces or not all(spaces):
            raise ValueError("space: expected at least one field, got none")
        if self.search != "grid" and self.samples is None:
            raise ValueError(f"samples: expected how many trials {self.search} draws, got nothing")
        if self.search == "grid" and self.samples is not None:
            raise ValueError("samples: expected nothing of a grid, which has its own number")
        if self.search == "tpe" and len(spaces) > 1:
            raise ValueError("search: tpe expects one space, got a list of them")
        for space in spaces:
            for path, axis in space.items():
                if self.search == "grid" and axis.choice is None:
                    raise ValueError(
                        f"space.{path}: a grid expects a list of values; a range to draw from "
                        "needs `search: random` or `tpe`"
                    )
                if unknown := sorted(axis.when.keys() - space.keys()):
                    raise ValueError(
                        f"space.{path}.when: expected fields of the space, got {unknown[0]!r}"
                    )
                if any(space[other].when for other in axis.when):
                    raise ValueError(
                        f"space.{path}.when: expected fields that always count, got one that is "
                        "conditional itself"
                    )
        if self.competes:
            self._check_population()
        return self

    def _check_population(self) -> None:
        """What population-based training can serve."""
        if self.search == "tpe" or len(self.spaces) > 1:
            raise ValueError(
                "scheduler: pbt expects one space and search grid or random, because its trials "
                "start together"
            )
        if self.variants_per_job is not None:
            raise ValueError(
                "variants_per_job: expected nothing with pbt, whose trials share a job"
            )
        for path, axis in self.spaces[0].items():
            field = path.removeprefix(VARIANT)
            if not path.startswith(VARIANT) or field not in CHANGEABLE:
                fields = ", ".join(VARIANT + name for name in CHANGEABLE)
                raise ValueError(
                    f"space.{path}: pbt expects fields that may change while a variant trains: "
                    f"{fields}"
                )
            if axis.when:
                raise ValueError(f"space.{path}.when: expected nothing with pbt")

    @property
    def stops(self) -> bool:
        """Whether a scheduler may stop trials early."""
        return isinstance(self.scheduler, Asha | Median)

    @property
    def competes(self) -> bool:
        """Whether trials go on from others' states."""
        return isinstance(self.scheduler, Pbt)

    @property
    def spaces(self) -> list[Space]:
        return self.space if isinstance(self.space, list) else [self.space]

    @property
    def adaptive(self) -> bool:
        """Whether trials cannot be known, or not known to finish, in advance."""
        return self.search == "tpe" or self.scheduler is not None

    def count(self) -> int:
        """How many trials there are at most."""
        if self.samples is not None:
            return self.samples
        return sum(
            math.prod(len(axis.choice or ()) for axis in space.values()) for space in self.spaces
        )

    def values(self) -> Iterator[dict[str, Any]]:
        """The values of each trial of a grid or random search, each combination once."""
        seen: list[dict[str, Any]] = []
        assert self.samples is not None or self.search == "grid"  # by _search_and_space_agree
        for values in self._grid() if self.samples is None else self.draws(self.samples):
            if values not in seen:
                seen.append(values)
                yield values

    def _grid(self) -> Iterator[dict[str, Any]]:
        for space in self.spaces:
            choices = [axis.choice or [] for axis in space.values()]
            for combination in itertools.product(*choices):
                yield _counting(space, dict(zip(space, combination, strict=True)))

    def draws(self, count: int) -> Iterator[dict[str, Any]]:
        """Points of the space at random, of each space in turn."""
        generator = np.random.default_rng(self.search_seed)
        for number in range(count):
            space = self.spaces[number % len(self.spaces)]
            yield _counting(space, {path: axis.draw(generator) for path, axis in space.items()})


_OF_SWEEPS = Sweep.model_fields.keys() - Experiment.model_fields.keys() - {"base"}
"""Fields by which a file is a sweep and not an experiment, one that lacks its space too."""


def _counting(space: Space, values: dict[str, Any]) -> dict[str, Any]:
    return {path: value for path, value in values.items() if space[path].counts(values)}


@dataclass(frozen=True)
class Trial:
    """One point of a sweep's space."""

    values: dict[str, Any]
    varied: dict[str, str]
    """Its values in short, such as `{"alpha": "0.5"}`."""
    stage: str
    variant: str
    """Name of its variant: made of its settings, so that equal trials of any sweep have one."""
    experiment: Experiment
    """The base with this variant alone."""

    @property
    def label(self) -> str:
        """The values in short, such as `alpha=0.5, beta=0.9`."""
        return ", ".join(f"{field}={value}" for field, value in self.varied.items())


def _is_classifier(stage: Any) -> bool:
    return isinstance(stage, dict) and stage.get("kind") == "classifier"


def _steps(path: str, stage: str, raw: dict[str, Any]) -> list[str]:
    """Where a space's field lies in an experiment's raw content."""
    if path.startswith(OF_STAGE):
        return ["stages", stage, *path.split(".")]
    if not path.startswith(VARIANT):
        return path.split(".")
    place = ["variants", "trial"] if _is_classifier(raw["stages"][stage]) else ["classifier"]
    return ["stages", stage, *place, *path.removeprefix(VARIANT).split(".")]


class SweepFile:
    """A sweep and the experiment it is about; makes its trials.

    Raises UsageError that lists every problem, one sentence a line.
    """

    def __init__(self, path: str | Path, overrides: Sequence[str] = ()) -> None:
        self.path = Path(path)
        raw = read_yaml(self.path)
        if not raw.keys() & _OF_SWEEPS:
            raise UsageError(
                f"{self.path}: expected a sweep, got an experiment (a sweep has a `space`), which "
                "`bacl run` runs"
            )
        for override in overrides:
            override_field(raw, override)
        try:
            self.sweep = Sweep.model_validate(raw)
            problems = list(truths(raw, self.sweep))
        except ValidationError as error:
            problems = list(translate(error, Sweep))
        if problems:
            raise UsageError("\n".join(f"{self.path}: {problem}" for problem in problems))
        self.base_path = self.path.parent / self.sweep.base
        self.base = read(self.base_path, (self.path,))
        self.base.pop("baseline", None)
        self.base["name"] = self.sweep.name
        if self.sweep.seeds is not None:
            self.base["seeds"] = self.sweep.seeds
        self._short = _short_names([path for space in self.sweep.spaces for path in space])

    def _pruned(self, name: str) -> dict[str, Any]:
        """What the stage needs of the base, with one variant to set the fields of."""
        stages = self.base.get("stages")
        if not isinstance(stages, dict) or name not in stages:
            known = ", ".join(stages) if isinstance(stages, dict) else "none"
            raise UsageError(
                f"{self.path}: stage: expected one of {self.base_path.name}'s ({known}), "
                f"got {name!r}"
            )
        raw: dict[str, Any] = _copied(self.base)
        stage = raw["stages"][name]
        kept = {stage.get("after"), name} if isinstance(stage, dict) else {name}
        raw["stages"] = {n: value for n, value in raw["stages"].items() if n in kept}
        if _is_classifier(stage):
            stage["variants"] = {"trial": self._variant(stage.get("variants"))}
            if self.sweep.variants_per_job is not None:
                stage["variants_per_job"] = self.sweep.variants_per_job
        return raw

    def _variant(self, known: Any) -> Any:
        given = self.sweep.variant
        if isinstance(given, dict):
            return _copied(given)
        known = known if isinstance(known, dict) else {}
        name = given if given is not None or len(known) != 1 else next(iter(known))
        if name not in known:
            raise UsageError(
                f"{self.path}: variant: expected settings, or one of the stage's variants "
                f"({', '.join(known) or 'none'}), got {'nothing' if name is None else repr(name)}"
            )
        return known[name]

    def trial(self, values: dict[str, Any]) -> Trial:
        """The trial with these values."""
        varied = {self._short[path]: plain(value) for path, value in values.items()}
        stage = str(values.get(STAGE, self.sweep.stage))
        raw = self._pruned(stage)
        for path, value in {**self.sweep.fixed, **values}.items():
            try:
                if path != STAGE:
                    assign(raw, _steps(path, stage, raw), _copied(value))
            except UsageError as error:
                field = "space" if path in values else "fixed"
                raise UsageError(f"{self.path}: {field}.{path}: {error}") from None
        try:
            experiment = validated(raw, self.base_path)
        except UsageError as error:
            lines = str(error).replace(f"{self.base_path}: ", "").splitlines()
            shown = [line.replace(".variants.trial.", ".variant.") for line in lines]
            label = ", ".join(f"{field}={value}" for field, value in varied.items())
            raise UsageError(
                "\n".join(f"{self.path}: trial {label}: {line}" for line in shown)
            ) from None
        content = experiment.stages[stage]
        if not isinstance(content, ClassifierStage):
            return Trial(values, varied, stage, stage, experiment)
        settings = content.variants["trial"]
        name = f"{settings.method}-{digest_of(settings.model_dump(mode='json'))[:8]}"
        return Trial(
            values, varied, stage, name, _with_variants(experiment, stage, {name: settings})
        )

    def trials(self, store: Store) -> list[Trial]:
        """All trials, those of equal settings once; of a search that proposes them, those so far.

        Raises UsageError with what is wrong, each sentence once.
        """
        found: dict[str, Trial] = {}
        problems: dict[str, None] = {}
        proposes = self.sweep.search == "tpe"
        for values in self.proposed(store) if proposes else self.sweep.values():
            try:
                trial = self.trial(values)
            except UsageError as error:
                problems |= dict.fromkeys(str(error).splitlines())
            else:
                found.setdefault(trial.experiment.model_dump_json(), trial)
        if problems:
            shown = list(problems)
            more = f"\n{self.path}: and {len(shown) - 10} more" if len(shown) > 10 else ""
            raise UsageError("\n".join(shown[:10]) + more)
        return list(found.values())

    @property
    def _proposals(self) -> str:
        return f".sweeps/{self.sweep.name}.proposed.json"

    def proposed(self, store: Store) -> list[dict[str, Any]]:
        """Values of the trials that the sweep's search has proposed so far."""
        known = json.loads(store.note(self._proposals) or "[]")
        (space,) = self.sweep.spaces
        return [values for values in known if values.keys() <= space.keys()]

    def note_proposed(self, values: dict[str, Any], store: Store) -> None:
        """Remember a proposal."""
        known = self.proposed(store)
        if values not in known:
            store.write_note(self._proposals, json.dumps([*known, values]))

    def example(self) -> Trial:
        """A trial at random, to know what trials ask for before a search proposes any."""
        return self.trial(next(self.sweep.draws(1)))


def is_sweep(path: Path) -> bool:
    """Whether a file is a sweep, by its `space`, and not an experiment."""
    return says_sweep(read_yaml(path))


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

        from bacl.datasets.annotations import prepare
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
        experiment = _with_variants(first.experiment, stage, together)
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
    """Refuse a metric that no trial will have, and a scheduler with nothing to judge by."""
    from bacl_platform.plan.judged import why_absent

    sweep, experiment = file.sweep, trial.experiment
    prepared, recipe = prepare(experiment.dataset), experiment.stages[trial.stage].recipe
    known = ["AP", "AP50", "AP75", *(f"AP_{name}" for name in prepared.groups.names)]
    if experiment.detector.type == "mask_rcnn":
        known += [f"mask_{name}" for name in known]
    if sweep.metric not in known:
        raise UsageError(
            f"{file.path}: metric: expected one of {', '.join(known)}, got {sweep.metric!r}"
        )
    absent = why_absent(sweep.metric, prepared, experiment.detector)
    if sweep.adaptive and absent:
        raise UsageError(
            f"{file.path}: metric: expected one that trials can be judged by, got {sweep.metric}: "
            f"{absent}"
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
        if cell.job.parent is not None:
            needed.setdefault(cell.job.parent, by_key[cell.job.parent])
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
    return alone + trial.stage + _with_variants(named, trial.stage, {}).model_dump_json()


def _with_variants(experiment: Experiment, stage: str, variants: dict[str, Any]) -> Experiment:
    content = experiment.stages[stage]
    if not isinstance(content, ClassifierStage):
        return experiment
    stages = {**experiment.stages, stage: content.model_copy(update={"variants": variants})}
    return experiment.model_copy(update={"stages": stages})


def _short_names(paths: list[str]) -> dict[str, str]:
    """The least end of each dotted path that no other path ends with."""
    paths = list(dict.fromkeys(paths))
    short = {}
    for path in paths:
        steps = path.split(".")
        ends = [".".join(steps[-n:]) for n in range(1, len(steps) + 1)]
        others = [f".{other}" for other in paths if other != path]
        short[path] = next(
            (end for end in ends if not any(o.endswith(f".{end}") for o in others)), path
        )
    return short


def plain(value: Any) -> str:
    """A value of a space in short."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return " ".join(f"{name}:{plain(item)}" for name, item in value.items())
    return "none" if value is None else str(value)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value
