"""Description of a prepared dataset, stored as `dataset.json`, and of the files it is made from."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from bacl import settings
from bacl.datasets.categories import Category


@dataclass(frozen=True)
class Source:
    """Paths that the user named for one split."""

    annotations: Path
    images: Path


def sources_of(dataset: settings.Dataset) -> tuple[Source, Source]:
    """The sources of a plain dataset's training and validation split."""
    assert dataset.train and dataset.val and dataset.images  # by settings.Dataset's own check
    return (
        Source(Path(dataset.train), Path(dataset.images)),
        Source(Path(dataset.val), Path(dataset.val_images or dataset.images)),
    )


class Split(BaseModel):
    """A normalised split. Its paths are empty until it is put in a cache."""

    index: str = ""
    """Images and annotations to load, of `bacl.datasets.index`."""
    annotations: str = ""
    """Annotations as JSON for the evaluator; empty for the training split, which has none."""
    images: str = ""
    """The folder that file names start from."""
    image_total: int
    instance_total: int
    masks: bool
    """Whether every annotation has a segmentation."""
    without_mask: str = ""
    """Description of the annotations without a segmentation, for messages; "" where all have
    one."""


class Prepared(BaseModel):
    """A dataset that is ready to train on. `categories` is in the order of labels, which is by id,
    numbers before text."""

    digest: str
    evaluation: Literal["lvis", "coco"]
    train: Split
    val: Split
    categories: list[Category]
    groups: settings.Groups = settings.Groups()
    warnings: list[str]

    @classmethod
    def load(cls, path: Path) -> "Prepared":
        return cls.model_validate_json(path.read_bytes())

    def save(self, path: Path) -> None:
        """Write to `path`, whole or not at all."""
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        part.replace(path)
