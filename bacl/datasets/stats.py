"""Statistics of a data set: images, instances, groups and categories.

Letters: C categories.
"""

import csv
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bacl import settings
from bacl.datasets.categories import Id
from bacl.datasets.examine import Examined, category_counts, examine
from bacl.datasets.sources import located


@dataclass(frozen=True)
class SplitStats:
    """Statistics of a split. Crowds are counted separately and not as instances."""

    file: str
    images: int
    images_missing: int
    """Images whose file is missing."""
    images_without_instances: int
    instances: int
    crowds: int
    categories: int
    """Categories with at least one instance."""
    most_instances: int
    """Largest number of instances in an image."""
    masks: int
    """Annotations with a segmentation, crowds included."""


@dataclass(frozen=True)
class GroupStats:
    """Statistics of a frequency group: its categories, those of them in the validation split, its
    instances."""

    name: str
    range: str
    """Range of the counts that the group goes by, such as `11-100`."""
    categories: int
    categories_in_val: int
    train_images: int
    """Training images that show at least one of the group's categories."""
    train_instances: int
    val_instances: int


@dataclass(frozen=True)
class CategoryStats:
    """Statistics of a category. `id` is the annotation file's; `images` and `instances` are the
    training split's counts that groups are made by."""

    id: Id
    name: str
    group: str
    images: int
    instances: int
    val_images: int
    val_instances: int


@dataclass(frozen=True)
class Stats:
    """Statistics of a data set; categories (C) are sorted by falling number of training instances.

    imbalance: largest number of instances of a category over the smallest that is not 0, and the
    same for images; None where all are 0.
    """

    train: SplitStats
    val: SplitStats
    groups: list[GroupStats]
    grouped_by: str
    categories: list[CategoryStats]
    imbalance: dict[str, float | None]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def save_categories(self, path: Path) -> None:
        """Write the categories as CSV."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [f.name for f in fields(CategoryStats)])
            writer.writeheader()
            writer.writerows(asdict(category) for category in self.categories)


def stats(dataset: settings.Dataset, cache: Path) -> Stats:
    """Statistics of a dataset from its annotations; image files may be missing.

    Args:
        cache: folder where the embedded set is made, if it is the dataset.

    Raises:
        UsageError: an annotation file cannot be read; one sentence a line.
    """
    dataset = located(dataset)
    return counted(dataset, *examine(dataset, cache, [], look=False))


def counted(dataset: settings.Dataset, train: Examined, val: Examined) -> Stats:
    """Statistics of a dataset whose splits have been examined."""
    known = category_counts(dataset, train)
    groups = dataset.groups or settings.Groups()
    in_val = {key: Counter(label for label, _ in _shown(val, key)) for key in ("image", "id")}
    categories = [
        CategoryStats(
            id=category.id,
            name=category.name,
            group=category.frequency,
            images=category.image_count,
            instances=category.instance_count,
            val_images=in_val["image"][label],
            val_instances=in_val["id"][label],
        )
        for label, category in enumerate(known)
    ]
    return Stats(
        train=_split(train),
        val=_split(val),
        groups=_groups(groups, categories, train),
        grouped_by=groups.by,
        categories=sorted(categories, key=lambda category: -category.instances),
        imbalance={
            kind: _ratio([getattr(category, kind) for category in categories])
            for kind in ("images", "instances")
        },
    )


def _shown(split: Examined, key: str) -> set[tuple[int, Id]]:
    """Pairs (label, image) or (label, annotation), by `key`, of annotations that are not crowds."""
    return {
        (annotation["label"], annotation[key])
        for annotation in split.content.annotations
        if not annotation.get("iscrowd")
    }


def _split(split: Examined) -> SplitStats:
    annotations = split.content.annotations
    single = [annotation for annotation in annotations if not annotation.get("iscrowd")]
    by_image = Counter(annotation["image"] for annotation in single)
    return SplitStats(
        file=str(split.annotations),
        images=len(split.content.images),
        images_missing=sum(not file for file in split.files),
        images_without_instances=len(split.content.images) - len(by_image),
        instances=len(single),
        crowds=len(annotations) - len(single),
        categories=len({annotation["label"] for annotation in single}),
        most_instances=max(by_image.values(), default=0),
        masks=sum(bool("segmentation" in annotation) for annotation in annotations),
    )


def _groups(
    groups: settings.Groups, categories: list[CategoryStats], train: Examined
) -> list[GroupStats]:
    shown = {(categories[label].group, image) for label, image in _shown(train, "image")}
    images = Counter(group for group, _ in shown)
    rows = []
    for name, text in zip(groups.names, _ranges(groups.bounds)):
        mine = [category for category in categories if category.group == name]
        rows.append(
            GroupStats(
                name=name,
                range=text,
                categories=len(mine),
                categories_in_val=sum(category.val_instances > 0 for category in mine),
                train_images=images[name],
                train_instances=sum(category.instances for category in mine),
                val_instances=sum(category.val_instances for category in mine),
            )
        )
    return rows


def _ranges(bounds: list[int]) -> list[str]:
    """Ranges of counts between bounds: `0-10`, `11-100`, `101+` for bounds 10 and 100."""
    lows = [0, *(bound + 1 for bound in bounds)]
    return [*(f"{low}-{high}" for low, high in zip(lows, bounds)), f"{lows[-1]}+"]


def _ratio(counts: list[int]) -> float | None:
    seen = [count for count in counts if count]
    return max(seen) / min(seen) if seen else None
