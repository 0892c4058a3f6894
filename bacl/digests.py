"""SHA-256 of files and of streams of blocks."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

BLOCK = 1 << 20
"""Bytes in a block."""


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    return sha256_of(blocks(path))


def sha256_of(content: Iterable[bytes]) -> str:
    """Hexadecimal SHA-256 of a content that comes in blocks."""
    digest = hashlib.sha256()
    for block in content:
        digest.update(block)
    return digest.hexdigest()


def blocks(path: Path) -> Iterator[bytes]:
    """The content of a file in blocks."""
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block
