"""What a store holds: its entries with sizes and tags, and whether they are whole."""

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from bacl.errors import UsageError
from bacl.result_versions import version_of
from bacl_platform.store.manifest import broken
from bacl_platform.store.names import MANIFEST
from bacl_platform.store.store import Store

_TAGS = ".tags"


@dataclass(frozen=True)
class StoredEntry:
    """An entry, as far as names, sizes and its own description tell."""

    key: str
    job: dict[str, Any]
    """Its description (`job.json`); empty where that is missing or cannot be read."""
    created: str
    bytes: int
    tags: list[str]
    problem: str | None
    """What is wrong with it, judged by the names and sizes of its files; None if it seems whole."""

    @property
    def outdated(self) -> str | None:
        """Why no plan of this code asks for it; None if one may."""
        if "result_versions" not in self.job:
            return "its key is of an older kind"
        changed = [
            f"{part} {version}, by now {version_of(part)}"
            for part, version in self.job["result_versions"].items()
            if isinstance(version, int) and version != version_of(part)
        ]
        return f"its results are older: {', '.join(changed)}" if changed else None


def inventory(store: Store) -> Iterator[StoredEntry]:
    """All entries of a store, by key."""
    known, tagged = store.descriptions(), tags(store)
    for key in store.entries():
        manifest = _manifest(store, key)
        there = _sizes(store, key)
        yield StoredEntry(
            key,
            known.get(key, {}),
            str(manifest.get("created", "")),
            sum(there.values()),
            tagged.get(key, []),
            _problem(manifest, there),
        )


def verify(store: Store, keys: Collection[str] = ()) -> Iterator[tuple[str, str | None]]:
    """What is wrong with each entry, or with each of `keys`, judged by its digests; None where it
    is whole.

    Reads all files; a bucket's entries are not cached for that. Raises UsageError for a key that
    the store does not have.
    """
    there = store.entries()
    for key in keys:
        _check_key(key, there, store)
    for key in keys or there:
        yield key, broken(store.entry(key)) if store.bucket is None else _damage(store, key)


def _damage(store: Store, key: str) -> str | None:
    assert store.bucket is not None
    manifest = _manifest(store, key)
    if problem := _problem(manifest, _sizes(store, key)):
        return problem
    for name, expected in manifest["files"].items():
        if store.bucket.sha256(f"{key}/{name}") != expected["sha256"]:
            return f"{name} is not what was written: its SHA-256 differs"
    return None


def _manifest(store: Store, key: str) -> dict[str, Any]:
    """The manifest of an entry; empty where it is missing or cannot be read."""
    try:
        content = json.loads(store.note(f"{key}/{MANIFEST}") or "{}")
        return content if isinstance(content["files"], dict) else {}
    except (ValueError, KeyError, TypeError):
        return {}


def _sizes(store: Store, key: str) -> dict[str, int]:
    """Bytes of the files of an entry."""
    if store.bucket is not None:
        sizes = store.bucket.sizes(f"{key}/")
        return {name.removeprefix(f"{key}/"): size for name, size in sizes.items()}
    folder = store.entry(key)
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def _problem(manifest: dict[str, Any], there: dict[str, int]) -> str | None:
    if not manifest:
        return "its manifest is missing or cannot be read"
    for name, expected in manifest["files"].items():
        if name not in there:
            return f"{name} is missing"
        if there[name] != expected["bytes"]:
            return f"{name} has {there[name]} bytes instead of {expected['bytes']}"
    return None


def tags(store: Store) -> dict[str, list[str]]:
    """The tags of entries, by key."""
    found: dict[str, list[str]] = {}
    for note in store.notes(_TAGS):
        _, key, name = note.split("/")
        found.setdefault(key, []).append(name)
    return found


def tag(store: Store, key: str, name: str) -> None:
    """Give an entry a tag. Tagged entries, and those that they were trained from, are never
    removed.

    Raises UsageError for a key that the store does not have, or a name that cannot be a tag.
    """
    _check_key(key, store.entries(), store)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UsageError(f"NAME: expected a tag of letters, digits, dots, _ and -, got {name!r}")
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    store.write_note(f"{_TAGS}/{key}/{name}", now)


def untag(store: Store, key: str, name: str) -> None:
    """Take a tag away. Raises UsageError where there is none of that name."""
    known = tags(store).get(key, [])
    if name not in known:
        raise UsageError(f"{key}: expected one of its tags ({', '.join(known)}), got {name!r}")
    store.drop_note(f"{_TAGS}/{key}/{name}")


def _check_key(key: str, there: Collection[str], store: Store) -> None:
    if key not in there:
        raise UsageError(
            f"KEY: expected a key that `bacl store ls --store {store.url}` shows, got {key!r}"
        )
