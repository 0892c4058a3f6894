"""From an experiment to jobs with keys: what would run, what is there already, what is shared."""

import functools
import hashlib
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bacl
from bacl.detector.two_stage import has_masks
from bacl.digests import sha256
from bacl.errors import UsageError
from bacl.method_settings.base import Method
from bacl.method_settings.corrections import Correction
from bacl.result_versions import version_of, versions_of, versions_of_features
from bacl.schema import Settings
from bacl.settings import Features
from bacl_platform.plan.corrections import (
    corrected_config,
    correction_key,
    correction_versions,
    features_read,
    needs_images,
)
from bacl_platform.plan.job import Job, Plan, digest_of, grouped
from bacl_platform.plan.population import Population
from bacl_platform.plan.weights import held_weights
from bacl_platform.spec.experiment import (
    AnyStage,
    ClassifierStage,
    CorrectionsStage,
    Experiment,
    FeaturesStage,
    First,
    ImportedStage,
    image_recipe,
    trained,
    variants_of,
)
from bacl_platform.store.store import Store

if TYPE_CHECKING:
    from bacl.datasets.prepared import Prepared


IMPORTED = {"checkpoint", "source", "categories", "new_categories", "norm_eps"}
"""Fields of an imported stage that say what is taken of its checkpoint."""


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
        for name, stage in trained(experiment).items()
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
        self.experiment, self.weights = held_weights(experiment, store)
        self.prepared = prepared
        self.store, self.population = store, population
        self.dataset_info = store.datasets / prepared.digest / "dataset.json"
        self.known = store.variants()
        self.jobs: dict[str, Job] = {}
        """Those that are made, by key."""
        self.complete = functools.cache(store.complete)  # once for all variants of an entry
        self.code, self.versions = source_digest(), _versions()
        self.imported: dict[str, list[Job]] = {}
        """Jobs of imported stages, which are the same for all seeds, by stage."""
        self.files = _checkpoints(experiment)

    def __call__(self, seed: int) -> Iterator[Job]:
        made: dict[str, list[Job]] = {}
        for name in _parents_first(self.experiment):
            stage = self.experiment.stages[name]
            parent = None
            if name in self.imported:
                made[name] = self.imported[name]
                continue
            if not isinstance(stage, First):  # any job of a stage has its trunk
                before = made[stage.after]
                parent = next((job for job in before if self.complete(job.key)), before[0])
            try:
                if isinstance(stage, CorrectionsStage):
                    made[name] = self._corrections(name, stage, seed, made[stage.after])
                else:
                    made[name] = self._jobs(name, seed, parent)
            except UsageError as error:
                raise UsageError(_placed(str(error), name, stage)) from error
            self.jobs |= {job.key: job for job in made[name]}
            corrects_imported = isinstance(stage, CorrectionsStage) and stage.after in self.imported
            if isinstance(stage, ImportedStage) or corrects_imported:
                self.imported[name] = made[name]
            yield from made[name]

    def _jobs(self, name: str, seed: int, parent: Job | None) -> list[Job]:
        stage = self.experiment.stages[name]
        if isinstance(stage, FeaturesStage):
            assert parent is not None
            return [self._features(name, stage, seed, parent)]
        variants = variants_of(name, stage)
        keys = {v: self._key(name, seed, parent, {v: s}) for v, s in variants.items()}
        groups = self._groups(variants, keys, getattr(stage, "variants_per_job", None))
        return [
            Job(
                key=key,
                name=name
                + _of_many(number, len(groups))
                + ("" if isinstance(stage, ImportedStage) else self._of(seed)),
                stage=name,
                kind=stage.kind,
                seed=seed,
                variants=group,
                variant_keys={variant: keys[variant] for variant in group},
                parent=parent.key if parent else None,
                recipe=image_recipe(self.experiment, name),
                resources=stage.resources,
                config=self._config(name, seed, group),
                dataset_digest=self.prepared.digest,
                versions=self.versions,
                result_versions=self._result_versions(name, group),
                code=self.code,
                population=self.population if parent else None,
            )
            for number, (key, group) in enumerate(groups, start=1)
        ]

    def _groups(
        self, variants: Mapping[str, Any], keys: Mapping[str, str], size: int | None
    ) -> list[tuple[str, dict[str, Any]]]:
        """Keys of jobs with the variants of each: those that entries have, and the others in groups
        of at most `size`."""
        finished: dict[str, dict[str, Any]] = {}
        missing: dict[str, Any] = {}
        for variant, key in keys.items():
            entry = self.known.get(key)
            if entry is not None and self.complete(entry):
                finished.setdefault(entry, {})[variant] = variants[variant]
            else:
                missing[variant] = variants[variant]
        new = grouped(missing, size) if missing else ()
        return [*finished.items(), *((digest_of([keys[v] for v in own]), own) for own in new)]

    def _corrections(
        self, name: str, stage: CorrectionsStage, seed: int, before: list[Job]
    ) -> list[Job]:
        """Jobs of a stage of kind `corrections`, at least one for each job of the stage before that
        has trained a variant which is corrected."""
        recipe = image_recipe(self.experiment, name)
        made: list[tuple[Job, str, dict[str, str], dict[str, Correction]]] = []
        shown = self._shown_in_training(stage, seed) if needs_images(stage.variants) else None
        for parent in before:
            own = {v: s for v, s in stage.variants.items() if s.of in parent.variants}
            keys = {v: correction_key(v, s, parent, shown) for v, s in own.items()}
            made += [(parent, key, keys, group) for key, group in self._groups(own, keys, None)]
        alike = stage.after in self.imported
        return [
            Job(
                key=key,
                name=name + _of_many(number, len(made)) + ("" if alike else self._of(seed)),
                stage=name,
                kind=stage.kind,
                seed=seed,
                variants=group,
                variant_keys={variant: keys[variant] for variant in group},
                parent=parent.key,
                features_from=features_read(parent, group),
                recipe=recipe,
                resources=stage.resources,
                config=corrected_config(parent, self.prepared, group, shown),
                dataset_digest=self.prepared.digest,
                versions=self.versions,
                result_versions=correction_versions(group),
                code=self.code,
            )
            for number, (parent, key, keys, group) in enumerate(made, start=1)
        ]

    def _shown_in_training(self, stage: CorrectionsStage, seed: int) -> dict[str, Any]:
        """The `train_dataloader` by which the stage before shows training images."""
        from bacl.config import stage_config

        config = stage_config(
            self.experiment.detector,
            self.prepared,
            self.dataset_info,
            image_recipe(self.experiment, stage.after),
            {},
            [],
            0 if stage.after in self.imported else seed,
            1,
            self.experiment.imports,
            _replayed(stage.after, self.experiment),
        )
        found: dict[str, Any] = config["train_dataloader"]
        return found

    def _of(self, seed: int) -> str:
        return f" seed {seed}" if len(self.experiment.seeds) > 1 else ""

    def _features(self, name: str, stage: FeaturesStage, seed: int, parent: Job) -> Job:
        from bacl.config import features_config, portable

        recipe = image_recipe(self.experiment, name)
        config = features_config(
            self.experiment.detector,
            self.prepared,
            self.dataset_info,
            recipe,
            _stored(stage),
            seed,
            self.experiment.imports,
        )
        versions = versions_of_features(self.experiment.detector, recipe)
        key = digest_of(
            [
                {name: value for name, value in portable(config).items() if name != "train_cfg"},
                self.prepared.digest,
                self._lineage(parent),
                versions,
            ]
        )
        return Job(
            key=self.known.get(key, digest_of([key])),
            name=name + self._of(seed),
            stage=name,
            kind=stage.kind,
            seed=seed,
            variants={},
            variant_keys={name: key},
            parent=parent.key,
            recipe=recipe,
            resources=stage.resources,
            config=config,
            dataset_digest=self.prepared.digest,
            versions=self.versions,
            result_versions=versions,
            code=self.code,
        )

    def _lineage(self, parent: Job) -> str:
        """What a job that starts from `parent` depends on of it: of a bank, what its variants
        share."""
        if parent.kind != "classifier":
            return next(iter(parent.variant_keys.values()))
        before = self.jobs[parent.parent] if parent.parent else None
        return self._key(parent.stage, parent.seed, before, {})

    def _key(self, name: str, seed: int, parent: Job | None, variant: dict[str, Any]) -> str:
        from bacl.config import bank_heads, portable

        stage = self.experiment.stages[name]
        lineage = self._lineage(parent) if parent else None
        config = portable(self._config(name, seed, variant))
        config.get("imported", {}).pop("checkpoint", None)  # which its digest stands for
        for head in bank_heads(config):
            head["variants"] = {v: _chosen(s, head["variants"][v]) for v, s in variant.items()}
        more: list[Any] = [self.weights] if self.weights else []
        if self.population and isinstance(stage, ClassifierStage):
            more += [self.population.model_dump(), stage.recipe.evaluate_every]
        versions = self._result_versions(name, variant)
        return digest_of([config, self.prepared.digest, lineage, versions, *more])

    def _result_versions(self, name: str, variants: dict[str, Any]) -> dict[str, int | str]:
        detector, recipe = self.experiment.detector, image_recipe(self.experiment, name)
        found: dict[str, int | str] = {} if variants else versions_of_features(detector, recipe)
        if isinstance(self.experiment.stages[name], ImportedStage):
            found["imported"] = version_of("imported")
        for settings in variants.values():
            found |= versions_of(detector, recipe, settings)
        return found

    def _config(self, name: str, seed: int, variants: dict[str, Any]) -> dict[str, Any]:
        from bacl.config import imported_config, stage_config

        stage = self.experiment.stages[name]
        if isinstance(stage, ImportedStage):
            return imported_config(
                self.experiment.detector,
                self.prepared,
                self.dataset_info,
                image_recipe(self.experiment, name),
                variants,
                {**stage.model_dump(include=IMPORTED), "sha256": self.files[name]},
                self.experiment.imports,
            )
        return stage_config(
            self.experiment.detector,
            self.prepared,
            self.dataset_info,
            image_recipe(self.experiment, name),
            variants,
            _frozen(name, self.experiment),
            seed,
            stage.resources.most,
            self.experiment.imports,
            _replayed(name, self.experiment),
        )


def _chosen(settings: Method, options: dict[str, Any]) -> dict[str, Any]:
    """A variant's options that are not defaults, and what else its parts are given: so an option
    that a method gains leaves keys as they are. Where a default changes, a version does."""
    given = settings.model_dump(exclude_defaults=True)
    chosen = {
        n: v for n, v in options.items() if n in given or n not in type(settings).model_fields
    }
    nested = {n: given[n] for n in chosen if isinstance(getattr(settings, n, None), Settings)}
    return chosen | nested


def _of_many(number: int, total: int) -> str:
    return f" {number}/{total}" if total > 1 else ""


def _stored(stage: FeaturesStage) -> Features:
    return Features.model_validate(stage.model_dump(include=set(Features.model_fields)))


def _replayed(name: str, experiment: Experiment) -> Features | None:
    """What is stored, of a stage that trains on that."""
    stage = experiment.stages[name]
    if not isinstance(stage, ClassifierStage) or stage.recipe.features == "exact":
        return None
    before = experiment.stages[stage.after]
    assert isinstance(before, FeaturesStage)  # by spec.checks
    return _stored(before)


def _placed(problem: str, name: str, stage: AnyStage) -> str:
    """What `bacl.config` says of a stage's variants or recipe, with the field's whole path."""
    if isinstance(stage, First):
        problem = problem.replace(f"variants.{name}", "classifier", 1)
    of_stage = problem.startswith(("variants.", "classifier", "recipe.", "kind:"))
    return f"stages.{name}.{problem}" if of_stage else problem


def _checkpoints(experiment: Experiment) -> dict[str, str]:
    """SHA-256 of the checkpoints of imported stages, by stage.

    Raises UsageError where one cannot be read.
    """
    found = {}
    for name, stage in experiment.stages.items():
        if isinstance(stage, ImportedStage):
            try:
                found[name] = sha256(Path(stage.checkpoint))
            except OSError as error:
                raise UsageError(
                    f"stages.{name}.checkpoint: expected a file that can be read, got "
                    f"{stage.checkpoint}: {error.strerror}"
                ) from None
    return found


def source_digest() -> str:
    """The first 16 hex digits of SHA-256 over the sources of `bacl`, the method."""
    folder = Path(bacl.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _parents_first(experiment: Experiment) -> Iterator[str]:
    """Names of stages, each after the one that it starts from."""
    depth: dict[str, int] = {}
    for name in experiment.stages:
        stage, depth[name] = experiment.stages[name], 0
        while not isinstance(stage, First):
            stage, depth[name] = experiment.stages[stage.after], depth[name] + 1
    yield from sorted(depth, key=lambda name: depth[name])


def _frozen(name: str, experiment: Experiment) -> list[str]:
    """Parts that do not train: where features are replayed, also what is stored as it is, and the
    box regressor where a stage has trained it before."""
    stage = experiment.stages[name]
    if not isinstance(stage, ClassifierStage):
        return []
    before = experiment.stages[stage.after]
    if not isinstance(before, FeaturesStage):
        return stage.freeze
    more = ["rpn_head"]
    if has_masks(experiment.detector):
        more.append("roi_head.mask_head")
    if isinstance(experiment.stages[before.after], ClassifierStage):
        more.append("roi_head.bbox_head.fc_reg")
    return [*stage.freeze, *(part for part in more if part not in stage.freeze)]


@functools.cache
def _versions() -> dict[str, str]:
    found = {}
    for name in ("bacl", "torch", "torchvision", "onedl-mmdetection", "onedl-mmengine", "ray"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
