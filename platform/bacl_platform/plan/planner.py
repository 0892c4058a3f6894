"""From an experiment to jobs with keys: what would run, what is there already, what is shared."""

import functools
import hashlib
import json
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bacl
from bacl.errors import UsageError
from bacl.method_settings import Variant
from bacl.result_versions import versions_of
from bacl.settings import Recipe, Settings
from bacl_platform.plan.cost import cost_lines
from bacl_platform.plan.population import Population
from bacl_platform.spec.experiment import (
    ClassifierStage,
    Experiment,
    RepresentationStage,
    Resources,
    variants_of,
)
from bacl_platform.spec.problems import as_yaml
from bacl_platform.store.store import Store
from bacl_platform.store.unfinished import newest_step

if TYPE_CHECKING:
    from rich.console import Console

    from bacl.datasets.annotations import Prepared

SYSTEM = "system/rank"
"""How the names of a rank's system metrics begin; MLflow shows `system/` in a tab of its own."""


class Job(Settings):
    """One stage, for one seed, with a group of its variants: what one Ray Train run trains."""

    key: str
    """Digest of the variants' keys; of a finished job, the name of its entry in the store."""
    name: str
    stage: str
    kind: str
    seed: int
    variants: dict[str, Variant]
    variant_keys: dict[str, str]
    """What each variant is remembered by, whichever variants it was trained with."""
    parent: str | None
    """Key of the job whose checkpoint this one starts from."""
    recipe: Recipe
    resources: Resources
    config: dict[str, Any]
    """The resolved mmengine configuration, plain values only."""
    dataset_digest: str
    versions: dict[str, str]
    """Installed versions, for the record; they do not enter the key."""
    result_versions: dict[str, int | str]
    """Versions of the parts that its results depend on, `bacl.result_versions`."""
    code: str
    """Digest of the method's sources, for the record; it does not enter the key."""
    population: Population | None = None
    """How the variants compete while they train, if they do."""

    @property
    def iterations(self) -> int:
        return self.config["train_cfg"]["max_iters"]


class Plan(Settings):
    """The jobs of an experiment, parents before children."""

    experiment: Experiment
    jobs: list[Job]

    @property
    def digest(self) -> str:
        """Identifies the plan: the same variants under the same experiment name."""
        keys = sorted(key for job in self.jobs for key in job.variant_keys.values())
        return digest_of([self.experiment.name, keys])

    def missing(self, store: Store) -> list[Job]:
        """Jobs that have no complete entry in the store."""
        return [job for job in self.jobs if not store.complete(job.key)]


def make_plan(
    experiment: Experiment,
    prepared: "Prepared",
    store: Store,
    population: Population | None = None,
) -> Plan:
    """The DAG of jobs, once per seed.

    Every variant has a key of its own, which covers what its results depend on: the configuration
    of its bank of one without paths, the dataset's digest, its parent's key and the versions of the
    results of the parts it uses. Variants that the store has are not trained again, whichever bank
    they were trained in; the others of a stage are grouped into jobs. A population is of all
    variants of classifier stages, and enters their keys.
    """
    _check_kept(experiment, prepared)
    planner = _Planner(experiment, prepared, store, population)
    return Plan(experiment=experiment, jobs=[j for seed in experiment.seeds for j in planner(seed)])


def _check_kept(experiment: Experiment, prepared: "Prepared") -> None:
    """Refuse to keep the best checkpoint where none can be told to be it."""
    from bacl_platform.plan.judged import why_absent

    why = why_absent("AP", prepared, experiment.detector)
    sentences = [
        f"{experiment.name}: stages.{name}.recipe.keep_best: expected false, got true: {why}"
        for name, stage in experiment.stages.items()
        if why and stage.recipe.keep_best
    ]
    if sentences:
        raise UsageError("\n".join(sentences))


class _Planner:
    """Makes the jobs of one seed, parents before children."""

    def __init__(
        self,
        experiment: Experiment,
        prepared: "Prepared",
        store: Store,
        population: Population | None,
    ) -> None:
        self.experiment, self.prepared = experiment, prepared
        self.store, self.population = store, population
        self.dataset_info = store.datasets / prepared.digest / "dataset.json"
        self.known = store.variants()
        self.complete = functools.cache(store.complete)  # once for all variants of an entry
        self.code, self.versions = source_digest(), _versions()
        self.weights = _weights_digest(experiment.detector.weights)

    def __call__(self, seed: int) -> Iterator[Job]:
        parents: dict[str, Job] = {}
        for name, stage in _parents_first(self.experiment):
            parent = parents[stage.after] if isinstance(stage, ClassifierStage) else None
            try:
                jobs = self._jobs(name, stage, seed, parent)
            except UsageError as error:
                raise UsageError(_placed(str(error), name, stage)) from error
            for job in jobs:
                parents[name] = job
                yield job

    def _jobs(
        self, name: str, stage: RepresentationStage | ClassifierStage, seed: int, parent: Job | None
    ) -> list[Job]:
        variants = variants_of(name, stage)
        keys = {v: self._key(stage, seed, parent, {v: s}) for v, s in variants.items()}
        finished: dict[str, dict[str, Any]] = {}
        missing: dict[str, Any] = {}
        for variant, key in keys.items():
            entry = self.known.get(key)
            if entry is not None and self.complete(entry):
                finished.setdefault(entry, {})[variant] = variants[variant]
            else:
                missing[variant] = variants[variant]
        size = getattr(stage, "variants_per_job", None)
        groups: list[tuple[str, dict[str, Any]]] = [
            *finished.items(),
            *((digest_of([keys[v] for v in group]), group) for group in _groups(missing, size)),
        ]
        of_seed = f" seed {seed}" if len(self.experiment.seeds) > 1 else ""
        return [
            Job(
                key=key,
                name=f"{name}{f' {number}/{len(groups)}' if len(groups) > 1 else ''}{of_seed}",
                stage=name,
                kind=stage.kind,
                seed=seed,
                variants=group,
                variant_keys={variant: keys[variant] for variant in group},
                parent=parent.key if parent else None,
                recipe=stage.recipe,
                resources=stage.resources,
                config=self._config(stage, seed, group),
                dataset_digest=self.prepared.digest,
                versions=self.versions,
                result_versions=self._result_versions(stage, group),
                code=self.code,
                population=self.population if parent else None,
            )
            for number, (key, group) in enumerate(groups, start=1)
        ]

    def _key(
        self,
        stage: RepresentationStage | ClassifierStage,
        seed: int,
        parent: Job | None,
        variant: dict[str, Any],
    ) -> str:
        from bacl.config import portable

        lineage = next(iter(parent.variant_keys.values())) if parent else None
        config = portable(self._config(stage, seed, variant))
        more: list[Any] = [self.weights] if self.weights else []
        if self.population and parent:
            more += [self.population.model_dump(), stage.recipe.evaluate_every]
        versions = self._result_versions(stage, variant)
        return digest_of([config, self.prepared.digest, lineage, versions, *more])

    def _result_versions(
        self, stage: RepresentationStage | ClassifierStage, variants: dict[str, Any]
    ) -> dict[str, int | str]:
        found: dict[str, int | str] = {}
        for settings in variants.values():
            found |= versions_of(self.experiment.detector, stage.recipe, settings)
        return found

    def _config(
        self, stage: RepresentationStage | ClassifierStage, seed: int, variants: dict[str, Any]
    ) -> dict[str, Any]:
        from bacl.config import stage_config

        return stage_config(
            self.experiment.detector,
            self.prepared,
            self.dataset_info,
            stage.recipe,
            variants,
            _frozen(stage),
            seed,
            stage.resources.workers,
        )


def _placed(problem: str, name: str, stage: RepresentationStage | ClassifierStage) -> str:
    """What `bacl.config` says of a stage's variants or recipe, with the field's whole path."""
    if isinstance(stage, RepresentationStage):
        problem = problem.replace(f"variants.{name}", "classifier", 1)
    of_stage = problem.startswith(("variants.", "classifier", "recipe."))
    return f"stages.{name}.{problem}" if of_stage else problem


def owner(name: str, job: Job) -> tuple[str | None, str]:
    """(variant, metric) of a scalar's or loss's name; the variant is None for what all share.

    Names are `variant/AP`, `variant.loss_cls` and, in a cascade, `s0.variant.loss_cls`; what
    begins with SYSTEM is of the job's machines.
    """
    if name.startswith(SYSTEM):
        return None, name
    match = re.fullmatch(r"(?P<stage>s\d+\.)?(?P<variant>[^./]+)[./](?P<metric>.+)", name)
    if match and match["variant"] in job.variants:
        return match["variant"], (match["stage"] or "") + match["metric"]
    return None, name


def _weights_digest(weights: str | None) -> str:
    """SHA-256 of the file that `detector.weights` names; nothing where it names none that can be
    read, which `check_weights` tells."""
    from bacl.datasets.annotations import sha256

    if weights is None or weights == "torchvision":
        return ""
    try:
        return sha256(Path(weights))
    except OSError:
        return ""


def source_digest() -> str:
    """The first 16 hex digits of SHA-256 over the sources of `bacl`, the method."""
    folder = Path(bacl.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def state(job: Job, store: Store) -> str:
    """In words: in the store, unfinished at a step, or to run."""
    if store.complete(job.key):
        return "in store"
    step = newest_step(store, job.key)
    return "to run" if step is None else f"unfinished at step {step}"


def print_plan(plan: Plan, store: Store, console: "Console") -> None:
    """Show jobs, what is in the store, what they ask for, what shares a trunk and what it costs."""
    from rich.table import Table

    from bacl_platform.plan.judged import notes, prepared_of

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    say(f"{plan.experiment.name}, store {store.url}")
    table = Table()
    for column in ("job", "key", "state", "steps", "resources", "variants"):
        table.add_column(column, no_wrap=column in ("job", "key"), overflow="fold")
    for job in plan.jobs:
        table.add_row(
            job.name,
            job.key,
            state(job, store),
            str(job.iterations),
            _asked(job.resources),
            ", ".join(job.variants),
        )
    console.print(table)
    recipes: dict[str, list[str]] = {}
    for job in {job.stage: job for job in plan.jobs}.values():
        recipe = (
            f"{job.recipe.schedule.batch} images a step, learning rate {_learning_rate(job)}, "
            f"sampler {job.recipe.sampler}{_left_out(job)}"
        )
        recipes.setdefault(recipe, []).append(job.stage)
    for recipe, stages in recipes.items():
        say(f"{', '.join(stages)}: {recipe}")
    prepared = prepared_of(plan.jobs[0].dataset_digest, store)
    judged = notes([(plan.experiment, prepared)])
    for line in (
        *_of_other_code(plan, store),
        *sharing(plan.experiment),
        *cost_lines(plan, store),
        *judged,
    ):
        say(line)


def _of_other_code(plan: Plan, store: Store) -> Iterator[str]:
    """Which finished jobs were made by sources other than these, in a sentence, if any."""
    known = store.descriptions()
    others = [
        job.name
        for job in plan.jobs
        if store.complete(job.key) and known.get(job.key, {}).get("code") != job.code
    ]
    if others:
        made = "was" if len(others) == 1 else "were"
        yield (
            f"{_listed(others)}: {made} made by other code than this, with the same result versions"
        )


def _left_out(job: Job) -> str:
    """How many training images the recipe leaves out, in words, if any."""
    from bacl.datasets.index import Index

    dataset = job.config["train_dataloader"]["dataset"]
    dataset = dataset.get("dataset", dataset)  # Copy-Paste is around it
    index = Index(dataset["ann_file"])
    images = len(index)
    trained = len(index.trained(dataset["least_side"], dataset["empty"]))
    if trained == images:
        return ""
    return f", {trained:,} of {images:,} images train: the others have no annotations or are small"


def sharing(experiment: Experiment) -> Iterator[str]:
    """Which variants train over one trunk, and why others do not, in sentences."""
    stages = {n: s for n, s in experiment.stages.items() if isinstance(s, ClassifierStage)}
    for name, stage in stages.items():
        groups = [" + ".join(group) for group in _groups(stage.variants, stage.variants_per_job)]
        if len(groups) == 1:
            alone = len(stage.variants) == 1
            yield f"{name}: {groups[0]} {'alone' if alone else 'over one trunk'}"
        else:
            yield (
                f"{name}: {len(groups)} trunks because variants_per_job is "
                f"{stage.variants_per_job}: {'; '.join(groups)}"
            )
    for (first, one), (second, other) in combinations(stages.items(), 2):
        if one.after == other.after:
            different = ", ".join(
                f"{field} is {value} in {first} and {its} in {second}"
                for field, value, its in _differences(one.model_dump(), other.model_dump())
            )
            reason = different or "they are separate stages"
            yield f"{first} and {second} do not share a trunk: {reason}"
    yield from _whole_detectors(experiment)


def _whole_detectors(experiment: Experiment) -> Iterator[str]:
    """What representation stages train for; none shares a trunk, as each makes its own."""
    after: dict[str, list[str]] = {}
    for name, stage in experiment.stages.items():
        if isinstance(stage, ClassifierStage):
            after.setdefault(stage.after, []).append(name)
    for name, stages in after.items():
        start = "starts" if len(stages) == 1 else "start"
        yield f"{name}: trained once for each seed; {_listed(stages)} {start} from it"
    ends = [
        n for n, s in experiment.stages.items() if s.kind == "representation" and n not in after
    ]
    if len(ends) == 1:
        yield f"{ends[0]} trains the whole detector: a job of its own"
    elif ends:
        yield f"{_listed(ends)} each train the whole detector: a job each"


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _differences(one: dict, other: dict, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(field, value, value) of what two stages' trunks differ in, as their file has it."""
    for name, value in one.items():
        if name in ("variants", "variants_per_job", "resources"):
            continue
        if isinstance(value, dict):
            yield from _differences(value, other[name], f"{prefix}{name}.")
        elif value != other[name]:
            yield f"{prefix}{name}", as_yaml(value), as_yaml(other[name])


def _learning_rate(job: Job) -> str:
    schedule = job.recipe.schedule
    if schedule.batch == schedule.lr_batch:
        return f"{schedule.lr:g}"
    return f"{schedule.scaled_lr:g} = {schedule.lr:g} x {schedule.batch}/{schedule.lr_batch}"


def _asked(resources: Resources) -> str:
    where = f" {resources.placement}" if resources.placement != "PACK" else ""
    return f"{resources.workers} x ({resources.each}){where}"


def _parents_first(
    experiment: Experiment,
) -> list[tuple[str, RepresentationStage | ClassifierStage]]:
    return sorted(experiment.stages.items(), key=lambda item: isinstance(item[1], ClassifierStage))


def _frozen(stage: RepresentationStage | ClassifierStage) -> list[str]:
    return stage.freeze if isinstance(stage, ClassifierStage) else []


def _groups(variants: dict[str, Any], size: int | None) -> Iterator[dict[str, Any]]:
    names = list(variants)
    size = size or len(names) or 1
    for start in range(0, len(names), size):
        yield {name: variants[name] for name in names[start : start + size]}


def digest_of(value: Any) -> str:
    """The first 16 hex digits of SHA-256 over canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _versions() -> dict[str, str]:
    found = {}
    for name in ("bacl", "torch", "torchvision", "onedl-mmdetection", "onedl-mmengine", "ray"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
