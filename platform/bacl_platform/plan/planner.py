"""From an experiment to jobs with keys: what would run, what is there already, what is shared."""

import functools
import hashlib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bacl
from bacl.digests import sha256
from bacl.errors import UsageError
from bacl.method_settings.registry import Variant
from bacl.result_versions import versions_of
from bacl.schema import Settings
from bacl_platform.plan.job import Job, Plan, digest_of, grouped
from bacl_platform.plan.population import Population
from bacl_platform.spec.experiment import (
    ClassifierStage,
    Experiment,
    RepresentationStage,
    variants_of,
)
from bacl_platform.store.store import Store

if TYPE_CHECKING:
    from bacl.datasets.prepared import Prepared


def make_plan(
    experiment: Experiment,
    prepared: "Prepared",
    store: Store,
    population: Population | None = None,
) -> Plan:
    """The DAG of jobs, once per seed.

    Every variant has a key of its own, which covers what its results depend on: the configuration
    of a bank with it alone, without paths, the dataset's digest, its parent's key and the versions
    of the results of the parts it uses. Variants that the store has are not trained again,
    whichever bank they were trained in; the others of a stage are grouped into jobs. A population
    is made of all variants of classifier stages, and its settings enter their keys.
    """
    _check_kept(experiment, prepared)
    planner = _Planner(experiment, prepared, store, population)
    return Plan(experiment=experiment, jobs=[j for seed in experiment.seeds for j in planner(seed)])


def _check_kept(experiment: Experiment, prepared: "Prepared") -> None:
    """Refuse `keep_best` where there is no metric to find the best checkpoint by."""
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
            *((digest_of([keys[v] for v in group]), group) for group in grouped(missing, size)),
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
        from bacl.config import bank_heads, portable

        lineage = next(iter(parent.variant_keys.values())) if parent else None
        config = portable(self._config(stage, seed, variant))
        for head in bank_heads(config):
            head["variants"] = {v: _chosen(s, head["variants"][v]) for v, s in variant.items()}
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
            self.experiment.imports,
        )


def _chosen(settings: Variant, options: dict[str, Any]) -> dict[str, Any]:
    """A variant's options that are not defaults, and what else its parts are given: so an option
    that a method gains leaves keys as they are. Where a default changes, a version does."""
    given = settings.model_dump(exclude_defaults=True)
    chosen = {
        n: v for n, v in options.items() if n in given or n not in type(settings).model_fields
    }
    nested = {n: given[n] for n in chosen if isinstance(getattr(settings, n, None), Settings)}
    return chosen | nested


def _placed(problem: str, name: str, stage: RepresentationStage | ClassifierStage) -> str:
    """What `bacl.config` says of a stage's variants or recipe, with the field's whole path."""
    if isinstance(stage, RepresentationStage):
        problem = problem.replace(f"variants.{name}", "classifier", 1)
    of_stage = problem.startswith(("variants.", "classifier", "recipe."))
    return f"stages.{name}.{problem}" if of_stage else problem


def _weights_digest(weights: str | None) -> str:
    """SHA-256 of the file that `detector.weights` names; empty where it names none that can be
    read, which `check_weights` reports."""
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


def _parents_first(
    experiment: Experiment,
) -> list[tuple[str, RepresentationStage | ClassifierStage]]:
    return sorted(experiment.stages.items(), key=lambda item: isinstance(item[1], ClassifierStage))


def _frozen(stage: RepresentationStage | ClassifierStage) -> list[str]:
    return stage.freeze if isinstance(stage, ClassifierStage) else []


def _versions() -> dict[str, str]:
    found = {}
    for name in ("bacl", "torch", "torchvision", "onedl-mmdetection", "onedl-mmengine", "ray"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
