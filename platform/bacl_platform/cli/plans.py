"""Plans of the files that commands are given.

Datasets are prepared on the way where a store lacks them.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bacl.errors import UsageError
from bacl_platform.cli.options import DEFAULT_STORE
from bacl_platform.texts import one_line

if TYPE_CHECKING:
    from bacl import settings
    from bacl.datasets.prepared import Prepared
    from bacl_platform.plan.job import Plan
    from bacl_platform.plan.sweep_plan import Preparation, SweepPlan
    from bacl_platform.store.store import Store


def planned(
    file: Path, store_url: str, overrides: list[str] | None, seeds: str | None
) -> tuple["Plan", "Store"]:
    """The plan of an experiment file and the store it is for; prepares the dataset if need be."""
    from bacl_platform.plan.planner import make_plan
    from bacl_platform.plan.sweep_plan import Preparation
    from bacl_platform.spec.load import load
    from bacl_platform.store.store import Store

    experiment, store = load(file, _chosen(overrides, seeds)), Store(store_url)
    prepare = Preparation(store)
    prepared = prepare(experiment.dataset)
    for warning in prepare.warnings:
        print(f"warning: {one_line(warning)}", file=sys.stderr)
    try:
        return make_plan(experiment, prepared, store), store
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error


def _chosen(overrides: list[str] | None, seeds: str | None) -> list[str]:
    """The overrides of a file's fields, those of --seeds among them."""
    if seeds is None:
        return overrides or []
    if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", seeds):
        raise UsageError(
            f"--seeds: expected whole numbers with commas between, such as 0,1, got {seeds!r}"
        )
    return [*(overrides or []), f"seeds=[{seeds}]"]


def swept(
    files: Sequence[Path],
    store_url: str,
    overrides: list[str] | None,
    seeds: str | None,
    max_trials: int | None = None,
) -> tuple[list["SweepPlan"], "Store", "Preparation"]:
    """Plans of sweep files, the store they are for, and what prepares datasets for more trials.

    Asks on a terminal before planning more trials than `max_trials`; raises UsageError elsewhere.
    """
    from bacl_platform.plan.sweep_plan import Preparation, plan_sweeps
    from bacl_platform.plan.trials import SweepFile
    from bacl_platform.store.store import Store

    store = Store(store_url)
    chosen = _chosen(overrides, seeds)
    read = [SweepFile(file, chosen) for file in files]
    for file in read:
        count = file.sweep.count()
        if max_trials is not None and count > max_trials:
            question = f"{file.path}: {count} trials, more than --max-trials {max_trials}"
            if not sys.stdin.isatty():
                raise UsageError(f"{question}: give --max-trials {count} to run them all")
            typer.confirm(f"{question}: run them all?", abort=True)
    prepare = Preparation(store)
    plans = plan_sweeps(read, [file.trials(store) for file in read], prepare, store)
    for warning in prepare.warnings:
        print(f"warning: {one_line(warning)}", file=sys.stderr)
    return plans, store, prepare


def rerun_command(
    file: Path,
    store_url: str,
    overrides: list[str] | None,
    seeds: str | None,
    name: str = "run",
) -> str:
    """The command, `bacl run` or one of another name, that trains what another with these options
    needs."""
    words = ["bacl", name, str(file)]
    words += ["--store", store_url] if store_url != DEFAULT_STORE else []
    words += [word for override in overrides or [] for word in ("--set", override)]
    words += ["--seeds", seeds] if seeds else []
    return shlex.join(words)


def dataset_of(
    what: str | None,
    root: Path,
    files: list[Path | None],
    format_: str,
    set_: list[str] | None,
) -> "settings.Dataset":
    """What the user means by a name, an experiment file or plain files.

    files: those of --train, --val, --images and --val-images.
    """
    from bacl import settings
    from bacl.datasets.formats import FORMATS
    from bacl.datasets.sources import NAMED, under
    from bacl.extensions import load_installed
    from bacl_platform.spec.problems import likely, one_of
    from bacl_platform.texts import is_text

    train, val, images, val_images = files
    if what is not None and any(files):
        raise UsageError(f"expected either {what} or --train, --val and --images, got both")
    if what is None:
        if not (train and val and images):
            raise UsageError(
                f"expected one of {', '.join(NAMED)}, an experiment file, or all of --train, --val "
                "and --images"
            )
        load_installed()
        if format_ not in FORMATS:
            close = likely(format_, FORMATS)
            hint = f" (did you mean `{close}`?)" if close else ""
            raise UsageError(f"--format: expected {one_of(FORMATS)}, got {format_!r}{hint}")
        for option, path in zip(("--train", "--val", "--images", "--val-images"), files):
            if path is not None and not is_text(str(path)):
                raise UsageError(f"{option} {path}: expected a path that is text in UTF-8")
        return settings.Dataset.model_validate(
            {
                "format": format_,
                "train": str(train),
                "val": str(val),
                "images": str(images),
                "val_images": str(val_images) if val_images else None,
            }
        )
    if what in NAMED:
        return under(root, what)
    if not Path(what).is_file():
        raise UsageError(
            f"expected one of {', '.join(NAMED)} or an experiment file, got {what!r}, which is no "
            "file"
        )
    from bacl_platform.spec.load import load

    return load(what, set_).dataset


def prepared_dataset(
    data: str, root: Path, store_url: str, overrides: list[str] | None
) -> "Prepared":
    """The prepared dataset of a name or an experiment file."""
    return prepare_dataset(dataset_of(data, root, [None] * 4, "coco", overrides), store_url)


def prepare_dataset(dataset: "settings.Dataset", store_url: str) -> "Prepared":
    """A dataset as a store has it; prepared where it lacks it."""
    from bacl_platform.plan.sweep_plan import Preparation
    from bacl_platform.store.store import Store

    return Preparation(Store(store_url))(dataset)
