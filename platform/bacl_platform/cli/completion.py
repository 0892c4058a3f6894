"""What shells complete on the command line besides files: names of variants, stages and methods.

Read from the file that the line names, as YAML and no more, so that a tab key is answered quickly:
what cannot be read completes nothing.
"""

import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

Completion = Callable[[str], list[str]]
"""Words that begin as the one before the cursor does."""

DATASETS = ("lvis_v0.5", "lvis_v1", "coco_lt", "embedded")
"""Data sets that go by a name."""
_LINES = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")
"""Variables in which bash, and zsh and fish, hand over the line."""


def one_of(*words: str) -> Completion:
    """Completes words that are known."""

    def complete(incomplete: str) -> list[str]:
        return _beginning(words, incomplete)

    return complete


def variants(incomplete: str) -> list[str]:
    """Variants of the experiment file on the line."""
    names = [name for stage in _stages().values() for name in _mapping(stage.get("variants"))]
    return _beginning(names, incomplete)


def stages(incomplete: str) -> list[str]:
    """Stages of the experiment file on the line."""
    return _beginning(_stages(), incomplete)


def methods(incomplete: str) -> list[str]:
    """Methods that a variant may have."""
    from bacl.method_settings.corrections import CORRECTIONS
    from bacl.method_settings.registry import METHODS

    return _beginning([*METHODS, *CORRECTIONS], incomplete)


def benches(incomplete: str) -> list[str]:
    """What `bacl bench` measures."""
    from bacl_platform.bench import names

    return _beginning(names(), incomplete)


def _beginning(words: Iterable[str], incomplete: str) -> list[str]:
    return list(dict.fromkeys(word for word in words if word.startswith(incomplete)))


def _stages() -> dict[str, Mapping[str, Any]]:
    """The stages of the first experiment file on the line; without any such file none.

    Typer's own values of arguments are no help: it drops them while an option lacks its value.
    """
    line = next((os.environ[name] for name in _LINES if name in os.environ), "")
    try:
        words = shlex.split(line)
    except ValueError:  # a quotation mark that is still open
        words = line.split()
    files = (Path(word) for word in words if word.endswith((".yaml", ".yml")))
    return next((_stages_of(file) for file in files if file.is_file()), {})


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
