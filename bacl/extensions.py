"""Methods, indicators and dataset formats from outside BACL, in modules that an experiment imports
or that installed packages announce as entry points.

A module registers its parts when it is imported. A method: its settings with `register` of
`bacl.method_settings.registry`, its variant in `bacl.variants.METHODS`. An indicator: its name with
`register_indicator` of `bacl.method_settings.indicators`, its class in
`bacl.indicators.INDICATORS`. A dataset format: its reader with `register` of
`bacl.datasets.formats`.
"""

import functools
import hashlib
import importlib
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from bacl.errors import UsageError

GROUPS = ("bacl.methods", "bacl.indicators", "bacl.formats")
"""Groups of entry points, whose values are modules."""


FOLDERS: list[str] = []
"""Folders that were added to `sys.path`; other processes of a run need them on theirs as well."""


def load(modules: Sequence[str], folders: Sequence[Path]) -> None:
    """Import modules, which Python finds as usual or in one of `folders`.

    Raises:
        UsageError: where one cannot be imported, or registers a name that is taken.
    """
    if not modules:
        return
    search([str(folder) for folder in folders])
    for number, name in enumerate(modules):
        _import(name, f"imports.{number}", f", in {' or '.join(map(str, folders))} or installed")


def search(folders: Sequence[str]) -> None:
    """Add folders to the end of Python's search path."""
    for folder in folders:
        if folder not in FOLDERS:
            FOLDERS.append(folder)
            sys.path.append(folder)  # last: no module of the folder hides an installed one


@functools.cache
def load_installed() -> None:
    """Import the modules that installed packages announce, once.

    Raises:
        UsageError: see `load`.
    """
    for group in GROUPS:
        for entry in entry_points(group=group):
            _import(entry.value, f"{_announcer(entry)}, entry point {entry.name} of {group}", "")


def _announcer(entry: EntryPoint) -> str:
    return f"the installed package {entry.dist.name}" if entry.dist else "an installed package"


def _import(name: str, place: str, where: str) -> None:
    try:
        importlib.import_module(name)
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from error
    except Exception as error:  # the module may raise anything
        if isinstance(error, ModuleNotFoundError) and _is_of(name, error.name):
            raise UsageError(
                f"{place}: expected a module that Python finds{where}, got {name!r}"
            ) from error
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise UsageError(
            f"{place}: {name} cannot be imported: {type(error).__name__}: {error} "
            f"({last.filename}, line {last.lineno})"
        ) from error


def _is_of(name: str, missing: str | None) -> bool:
    """Whether the missing module is `name` itself, or a package that contains it."""
    return missing is not None and (name == missing or name.startswith(f"{missing}."))


def source_digest(module: str) -> str | None:
    """The first 16 hex digits of SHA-256 over the sources of a module's whole package, or of the
    module if it is in no package; None for BACL's own modules, which have result versions."""
    if module.split(".")[0] == "bacl":
        return None
    path = Path(sys.modules[module].__file__ or "")
    top = path
    while (top.parent / "__init__.py").exists():
        top = top.parent
    digest = hashlib.sha256()
    for file in sorted(top.rglob("*.py")) if top.is_dir() else [path]:
        content = file.read_bytes()
        digest.update(f"{file.relative_to(top.parent)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]
