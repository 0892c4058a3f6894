"""Which shards stored features are made of."""

from typing import NamedTuple

EACH = 64
"""Image views, or validation images, of a shard."""
SPLITS = ("train", "val")


class Part(NamedTuple):
    """A shard by its split and number; it holds the views at `places`."""

    split: str
    number: int
    total: int
    """Views or images of the split."""

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:05d}.pt"

    @property
    def places(self) -> range:
        return range(self.number * EACH, min((self.number + 1) * EACH, self.total))


def parts(train: int, val: int) -> list[Part]:
    """The shards of so many views of training images, and validation images."""
    return [
        Part(split, number, total)
        for split, total in zip(SPLITS, (train, val), strict=True)
        for number in range(-(-total // EACH))
    ]
