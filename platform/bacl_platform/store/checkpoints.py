"""Checkpoints of a job in a local folder: written whole, found again, dropped."""

import logging
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from bacl_platform.store.disk import disk_errors, sync
from bacl_platform.store.manifest import broken, write_manifest
from bacl_platform.store.names import CHECKPOINT

logger = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2


def newest(steps: Collection[int], count: int = KEPT_CHECKPOINTS) -> set[int]:
    """The last few of some steps."""
    return set(sorted(steps)[-count:])


def write_checkpoint(
    folder: Path,
    step: int,
    save: Callable[[Path], None],
    kept: Callable[[Collection[int]], set[int]] = newest,
) -> Path:
    """Write `folder/step_<step>` through `save(file)`; of all steps, keep those that `kept` says.

    Raises RunError when the disk is full; the partial checkpoint is removed.
    """
    final, partial = folder / f"step_{step}", folder / f".step_{step}.partial"
    with disk_errors(folder):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            save(partial / CHECKPOINT)
            write_manifest(partial, step=step)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        sync(folder)
    there = checkpoints(folder)
    keeping = kept([number for number, _ in there])
    for number, old in there:
        if number not in keeping:
            shutil.rmtree(old, ignore_errors=True)
    return final


def latest_checkpoint(folder: Path) -> tuple[int, Path] | None:
    """Step and file of the newest checkpoint that can be relied on; older ones stand in for it."""
    for step, path in checkpoints(folder):
        problem = broken(path)
        if problem is None:
            return step, path / CHECKPOINT
        logger.warning("checkpoint %s is not used: %s", path, problem)
    return None


def newest_step(folder: Path) -> int | None:
    """Step of the newest checkpoint by name, unverified: for display."""
    found = checkpoints(folder)
    return found[0][0] if found else None


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Steps and folders of all checkpoints by name, unverified, the newest first."""
    found = [(path.name.removeprefix("step_"), path) for path in folder.glob("step_*")]
    return sorted(((int(step), path) for step, path in found if step.isdecimal()), reverse=True)
