"""Table of the formats of annotation files that the setting `dataset.format` may name.

This module does not import numpy or torch, because `bacl.settings`, which reads the names, must
load quickly.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bacl.errors import UsageError
from bacl.schema import rebuild

Read = Callable[[Path], Any]
"""Reader of an annotation file: returns a dict of the lists `images`, `annotations` and
`categories`, whose dicts have COCO's fields (`bacl.datasets.reading.FIELDS`). Raises ValueError
with the reason where the file is wrong, or UsageError with a whole sentence."""
Inputs = Callable[[Path], Iterable[Path]]
"""Function from an annotation file to all files that are read for it."""


def _alone(path: Path) -> Iterable[Path]:
    return [path]


@dataclass(frozen=True)
class Format:
    """A format: how its annotation files are read, and how detections are evaluated against
    them."""

    read: Read
    evaluation: Literal["lvis", "coco"]
    """Rules of evaluation. `lvis`: each validation image lists the categories known to be absent
    from it; `coco`: every category is annotated exhaustively in every image."""
    content: str
    """Description of the expected content, for error messages."""
    inputs: Inputs = _alone
    """Function that lists all files read; unchanged ones are recognised by their sizes and
    times."""
    module: str = __name__
    """Module of the reader; an edit of its source has annotation files read again."""


def _read_json(path: Path) -> Any:
    from bacl.datasets import coco_json  # numpy, which settings do without

    return coco_json.read(path)


EMBEDDED = "embedded"
"""Name of the generated data set, also a value of `dataset.format`."""
NAMED = ("lvis_v0.5", "lvis_v1", "coco_lt")
"""Names of data sets that `bacl.datasets.sources` finds under a root, also values of
`dataset.format`."""
FORMATS = {
    "lvis": Format(_read_json, "lvis", "LVIS or COCO JSON"),
    "coco": Format(_read_json, "coco", "LVIS or COCO JSON"),
}


def register(
    name: str, *, evaluation: Literal["lvis", "coco"] = "coco", inputs: Inputs = _alone
) -> Callable[[Read], Read]:
    """Register a format that is not BACL's own, so that experiments can name it; decorates its
    reader.

    Args:
        evaluation: `Format.evaluation`.
        inputs: lists all files that are read for one annotation file, if there are others than
            itself.

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
