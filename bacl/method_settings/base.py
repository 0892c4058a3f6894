"""Base of all methods' settings, and the context that a method receives from its stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from bacl.datasets.categories import Category
from bacl.errors import UsageError
from bacl.schema import Settings


@dataclass(frozen=True)
class Context:
    """Facts about a stage from which a method builds its variant's options."""

    place: str
    """The variant's place in its stage, `variants.NAME`, for errors."""
    categories: Sequence[Category]
    """Categories of the dataset, in the order of labels."""
    groups: Sequence[str]
    """Names of the frequency groups, rarest first."""
    width: int
    """D, the width of h."""
    channels: int
    """Channels of a RoI's pooled features."""
    pooled: int
    """Number of cells of a RoI's pooled features, 7 x 7."""
    deltas: int
    """Width of what the box regressor gives for a RoI."""
    two_fcs: bool
    """Whether two FCs on pooled features, as in the paper, are the whole box head."""
    images: int
    """Training images in an epoch."""
    iterations: int
    """Iterations of the whole stage."""
    batch: int
    """Images in an iteration, over all ranks; iterations times `batch` are positions, see
    `bacl.draws`."""


class Method(Settings):
    """Base of a method's settings. A subclass's docstring begins the method's card, and the
    docstrings of its fields describe the card's options."""

    method: str
    """Name of the method."""
    source: ClassVar[str] = ""
    """Publication or table that the method comes from."""
    equations: ClassVar[str] = ""
    """Equations of the method; z are logits, y one-hot targets and sigma the sigmoid."""
    cost: ClassVar[str] = ""
    """Cost beyond that of a linear classifier, in training or at test."""
    open_points: ClassVar[tuple[str, ...]] = ()
    """Points that the sources leave open or contradict each other in, and the choices made here."""
    counted: ClassVar[bool] = False
    """Whether its variant receives the training split's counts of each category."""
    follows: ClassVar[tuple[str, ...]] = ()
    """Methods whose trained classifiers it corrects; empty for a method that trains its own."""
    paths: ClassVar[tuple[str, ...]] = ()
    """Names of fields that hold paths; relative paths start from the folder of the experiment
    file."""

    reads: ClassVar[tuple[str, ...]] = ("fc2",)
    """Layers of a region that it reads, `bacl.variants.LAYERS`."""
    sampler: ClassVar[str | None] = None
    """The only sampler that it can train with; None if any will do."""

    @property
    def bases(self) -> tuple[str, ...]:
        """Methods of `follows` that the options allow."""
        return self.follows

    @property
    def end_to_end(self) -> bool:
        """Whether it changes the box head's input, so that it can only train together with the
        whole detector."""
        return False

    def options(self, context: Context) -> dict[str, Any]:
        """Options that the method's variant is built with: these settings as plain values, and the
        facts about the stage that it needs.

        Raises:
            UsageError: where the method cannot train in such a stage.
        """
        options = self.model_dump()
        if self.counted:
            options["counts"] = self.counts(context)
        return options

    def counts(self, context: Context) -> dict[str, Any]:
        """The fields of `bacl.methods.counts.Counts`.

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
