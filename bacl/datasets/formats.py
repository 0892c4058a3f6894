"""Formats of annotation files that `dataset.format` names: one entry each.

Without numpy and torch, like `bacl.settings`, which takes the names from here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bacl.errors import UsageError
from bacl.schema import rebuild

Read = Callable[[Path], Any]
"""Makes of an annotation file a dict of the lists `images`, `annotations` and `categories`, whose
dicts have COCO's fields (`bacl.datasets.reading.FIELDS`). Raises ValueError with the reason where
it cannot, or UsageError with a whole sentence."""
Inputs = Callable[[Path], Iterable[Path]]
"""All files that are read for an annotation file."""


def _alone(path: Path) -> Iterable[Path]:
    return [path]


@dataclass(frozen=True)
class Format:
    """How annotation files of a format are read, and how detections are held against them."""

    read: Read
    evaluation: Literal["lvis", "coco"]
    """`lvis`: images of the validation split say which categories are known of them to be absent;
    `coco`: each category is annotated in each image."""
    content: str
    """What such a file holds, in words."""
    inputs: Inputs = _alone
    """By their sizes and times unchanged files are known again."""
    module: str = __name__
    """Whose source decides what is read."""


def _read_json(path: Path) -> Any:
    from bacl.datasets import coco_json  # numpy, which settings do without

    return coco_json.read(path)


EMBEDDED = "embedded"
"""The set that BACL makes itself; `dataset.format` names it too."""
NAMED = ("lvis_v0.5", "lvis_v1", "coco_lt")
"""Data sets that `bacl.datasets.sources` finds under a root; `dataset.format` names them too."""
FORMATS = {
    "lvis": Format(_read_json, "lvis", "LVIS or COCO JSON"),
    "coco": Format(_read_json, "coco", "LVIS or COCO JSON"),
}


def register(
    name: str, *, evaluation: Literal["lvis", "coco"] = "coco", inputs: Inputs = _alone
) -> Callable[[Read], Read]:
    """Let experiments name a format that is not BACL's own; a decorator of what reads it.

    Args:
        evaluation: `Format.evaluation`.
        inputs: names all files that are read for one annotation file, if it is not that one alone.

    Raises:
        UsageError: where the name is taken.
    """

    def keep(read: Read) -> Read:
        module = read.__module__
        if name in (EMBEDDED, *NAMED, *FORMATS):
            owner = FORMATS[name].module if name in FORMATS else __name__
            raise UsageError(
                f"dataset format {name} of {module} is registered already by {owner}: expected "
                "another name"
            )
        FORMATS[name] = Format(read, evaluation, f"content of format {name}", inputs, module)
        rebuild()
        return read

    return keep
