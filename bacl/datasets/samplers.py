"""Samplers, which order the training images in streams that depend on the seed, but not on the
number of ranks or loader workers or on resuming.

The *position* p counts training images since the start of the stage over all ranks. With a global
batch of B images and R ranks, step t holds positions tB .. tB + B - 1, of which rank r takes the
contiguous slice [tB + rB/R, tB + (r+1)B/R), so that a *pair* of images, at positions 2k and 2k + 1,
stays on one rank.

I images, C categories.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from mmdet.registry import DATA_SAMPLERS
from mmengine.dist import get_dist_info
from numpy.typing import NDArray
from torch.utils.data import Sampler

from bacl.errors import UsageError


class Position(NamedTuple):
    """One element of the training stream: its place in the stream and the image found there."""

    position: int
    index: int  # type: ignore[assignment]
    drawn_for: int | None = None
    """Label of the category that the image was drawn for, where the sampler draws categories."""


class Images(Protocol):
    """Interface of a dataset that knows its images' shapes and categories without reading them."""

    def __len__(self) -> int: ...

    def wide(self) -> NDArray[Any]:
        """Whether each image is wider than high, (I,)."""
        ...

    def presence(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Images and labels of every pair of an image and a category in it, each pair once."""
        ...


@DATA_SAMPLERS.register_module()
class OrderedSampler(Sampler[Position]):
    """This rank's share of the infinite stream of positions: every image once an epoch.

    Position p is element p % I of the permutation that belongs to epoch p // I, which is drawn from
    (seed, epoch).

    Args:
        dataset: has a length, I; with `pair_alike` also `Images.wide`.
        batch: images per step over all ranks.
        seed: seed of the order.
        pair_alike: move images within their epoch so that both of a pair are wider than high or
            both are not, except in at most two pairs of an epoch. A batch of two then needs little
            padding.

    Raises:
        UsageError: the batch cannot be shared equally among the ranks.
    """

    def __init__(self, dataset: Images, batch: int, seed: int, pair_alike: bool = False) -> None:
        self.size = len(dataset)
        self._wide = dataset.wide() if pair_alike else np.zeros(self.size, dtype=bool)
        self.batch = batch
        self.seed = seed
        self.rank, self.ranks = get_dist_info()
        if batch % self.ranks:
            raise UsageError(
                f"schedule.batch: expected a multiple of the {self.ranks} workers, got {batch}"
            )
        self.first = 0
        self._epoch = -1
        self._order: NDArray[Any] = np.arange(0)

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
        """Number of images in the dataset, as mmengine's infinite sampler returns."""
        return self.size

    def at(self, position: int) -> Position:
        """The stream's element at a position."""
        return Position(position, self.image(position))

    def image(self, position: int) -> int:
        """The image at a position of the stream."""
        epoch, place = divmod(position, self.size)
        if epoch != self._epoch:
            self._epoch = epoch
            order = draws(self.seed, "order", epoch).permutation(self.size)
            self._order = order[in_pairs(self._wide[order], epoch * self.size)]
        return int(self._order[place])


@DATA_SAMPLERS.register_module()
class RepeatFactorSampler(OrderedSampler):
    """Repeat factor sampling of LVIS's authors, which shows images of rare categories more often.

    A category in a share f of the images that show any category has the factor max(1,
    sqrt(threshold / f)); an image has the largest factor of its categories. An epoch shows each
    image as often as its factor says, rounded up or down at random, drawn from (seed, epoch); so
    epochs differ in length a little, and each begins where the one before ends. (Schedules count
    epochs of I images nevertheless.)

    Args:
        dataset: knows its categories; crowds do not count.
        batch, seed, pair_alike: of `OrderedSampler`.
        threshold: the share of images below which a category is repeated.
    """

    def __init__(
        self,
        dataset: Images,
        batch: int,
        seed: int,
        pair_alike: bool = False,
        threshold: float = 1e-3,
    ) -> None:
        super().__init__(dataset, batch, seed, pair_alike)
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
            order = draws(self.seed, "order", self._epoch).permutation(images)
            self._order = order[in_pairs(self._wide[order], self._begin)]
        return int(self._order[position - self._begin])

    def _times(self, epoch: int) -> NDArray[Any]:
        """Number of times that an epoch shows each image, (I,)."""
        whole = np.floor(self.factors)
        up = draws(self.seed, "repeat", epoch).random(self.size) < self.factors - whole
        return (whole + up).astype(np.int64)


@DATA_SAMPLERS.register_module()
class CategoryAwareSampler(OrderedSampler):
    """Class-aware sampling: every category is shown equally often, and so is each image of a
    category.

    In each round every category that has images is taken once, in an order drawn from (seed,
    round). A category shows one of its images in a round and goes through all of them in an order
    drawn from (seed, category, pass), which is drawn anew for each pass.

    Args:
        dataset: knows its categories; crowds do not count.
        batch, seed, pair_alike: of `OrderedSampler`, a round being its epoch.

    Raises:
        UsageError: no image shows any category.
    """

    def __init__(self, dataset: Images, batch: int, seed: int, pair_alike: bool = False) -> None:
        super().__init__(dataset, batch, seed, pair_alike)
        images, labels = dataset.presence()
        if not len(images):
            raise UsageError("sampler class_aware: expected images with boxes, found none")
        by_label = np.argsort(labels, kind="stable")
        self.labels, starts = np.unique(labels[by_label], return_index=True)
        self.images = np.split(images[by_label].astype(np.int32), starts[1:])
        self._shuffled: dict[int, tuple[int, NDArray[Any]]] = {}
        self._shown: NDArray[Any] = np.arange(0)
        """The round's images, in the order of its categories."""

    def at(self, position: int) -> Position:
        image = self.image(position)
        category = self._order[position % len(self.labels)]
        return Position(position, image, int(self.labels[category]))

    def image(self, position: int) -> int:
        round_, place = divmod(position, len(self.labels))
        if round_ != self._epoch:
            self._epoch = round_
            order = draws(self.seed, "category", round_).permutation(len(self.labels))
            shown = np.array([self._image_of(category, round_) for category in order.tolist()])
            places = in_pairs(self._wide[shown], round_ * len(self.labels))
            self._order, self._shown = order[places], shown[places]
        return int(self._shown[place])

    def _image_of(self, category: int, round_: int) -> int:
        """Image that a category shows in a round."""
        time, turn = divmod(round_, len(self.images[category]))
        known, shuffled = self._shuffled.get(category, (-1, self.images[category]))
        if known != time:
            label = int(self.labels[category])
            shuffled = draws(self.seed, "image", label, time).permutation(self.images[category])
            self._shuffled[category] = time, shuffled
        return int(shuffled[turn])


def in_pairs(wide: NDArray[Any], begin: int) -> NDArray[Any]:
    """A permutation (N,) of the elements in which both elements of a pair are alike.

    wide (N,): the property that both elements of a pair should share. begin: position in the stream
    of the first element. Pairs, at positions 2k and 2k + 1, come in the order in which they are
    complete; if all elements are alike, the order stays. Two pairs may be unlike: the last one,
    where one element of each kind is left, and the first one, where it has an element before
    `begin`.
    """
    single = begin % 2
    pairs: list[NDArray[Any]] = []
    left: list[NDArray[Any]] = [np.arange(min(single, len(wide)))]
    for kind in (True, False):
        own = single + np.flatnonzero(wide[single:] == kind)
        whole = len(own) // 2 * 2
        pairs.append(own[:whole].reshape(-1, 2))
        left.append(own[whole:])
    found = np.concatenate(pairs)
    found = found[np.argsort(found[:, 1])]
    return np.concatenate([left[0], found.ravel(), np.sort(np.concatenate(left[1:]))])


def repeat_factors(
    total: int, images: NDArray[Any], labels: NDArray[Any], threshold: float
) -> NDArray[Any]:
    """Repeat factor of each of `total` images, (total,), at least 1: how often an epoch shows it.

    images, labels: pairs of an image and a category in it, each pair once. Images without any
    category have the factor 1 and do not count in a category's share of images.
    """
    counts = np.bincount(labels)
    share = counts / max(len(np.unique(images)), 1)
    with np.errstate(divide="ignore"):  # by 0, for categories without images
        of_category = np.maximum(1, np.sqrt(threshold / share))
    factors = np.ones(total)
    np.maximum.at(factors, images, of_category[labels])
    return factors


def draws(seed: int, stream: str, *numbers: int) -> np.random.Generator:
    """A generator of its own for each (seed, stream, numbers)."""
    return np.random.Generator(np.random.PCG64(seed_sequence(seed, stream, *numbers)))


def seed_sequence(seed: int, stream: str, *numbers: int) -> np.random.SeedSequence:
    """Seed sequence of the generator that `draws` returns."""
    return np.random.SeedSequence([seed, *stream.encode(), *numbers])
