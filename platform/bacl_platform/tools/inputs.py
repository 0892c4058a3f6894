"""What there is to detect in, by what users name: images, folders, patterns, videos, addresses."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from bacl.errors import UsageError
from bacl_platform.inference.images import as_pixels
from bacl_platform.inference.remote import is_url
from bacl_platform.redaction import redacted
from bacl_platform.tools.videos import VIDEOS, check_video


@dataclass(frozen=True)
class Input:
    """An image or a video. name: its path as the user wrote it or as it was found, or its address
    without the passwords and tokens in it, which are written nowhere. address: with them."""

    name: str
    kind: Literal["image", "video", "address"]
    address: str = ""

    @property
    def stem(self) -> str:
        """What its picture is called, without its ending."""
        if self.kind != "address":
            return Path(self.name).stem
        last = Path(unquote(urlsplit(self.name).path)).stem
        return re.sub(r"[^\w.-]+", "_", last).strip(".")[:100] or "image"


def find_inputs(words: Sequence[str], out: Path) -> list[Input]:
    """The images and videos that words mean, each once, in their order.

    A folder is searched with all in it, but for hidden names and what lies in `out`; a pattern is
    one of the shell's, with ** for any folders. Raises UsageError with a sentence for each word
    that means nothing and for each single file that cannot be read, before anything is detected;
    files in folders and of patterns are not opened.
    """
    found: dict[str, Input] = {}
    problems = []
    for word in words:
        try:
            found |= {one.name: one for one in _meant(word, out)}
        except UsageError as error:
            problems.append(str(error))
    if problems:
        raise UsageError("\n".join(dict.fromkeys(problems)))
    return list(found.values())


def _meant(word: str, out: Path) -> Iterator[Input]:
    path = Path(word)
    if is_url(word):
        yield Input(redacted(word), "address", word)
    elif path.is_dir():
        if path.resolve() == out.resolve():
            raise UsageError(f"--out {out}: expected another folder than that of the images")
        files = [one for one in map(_of_kind, _inside(path, out.resolve())) if one]
        if not files:
            raise UsageError(f"{word}: expected a folder with images or videos in it, found none")
        yield from files
    elif glob.has_magic(word) and not path.exists():
        matched = sorted(name for name in glob.iglob(word, recursive=True) if Path(name).is_file())
        files = [one for one in map(_of_kind, matched) if one]
        if not files:
            raise UsageError(f"{word}: expected a pattern of images or videos, matches none")
        yield from files
    elif path.suffix.lower() in VIDEOS:
        check_video(path)
        yield Input(word, "video")
    else:
        as_pixels(path)
        yield Input(word, "image")


def _inside(folder: Path, out: Path) -> Iterator[str]:
    """Files in a folder, and in those in it, by name; none of those in `out`."""

    def closed(error: OSError) -> None:
        raise UsageError(f"{error.filename}: expected a folder that may be read: {error.strerror}")

    for parent, folders, files in os.walk(folder, onerror=closed):
        if Path(parent).resolve() == out:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, n) for n in sorted(files) if not n.startswith("."))


def _of_kind(name: str) -> Input | None:
    """A file that was found, by its ending; None of another kind of file."""
    ending = Path(name).suffix.lower()
    if ending in VIDEOS:
        return Input(name, "video")
    return Input(name, "image") if ending in _endings() else None


@cache
def _endings() -> frozenset[str]:
    """Endings of the names of images that can be read."""
    from PIL import Image

    from bacl.datasets.decoding import FORMATS

    known = Image.registered_extensions().items()
    return frozenset(ending for ending, name in known if name in FORMATS)
