"""Facts about a data set that choices for it go by, and what is odd about it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bacl import settings
from bacl.datasets import boxes, images
from bacl.datasets.content import some
from bacl.datasets.examine import Examined, examine, stop
from bacl.datasets.stats import CategoryStats, Stats, counted
from bacl.errors import UsageError
from bacl.settings import ImageRecipe
from bacl.watch import Watch

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Facts:
    """Facts about a data set.

    Sizes are of training images in pixels. A box's size is the root of its area.
    """

    stats: Stats
    federated: bool
    """Whether LVIS's rules evaluate it."""
    grouped: bool
    """Whether the training file gives each category's frequency group."""
    training_images: int
    """Training images that have boxes to train on."""
    sides: tuple[int, int]
    """Median of the images' longest and of their shortest sides."""
    smallest_side: int
    """Smallest side of any training image with boxes."""
    alike: bool
    """Whether all training images have the same size."""
    box_sizes: tuple[float, float, float, float, float]
    """5, 25, 50, 75 and 95 percent quantiles of training boxes' sizes, as shares of their images'
    longest sides."""
    most_of_category: int
    """Largest number of boxes of one category in a validation image."""
    odd: list[str]
    """Sentences about what is irregular and does not keep from training."""

    @property
    def trained(self) -> list[CategoryStats]:
        """Categories with training images, the most frequent first."""
        seen = [category for category in self.stats.categories if category.images]
        return sorted(seen, key=lambda category: (-category.images, -category.instances))


def facts_of(dataset: settings.Dataset, cache: Path, watch: Watch) -> Facts:
    """Read both splits and all images' headers.

    Raises UsageError, one sentence a line, for whatever would keep `bacl plan` from accepting the
    data set, and where nothing could be trained.
    """
    problems: list[str] = []
    train, val = examine(dataset, cache, problems, watch)
    stop(problems)
    content = train.content
    usable = boxes.trained(content)
    single = [one for one in usable if not one.get("iscrowd")]
    if not single:
        raise UsageError(
            f"{train.annotations}: annotations: expected boxes to train on, got "
            f"{len(content.annotations):,}, none of them inside its image and of a single object"
        )
    with_boxes = sorted({one["image"] for one in single})
    sizes = np.array([(i["width"], i["height"]) for i in content.images])
    longest = sizes.max(axis=1)
    relative = [
        (one["bbox"][2] * one["bbox"][3]) ** 0.5 / float(longest[one["image"]]) for one in single
    ]
    shown = [(one["image"], one["label"]) for one in val.content.annotations]
    by_pair = np.unique(np.array(shown).reshape(-1, 2), axis=0, return_counts=True)[1]
    low, lower, middle, upper, high = np.quantile(relative, _QUANTILES).tolist()
    stats = counted(dataset, train, val)
    return Facts(
        stats=stats,
        federated=train.evaluation == "lvis",
        grouped=all("frequency" in category for category in content.categories),
        training_images=len(with_boxes),
        sides=(int(np.median(longest)), int(np.median(sizes.min(axis=1)))),
        smallest_side=int(sizes[with_boxes].min()),
        alike=len(np.unique(sizes, axis=0)) == 1,
        box_sizes=(low, lower, middle, upper, high),
        most_of_category=int(by_pair.max(initial=0)),
        odd=[*_odd(stats), *_irregular(train, val)],
    )


def _odd(stats: Stats) -> Iterator[str]:
    """Sentences about categories and images that train or are judged otherwise than one may
    think."""

    def names(categories: Sequence[CategoryStats]) -> str:
        return some(category.name for category in categories)

    never = [one for one in stats.categories if not one.images]
    if judged := [one for one in never if one.val_instances]:
        yield (
            "categories with validation boxes but no training image, so their AP will be 0 "
            f"({len(judged):,}): {names(judged)}"
        )
    if empty := [one for one in never if not one.val_instances]:
        yield f"categories without any box ({len(empty):,}): {names(empty)}"
    unjudged = [one for one in stats.categories if one.images and not one.val_instances]
    if not stats.val.instances:
        yield "the validation split has no boxes: AP will be absent"
    elif unjudged:
        yield (
            "categories that train but have no validation box, so AP leaves them out "
            f"({len(unjudged):,}): {names(unjudged)}"
        )
    if without := stats.train.images_without_instances:
        yield f"training images without boxes, which are left out of training ({without:,})"
    few = [one for one in stats.categories if 0 < one.val_instances < _FEW]
    if len(few) > len(stats.categories) / 4:
        yield (
            f"{len(few):,} categories have fewer than {_FEW} validation boxes, so their AP is "
            "mostly chance; `bacl compare` tells how far a difference can be trusted"
        )


_FEW = 5
"""Validation boxes below which a category's AP is mostly chance."""


def _irregular(train: Examined, val: Examined) -> Iterator[str]:
    yield from train.odd()
    yield from val.odd()
    both = images.in_both((train.files, train.images), (val.files, val.images))
    if both:
        yield (
            f"{len(both):,} images are in both the training and the validation split, so AP is "
            f"too high: {some(both)}"
        )
    least = ImageRecipe().smallest_image
    small = [i for i in train.content.images if min(i["width"], i["height"]) < least]
    if small:
        yield f"{len(small):,} training images have a side shorter than {least} pixels"
