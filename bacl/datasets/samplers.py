"""In which order training shows images: streams that depend on the seed and on nothing else that
runs, neither ranks nor loader workers nor resuming.

The *position* p counts training images since the start of the stage over all ranks. With a global
batch of B images and R ranks, step t holds positions tB .. tB + B - 1, of which rank r takes the
contiguous slice [tB + rB/R, tB + (r+1)B/R), so that a pair of images stays on one rank.

I images, C categories.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from mmdet.registry import DATA_SAMPLERS
from mmengine.dist import get_dist_info
from torch.utils.data import Sampler

from bacl.errors import UsageError


class Position(NamedTuple):
    """One element of the training stream: its place in the stream and the image found there."""

    position: int
    index: int  # type: ignore[assignment]
    drawn_for: int | None = None
    """Label of the category that the image was drawn for, where the sampler draws categories."""


class Labelled(Protocol):
    """A dataset that knows which categories its images show."""

    def __len__(self) -> int: ...

    def presence(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of every pair that occurs, each once."""
        ...


@DATA_SAMPLERS.register_module()
class OrderedSampler(Sampler[Position]):
    """This rank's share of the infinite stream of positions: every image once an epoch.

    Position p is element p % I of the permutation that belongs to epoch p // I, which is drawn from
    (seed, epoch).

    Args:
        dataset: anything with a length, I.
        batch: images per step over all ranks.
        seed: of the order.

    Raises:
        UsageError: the batch cannot be shared equally among the ranks.
    """

    def __init__(self, dataset: Any, batch: int, seed: int) -> None:
        self.size = len(dataset)
        self.batch = batch
        self.seed = seed
        self.rank, self.ranks = get_dist_info()
        if batch % self.ranks:
            raise UsageError(
                f"schedule.batch: expected a multiple of the {self.ranks} workers, got {batch}"
            )
        self.first = 0
        self._epoch = -1
        self._order: np.ndarray = np.arange(0)

    def skip(self, num_samples: int) -> None:
        """Start after `num_samples` of this rank's samples, counted from the stream's beginning."""
        self.first = num_samples

    def __iter__(self) -> Iterator[Position]:
        share = self.batch // self.ranks
        sample = self.first
        while True:
            step, offset = divmod(sample, share)
            position = step * self.batch + self.rank * share + offset
            yield self.at(position)
            sample += 1

    def __len__(self) -> int:
        """Images in the dataset, as of mmengine's own infinite sampler."""
        return self.size

    def at(self, position: int) -> Position:
        """The stream's element at a position."""
        return Position(position, self.image(position))

    def image(self, position: int) -> int:
        """The image at a position of the stream."""
        epoch, place = divmod(position, self.size)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = draws(self.seed, "order", epoch).permutation(self.size)
        return int(self._order[place])


@DATA_SAMPLERS.register_module()
class RepeatFactorSampler(OrderedSampler):
    """Images of rare categories are shown more often: repeat factor sampling of LVIS's authors.

    A category in a share f of the images that show any has the factor max(1, sqrt(threshold / f)),
    an image the largest of its categories'. An epoch shows each image as often as its factor says,
    rounded up or down at random, drawn from (seed, epoch); so epochs differ in length a little, and
    each begins where the one before ends. (Schedules count epochs of I images nevertheless.)

    Args:
        dataset: knows its categories; crowds do not count.
        batch, seed: of `OrderedSampler`.
        threshold: the share of images below which a category is repeated.
    """

    def __init__(self, dataset: Labelled, batch: int, seed: int, threshold: float = 1e-3) -> None:
        super().__init__(dataset, batch, seed)
        self.factors = repeat_factors(len(dataset), *dataset.presence(), threshold)
        self._begin = self._end = 0

    def image(self, position: int) -> int:
        if position < self._begin:
            self._epoch, self._begin, self._end = -1, 0, 0
        if position >= self._end:
            while position >= self._end:
                self._epoch += 1
                times = self._times(self._epoch)
                self._begin, self._end = self._end, self._end + int(times.sum())
            images = np.repeat(np.arange(self.size), times)
            self._order = draws(self.seed, "order", self._epoch).permutation(images)
        return int(self._order[position - self._begin])

    def _times(self, epoch: int) -> np.ndarray:
        """How often each image is shown in an epoch, (I,)."""
        whole = np.floor(self.factors)
        up = draws(self.seed, "repeat", epoch).random(self.size) < self.factors - whole
        return (whole + up).astype(np.int64)


@DATA_SAMPLERS.register_module()
class CategoryAwareSampler(OrderedSampler):
    """Every category is shown equally often, and each of its images equally often in its turn.

    Of the categories that have images, each is taken once a round, in an order drawn from (seed,
    round). A category goes through its images, one a round, in an order drawn anew each time that
    it has been through them, from (seed, category, which time).

    Args:
        dataset: knows its categories; crowds do not count.
        batch, seed: of `OrderedSampler`.

    Raises:
        UsageError: no image shows any category.
    """

    def __init__(self, dataset: Labelled, batch: int, seed: int) -> None:
        super().__init__(dataset, batch, seed)
        images, labels = dataset.presence()
        if not len(images):
            raise UsageError("sampler class_aware: expected images with boxes, found none")
        by_label = np.argsort(labels, kind="stable")
        self.labels, starts = np.unique(labels[by_label], return_index=True)
        self.images = np.split(images[by_label].astype(np.int32), starts[1:])
        self._shuffled: dict[int, tuple[int, np.ndarray]] = {}

    def at(self, position: int) -> Position:
        image = self.image(position)
        category = self._order[position % len(self.labels)]
        return Position(position, image, int(self.labels[category]))

    def image(self, position: int) -> int:
        round_, place = divmod(position, len(self.labels))
        if round_ != self._epoch:
            self._epoch = round_
            self._order = draws(self.seed, "category", round_).permutation(len(self.labels))
        category = int(self._order[place])
        time, turn = divmod(round_, len(self.images[category]))
        known, shuffled = self._shuffled.get(category, (-1, self.images[category]))
        if known != time:
            label = int(self.labels[category])
            shuffled = draws(self.seed, "image", label, time).permutation(self.images[category])
            self._shuffled[category] = time, shuffled
        return int(shuffled[turn])


def repeat_factors(
    total: int, images: np.ndarray, labels: np.ndarray, threshold: float
) -> np.ndarray:
    """How often each of `total` images is to be shown in an epoch, (total,), at least once.

    images, labels: of every pair that occurs, each once. Images without any are shown once, and
    are not among those that shares are of.
    """
    counts = np.bincount(labels)
    share = counts / max(len(np.unique(images)), 1)
    with np.errstate(divide="ignore"):  # of categories without images, which no image asks for
        of_category = np.maximum(1, np.sqrt(threshold / share))
    factors = np.ones(total)
    np.maximum.at(factors, images, of_category[labels])
    return factors


def draws(seed: int, stream: str, *numbers: int) -> np.random.Generator:
    """A generator for what `stream` and `numbers` tell apart."""
    return np.random.Generator(np.random.PCG64(seed_sequence(seed, stream, *numbers)))


def seed_sequence(seed: int, stream: str, *numbers: int) -> np.random.SeedSequence:
    """What `draws` is seeded with."""
    return np.random.SeedSequence([seed, *stream.encode(), *numbers])
