"""Detectors by the name of their configuration: those that the installed MMDetection carries, those
of BACL, and files of a user's.

Nothing here imports MMDetection; reading a configuration imports MMEngine.
"""

import copy
import functools
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bacl.errors import UsageError

OWN = Path(__file__).parent / "configs"
"""Folder of configurations that MMDetection lacks."""


@functools.cache
def names() -> dict[str, Path]:
    """The configuration files that can be named, BACL's own first, by name."""
    spec = find_spec("mmdet")
    assert spec is not None and spec.origin is not None
    zoo = Path(spec.origin).parent / ".mim" / "configs"
    files = [*sorted(OWN.glob("*.py")), *sorted(zoo.glob("[!_]*/*.py"))]
    return {file.stem: file for file in reversed(files)}


def is_file(config: str) -> bool:
    """Whether `detector.config` means a file of the user's rather than a name."""
    return config.endswith(".py") or "/" in config


def model_of(config: str) -> dict[str, Any]:
    """The model of the configuration with that name or in that file, as plain values.

    Raises:
        UsageError: no such configuration, or none of a model.
    """
    path = Path(config) if is_file(config) else names().get(config)
    if path is None:
        close = get_close_matches(config, names(), n=1, cutoff=0.5)
        raise UsageError(
            f"detector.config: expected the path of a file that ends in .py, or one of the "
            f"{len(names())} names that `bacl detectors` lists, got {config!r}"
            + (f"; did you mean {close[0]}?" if close else "")
        )
    if not path.is_file():
        raise UsageError(f"detector.config: expected a configuration file, found no {path}")
    return copy.deepcopy(_read(path, path.stat().st_mtime_ns))


@functools.lru_cache(maxsize=8)
def _read(path: Path, changed: int) -> dict[str, Any]:
    """The model in a file that was last changed at a time."""
    from mmengine.config import Config

    try:
        content = Config.fromfile(path, import_custom_modules=False)
        model = content.get("model")
        found: dict[str, Any] | None = _plain(model.to_dict()) if model else None
    except Exception as error:  # the file is code
        raise UsageError(
            f"detector.config: {path}: expected a configuration that MMEngine reads, got "
            f"{type(error).__name__}: {error}"
        ) from error
    if found is None:
        raise UsageError(
            f"detector.config: {path}: expected a configuration with a `model`, found none"
        )
    return found


def _plain(value: Any) -> Any:
    """Plain values, in which a class is its name."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if not key.startswith("_")}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return getattr(value, "__qualname__", str(value))


def parts_of(value: Any) -> Iterator[dict[str, Any]]:
    """All mappings in a configuration, itself included."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from parts_of(item)
