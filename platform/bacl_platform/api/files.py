"""What users name: stores, datasets, and changes to the fields of a file."""

import json
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bacl.errors import UsageError
from bacl_platform.texts import one_line

if TYPE_CHECKING:
    from bacl import settings
    from bacl.datasets.prepared import Prepared
    from bacl_platform.plan.sweep_plan import Preparation
    from bacl_platform.store.store import Store

DEFAULT_STORE = "bacl_store"
Overrides = Mapping[str, Any] | Sequence[str] | None
"""Changes to a file's fields: values by dotted path, or words `path=value` with YAML values."""


def store_of(store: "str | Path | Store | None") -> "Store":
    """The store that a user names; None is that of BACL_STORE, or `bacl_store` in this folder."""
    from bacl_platform.store.store import Store

    if isinstance(store, Store):
        return store
    return Store(str(store or os.environ.get("BACL_STORE") or DEFAULT_STORE))


def override_words(overrides: Overrides, seeds: Iterable[int] | None = None) -> list[str]:
    """Changes to a file's fields as `path=value`, those of seeds among them."""
    if isinstance(overrides, Mapping):
        words = [f"{path}={json.dumps(value)}" for path, value in overrides.items()]
    else:
        words = list(overrides or ())
    return words if seeds is None else [*words, f"seeds={list(seeds)}"]


def command_of(name: str, files: Iterable[Path], store: "Store", overrides: Sequence[str]) -> str:
    """The `bacl run` or `bacl sweep` command that trains what a store lacks of files."""
    words = ["bacl", name, *map(str, files)]
    words += ["--store", store.url] if store.url != store_of(DEFAULT_STORE).url else []
    return shlex.join([*words, *(word for each in overrides for word in ("--set", each))])


def warn(prepare: "Preparation") -> None:
    """Print what is to be known of prepared datasets on the standard error."""
    for warning in prepare.warnings:
        print(f"warning: {one_line(warning)}", file=sys.stderr)


def dataset_of(
    what: "str | Path | settings.Dataset | None",
    root: Path = Path(),
    files: Sequence[Path | None] = (None, None, None, None),
    format_: str = "coco",
    overrides: Overrides = None,
) -> "settings.Dataset":
    """What the user means by a name under `root`, an experiment file or plain files; a dataset is
    itself.

    files: those of --train, --val, --images and --val-images.
    """
    from bacl import settings
    from bacl.datasets.formats import FORMATS
    from bacl.datasets.sources import NAMED, under
    from bacl.extensions import load_installed
    from bacl_platform.spec.problems import likely, one_of
    from bacl_platform.texts import is_text

    if isinstance(what, settings.Dataset):
        return what
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
        return under(root, str(what))
    if not Path(what).is_file():
        raise UsageError(
            f"expected one of {', '.join(NAMED)} or an experiment file, got {str(what)!r}, which "
            "is no file"
        )
    from bacl_platform.spec.load import load

    return load(what, override_words(overrides)).dataset


def prepare_dataset(dataset: "settings.Dataset", store: "Store") -> "Prepared":
    """A dataset as a store has it; prepared where it lacks it."""
    from bacl_platform.plan.sweep_plan import Preparation

    return Preparation(store)(dataset)
