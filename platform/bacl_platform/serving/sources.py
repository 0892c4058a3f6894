"""What can be served: a variant of a store, a version of a registered model, an exported folder.

A source names its files and has none of them, so that each replica finds them where it runs.
"""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bacl.errors import RunError, UsageError
from bacl_platform.redaction import redacted
from bacl_platform.store.names import CHECKPOINT
from bacl_platform.store.store import Store
from bacl_platform.tracking.registry import errors, registry, version_of

CONFIG = "config.py"
_VERSION = re.compile(r"models:/([^/@]+)(?:/(\d+)|@([\w-]+))")


class Source(Protocol):
    """A detector that can be served. title: what it is called in messages."""

    @property
    def title(self) -> str: ...

    def files(self) -> AbstractContextManager[tuple[Path, Path]]:
        """Its checkpoint and its configuration, which are there within."""


@dataclass(frozen=True)
class Exported:
    """A folder with a checkpoint and its configuration."""

    folder: Path

    @property
    def title(self) -> str:
        return str(self.folder)

    @contextlib.contextmanager
    def files(self) -> Iterator[tuple[Path, Path]]:
        yield _in(self.folder, str(self.folder))


@dataclass(frozen=True)
class Variant:
    """A finished variant of a store; key: of its job."""

    store: Store
    key: str
    name: str

    @property
    def title(self) -> str:
        return f"{self.name} (job {self.key})"

    @contextlib.contextmanager
    def files(self) -> Iterator[tuple[Path, Path]]:
        if not self.store.complete(self.key):
            raise RunError(f"{self.title}: expected it in the store {self.store.url}, it is not")
        yield _in(self.store.entry(self.key) / "variants" / self.name, self.title)


@dataclass(frozen=True)
class Version:
    """A version of a registered model.

    location: of its files, as the registry has it. tracking: the address of the server by which
    such a location is read.
    """

    name: str
    number: str
    location: str
    tracking: str

    @property
    def title(self) -> str:
        return f"{self.name}, version {self.number}"

    @contextlib.contextmanager
    def files(self) -> Iterator[tuple[Path, Path]]:
        from mlflow.artifacts import download_artifacts

        with tempfile.TemporaryDirectory(prefix="bacl-model-") as folder:
            with errors(redacted(self.tracking)):
                model = download_artifacts(
                    self.location, dst_path=folder, tracking_uri=self.tracking
                )
            yield _in(Path(model) / "artifacts", self.title)


def _in(folder: Path, title: str) -> tuple[Path, Path]:
    checkpoint, config = folder / CHECKPOINT, folder / CONFIG
    if not checkpoint.is_file() or not config.is_file():
        raise UsageError(
            f"{title}: expected {CHECKPOINT} and {CONFIG}, as `bacl run` and `bacl register` leave "
            "them, found none"
        )
    return checkpoint, config


def variant(checkpoint: Path, store: Store) -> Variant:
    """The variant of an exported checkpoint in a store."""
    return Variant(store, checkpoint.parents[2].name, checkpoint.parent.name)


def version(uri: str, store: Store) -> Version:
    """The version that `models:/NAME@ALIAS` or `models:/NAME/VERSION` means now: an alias that
    moves later does not change what is served.

    Raises UsageError where there is none, RunError where the registry cannot be reached.
    """
    found = _VERSION.fullmatch(uri)
    if found is None:
        raise UsageError(f"{uri}: expected models:/NAME@ALIAS or models:/NAME/VERSION")
    with registry(store) as client:
        number = str(version_of(client, found[1], found[2] or found[3]).version)
        location = client.get_model_version_download_uri(found[1], number)
        return Version(found[1], number, location, client.tracking_uri)
