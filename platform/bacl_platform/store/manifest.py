"""Manifests: they make a folder complete, and show whether it can be relied on."""

import json
from pathlib import Path
from typing import Any

from bacl.digests import sha256
from bacl_platform.store.disk import now, write_text
from bacl_platform.store.names import MANIFEST


def write_manifest(folder: Path, **facts: Any) -> None:
    """Declare a folder complete: list its files with size and SHA-256, last of all writes."""
    files = {
        str(path.relative_to(folder)): {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in _files(folder)
    }
    write_text(folder / MANIFEST, json.dumps({**facts, "created": now(), "files": files}, indent=1))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a complete folder."""
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def broken(folder: Path) -> str | None:
    """Why a folder cannot be relied on, in words, or None when it can."""
    try:
        files = read_manifest(folder)["files"]
    except FileNotFoundError:
        return "its manifest is missing"
    except (OSError, ValueError, KeyError, TypeError):
        return "its manifest cannot be read"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {expected['bytes']}"
    for name, expected in files.items():
        if sha256(folder / name) != expected["sha256"]:
            return f"{name} is not what was written: its SHA-256 differs"
    return None


def listed(manifest: str) -> list[str]:
    """The files that a manifest lists; none where it cannot be read."""
    try:
        names = list(json.loads(manifest)["files"])
    except (ValueError, KeyError, TypeError):
        return []
    return [name for name in names if not name.startswith("/") and ".." not in name.split("/")]


def fingerprint(folder: Path) -> list[tuple[Any, ...]]:
    """What changes with any file of a complete folder: names, bytes, times (ns)."""
    stats = ((str(p), p.stat()) for p in [*_files(folder), folder / MANIFEST])
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
