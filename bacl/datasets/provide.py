"""Provision of a named data set under a root: existing files stay, missing ones are fetched or
made.

Everything complete has a record (`bacl.datasets.sources`), which is written last, so an interrupted
call can simply be repeated.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from bacl import settings
from bacl.datasets import coco_lt, sources
from bacl.datasets.sources import NAMED, Archive, Record
from bacl.datasets.unpacking import unpack
from bacl.digests import sha256
from bacl.download import checked, fetch, need_space
from bacl.errors import RunError, UsageError
from bacl.watch import Watch


@dataclass(frozen=True)
class Request:
    """Request of a user for a data set.

    mirrors: base addresses that stand in for the public ones, as `<mirror>/<archive>`.
    offline: a folder that holds the archives; then nothing is downloaded.
    keep: whether downloaded archives stay in `<root>/archives`.
    seed: of COCO-LT's choice of instances, and of the embedded set.
    authors: the authors' own COCO-LT annotations, used instead of a choice.
    """

    name: str
    root: Path
    mirrors: Sequence[str] = ()
    offline: Path | None = None
    keep: bool = False
    seed: int = 0
    authors: Path | None = None


@dataclass(frozen=True)
class State:
    """State of an archive or of a generated file, and what `provide` would do about it.

    whole: it is complete, so nothing needs to be done.
    download: bytes to fetch, None if unknown.
    """

    name: str
    archive: Archive | None
    whole: bool
    text: str
    download: int | None = 0


def state(request: Request) -> list[State]:
    """List what exists of a data set and what is missing; changes nothing."""
    named = NAMED[request.name]
    return [_state_of(archive, request) for archive in named.archives] + [
        _state_of_made(place, request) for place in named.made
    ]


def provide(request: Request, say: Callable[[str], None], watch: Watch) -> None:
    """Make a data set whole under its root.

    Args:
        say: receives a sentence for each event.
        watch: receives progress.

    Raises:
        UsageError: the offline folder lacks an archive, the authors' file does not fit the index,
            ...
        RunError: a download fails or has the wrong digest, the disk is full, or another process is
            preparing the same data set.
    """
    named, root = NAMED[request.name], request.root
    try:
        (root / sources.RECORDS).mkdir(parents=True, exist_ok=True)
        if request.offline:
            _check_offline(request)
        for archive in named.archives:
            with _only_one(root, archive.name):
                _provide(archive, request, say, watch)
        for place in named.made:
            with _only_one(root, place):
                _make(place, request, say)
    except OSError as error:
        where = error.filename or root
        raise RunError(
            f"{where}: {request.name} could not be prepared: {error.strerror}"
        ) from error


# Archives


def _state_of(archive: Archive, request: Request) -> State:
    root = request.root
    record = sources.read_record(root, archive.name)
    if record:
        spoilt = sources.spoilt(root, record)
        if not spoilt:
            return State(archive.name, archive, True, f"there ({_files(record)})")
    elif sources.found(root, archive) is not None:
        return State(archive.name, archive, True, "there, unpacked by somebody else")
    why = (
        f"{len(spoilt):,} of {len(record.files):,} files are missing or spoilt; " if record else ""
    )
    if request.offline:
        path = request.offline / archive.name
        text = f"to take from {path}" if path.is_file() else f"missing: expected in {path.parent}"
        return State(archive.name, archive, False, why + text)
    kept = _kept(root, archive)
    if kept.is_file():
        return State(archive.name, archive, False, why + f"to take from {kept}")
    part = kept.with_name(f"{kept.name}.part")
    done = part.stat().st_size if part.is_file() else 0
    left = None if archive.size is None else archive.size - done
    text = f"{why}to download from {archive.wanted(request.mirrors).addresses[0]}"
    if done:
        text += f", {done:,} bytes are there"
    return State(archive.name, archive, False, text, left)


def _files(record: Record) -> str:
    return f"{len(record.files):,} file{'s' * (len(record.files) != 1)}"


def _kept(root: Path, archive: Archive) -> Path:
    return root / "archives" / archive.name


def _check_offline(request: Request) -> None:
    """Check that the offline folder has all archives needed, before the first is unpacked."""
    lacking = [s.name for s in state(request) if not s.whole and s.text.startswith("missing")]
    if lacking:
        raise UsageError(
            f"--offline {request.offline}: expected the archives there, "
            f"got none called {', '.join(lacking)}"
        )


def _provide(archive: Archive, request: Request, say: Callable[[str], None], watch: Watch) -> None:
    root = request.root
    record = sources.read_record(root, archive.name)
    if record and not (spoilt := sources.spoilt(root, record)):
        say(f"{archive.name}: there ({_files(record)})")
        return
    if record:
        say(f"{archive.name}: {len(spoilt):,} of {_files(record)} are missing or spoilt: again")
    elif files := sources.found(root, archive):
        places = ", ".join(archive.files) or f"{archive.folder}/"
        sources.write_record(
            root, Record(name=archive.name, origin="found there", sha256=None, files=files)
        )
        say(
            f"{archive.name}: {places} taken as found, {len(files):,} of {len(files):,} files; "
            "their contents were not compared with the archive's: see `bacl data verify`"
        )
        return
    path, origin, digest = _obtain(archive, request, record, say, watch)
    if archive.zipped:
        files = unpack(path, archive.places, root, replace=record is not None, watch=watch)
    else:
        (place,) = archive.files
        files = {place: path.stat().st_size}
        need_space(root, files[place], f"copy {archive.name}")
        _copy(path, root / place)
    if archive.folder and len(files) != archive.count:
        raise RunError(f"{path}: expected {archive.count:,} files, got {len(files):,}")
    sources.write_record(root, Record(name=archive.name, origin=origin, sha256=digest, files=files))
    if path == _kept(root, archive) and not request.keep:
        path.unlink()
    say(f"{archive.name}: whole ({len(files):,} file{'s' * (len(files) != 1)})")


def _obtain(
    archive: Archive,
    request: Request,
    record: Record | None,
    say: Callable[[str], None],
    watch: Watch,
) -> tuple[Path, str, str]:
    """The archive's path, its origin, and its digest, which has been checked."""
    wanted = archive.wanted(request.mirrors)
    path = _kept(request.root, archive)
    if request.offline:
        path = request.offline / archive.name
        digest, origin = checked(path, wanted, watch), str(path)
    elif path.is_file():
        digest, origin = checked(path, wanted, watch), str(path)
    else:
        origin, digest = fetch(wanted, path, watch)
    if wanted.sha256 is None:
        known = record.sha256 if record else None
        if known and known != digest:
            raise RunError(
                f"{path}: expected SHA-256 {known}, as at the first download, got {digest}"
            )
        say(
            f"{archive.name}: no digest is published for it; got SHA-256 {digest}, "
            "which is noted and holds from now on"
        )
    return path, origin, digest


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, part)
    part.replace(target)


@contextmanager
def _only_one(root: Path, name: str) -> Iterator[None]:
    """Hold the lock on providing a data set under the root; it ends with the process."""
    path = sources.record_path(root, name).with_suffix(".lock")
    try:
        with FileLock(path, timeout=1):
            yield
    except Timeout:
        raise RunError(
            f"{root}: another process is preparing {Path(name).name} there: wait for it or stop it"
        ) from None


# Generated files


def _state_of_made(place: str, request: Request) -> State:
    name = Path(place).name
    record = sources.read_record(request.root, place)
    if record and not sources.spoilt(request.root, record):
        return State(name, None, True, f"there ({record.origin})")
    return State(name, None, False, f"to make: {_how(place, request)}")


def _how(place: str, request: Request) -> str:
    if place != sources.COCO_LT_TRAIN:
        return f"the embedded set, seed {request.seed}"
    if request.authors:
        return "the authors' own annotations, checked against their index"
    return f"COCO's annotations by the authors' index, seed {request.seed}"


def _make(place: str, request: Request, say: Callable[[str], None]) -> None:
    record, root = sources.read_record(request.root, place), request.root
    if record and not sources.spoilt(root, record):
        if record.origin != _how(place, request):
            raise UsageError(
                f"{root / place}: expected {_how(place, request)}, got "
                f"{record.origin}: use another --root, or move it away"
            )
        say(f"{Path(place).name}: there ({record.origin})")
        return
    say(f"{Path(place).name}: making it: {_how(place, request)}")
    made = _make_coco_lt if place == sources.COCO_LT_TRAIN else _make_embedded
    sources.write_record(root, made(place, request))


def _make_coco_lt(place: str, request: Request) -> Record:
    root = request.root
    (index_place,) = sources.COCO_LT_INDEX.files
    index = coco_lt.read_index(root / index_place)
    coco = coco_lt.read(root / "annotations/instances_train2017.json")
    if request.authors:
        content = coco_lt.authors_own(coco_lt.read(request.authors), coco, index)
    else:
        content = coco_lt.sample(coco, index, request.seed)
    path = root / place
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("w", encoding="utf-8") as file:
            json.dump(content, file)
        digest = sha256(part)
        size = part.stat().st_size
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return Record(name=place, origin=_how(place, request), sha256=digest, files={place: size})


def _make_embedded(place: str, request: Request) -> Record:
    from bacl.datasets import embedded  # needs cv2, which the others do not

    root = request.root
    part = root / f".{place}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        embedded.generate(part, settings.Dataset(format="embedded", seed=request.seed))
        if (root / place).exists():
            raise UsageError(f"{root / place}: is in the way: move it away")
        part.rename(root / place)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    files = {
        str(path.relative_to(root)): path.stat().st_size
        for path in sorted((root / place).rglob("*"))
        if path.is_file()
    }
    return Record(name=place, origin=_how(place, request), sha256=None, files=files)
