"""The experiment files that come with BACL: where they are, what they are, copies, and the demo."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import bacl_platform
from bacl.errors import UsageError
from bacl_platform.api.experiment import Experiment
from bacl_platform.api.files import Overrides

if TYPE_CHECKING:
    from bacl_platform.console import Console
    from bacl_platform.store.store import Store

DEMO = "embedded/demo.yaml"
_SCHEMA = re.compile(r"(?m)^(# yaml-language-server: \$schema=)\S*?([^/\s]+\.json)$")


def folder() -> Path:
    """The folder of the shipped files: beside this package's modules where a wheel brought them,
    else the repository's."""
    package = Path(bacl_platform.__file__).resolve().parent
    shipped = package / "experiments"
    return shipped if shipped.is_dir() else package.parents[1] / "experiments"


def names() -> dict[str, str]:
    """What each shipped file is, in the words of its first comment, by its path in the folder."""
    return {
        path.relative_to(folder()).as_posix(): _about(path.read_text(encoding="utf-8"))
        for path in sorted(folder().rglob("*.yaml"))
    }


def _about(content: str) -> str:
    """The first sentence of the comment that a file begins with."""
    lines: list[str] = []
    for line in content.splitlines():
        if not line.startswith("#"):
            break
        if not _SCHEMA.match(line):
            lines.append(line.removeprefix("#").strip())
    # a sentence ends before a capital letter or a command: not in "v1.0" or "Fig. 4"
    return re.split(r"(?<=\.)\s+(?=[A-Z`])", " ".join(lines))[0].rstrip(".")


def copy_to(target: str | Path) -> list[Path]:
    """Copy all shipped files to a new folder, where they work as they do here; returns the copies.

    Editors find the installed schemas from the copies. Raises UsageError where `target` exists.
    """
    target, source = Path(target), folder()
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target}: expected a folder that does not exist yet, to copy files into")
    schemas = Path(bacl_platform.__file__).resolve().parent / "spec" / "schemas"
    copies = []
    for path in sorted([*source.rglob("*.yaml"), *source.rglob("*.json")]):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_text(encoding="utf-8")
        copy.write_text(
            _SCHEMA.sub(lambda found: f"{found[1]}{schemas / found[2]}", content), encoding="utf-8"
        )
        copies.append(copy)
    return copies


def demo(
    overrides: Overrides = None,
    store: "str | Path | Store | None" = None,
    seeds: Iterable[int] | None = None,
    address: str | None = None,
    console: "Console | None" = None,
) -> Experiment:
    """Run what the store lacks of the demo, the shipped `embedded/demo.yaml`; returns it.

    The arguments are those of `Experiment.load` and `Experiment.run`.
    """
    file = folder() / DEMO
    if file.is_relative_to(Path.cwd()):
        file = Path(os.path.relpath(file))
    experiment = Experiment.load(file, overrides, store, seeds)
    experiment.run(address, console)
    return experiment
