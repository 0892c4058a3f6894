"""YAML files as raw content: read, merged over their bases, with fields set by path.

Nothing is validated here but what YAML itself and `base` ask for.
"""

import os
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from bacl import extensions
from bacl.detector import zoo
from bacl.errors import UsageError
from bacl.method_settings.base import Method
from bacl.method_settings.registry import METHODS
from bacl.weights import is_file
from bacl_platform.spec.other_files import YAML, refuse
from bacl_platform.spec.problems import show

DATASET_PATHS = ("root", "train", "val", "images", "val_images")
"""The fields of `dataset` that are paths."""
REPLACING = ("kind", "method", "format")
"""Fields by which a mapping says what it is: one that has such a field replaces the base's."""
VARIABLE = re.compile(r"\$\{?(\w+)\}?")
"""An environment variable in a path."""


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

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
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


def says_sweep(raw: dict[str, Any]) -> bool:
    """Whether raw content is a sweep's, by its `space`, and not an experiment's."""
    return "space" in raw


def refuse_sweep(raw: dict[str, Any], path: Path, named: str = "") -> None:
    """Raise UsageError if what should be an experiment is a sweep; `named` as in `read_yaml`."""
    if says_sweep(raw):
        raise UsageError(
            f"{named}{path}: expected an experiment, got a sweep (it has a `space`): `bacl sweep "
            f"{path}` runs it; of other commands `plan`, `report`, `compare`, `submit`, `ui` and "
            "`store gc --keep` read it"
        )


def read_yaml(path: Path, named: str = "") -> dict[str, Any]:
    """The mapping that a YAML file holds; raises UsageError where it holds none.

    named: which field of which file names this one, such as `mine.yaml: base: `.
    """
    place = f"{named}{path}"
    if path.suffix.lower() not in YAML:
        refuse(path, "an experiment or sweep file (YAML)")
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


def read_with_bases(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The raw content of a file, merged over its base's, whose paths keep their meaning.

    above: the files that lead here, each by its `base`.
    """
    named = "".join(f"{file}: base: " for file in above)
    raw = read_yaml(path, named)
    if above:
        refuse_sweep(raw, path, named)
    base = raw.pop("base", None)
    if base is None:
        return raw
    place = f"{named}{path}: base"
    if not isinstance(base, str) or not base:
        raise UsageError(f"{place}: expected the path of an experiment file, got {show(base)}")
    expanded = os.path.expanduser(os.path.expandvars(base))
    if unset := VARIABLE.findall(expanded):
        raise UsageError(f"{place}: expected the environment variable {unset[0]} to be set")
    below = path.parent / expanded
    if below.resolve() in [file.resolve() for file in (*above, path)]:
        raise UsageError(f"{place}: expected another file, got {base!r}, which leads back here")
    content = read_with_bases(below, (*above, path))
    for field in DATASET_PATHS:
        _rebase(content.get("dataset"), field, below.parent)
    _rebase(content.get("detector"), "weights", below.parent)
    _rebase(content.get("detector"), "config", below.parent, zoo.is_file)
    _rebase(content.get("paper"), "file", below.parent)
    for _, stage in raw_stages(content):
        _rebase(stage, "checkpoint", below.parent)
    variants = [variant for _, variant in raw_variants(content)]
    if any(isinstance(variant, dict) and _settings_of(variant) is None for variant in variants):
        import_modules(content.get("imports"), below)  # their methods say which fields are paths
    for variant in variants:
        for field in _path_fields(variant):
            _rebase(variant, field, below.parent)
    return _merge(content, raw)


def import_modules(modules: Any, path: Path) -> None:
    """Import what brings methods and indicators to the file at `path`: installed packages, and the
    modules that it names in `imports`. The settings then know them.

    Raises UsageError where one cannot be imported.
    """
    extensions.load_installed()
    named = modules if isinstance(modules, list) else []
    try:
        extensions.load([name for name in named if isinstance(name, str)], folders_of(path))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def folders_of(path: Path) -> list[Path]:
    """The folders of a file and of its bases, in which modules that it imports may lie."""
    found, content = [path.resolve().parent], read_yaml(path)
    while isinstance(base := content.get("base"), str):
        path = path.parent / os.path.expanduser(os.path.expandvars(base))
        found.append(path.resolve().parent)
        content = read_yaml(path)
    return list(dict.fromkeys(found))


def _settings_of(variant: Any) -> type[Method] | None:
    """The settings of a raw variant's method; None where it names none that is known."""
    name = variant.get("method") if isinstance(variant, dict) else None
    return METHODS.get(name) if isinstance(name, str) else None


def _path_fields(variant: Any) -> tuple[str, ...]:
    settings = _settings_of(variant)
    return () if settings is None else settings.paths


def _rebase(
    section: Any, field: str, folder: Path, is_path: Callable[[str], bool] = is_file
) -> None:
    value = section.get(field) if isinstance(section, dict) else None
    if isinstance(value, str) and is_path(value) and is_relative(value):
        section[field] = str(folder.resolve() / value)


def raw_stages(raw: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(field, content) of each stage in raw content that is a mapping."""
    stages = raw.get("stages")
    for name, stage in stages.items() if isinstance(stages, dict) else ():
        if isinstance(stage, dict):
            yield f"stages.{name}", stage


def raw_variants(raw: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(field, content) of each variant in raw content, whatever that is."""
    for name, stage in raw_stages(raw):
        yield f"{name}.classifier", stage.get("classifier")
        variants = stage.get("variants")
        for variant, content in variants.items() if isinstance(variants, dict) else ():
            yield f"{name}.variants.{variant}", content


def is_relative(path: str) -> bool:
    """Whether a path of a file means one from that file's folder."""
    return path[:1] not in ("/", "~", "$")


def data_paths(raw: dict[str, Any]) -> dict[str, str]:
    """The paths of data, weights, checkpoints and variants in the raw content of one file, by
    field.

    Of methods that are not BACL's own, once their modules have been imported.
    """
    found: dict[str, str] = {}
    for section, fields in (("dataset", DATASET_PATHS), ("detector", ("weights",))):
        content = raw.get(section)
        given = content if isinstance(content, dict) else {}
        values = {f"{section}.{field}": given.get(field) for field in fields}
        found |= {n: v for n, v in values.items() if isinstance(v, str) and is_file(v)}
    detector = raw.get("detector")
    config = detector.get("config") if isinstance(detector, dict) else None
    if isinstance(config, str) and zoo.is_file(config):
        found["detector.config"] = config
    for name, stage in raw_stages(raw):
        if isinstance(checkpoint := stage.get("checkpoint"), str):
            found[f"{name}.checkpoint"] = checkpoint
    for field, variant in raw_variants(raw):
        of_variant = {f"{field}.{name}": variant.get(name) for name in _path_fields(variant)}
        found |= {name: value for name, value in of_variant.items() if isinstance(value, str)}
    return found


def _merge(base: Any, own: Any, name: str = "") -> Any:
    if not (isinstance(base, dict) and isinstance(own, dict)) or name == "variants":
        return own
    if own.keys() & set(REPLACING):
        return own
    merged = {**base, **{key: _merge(base.get(key), value, key) for key, value in own.items()}}
    if name == "stages":
        return {stage: content for stage, content in merged.items() if content is not None}
    return merged


def override_field(raw: dict[str, Any], override: str) -> None:
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


def assign(raw: dict[str, Any], steps: Sequence[str], value: Any) -> None:
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
