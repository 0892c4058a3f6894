"""What shells complete on the command line besides files: names of variants, stages and methods.

Read from the file that the line names, as YAML and no more, so that a tab key is answered quickly:
what cannot be read completes nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

Completion = Callable[[typer.Context, str], list[str]]
"""Completions of a word, given the words before it."""

DATASETS = ("lvis_v0.5", "lvis_v1", "coco_lt", "embedded")
"""Data sets that go by a name."""


def one_of(*words: str) -> Completion:
    """Completes words that are known."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def variants(ctx: typer.Context, incomplete: str) -> list[str]:
    """Variants of the experiment file on the line."""
    names = [name for stage in _stages(ctx).values() for name in _mapping(stage.get("variants"))]
    return _beginning(names, incomplete)


def stages(ctx: typer.Context, incomplete: str) -> list[str]:
    """Stages of the experiment file on the line."""
    return _beginning(_stages(ctx), incomplete)


def contenders(ctx: typer.Context, incomplete: str) -> list[str]:
    """Variants of the file that leads the words of `bacl compare`; after FILE.yaml:, that file's.

    The first word is a file, which the shell completes.
    """
    before = ctx.params.get("what") or []
    file, colon, _ = incomplete.rpartition(":")
    if colon:
        return _beginning((f"{file}:{name}" for name in _variants_of(file)), incomplete)
    return _beginning(_variants_of(before[0]), incomplete) if before else []


def methods(ctx: typer.Context, incomplete: str) -> list[str]:
    """Methods that a variant may have."""
    from bacl.method_settings.corrections import CORRECTIONS
    from bacl.method_settings.registry import METHODS

    return _beginning([*METHODS, *CORRECTIONS], incomplete)


def benches(ctx: typer.Context, incomplete: str) -> list[str]:
    """What `bacl bench` measures."""
    from bacl_platform.bench import names

    return _beginning(names(), incomplete)


def _beginning(words: Any, incomplete: str) -> list[str]:
    return list(dict.fromkeys(word for word in words if word.startswith(incomplete)))


def _variants_of(file: str) -> Iterator[str]:
    for stage in _stages_of(Path(file)).values():
        yield from _mapping(stage.get("variants"))


def _stages(ctx: typer.Context) -> dict[str, Mapping[str, Any]]:
    """The stages of the file that a command's line names, by the names that commands have for it;
    without any such file none."""
    named = [ctx.params.get(name) for name in ("file", "run", "what")]
    file = next((Path(name) for name in named if isinstance(name, str | Path)), None)
    return {} if file is None else _stages_of(file)


def _stages_of(file: Path, bases: int = 10) -> dict[str, Mapping[str, Any]]:
    """The stages of a file and of its bases, of which `variants` replaces the base's.

    bases: how many files may be read after this one.
    """
    import yaml

    try:
        with file.open(encoding="utf-8") as stream:
            content = _mapping(yaml.load(stream, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    base = content.get("base")
    found = _stages_of(file.parent / base, bases - 1) if isinstance(base, str) and bases else {}
    for name, stage in _mapping(content.get("stages")).items():
        found[name] = {**found.get(name, {}), **_mapping(stage)}
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
