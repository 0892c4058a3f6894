"""What can be removed from a store: leftovers, and entries that no plan needs any more."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bacl.errors import RunError
from bacl_platform.store import drivers, unfinished
from bacl_platform.store.inventory import inventory
from bacl_platform.store.manifest import broken
from bacl_platform.store.names import CHECKPOINTS, JOB, MANIFEST, REHEARSING
from bacl_platform.store.store import Store


@dataclass(frozen=True)
class Piece:
    """Something that can be removed."""

    kind: Literal["entry", "work", "files", "objects"]
    name: str
    """A key; of files and objects, where they are, from the store's root."""
    why: str
    bytes: int


def find(store: Store, needed: set[str] | None = None) -> list[Piece]:
    """What can be removed.

    Always: what a dead process left half written, what Ray and Tune left where no run or sweep is
    known to be alive, the work of finished jobs, entries that are not whole (of a bucket's, by
    names and sizes), and outdated ones, which no plan of this code asks for. With `needed`, the
    keys that some experiments' plans ask for: also all other entries. Of whole entries, tagged ones
    stay, and what a kept entry or an unfinished job was trained from.
    """
    held = {key for key in (*store.entries(), *unfinished.keys(store)) if store.held(key)}
    entries = [entry for entry in inventory(store) if entry.key not in held]
    whole, found = [], []
    for entry in entries:
        problem = entry.problem or (None if store.bucket else broken(store.entry(entry.key)))
        if problem is None:
            whole.append(entry)
        elif not entry.tags:
            found.append(Piece("entry", entry.key, problem, entry.bytes))
    finished = {entry.key for entry in whole}
    left = [key for key in unfinished.keys(store) if key not in finished]
    for key in unfinished.keys(store):
        if key in held:
            continue
        if key in finished:
            found.append(Piece("work", key, "its job is finished", _work_bytes(store, key)))
        else:
            found += _partial_checkpoints(store, key)
    if not drivers.drivers(store):
        found += _leftovers(store)
    if needed is None:
        needed = {entry.key for entry in whole if not entry.outdated}
    kept = _with_ancestors(
        needed
        | {entry.key for entry in whole if entry.tags}
        | {parent for key in left if (parent := _parent_of_work(store, key))},
        store,
    )
    found += [
        Piece("entry", entry.key, entry.outdated or "nothing that is kept needs it", entry.bytes)
        for entry in whole
        if entry.key not in kept
    ]
    return found


def remove(store: Store, pieces: list[Piece]) -> None:
    """Remove pieces.

    Raises RunError, before anything is removed, where entries are among them and a run or sweep is
    alive, which may be about to use them; and for a key that another process has begun to build.
    """
    alive = drivers.drivers(store)
    if alive and any(piece.kind == "entry" for piece in pieces):
        who = ", ".join(f"process {d.pid} on {d.host} ({d.command})" for d in alive)
        raise RunError(
            f"{store.url}: expected no run or sweep while entries are removed, found {who}: wait "
            f"for its end, or if it was killed, remove its note {alive[0].note}"
        )
    for piece in pieces:
        if piece.kind == "entry":
            with store.lock(piece.name, patience=0):
                store.remove(piece.name)
        elif piece.kind == "work":
            with store.lock(piece.name, patience=0):
                store.drop_work(piece.name)
        elif piece.kind == "objects":
            assert store.bucket is not None
            store.bucket.remove(store.bucket.sizes(f"{piece.name}/"))
        else:
            shutil.rmtree(store.root / piece.name, ignore_errors=True)


def _with_ancestors(keys: set[str], store: Store) -> set[str]:
    """Keys, and what their entries were trained from."""
    known, kept = store.descriptions(), set()
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if key not in kept:
            kept.add(key)
            waiting += [parent for parent in [known.get(key, {}).get("parent")] if parent]
    return kept


def _parent_of_work(store: Store, key: str) -> str | None:
    text = unfinished.read(store, key, JOB)
    if text is None:  # it was killed before it did anything
        return None
    try:
        job: dict[str, Any] = json.loads(text)
        return job["parent"]
    except (ValueError, KeyError, TypeError):
        raise RunError(
            f"{store.url}/.work/{key}/{JOB}: expected the description of an unfinished job, by "
            "which to know what it needs: run its command again, or remove that folder"
        ) from None


def _work_bytes(store: Store, key: str) -> int:
    here = _bytes(store.work(key))
    return here or sum(store.bucket.sizes(f".work/{key}/").values()) if store.bucket else here


def _partial_checkpoints(store: Store, key: str) -> Iterator[Piece]:
    why = "a checkpoint that was not written to its end"
    for path in sorted((store.work(key) / CHECKPOINTS).glob(".step_*.partial")):
        yield Piece("files", str(path.relative_to(store.root)), why, _bytes(path))
    if store.bucket is not None:
        base = f".work/{key}/{CHECKPOINTS}/"
        for step in store.bucket.folders(base):
            sizes = store.bucket.sizes(f"{base}{step}/")
            if f"{base}{step}/{MANIFEST}" not in sizes:
                yield Piece("objects", base + step, why, sum(sizes.values()))


def _leftovers(store: Store) -> Iterator[Piece]:
    """What a killed driver leaves."""
    for owner in (".ray", ".tune"):
        for path in sorted((store.root / ".work" / owner).glob("*")):
            why = f"left by a killed {'sweep' if owner == '.tune' else 'run'}"
            yield Piece("files", str(path.relative_to(store.root)), why, _bytes(path))
    for path in sorted((store.root / REHEARSING).glob("*")):
        why = "left by a killed rehearsal"
        yield Piece("files", str(path.relative_to(store.root)), why, _bytes(path))
    if store.bucket is not None:
        for name in store.bucket.folders(f"{REHEARSING}/"):
            place = f"{REHEARSING}/{name}"
            sizes = store.bucket.sizes(f"{place}/")
            yield Piece("objects", place, "left by a killed rehearsal", sum(sizes.values()))
    for pattern in (".*.partial", ".datasets/.*.partial"):
        for path in sorted(store.root.glob(pattern)):
            name = str(path.relative_to(store.root))
            yield Piece("files", name, "not copied from the bucket to its end", _bytes(path))


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
