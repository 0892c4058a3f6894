"""Reads experiment YAML: the one place where a user's file becomes validated settings.

What a file may say below stage level is in `bacl.settings`; the stages themselves are here.
"""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, StringConstraints, ValidationError

from bacl.errors import UsageError
from bacl.method_settings import Forest, Variant
from bacl.settings import BCE, FROZEN_TRUNK, Dataset, Detector, Recipe, Settings

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
    accelerator: str | None = None
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
    after: str
    """The representation stage that the trunk comes from."""
    freeze: list[str] = list(FROZEN_TRUNK)
    """Parts of the detector that do not train; `*` stands for anything in their names."""
    variants: dict[Name, Variant] = Field(min_length=1)
    variants_per_job: int | None = Field(None, gt=0)
    """Variants that share one trunk; null puts all into one job."""
    recipe: Recipe
    resources: Resources = Resources()


Stage = Annotated[RepresentationStage | ClassifierStage, Field(discriminator="kind")]


class Paper(Settings):
    """Where the paper's numbers are that a file repeats, for `bacl report --paper`."""

    file: str
    """Relative to the folder of the file that names it."""
    table: str
    column: str | None = None
    """Of a table that has several, such as `v0.5 R50`."""


class Experiment(Settings):
    """One experiment file: a dataset, a detector, a DAG of stages."""

    name: Title
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1)
    """The whole DAG runs once for each."""
    dataset: Dataset
    detector: Detector = Detector()
    stages: dict[Name, Stage] = Field(min_length=1)
    baseline: str | None = None
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
    try:
        experiment = Experiment.model_validate(raw)
        problems = list(_disagreements(experiment))
    except ValidationError as error:
        problems = list(translate(error, Experiment))
    problems += _broken_edges(raw.get("stages"))
    if problems:
        raise UsageError("\n".join(f"{path}: {problem}" for problem in problems))
    return experiment


def _here(experiment: Experiment, path: Path) -> Experiment:
    """An experiment with the paths that it means on this machine."""
    if unset := _unset_variables(experiment):
        raise UsageError("\n".join(f"{path}: {problem}" for problem in unset))
    return _with_absolute_paths(experiment, path.resolve().parent)


class _Loader(yaml.SafeLoader):
    """YAML as the standard has it, except that a repeated key is an error and not the last one."""

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


def read_yaml(path: Path) -> dict:
    """The mapping that a YAML file holds; raises UsageError where it holds none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"{path}: expected a readable experiment file: {reason}") from None
    try:
        raw = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UsageError(f"{path}: {line}expected YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: expected YAML: {error}") from None
    if not isinstance(raw, dict):
        raise UsageError(f"{path}: expected a mapping of fields, got {_show(raw)}")
    return _unshared(raw)


def _unshared(value: Any) -> Any:
    """A copy in which what YAML aliases made one object is many, so that each can be overridden."""
    if isinstance(value, dict):
        return {name: _unshared(item) for name, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def read(path: Path, above: tuple[Path, ...] = ()) -> dict:
    """The raw content of a file, merged over its base's, whose paths keep their meaning."""
    raw = read_yaml(path)
    base = raw.pop("base", None)
    if base is None:
        return raw
    if not isinstance(base, str):
        raise UsageError(
            f"{path}: base: expected the path of an experiment file, got {_show(base)}"
        )
    below = path.parent / os.path.expanduser(os.path.expandvars(base))
    if below.resolve() in [file.resolve() for file in (*above, path)]:
        raise UsageError(
            f"{path}: base: expected another file, got {base!r}, which leads back here"
        )
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
    except yaml.YAMLError:
        raise UsageError(f"--set {override}: expected a YAML value, got {text!r}") from None
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
    raise UsageError(f"there is no `{step}` in {_show(place)}")


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
            yield f"stages.{name}.after: expected {_one_of(stages)}, got {_show(parent)}"
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
        yield f"baseline: expected {_one_of(owner)}, got {experiment.baseline!r}"


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
                f"classifier.method to be {_one_of(settings.bases)}, got {found!r}"
            )


def variants_of(name: str, stage: RepresentationStage | ClassifierStage) -> dict[str, Variant]:
    """The stage's variants by name; a representation stage has one, called like the stage."""
    return stage.variants if isinstance(stage, ClassifierStage) else {name: stage.classifier}


def _unset_variables(experiment: Experiment) -> list[str]:
    paths = {f"dataset.{name}": getattr(experiment.dataset, name) for name in _DATASET_PATHS}
    paths["detector.weights"] = experiment.detector.weights
    for name, stage in experiment.stages.items():
        for variant, settings in variants_of(name, stage).items():
            paths[f"stages.{name}: {variant}.trees"] = getattr(settings, "trees", None)
    return [
        f"{field}: expected the environment variable {name} to be set, got nothing"
        for field, value in paths.items()
        for name in re.findall(r"\$\{?(\w+)\}?", os.path.expandvars(value or ""))
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


_DATASET_PATHS = ("root", "train", "val", "images", "val_images")


# Pydantic's errors in our words. A model's JSON schema knows what each field expects.


def translate(error: ValidationError, model: type[Settings]) -> Iterator[str]:
    """What pydantic found wrong in a file for `model`, one sentence each."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    for problem in error.errors(include_url=False):
        path, node = _locate(problem["loc"], schema, definitions)
        yield _sentence(problem, path, node, definitions)


def _sentence(problem: Any, path: str, node: dict, definitions: dict) -> str:
    kind, given = problem["type"], problem["input"]
    if kind == "value_error":
        return f"{path}: {problem['ctx']['error']}" if path else str(problem["ctx"]["error"])
    if kind == "extra_forbidden":
        name, known = path.rsplit(".", 1)[-1], list(node.get("properties", {}))
        if name in ("variants", "after", "freeze") and node.get("title") == "RepresentationStage":
            return (
                f"{path}: expected no such field in a representation stage, which trains all "
                "parts and one `classifier`; a stage with `variants` has `kind: classifier`"
            )
        return (
            f"{path}: unknown field, {_did_you_mean(name, known) or 'expected ' + _one_of(known)}"
        )
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        field = node["discriminator"]["propertyName"]
        known = list(node["discriminator"]["mapping"])
        got = given.get(field) if isinstance(given, dict) else None
        hint = f" ({close})" if (close := _did_you_mean(got, known)) else ""
        return f"{path}.{field}: expected {_one_of(known)}, got {_show(got)}{hint}"
    if problem["loc"][-1] == "[key]":
        return f"{path}: expected a name of a-z, 0-9, _ and -, got {_show(given)}"
    got = "nothing" if kind == "missing" else _show(given)
    hint = f" ({close})" if (close := _did_you_mean(given, node.get("enum", []))) else ""
    return f"{path}: expected {_expectation(node, definitions)}, got {got}{hint}"


def _locate(location: tuple, schema: dict, definitions: dict) -> tuple[str, dict]:
    """The dotted path as the file has it, and the schema of the deepest part of it that exists."""
    shown: list[str] = []
    node = schema
    for step in location:
        node = _resolve(node, definitions)
        if step == "[key]":
            break
        if "discriminator" in node and step in node["discriminator"]["mapping"]:
            # pydantic names the chosen member of a union; the file has no such level
            node = {"$ref": node["discriminator"]["mapping"][step]}
            continue
        shown.append(str(step))
        if isinstance(step, int):
            items = node.get("prefixItems")
            node = items[step] if items and step < len(items) else node.get("items", {})
        elif step in node.get("properties", {}):
            node = node["properties"][step]
        else:
            node = next(iter(node.get("patternProperties", {}).values()), node)
    return ".".join(shown), _resolve(node, definitions)


def _resolve(node: dict, definitions: dict) -> dict:
    if "$ref" in node:
        return _resolve(definitions[node["$ref"].rsplit("/", 1)[-1]], definitions)
    options = [option for option in node.get("anyOf", []) if option.get("type") != "null"]
    return _resolve(options[0], definitions) | {"nullable": True} if len(options) == 1 else node


_BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
_NOUNS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "boolean": "true or false",
}


def _expectation(node: dict, definitions: dict) -> str:
    suffix = " or null" if node.get("nullable") else ""
    if "enum" in node or "const" in node:
        return _one_of(node.get("enum") or [node["const"]]) + suffix
    if "discriminator" in node or node.get("type") == "object":
        return "a mapping" + suffix
    if node.get("type") == "array":
        length = f" of {node['minItems']}" if node.get("prefixItems") else ""
        least = " with at least one entry" if node.get("minItems") == 1 and not length else ""
        return f"a list{length}{least}{suffix}"
    if pattern := node.get("pattern"):
        letters = "A-Z, a-z, 0-9, ., _ and -" if "A-Z" in pattern else "a-z, 0-9, _ and -"
        return f"a name of {letters}"
    bounds = " and ".join(
        f"{sign} {node[name]:g}" for name, sign in _BOUNDS.items() if name in node
    )
    noun = _NOUNS.get(node.get("type", ""), "another value")
    return " ".join(filter(None, [noun, bounds])) + suffix


def _one_of(names: Any) -> str:
    names = [str(name) for name in names]
    return names[0] if len(names) == 1 else "one of " + ", ".join(names)


def _did_you_mean(name: Any, known: list[str]) -> str | None:
    close = difflib.get_close_matches(name, known, n=1) if isinstance(name, str) else []
    return f"did you mean `{close[0]}`?" if close else None


def _show(value: Any) -> str:
    if value is None:
        return "nothing"
    text = "a mapping" if isinstance(value, dict) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
