"""Reads experiment YAML: the one place where a user's file becomes validated settings.

What a file may say below stage level is in `bacl.settings`; the stages themselves are here.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, StringConstraints, ValidationError

from bacl.errors import UsageError
from bacl.method_settings import Forest, Variant
from bacl.settings import (
    BCE,
    FROZEN_TRUNK,
    Dataset,
    Detector,
    FilePath,
    Recipe,
    Seed,
    Settings,
    meaning,
)
from bacl_platform.spec.problems import is_text, one_of, show, translate, truths

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
"""Of stages and variants."""
Title = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""Of experiments: also a folder's name."""


class Resources(Settings):
    """What a job of the stage asks of the cluster."""

    workers: int = Field(1, gt=0)
    """Training processes; the batch is divided among them."""
    cpus: int = Field(1, gt=0)
    """CPU cores, and torch threads, of each worker."""
    gpus: float = Field(0, ge=0)
    """GPUs of each worker."""
    memory: float = Field(0, ge=0)
    """GiB of main memory that Ray sets aside for each worker."""
    accelerator: Annotated[str, meaning("a kind of GPU such as H100")] | None = None
    """Kind of the GPUs as Ray calls it, such as `H100`; null takes any."""
    labels: dict[str, str] = {}
    """Labels of the nodes that workers may be on; a value may be `!a`, `in(a,b)` or `!in(a,b)`."""
    custom: dict[str, Annotated[float, Field(gt=0)]] = {}
    """What each worker asks for of resources that the cluster has named itself."""
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """Whether workers are on few nodes or many; the strict ones are on one, or on one each."""
    backend: Literal["auto", "nccl", "gloo"] = "auto"
    """What gradients are summed with; auto is nccl with GPUs and gloo without."""
    patience: int = Field(30, ge=10)
    """Seconds that a worker may be silent before the job goes on without it, from its last
    checkpoint. Ray asks it every second, also while it trains or evaluates."""
    retries: int = Field(2, ge=0)
    """How many deaths of a worker a job survives before it counts as failed."""

    @property
    def each(self) -> str:
        """What one worker asks for, in words, such as `1 CPU, 2 GPU (H100)`."""
        parts = [f"{self.cpus} CPU"]
        if self.gpus:
            kind = f" ({self.accelerator})" if self.accelerator else ""
            parts.append(f"{self.gpus:g} GPU{kind}")
        if self.memory:
            parts.append(f"{self.memory:g} GiB")
        parts += [f"{amount:g} {name}" for name, amount in self.custom.items()]
        parts += [f"label {name}={value}" for name, value in self.labels.items()]
        return ", ".join(parts)


class RepresentationStage(Settings):
    """Stage 1: trains the whole detector with one classifier."""

    kind: Literal["representation"]
    classifier: Variant = BCE(method="bce")
    recipe: Recipe
    resources: Resources = Resources()


class ClassifierStage(Settings):
    """Stage 2: trains variants of the classifier over one trunk, whose features are frozen."""

    kind: Literal["classifier"]
    after: Annotated[str, meaning("the name of a representation stage")]
    """The representation stage that the trunk comes from."""
    freeze: list[Annotated[str, meaning("the name of a part of the detector")]] = list(FROZEN_TRUNK)
    """Parts of the detector that do not train; `*` stands for anything in their names."""
    variants: dict[Name, Variant] = Field(min_length=1)
    variants_per_job: int | None = Field(None, gt=0)
    """Variants that share one trunk; null puts all into one job."""
    recipe: Recipe
    resources: Resources = Resources()


Stage = Annotated[RepresentationStage | ClassifierStage, Field(discriminator="kind")]


class Paper(Settings):
    """Where the paper's numbers are that a file repeats, for `bacl report --paper`."""

    file: FilePath
    """Relative to the folder of the file that names it."""
    table: Annotated[str, meaning("the name of a table, such as III")]
    column: Annotated[str, meaning("the name of a column of the table")] | None = None
    """Of a table that has several, such as `v0.5 R50`."""


class Experiment(Settings):
    """One experiment file: a dataset, a detector, a DAG of stages."""

    name: Title
    seeds: list[Seed] = Field([0], min_length=1)
    """The whole DAG runs once for each."""
    dataset: Dataset
    detector: Detector = Detector()
    stages: dict[Name, Stage] = Field(min_length=1)
    baseline: Annotated[str, meaning("the name of a variant")] | None = None
    """The variant that the report compares the others with."""
    paper: Paper | None = None
    """The published table whose rows are the variants, by name."""


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
    return _here(checked(path, overrides or []), path)


def checked(path: Path, overrides: Sequence[str]) -> Experiment:
    """What `load` gives, before its paths are looked at: with those as the file has them."""
    raw = read(path)
    for override in overrides:
        override_field(raw, override)
    return _validated(raw, path)


def validated(raw: dict, path: Path) -> Experiment:
    """The experiment that the raw content of the file at `path` means; raises as `load` does."""
    return _here(_validated(raw, path), path)


def _validated(raw: dict, path: Path) -> Experiment:
    refuse_sweep(raw, str(path))
    try:
        experiment = Experiment.model_validate(raw)
        problems = [*truths(raw, experiment), *_disagreements(experiment)]
    except ValidationError as error:
        problems = list(translate(error, Experiment))
    problems += _broken_edges(raw.get("stages"))
    if problems:
        lines = [f"{path}: {problem}{_origin(problem, raw, path)}" for problem in problems]
        raise UsageError("\n".join(lines))
    return experiment


def _origin(problem: str, raw: dict, path: Path) -> str:
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


def _here(experiment: Experiment, path: Path) -> Experiment:
    """An experiment with the paths that it means on this machine."""
    if unset := _unset_variables(experiment):
        raise UsageError("\n".join(f"{path}: {problem}" for problem in unset))
    placed = _with_absolute_paths(experiment, path.resolve().parent)
    if odd := [field for field, value in _paths(placed).items() if not is_text(value)]:
        raise UsageError(f"{path}: {', '.join(odd)}: expected paths that are text in UTF-8")
    return placed


class _Loader(yaml.SafeLoader):
    """YAML as the standard has it, except that a repeated key is an error and not the last one,
    and that two escapes may make one character, as in JSON, but none may stand for half of it."""

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        value: str = super().construct_scalar(node)
        try:
            return value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise yaml.constructor.ConstructorError(
                None, None, f"{value!a} has half a character", node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"`{key}` is given twice, first in line {seen[key]}",
                    key_node.start_mark,
                )
            if isinstance(key, str):
                seen[key] = line
        return super().construct_mapping(node, deep)


def says_sweep(raw: dict) -> bool:
    """Whether raw content is a sweep's, by its `space`, and not an experiment's."""
    return "space" in raw


def refuse_sweep(raw: dict, place: str) -> None:
    """Raise UsageError if what should be an experiment is a sweep; `place` says which file is."""
    if says_sweep(raw):
        raise UsageError(
            f"{place}: expected an experiment, got a sweep (it has a `space`), which `bacl sweep` "
            "runs; of other commands `plan`, `report`, `submit` and `store gc --keep` read it"
        )


def read_yaml(path: Path, named: str = "") -> dict:
    """The mapping that a YAML file holds; raises UsageError where it holds none.

    named: which field of which file names this one, such as `mine.yaml: base: `.
    """
    place = f"{named}{path}"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{place}: there is no such file") from None
    except IsADirectoryError:
        raise UsageError(f"{place}: expected a YAML file, got a folder") from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{place}: expected UTF-8 text, got other bytes (first at byte {error.start})"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: no file can have such a name
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{place}: expected a file that can be read: {reason}") from None
    try:
        raw = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UsageError(f"{place}: {line}expected YAML: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        number = text.count("\n", 0, error.position) + 1
        raise UsageError(
            f"{place}: line {number}: expected YAML, got the character U+{error.character:04X}, "
            "which it does not allow"
        ) from None
    if not isinstance(raw, dict):
        raise UsageError(f"{place}: expected a mapping of fields, got {show(raw)}")
    return _unshared(raw)


def _unshared(value: Any) -> Any:
    """A copy in which what YAML aliases made one object is many, so that each can be overridden."""
    if isinstance(value, dict):
        return {name: _unshared(item) for name, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def read(path: Path, above: tuple[Path, ...] = ()) -> dict:
    """The raw content of a file, merged over its base's, whose paths keep their meaning.

    above: the files that lead here, each by its `base`.
    """
    named = "".join(f"{file}: base: " for file in above)
    raw = read_yaml(path, named)
    if above:
        refuse_sweep(raw, f"{named}{path}")
    base = raw.pop("base", None)
    if base is None:
        return raw
    place = f"{named}{path}: base"
    if not isinstance(base, str) or not base:
        raise UsageError(f"{place}: expected the path of an experiment file, got {show(base)}")
    expanded = os.path.expanduser(os.path.expandvars(base))
    if unset := _VARIABLE.findall(expanded):
        raise UsageError(f"{place}: expected the environment variable {unset[0]} to be set")
    below = path.parent / expanded
    if below.resolve() in [file.resolve() for file in (*above, path)]:
        raise UsageError(f"{place}: expected another file, got {base!r}, which leads back here")
    content = read(below, (*above, path))
    for field in _DATASET_PATHS:
        _rebase(content.get("dataset"), field, below.parent)
    _rebase(content.get("detector"), "weights", below.parent)
    _rebase(content.get("paper"), "file", below.parent)
    for _, variant in _raw_variants(content):
        _rebase(variant, "trees", below.parent)
    return _merged(content, raw)


def _rebase(section: Any, field: str, folder: Path) -> None:
    value = section.get(field) if isinstance(section, dict) else None
    if isinstance(value, str) and value != "torchvision" and is_relative(value):
        section[field] = str(folder.resolve() / value)


def _raw_variants(raw: dict) -> Iterator[tuple[str, Any]]:
    """(field, content) of each variant in raw content, whatever that is."""
    stages = raw.get("stages")
    for name, stage in stages.items() if isinstance(stages, dict) else ():
        if not isinstance(stage, dict):
            continue
        yield f"stages.{name}.classifier", stage.get("classifier")
        variants = stage.get("variants")
        for variant, content in variants.items() if isinstance(variants, dict) else ():
            yield f"stages.{name}.variants.{variant}", content


def is_relative(path: str) -> bool:
    """Whether a path of a file means one from that file's folder."""
    return path[:1] not in ("/", "~", "$")


def data_paths(raw: dict) -> dict[str, str]:
    """The paths of data and weights in the raw content of one file, by field."""
    found: dict[str, str] = {}
    for section, fields in (("dataset", _DATASET_PATHS), ("detector", ("weights",))):
        content = raw.get(section)
        given = content if isinstance(content, dict) else {}
        values = {f"{section}.{field}": given.get(field) for field in fields}
        found |= {n: v for n, v in values.items() if isinstance(v, str) and v != "torchvision"}
    for field, variant in _raw_variants(raw):
        if isinstance(variant, dict) and isinstance(trees := variant.get("trees"), str):
            found[f"{field}.trees"] = trees
    return found


def _merged(base: Any, own: Any, name: str = "") -> Any:
    if not (isinstance(base, dict) and isinstance(own, dict)) or name == "variants":
        return own
    if own.keys() & {"kind", "method", "format"}:
        return own
    merged = {**base, **{key: _merged(base.get(key), value, key) for key, value in own.items()}}
    if name == "stages":
        return {stage: content for stage, content in merged.items() if content is not None}
    return merged


def override_field(raw: dict, override: str) -> None:
    """Set the field that `dotted.path=value` names, with the value in YAML."""
    dotted, equals, text = override.partition("=")
    steps = dotted.split(".")
    if not equals or not all(steps):
        raise UsageError(f"--set {override}: expected PATH.TO.FIELD=VALUE")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or getattr(error, "reason", error)
        raise UsageError(
            f"--set {override}: expected a YAML value, got {text!r}: {reason}"
        ) from None
    try:
        assign(raw, steps, value)
    except UsageError as error:
        raise UsageError(f"--set {override}: {error}") from None


def assign(raw: dict, steps: Sequence[str], value: Any) -> None:
    """Set the field at a path of raw content, making the mappings that lead there.

    Raises UsageError where the path goes through something that is no mapping.
    """
    place: Any = raw
    for step in steps[:-1]:
        if isinstance(place, dict) and place.get(step) is None:
            place[step] = {}
        place = _child(place, step)
    if isinstance(place, dict):
        place[steps[-1]] = value
    else:
        _child(place, steps[-1])
        place[int(steps[-1])] = value


def _child(place: Any, step: str) -> Any:
    if isinstance(place, dict):
        return place[step]
    if isinstance(place, list) and step.isdecimal() and int(step) < len(place):
        return place[int(step)]
    raise UsageError(f"there is no `{step}` in {show(place)}")


def _broken_edges(stages: Any) -> Iterator[str]:
    """Dangling and cyclic `after`, read from the raw file so that they are told with the rest."""
    if not isinstance(stages, dict):
        return
    after = {name: s["after"] for name, s in stages.items() if isinstance(s, dict) and "after" in s}
    told: set[str] = set()
    for name, parent in after.items():
        if not isinstance(parent, str):
            continue
        if parent not in stages:
            yield f"stages.{name}.after: expected {one_of(stages)}, got {show(parent)}"
            continue
        walk = [name]
        while isinstance(parent, str) and parent in stages and parent not in walk:
            walk.append(parent)
            parent = after.get(parent)
        if isinstance(parent, str) and parent in walk:
            cycle = walk[walk.index(parent) :]
            if not told & set(cycle):
                circle = " -> ".join([*cycle, cycle[0]])
                yield f"stages.{name}.after: expected stages without a cycle, got {circle}"
            told |= set(cycle)
        elif (
            isinstance(stages[after[name]], dict)
            and stages[after[name]].get("kind") == "classifier"
        ):
            yield (
                f"stages.{name}.after: expected a representation stage, "
                f"got the classifier stage {after[name]!r}"
            )


def _disagreements(experiment: Experiment) -> Iterator[str]:
    """What no single field can know: names used twice, batches that do not divide, the baseline."""
    if len(set(experiment.seeds)) < len(experiment.seeds):
        yield f"seeds: expected each seed once, got {experiment.seeds}"
    owner: dict[str, str] = {}
    for name, stage in experiment.stages.items():
        batch, workers = stage.recipe.schedule.batch, stage.resources.workers
        if batch % (2 * workers):
            yield (
                f"stages.{name}.recipe.schedule.batch: expected a multiple of {2 * workers} "
                f"(whole image pairs on each of {workers} workers), got {batch}"
            )
        if stage.recipe.precision == "float16" and not stage.resources.gpus:
            yield (
                f"stages.{name}.recipe.precision: expected bfloat16 or float32 without GPUs "
                "(resources.gpus is 0), got 'float16'"
            )
        if not stage.resources.gpus and stage.resources.backend == "nccl":
            yield (
                f"stages.{name}.resources.backend: expected auto or gloo without GPUs "
                "(resources.gpus is 0), got 'nccl'"
            )
        if not stage.resources.gpus and stage.resources.accelerator:
            yield (
                f"stages.{name}.resources.accelerator: expected nothing without GPUs "
                f"(resources.gpus is 0), got {stage.resources.accelerator!r}"
            )
        for variant in variants_of(name, stage):
            if variant in owner:
                yield (
                    f"stages.{name}: expected a variant name of its own, "
                    f"got {variant!r}, which stage {owner[variant]!r} has"
                )
            owner.setdefault(variant, name)
        yield from _unserved(name, stage)
        yield from _followers(name, stage, experiment)
    if experiment.baseline is not None and experiment.baseline not in owner:
        yield f"baseline: expected {one_of(owner)}, got {experiment.baseline!r}"


def _unserved(name: str, stage: RepresentationStage | ClassifierStage) -> Iterator[str]:
    """Problems of methods that the stage's recipe or kind cannot serve."""
    for variant, settings in variants_of(name, stage).items():
        method = f"method {settings.method}"
        if settings.sampler not in (None, stage.recipe.sampler):
            yield (
                f"stages.{name}.recipe.sampler: expected {settings.sampler}, whose images {method} "
                f"of variant {variant} learns from, got {stage.recipe.sampler!r}"
            )
        if settings.end_to_end and isinstance(stage, ClassifierStage):
            yield (
                f"stages.{name}.variants.{variant}: {method} with these options changes what the "
                "box head sees, which other variants share: expected it as the classifier of a "
                "stage of kind representation"
            )


def _followers(
    name: str, stage: RepresentationStage | ClassifierStage, experiment: Experiment
) -> Iterator[str]:
    """Problems of variants that only correct the classifier of the stage before."""
    for variant, settings in variants_of(name, stage).items():
        if not settings.follows:
            continue
        wanted = f"method {settings.method} corrects a classifier that a stage before has trained"
        if isinstance(stage, RepresentationStage):
            yield f"stages.{name}.classifier: {wanted}: expected it in a stage of kind classifier"
            continue
        before = experiment.stages.get(stage.after)
        found = before.classifier.method if isinstance(before, RepresentationStage) else None
        if found is not None and found not in settings.bases:
            yield (
                f"stages.{name}.variants.{variant}: {wanted}: expected stages.{stage.after}."
                f"classifier.method to be {one_of(settings.bases)}, got {found!r}"
            )


def variants_of(name: str, stage: RepresentationStage | ClassifierStage) -> dict[str, Variant]:
    """The stage's variants by name; a representation stage has one, called like the stage."""
    return stage.variants if isinstance(stage, ClassifierStage) else {name: stage.classifier}


def _paths(experiment: Experiment) -> dict[str, str]:
    """The paths of data, weights and trees, by field."""
    paths = {f"dataset.{name}": getattr(experiment.dataset, name) for name in _DATASET_PATHS}
    paths["detector.weights"] = experiment.detector.weights
    for name, stage in experiment.stages.items():
        for variant, settings in variants_of(name, stage).items():
            place = f"variants.{variant}" if isinstance(stage, ClassifierStage) else "classifier"
            paths[f"stages.{name}.{place}.trees"] = getattr(settings, "trees", None)
    return {field: value for field, value in paths.items() if value is not None}


def _unset_variables(experiment: Experiment) -> list[str]:
    return [
        f"{field}: expected the environment variable {name} to be set"
        for field, value in _paths(experiment).items()
        for name in _VARIABLE.findall(os.path.expandvars(value))
    ]


def _with_absolute_paths(experiment: Experiment, folder: Path) -> Experiment:
    def absolute(value: str | None) -> str | None:
        if value is None:
            return None
        return os.path.normpath(folder / os.path.expanduser(os.path.expandvars(value)))

    dataset, detector = experiment.dataset, experiment.detector
    files = {name: absolute(getattr(dataset, name)) for name in _DATASET_PATHS}
    weights = detector.weights if detector.weights == "torchvision" else absolute(detector.weights)
    paper = experiment.paper

    def grown(variant: Variant) -> Variant:
        if not isinstance(variant, Forest):
            return variant
        return variant.model_copy(update={"trees": absolute(variant.trees)})

    def of_stage(
        stage: RepresentationStage | ClassifierStage,
    ) -> RepresentationStage | ClassifierStage:
        if isinstance(stage, RepresentationStage):
            return stage.model_copy(update={"classifier": grown(stage.classifier)})
        variants = {name: grown(variant) for name, variant in stage.variants.items()}
        return stage.model_copy(update={"variants": variants})

    return experiment.model_copy(
        update={
            "stages": {name: of_stage(stage) for name, stage in experiment.stages.items()},
            "dataset": dataset.model_copy(update=files),
            "detector": detector.model_copy(update={"weights": weights}),
            "paper": paper and paper.model_copy(update={"file": absolute(paper.file)}),
        }
    )


_VARIABLE = re.compile(r"\$\{?(\w+)\}?")
_DATASET_PATHS = ("root", "train", "val", "images", "val_images")
