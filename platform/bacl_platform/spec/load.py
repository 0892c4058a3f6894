"""Loads experiment files: the one place where a user's file becomes validated settings.

The steps are `read_with_bases` (of `yaml_files`), `validate` and `resolve_paths`; `load` does all.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bacl.detector.zoo import is_file
from bacl.errors import UsageError
from bacl.method_settings.registry import Variant
from bacl.weights import is_file as is_weights_file
from bacl_platform.spec.checks import broken_edges, disagreements
from bacl_platform.spec.experiment import (
    AnyStage,
    ClassifierStage,
    Experiment,
    FeaturesStage,
    ImportedStage,
    RepresentationStage,
    variants_of,
)
from bacl_platform.spec.problems import translate, truths
from bacl_platform.spec.yaml_files import (
    DATASET_PATHS,
    VARIABLE,
    import_modules,
    override_field,
    read_with_bases,
    read_yaml,
    refuse_sweep,
)
from bacl_platform.texts import is_text


def load(path: str | Path, overrides: list[str] | None = None) -> Experiment:
    """Read an experiment file.

    A file that names another as its `base` says only what differs: mappings are merged, except
    that `variants`, and a mapping that says its own `kind`, `method` or `format`, replace the
    base's; a stage of null leaves the base's out. `overrides` are `dotted.path=value` with the
    value in YAML, applied before validation. Relative paths in a file mean paths from that file's
    folder; `~` and `$VAR` are expanded. Raises UsageError that lists every problem, one sentence
    a line.
    """
    path = Path(path)
    return resolve_paths(load_unresolved(path, overrides or []), path)


def load_unresolved(path: Path, overrides: Sequence[str]) -> Experiment:
    """What `load` gives, but with paths as the file has them: they are not looked at."""
    raw = read_with_bases(path)
    for override in overrides:
        override_field(raw, override)
    return validate(raw, path)


def validate(raw: dict[str, Any], path: Path) -> Experiment:
    """The experiment that the raw content of the file at `path` means, with its paths as written.

    Raises as `load` does.
    """
    refuse_sweep(raw, path)
    import_modules(raw.get("imports"), path)
    try:
        experiment = Experiment.model_validate(raw)
        problems = [*truths(raw, experiment), *disagreements(experiment)]
    except ValidationError as error:
        problems = list(translate(error, Experiment))
    problems += broken_edges(raw.get("stages"))
    if problems:
        lines = [f"{path}: {problem}{_origin(problem, raw, path)}" for problem in problems]
        raise UsageError("\n".join(lines))
    return experiment


def _origin(problem: str, raw: dict[str, Any], path: Path) -> str:
    """Which base of the file at `path` has the field that a problem begins with, if one has."""
    steps = problem.split(": ")[0].split(".")
    place, content = path, read_yaml(path)
    while _at(content, steps) is _ABSENT and isinstance(base := content.get("base"), str):
        place = place.parent / os.path.expanduser(os.path.expandvars(base))
        content = read_yaml(place)
    found = _at(content, steps)
    as_there = place != path and found is not _ABSENT and found == _at(raw, steps)
    return f" (in its base {place})" if as_there else ""


_ABSENT = object()


def _at(content: Any, steps: Sequence[str]) -> Any:
    """What raw content has at a path, or _ABSENT."""
    for step in steps:
        if isinstance(content, list) and step.isdecimal() and int(step) < len(content):
            content = content[int(step)]
        elif isinstance(content, dict) and step in content:
            content = content[step]
        else:
            return _ABSENT
    return content


def resolve_paths(experiment: Experiment, path: Path) -> Experiment:
    """An experiment with the paths that it means on this machine: absolute, variables expanded.

    path: the file that it is of. Raises UsageError for variables that are not set and for paths
    that are no text.
    """
    if unset := _unset_variables(experiment):
        raise UsageError("\n".join(f"{path}: {problem}" for problem in unset))
    placed = _with_absolute_paths(experiment, path.resolve().parent)
    if odd := [field for field, value in _paths(placed).items() if not is_text(value)]:
        raise UsageError(f"{path}: {', '.join(odd)}: expected paths that are text in UTF-8")
    return placed


def _unset_variables(experiment: Experiment) -> list[str]:
    return [
        f"{field}: expected the environment variable {name} to be set"
        for field, value in _paths(experiment).items()
        for name in VARIABLE.findall(os.path.expandvars(value))
    ]


def _with_absolute_paths(experiment: Experiment, folder: Path) -> Experiment:
    def absolute(value: str | None) -> str | None:
        if value is None:
            return None
        return os.path.normpath(folder / os.path.expanduser(os.path.expandvars(value)))

    dataset, detector = experiment.dataset, experiment.detector
    files = {name: absolute(getattr(dataset, name)) for name in DATASET_PATHS}
    weights = detector.weights
    if weights is not None and is_weights_file(weights):
        weights = absolute(weights)
    config = absolute(detector.config) if is_file(detector.config or "") else detector.config
    paper = experiment.paper

    def placed(variant: Variant) -> Variant:
        own = {field: absolute(getattr(variant, field)) for field in variant.paths}
        return variant.model_copy(update=own)

    def of_stage(stage: AnyStage) -> AnyStage:
        if isinstance(stage, FeaturesStage):
            return stage
        if isinstance(stage, RepresentationStage):
            return stage.model_copy(update={"classifier": placed(stage.classifier)})
        if isinstance(stage, ImportedStage):
            own = {"checkpoint": absolute(stage.checkpoint), "classifier": placed(stage.classifier)}
            return stage.model_copy(update=own)
        variants = {name: placed(variant) for name, variant in stage.variants.items()}
        return stage.model_copy(update={"variants": variants})

    return experiment.model_copy(
        update={
            "stages": {name: of_stage(stage) for name, stage in experiment.stages.items()},
            "dataset": dataset.model_copy(update=files),
            "detector": detector.model_copy(update={"weights": weights, "config": config}),
            "paper": paper and paper.model_copy(update={"file": absolute(paper.file)}),
        }
    )


def _paths(experiment: Experiment) -> dict[str, str]:
    """The paths of data, weights and variants, by field."""
    paths = {f"dataset.{name}": getattr(experiment.dataset, name) for name in DATASET_PATHS}
    weights = experiment.detector.weights
    paths["detector.weights"] = weights if weights and is_weights_file(weights) else None
    if is_file(experiment.detector.config or ""):
        paths["detector.config"] = experiment.detector.config
    for name, stage in experiment.stages.items():
        if isinstance(stage, ImportedStage):
            paths[f"stages.{name}.checkpoint"] = stage.checkpoint
        for variant, settings in variants_of(name, stage).items():
            place = f"variants.{variant}" if isinstance(stage, ClassifierStage) else "classifier"
            for field in settings.paths:
                paths[f"stages.{name}.{place}.{field}"] = getattr(settings, field)
    return {field: value for field, value in paths.items() if value is not None}
