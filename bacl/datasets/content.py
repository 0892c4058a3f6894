"""Common form of annotations, to which all formats are converted, and tallies of irregularities.

I images, N annotations, C categories.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Content:
    """Content of an annotation file, as lists of objects with the file's own field names.

    images (I): `id`, `width`, `height`, `file_name` or `coco_url`, and in LVIS's validation files
    `neg_category_ids` and `not_exhaustive_category_ids`. annotations (N): `id`, `bbox`, and where
    the file has them `area`, `iscrowd` and `segmentation`. categories (C).

    After `relate`, `image` of an annotation is the position of its image and `label` that of its
    category, and LVIS's lists of an image hold labels.
    """

    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    strange: str = ""
    """Sentences about lists of LVIS's that name categories missing from the file; empty where none
    do."""


def some(values: Iterable[Any]) -> str:
    """The first five of some values, and how many more there are."""
    shown = [str(value) for value in values]
    more = f" and {len(shown) - 5:,} more" if len(shown) > 5 else ""
    return ", ".join(shown[:5]) + more


@dataclass
class Tally:
    """Ids of images or annotations by irregularity; iterating gives one sentence for each
    irregularity.

    where: a file or folder; kind: what they are ids of, in the singular.
    """

    where: str | Path
    kind: str
    ids: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))

    def add(self, what: str, number: Any) -> None:
        self.ids[what].append(number)

    def __iter__(self) -> Iterator[str]:
        for what, ids in self.ids.items():
            kinds = self.kind if len(ids) == 1 else f"{self.kind}s"
            yield f"{self.where}: {len(ids):,} {kinds}: {what}: {some(ids)}"
