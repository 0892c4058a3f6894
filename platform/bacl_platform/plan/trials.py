"""Sweep files and their trials.

A *trial* is the base experiment with some fields set to values of the sweep's space.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bacl.errors import UsageError
from bacl.method_settings.base import Method
from bacl.settings import ImageRecipe
from bacl_platform.plan.job import Fidelity, digest_of
from bacl_platform.spec.checks import disagreements
from bacl_platform.spec.experiment import (
    ClassifierStage,
    CorrectionsStage,
    Experiment,
    FeaturesStage,
    image_recipe,
)
from bacl_platform.spec.load import resolve_paths, validate
from bacl_platform.spec.problems import translate, truths
from bacl_platform.spec.sweep import OF_STAGE, STAGE, SWEEP_FIELDS, VARIANT, Screen, Sweep
from bacl_platform.spec.yaml_files import assign, override_field, read_with_bases, read_yaml
from bacl_platform.store.store import Store

Several = ClassifierStage | CorrectionsStage
"""Stages that may have several variants."""

Point = tuple[tuple[str, str], ...]
"""The values of a trial in short, by field."""


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
    def features(self) -> Fidelity:
        """What it is trained on."""
        return image_recipe(self.experiment, self.stage).features

    @property
    def point(self) -> Point:
        """What it shares with the trial of the same values that is trained otherwise."""
        return tuple(self.varied.items())

    @property
    def label(self) -> str:
        """The values in short, such as `alpha=0.5, beta=0.9`."""
        values = ", ".join(f"{field}={value}" for field, value in self.varied.items())
        return f"{values} (replayed)" if self.features == "replay" else values


def _has_variants(stage: Any) -> bool:
    """Whether a stage of raw content may have several variants."""
    return isinstance(stage, dict) and stage.get("kind") in ("classifier", "corrections")


def _steps(path: str, stage: str, raw: dict[str, Any]) -> list[str]:
    """Where a space's field lies in an experiment's raw content."""
    if path.startswith(OF_STAGE):
        return ["stages", stage, *path.split(".")]
    if not path.startswith(VARIANT):
        return path.split(".")
    place = ["variants", "trial"] if _has_variants(raw["stages"][stage]) else ["classifier"]
    return ["stages", stage, *place, *path.removeprefix(VARIANT).split(".")]


class SweepFile:
    """A sweep and the experiment it is about; makes its trials.

    Raises UsageError that lists every problem, one sentence a line.
    """

    def __init__(self, path: str | Path, overrides: Sequence[str] = ()) -> None:
        self.path = Path(path)
        raw = read_yaml(self.path)
        if not raw.keys() & SWEEP_FIELDS:
            raise UsageError(
                f"{self.path}: expected a sweep, got an experiment (a sweep has a `space`): `bacl "
                f"run {self.path}` runs it"
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
        self.base = read_with_bases(self.base_path, (self.path,))
        self._baseline = self.base.pop("baseline", None)
        self.base["name"] = self.sweep.name
        if self.sweep.seeds is not None:
            self.base["seeds"] = self.sweep.seeds
        self._short = _short_names([path for space in self.sweep.spaces for path in space])

    @property
    def digest(self) -> str:
        """Identifies the sweep, whatever its space: its name, stage and base."""
        base = {name: value for name, value in self.base.items() if name != "seeds"}
        return digest_of(["sweep", self.sweep.name, self.sweep.stage, base])

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
        kept, after = {name}, name
        while isinstance(content := stages[after], dict):
            after = str(content.get("after"))
            if after in kept or after not in stages:
                break
            kept.add(after)
        raw["stages"] = {n: value for n, value in raw["stages"].items() if n in kept}
        if _has_variants(stage):
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

    @property
    def baseline(self) -> str | None:
        """The name of a trial's variant that equals the base's baseline; None without one."""
        stage = self.base["stages"][self.sweep.stage]
        variants = stage.get("variants", {}) if _has_variants(stage) else {}
        if self._baseline not in variants:
            return None
        raw = self._pruned(self.sweep.stage)
        raw["stages"][self.sweep.stage]["variants"] = {"trial": variants[self._baseline]}
        content = self._validated(raw).stages[self.sweep.stage]
        assert isinstance(content, Several)
        return _named(content.variants["trial"])

    def _validated(self, raw: dict[str, Any]) -> Experiment:
        return resolve_paths(validate(raw, self.base_path), self.base_path)

    def trial(self, values: dict[str, Any], exact: bool = False) -> Trial:
        """The trial with these values; of a sweep that screens, as screened, unless `exact`."""
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
            experiment = self._validated(raw)
            if self.sweep.screen is not None and not exact:
                experiment = screened(experiment, stage, self.sweep.screen)
        except UsageError as error:
            lines = str(error).replace(f"{self.base_path}: ", "").splitlines()
            shown = [line.replace(".variants.trial", ".variant") for line in lines]
            label = ", ".join(f"{field}={value}" for field, value in varied.items())
            raise UsageError(
                "\n".join(f"{self.path}: trial {label}: {line}" for line in shown)
            ) from None
        content = experiment.stages[stage]
        if not isinstance(content, Several):
            return Trial(values, varied, stage, stage, experiment)
        settings = content.variants["trial"]
        name = _named(settings)
        return Trial(
            values, varied, stage, name, with_variants(experiment, stage, {name: settings})
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
        """A random trial, whose jobs show what resources trials need before a search proposes
        any."""
        return self.trial(next(self.sweep.draws(1)))


def _named(settings: Method) -> str:
    """A name made of a variant's settings, such as `bacl-9b1dfb55`."""
    chosen = settings.model_dump(mode="json", exclude_defaults=True)  # as in keys of jobs
    return f"{settings.method}-{digest_of(chosen)[:8]}"


def screened(experiment: Experiment, stage: str, screen: Screen) -> Experiment:
    """An experiment whose stage replays features that another one stores, which is put before it.

    Raises UsageError with what such a stage cannot serve, one sentence a line.
    """
    content = experiment.stages[stage]
    if not isinstance(content, ClassifierStage) or content.recipe.features == "replay":
        kind = "is stage 1"
        if isinstance(content, Several):
            trains = isinstance(content, ClassifierStage)
            kind = "replays features already" if trains else "trains nothing"
        raise UsageError(f"screen: expected a classifier stage that trains exactly, {stage} {kind}")
    names = itertools.chain(["screen"], (f"screen-{number}" for number in itertools.count(2)))
    name = next(name for name in names if name not in experiment.stages)
    features = FeaturesStage(
        kind="features",
        after=content.after,
        views=screen.views,
        negatives=screen.negatives,
        layers=screen.layers,
        # not validated anew: that would make 1.0 of a default of 1, and other keys
        recipe=ImageRecipe.model_construct(**{f: getattr(content.recipe, f) for f in SHOWN}),
        resources=content.resources,
    )
    # what needs images is for the exact phase
    update = {"features": "replay", "accumulate": 1, "tta": None}
    recipe = content.recipe.model_copy(update=update)
    replay = content.model_copy(update={"after": name, "recipe": recipe})
    made = experiment.model_copy(
        update={"stages": {**experiment.stages, name: features, stage: replay}}
    )
    if problems := list(disagreements(made)):
        place = f"stages.{name}."
        raise UsageError("\n".join(problem.replace(place, "screen.") for problem in problems))
    return made


SHOWN = ImageRecipe.model_fields.keys()
"""Fields of a recipe that a stage of kind `features` has as well."""


def with_variants(experiment: Experiment, stage: str, variants: dict[str, Any]) -> Experiment:
    content = experiment.stages[stage]
    if not isinstance(content, Several):
        return experiment
    stages = {**experiment.stages, stage: content.model_copy(update={"variants": variants})}
    return experiment.model_copy(update={"stages": stages})


def with_corrected_alone(experiment: Experiment, stage: str) -> Experiment:
    """An experiment whose stage before `stage`, where that corrects a classifier stage, trains what
    is corrected and nothing else."""
    content = experiment.stages[stage]
    if not isinstance(content, CorrectionsStage):
        return experiment
    before = experiment.stages[content.after]
    if not isinstance(before, ClassifierStage):
        return experiment
    corrected = {settings.of for settings in content.variants.values()}
    kept = {name: own for name, own in before.variants.items() if name in corrected}
    return with_variants(experiment, content.after, kept)


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
