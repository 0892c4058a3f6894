"""Downloads that are complete and have the right digest or do not exist.

A download grows in `<name>.part`. Beside it, `<name>.part.json` names the remote file and its
version, so that this or another process can resume it. The file gets its name when its size and
SHA-256 are what they should be.
"""

import errno
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from requests.exceptions import InvalidSchema, InvalidURL, MissingSchema, SSLError

from bacl import digests
from bacl.errors import RunError
from bacl.watch import Watch

BLOCK = 1 << 20
TIMEOUT = (10, 60)
"""Seconds to wait for a connection, and for the next bytes."""
ATTEMPTS = 6
"""Attempts in a row that bring no byte before an address is given up."""
MARGIN = 64 << 20
"""Bytes of disk that must stay free."""


class _Unusable(Exception):
    """An address does not provide the file, and another attempt would not help."""


@dataclass(frozen=True)
class Wanted:
    """A file on the web.

    size (bytes) and sha256 (hexadecimal) are None where none is published.
    """

    name: str
    addresses: Sequence[str]
    size: int | None = None
    sha256: str | None = None


def fetch(
    wanted: Wanted, target: Path, watch: Watch, pause: Callable[[float], None] = time.sleep
) -> tuple[str, str]:
    """Download to `target`, resuming what an earlier call has left.

    Returns the address that gave the file, and its SHA-256.

    The addresses are tried in turn; one is given up when it does not have the file, has another
    one, or brings nothing in several attempts. `pause` waits some seconds between attempts.

    Raises:
        RunError: no address gives the right file (the message says what each gave), or the disk is
            full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    said = []
    for address in wanted.addresses:
        try:
            return address, _fetch_from(address, wanted, target, watch, pause)
        except _Unusable as error:
            said.append(f"{address}: {error}")
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise RunError(
                f"{target.parent}: {wanted.name} does not fit: the disk is full; what is there "
                "stays, and the same command goes on from it"
            ) from error
    raise RunError(f"{wanted.name} could not be downloaded: {'; '.join(said)}")


def checked(path: Path, wanted: Wanted, watch: Watch) -> str:
    """The SHA-256 of a file that should be `wanted`.

    Raises:
        RunError: it is another file, or a part of it.
    """
    if problem := _wrong_size(path.stat().st_size, wanted):
        raise RunError(f"{path}: {problem}")
    digest = watched_sha256(path, watch)
    if wanted.sha256 and digest != wanted.sha256:
        raise RunError(f"{path}: expected SHA-256 {wanted.sha256}, got {digest}")
    return digest


def watched_sha256(path: Path, watch: Watch) -> str:
    """Hexadecimal SHA-256 of a file's content, with progress."""
    what, size = f"checking {path.name.removesuffix('.part')}", path.stat().st_size

    def watched() -> Iterator[bytes]:
        done = 0
        for block in digests.blocks(path):
            yield block
            done += len(block)
            watch(what, done, size)

    return digests.sha256_of(watched())


def need_space(folder: Path, size: int, what: str) -> None:
    """Raise RunError where `size` more bytes would not fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if free < size + MARGIN:
        raise RunError(
            f"{folder}: expected {_bytes(size + MARGIN)} free to {what}, got {_bytes(free)}"
        )


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _wrong_size(size: int, wanted: Wanted) -> str | None:
    if wanted.size is None or size == wanted.size:
        return None
    return f"expected {wanted.size:,} bytes, got {size:,}"


# Downloading


def _fetch_from(
    address: str, wanted: Wanted, target: Path, watch: Watch, pause: Callable[[float], None]
) -> str:
    part = target.with_name(f"{target.name}.part")
    idle = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _request(address, wanted, part, watch)
            break
        except (InvalidSchema, InvalidURL, MissingSchema) as error:
            raise _Unusable(str(error)) from error
        except requests.RequestException as error:
            after = part.stat().st_size if part.exists() else 0
            idle = 0 if after > before else idle + 1
            if idle == ATTEMPTS:
                raise _Unusable(_reason(error)) from error
            pause(min(2**idle, 30))
    # A wrong file may be a mixture of versions, so it cannot be resumed.
    problem = _wrong_size(part.stat().st_size, wanted)
    digest = "" if problem else watched_sha256(part, watch)
    if not problem and wanted.sha256 and digest != wanted.sha256:
        problem = f"expected SHA-256 {wanted.sha256}, got {digest}"
    if problem:
        _forget(part)
        raise _Unusable(f"{problem}; what came was removed")
    part.replace(target)
    _forget(part)
    return digest


def _request(address: str, wanted: Wanted, part: Path, watch: Watch) -> None:
    """Ask once for what is missing of `part`; returns when nothing is.

    Raises requests.RequestException where asking again may help, else _Unusable.
    """
    version = _version(part)
    same = version.get("address") == address
    # Where a digest is checked later, the beginning may come from another address.
    known = same or (version and wanted.sha256)
    start = part.stat().st_size if known and part.exists() else 0
    headers = {"Accept-Encoding": "identity"}  # so that lengths and ranges are the file's own
    if start:
        headers["Range"] = f"bytes={start}-"
        if same and version["validator"]:
            headers["If-Range"] = version["validator"]
    with requests.get(address, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 416 and start:  # the partial file does not fit the remote file
            whole = _total(response)
            if whole == start:
                return
            _forget(part)
            raise requests.ConnectionError("the file has changed on the server")
        if response.status_code not in (200, 206):
            text = f"HTTP {response.status_code} {response.reason}"
            if response.status_code >= 500 or response.status_code in (408, 429):
                raise requests.HTTPError(text)
            raise _Unusable(text)
        if response.status_code == 200:
            start = 0
        elif _first(response) != start:
            raise _Unusable(f"asked for bytes from {start}, got {_range(response)!r}")
        total = _total(response)
        if total is not None and (problem := _wrong_size(total, wanted)):
            raise _Unusable(problem)
        if total is None and response.status_code == 200:
            total = wanted.size
        if total is not None:
            need_space(part.parent, total - start, f"download {wanted.name}")
        if start == 0:
            _remember(part, address, response)
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            done = start
            for block in response.iter_content(BLOCK):
                file.write(block)
                done += len(block)
                watch(f"downloading {wanted.name}", done, total)
    if total is not None and done < total:
        raise requests.ConnectionError(f"the server closed after {done:,} of {total:,} bytes")


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.HTTPError) or not getattr(error, "request", None):
        return str(error)
    if isinstance(error, SSLError):
        return f"no safe connection: {error}"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return f"the transfer breaks off ({type(error).__name__})"


def _range(response: requests.Response) -> str:
    return response.headers.get("Content-Range", "")


def _first(response: requests.Response) -> int | None:
    """Offset of the first byte of a partial answer: 5 for `Content-Range: bytes 5-9/10`."""
    first = _range(response).removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdecimal() else None


def _total(response: requests.Response) -> int | None:
    """Bytes of the whole file, as the server has it."""
    text = _range(response).rpartition("/")[2]
    if response.status_code == 200:
        text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _version(part: Path) -> dict[str, Any]:
    """Identification of the remote version that `part` is the beginning of; {} where unknown."""
    try:
        version = json.loads(_note(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return version if isinstance(version, dict) and "validator" in version else {}


def _remember(part: Path, address: str, response: requests.Response) -> None:
    """Start a new download: note the version before its first byte is written."""
    _forget(part)
    tag = response.headers.get("ETag", "")
    # A weak ETag does not promise equal bytes, so a range request cannot rely on it.
    validator = response.headers.get("Last-Modified") if tag.startswith("W/") or not tag else tag
    _note(part).write_text(
        json.dumps({"address": address, "validator": validator}), encoding="utf-8"
    )


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)
