"""A trained variant in use: promoted in the registry, served over HTTP."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from bacl.errors import UsageError
from bacl_platform.api.experiment import Experiment
from bacl_platform.api.files import store_of

if TYPE_CHECKING:
    from rich.console import Console

    from bacl_platform.registry.promote import Promoted
    from bacl_platform.serving.application import Settings
    from bacl_platform.serving.server import Place
    from bacl_platform.serving.sources import Source
    from bacl_platform.store.store import Store

_MODELS = "models:/"
_NEEDED = ("python_multipart", "starlette", "uvicorn", "watchfiles")
"""Modules that the extra `serve` brings."""


def promote(
    name: str,
    alias: str = "champion",
    version: int | str | None = None,
    metric: str = "AP",
    store: "str | Path | Store | None" = None,
    anyway: bool = False,
    mixed: bool = False,
    resamples: int = 1000,
    console: "Console | None" = None,
) -> "Promoted":
    """Give an alias of a registered model to a version, the newest if not given, that is shown to
    be better than the alias's present holder; see `bacl_platform.registry.promote.promote`."""
    from bacl_platform.console import Console
    from bacl_platform.registry import promote as promoting

    wanted = None if version is None else str(version)
    return promoting.promote(
        store_of(store),
        name,
        wanted,
        alias,
        metric,
        console or Console(),
        anyway,
        mixed,
        resamples,
    )


def source(
    what: "str | Path | Experiment",
    variant: str | None = None,
    seed: int | None = None,
    store: "str | Path | Store | None" = None,
) -> "Source":
    """What is to be served: a variant of an experiment (or of its file), `models:/NAME@ALIAS` or
    `models:/NAME/VERSION` of the registry, or a folder with checkpoint.pth and config.py.

    Raises UsageError for what is none of these, RunError for a variant that is not in the store.
    """
    from bacl_platform.serving import sources

    if not isinstance(what, Experiment):
        is_model = str(what).startswith(_MODELS)
        if (is_model or Path(what).is_dir()) and (variant is not None or seed is not None):
            raise UsageError(f"a variant, a seed: expected with an experiment, got {what}")
        if is_model:
            return sources.version(str(what), store_of(store))
        if Path(what).is_dir():
            return sources.Exported(Path(what).resolve())
        what = Experiment.load(what, store=store)
    return sources.variant(what.checkpoint(variant, seed), what.store)


def _check_installed() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"serving: expected the extra `serve`, got an installation without "
            f"{', '.join(missing)}: `pip install 'bacl[serve]'`"
        )


def serve(
    what: "str | Path | Experiment",
    variant: str | None = None,
    seed: int | None = None,
    store: "str | Path | Store | None" = None,
    settings: "Settings | None" = None,
    place: "Place | None" = None,
    address: str | None = None,
    console: "Console | None" = None,
) -> None:
    """Answer over HTTP with what a detector finds in images, until Ctrl-C.

    what, variant, seed: see `source`. settings: replicas, batches and bounds. place: host and
    ports. address: of a Ray cluster; without one a Ray is started on this machine. Raises
    UsageError and RunError as `source` and `bacl_platform.serving.server.serve` do.
    """
    _check_installed()
    from bacl_platform.console import Console
    from bacl_platform.serving import server
    from bacl_platform.serving.application import Settings

    server.serve(
        source(what, variant, seed, store),
        settings or Settings(),
        place or server.Place(),
        address,
        console or Console(),
    )
