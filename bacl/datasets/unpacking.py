"""Safe unpacking of archives: members stay inside their folder, and files are whole or absent."""

import errno
import os
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from bacl.download import BLOCK, need_space
from bacl.errors import RunError
from bacl.watch import Watch


def unpack(
    archive: Path, places: Mapping[str, str], root: Path, replace: bool, watch: Watch
) -> dict[str, int]:
    """Unpack members of a zip archive under `root`; returns place under `root` -> bytes.

    A file gets its name when it is whole (the archive's CRC-32 holds), so after an interruption
    the same call goes on. Files that are there with the right content stay untouched.

    Args:
        places: members to unpack and where under `root` each goes. A member is a file by its name,
            wherever it lies in the archive, or `name/`, a folder at the top.
        replace: whether a file that is there with other content is overwritten.

    Raises:
        RunError: the archive is not a whole zip file; a member is missing, damaged, or would be
            written outside its place; the disk is too small; a file is in the way.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            members = _chosen(content, places, archive, root)
            todo = []
            for member, place in members.items():
                path = root / place
                if not path.exists() or not _is(path, member):
                    if path.exists() and not replace:
                        raise RunError(
                            f"{path}: is not what {archive.name} holds: expected nothing there, "
                            "or the same content; move it away"
                        )
                    todo.append((member, path))
            total = sum(member.file_size for member, _ in todo)
            need_space(root, total, f"unpack {archive.name}")
            done = 0
            for member, path in todo:
                done = _extract(content, member, path, done, total, watch, archive)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise RunError(f"{archive}: expected a whole zip archive: {error}") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunError(f"{root}: {archive.name} does not fit: the disk is full") from error
    return {place: member.file_size for member, place in members.items()}


def _chosen(
    content: zipfile.ZipFile, places: Mapping[str, str], archive: Path, root: Path
) -> dict[zipfile.ZipInfo, str]:
    chosen: dict[zipfile.ZipInfo, str] = {}
    for member in content.infolist():
        if member.is_dir() or member.filename.startswith("__MACOSX/"):
            continue
        path = PurePosixPath(member.filename)
        if stat.S_ISLNK(member.external_attr >> 16) or member.flag_bits & 1:
            raise RunError(f"{archive}: {member.filename}: expected a plain file in the archive")
        if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
            raise RunError(
                f"{archive}: {member.filename}: expected names that stay inside the folder"
            )
        if path.name in places:
            chosen[member] = places[path.name]
        elif len(path.parts) > 1 and f"{path.parts[0]}/" in places:
            inside = PurePosixPath(*path.parts[1:])
            chosen[member] = str(PurePosixPath(places[f"{path.parts[0]}/"]) / inside)
    given = list(chosen.values())
    for name, place in places.items():
        if name.endswith("/"):
            found = any(PurePosixPath(place) in PurePosixPath(other).parents for other in given)
        else:
            found = given.count(place) == 1
        if not found:
            raise RunError(f"{archive}: expected {name} in the archive, found none or several")
    return chosen


def _is(path: Path, member: zipfile.ZipInfo) -> bool:
    """Whether the file has the member's content."""
    if not path.is_file() or path.stat().st_size != member.file_size:
        return False
    crc = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            crc = zlib.crc32(block, crc)
    return crc == member.CRC


def _extract(
    content: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    path: Path,
    done: int,
    total: int,
    watch: Watch,
    archive: Path,
) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with content.open(member) as source, part.open("wb") as file:
            while block := source.read(BLOCK):
                file.write(block)
                done += len(block)
                watch(f"unpacking {archive.name}", done, total)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return done
