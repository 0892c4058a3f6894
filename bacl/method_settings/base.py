"""The base of all methods' settings, and what of its stage a method is told."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import ConfigDict

from bacl.datasets.categories import Category
from bacl.errors import UsageError
from bacl.schema import Settings
from bacl.settings import Detector


@dataclass(frozen=True)
class Context:
    """What a method's parts can be told of the stage that they train in."""

    place: str
    """The variant's place in its stage, `variants.NAME`, for errors."""
    categories: Sequence[Category]
    """Categories of the dataset, in the order of labels."""
    groups: Sequence[str]
    """Names of the frequency groups, rarest first."""
    detector: Detector
    pooled: int
    """Places of a RoI's pooled features, 7 x 7."""
    images: int
    """Training images that an epoch shows."""
    iterations: int
    """Iterations of the whole stage."""
    batch: int
    """Images of an iteration, over all ranks; iterations times this are positions, `bacl.draws`."""


class Method(Settings):
    """Base of a method's settings. Its docstring is the card's first lines, and those of its fields
    are the card's options."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    method: str
    source: ClassVar[str] = ""
    """Where the method is from."""
    equations: ClassVar[str] = ""
    """What it computes, z being logits, y one-hot targets and sigma the sigmoid."""
    cost: ClassVar[str] = ""
    """What it takes beyond a linear classifier, in training or at test."""
    open_points: ClassVar[tuple[str, ...]] = ()
    """What sources leave open or contradict each other in, and what is done here."""
    counted: ClassVar[bool] = False
    """Whether its parts are given how often the training split shows each category."""
    follows: ClassVar[tuple[str, ...]] = ()
    """Methods whose classifiers it can correct, where that is all it does."""
    paths: ClassVar[tuple[str, ...]] = ()
    """Its fields that are paths; relative ones are from the folder of the file that has them."""

    reads: ClassVar[tuple[str, ...]] = ("fc2",)
    """Layers of a region that it reads, `bacl.variants.LAYERS`."""
    sampler: ClassVar[str | None] = None
    """The only sampler whose images it can learn from; None where all will do."""

    @property
    def bases(self) -> tuple[str, ...]:
        """Those of `follows` that the options allow."""
        return self.follows

    @property
    def end_to_end(self) -> bool:
        """Whether it changes what the box head sees, and so trains with the whole detector only."""
        return False

    def options(self, context: Context) -> dict[str, Any]:
        """What the method's parts are built with: these settings in plain values, and what the
        parts need to know of the stage.

        Raises:
            UsageError: where the method cannot train in such a stage.
        """
        options = self.model_dump()
        if self.counted:
            options["counts"] = self.counts(context)
        return options

    def counts(self, context: Context) -> dict[str, Any]:
        """What `bacl.methods.counts.Counts` holds.

        Raises:
            UsageError: where the method cannot train on such counts.
        """
        categories = context.categories
        instances = [category.instance_count for category in categories]
        if not any(instances):
            raise UsageError(
                f"{context.place}: method {self.method} needs how many training instances each "
                "category has: expected some, the dataset has none"
            )
        return {
            "images": [category.image_count for category in categories],
            "instances": instances,
            "groups": [context.groups.index(category.frequency) for category in categories],
            "total": context.images,
        }
