"""Streams of images: what they show how often, and that only the seed decides."""

import math
import time
from functools import partial
from itertools import islice

import numpy as np
import pytest
from mmengine.runner import Runner
from training import DETECTOR, RECIPE

from bacl.config import stage_config
from bacl.datasets import samplers
from bacl.datasets.index import Index
from bacl.datasets.prepared import Prepared
from bacl.datasets.samplers import (
    CategoryAwareSampler,
    OrderedSampler,
    RepeatFactorSampler,
    in_pairs,
    repeat_factors,
)
from bacl.errors import UsageError
from bacl.method_settings.paper import BCE


class Shown:
    """A dataset of `total` images of which only the categories are known."""

    def __init__(self, total, categories_of):
        self.total = total
        self.pairs = sorted((i, c) for i, own in categories_of.items() for c in set(own))

    def __len__(self):
        return self.total

    def wide(self):
        """Three of four images, at random."""
        return np.random.default_rng(7).random(self.total) < 0.75

    def presence(self):
        images, labels = np.array(self.pairs, dtype=np.int64).reshape(-1, 2).T
        return images, labels


def long_tail():
    """60 images: category 0 in most, 1 in ten, 2 in two, 4 in one; none of 3; five show nothing."""
    shown = {i: [0] for i in range(50)}
    for i in range(45, 55):
        shown[i] = [*shown.get(i, []), 1]
    shown[7] = [0, 2]
    shown[53] = [1, 2]
    shown[54] = [1, 4]
    return Shown(60, shown)


def indices(sampler, count):
    return [item.index for item in islice(iter(sampler), count)]


KINDS = {
    "random": OrderedSampler,
    "repeat_factor": partial(RepeatFactorSampler, threshold=0.3),
    "class_aware": CategoryAwareSampler,
}


@pytest.fixture(params=list(KINDS))
def sampler_type(request):
    return KINDS[request.param]


@pytest.fixture(params=[False, True], ids=["as drawn", "pairs alike"])
def kind(request, sampler_type):
    return partial(sampler_type, pair_alike=request.param)


def test_stream_goes_on_from_any_position_as_if_it_had_never_stopped(kind):
    stream = list(islice(iter(kind(long_tail(), 4, 5)), 900))
    assert [item.position for item in stream] == list(range(900))
    for start in np.random.default_rng(0).integers(0, 800, 12).tolist():
        resumed = kind(long_tail(), 4, 5)
        resumed.skip(start)
        assert list(islice(iter(resumed), 100)) == stream[start : start + 100]


def test_shares_of_ranks_together_are_the_stream(kind, monkeypatch):
    stream = list(islice(iter(kind(long_tail(), 8, 5)), 640))
    parts = []
    for rank in range(2):
        monkeypatch.setattr(samplers, "get_dist_info", lambda r=rank: (r, 2))
        parts.append(list(islice(iter(kind(long_tail(), 8, 5)), 320)))
    together = [
        item for step in range(80) for part in parts for item in part[4 * step : 4 * step + 4]
    ]
    assert together == stream


def test_seeds_differ_and_positions_may_be_asked_for_in_any_order(kind):
    sampler = kind(long_tail(), 4, 5)
    stream = indices(sampler, 500)
    places = np.random.default_rng(1).permutation(500).tolist()
    assert [sampler.image(place) for place in places] == [stream[place] for place in places]
    assert indices(kind(long_tail(), 4, 6), 500) != stream


def test_pairs_are_alike_but_for_two_an_epoch_and_nothing_else_changes(sampler_type):
    dataset = long_tail()
    wide = dataset.wide()
    plain, paired = sampler_type(dataset, 4, 5), sampler_type(dataset, 4, 5, pair_alike=True)
    drawn, shown, epochs = [], [], []
    for position in range(6000):
        drawn.append(plain.at(position)[1:])
        shown.append(paired.at(position)[1:])
        assert plain._epoch == paired._epoch
        epochs.append(plain._epoch)
    whole = epochs.index(epochs[-1])  # the last epoch may not be over
    of_epochs = [sorted(zip(epochs[:whole], stream), key=str) for stream in (drawn, shown)]
    assert of_epochs[0] == of_epochs[1]

    def mixed(stream):
        kinds = [wide[image] for image, _ in stream]
        return [epochs[at] for at in range(1, 6000, 2) if kinds[at - 1] != kinds[at]]

    assert np.bincount(mixed(shown)).max() <= 2
    assert len(mixed(shown)) < len(mixed(drawn))


@pytest.mark.parametrize("begin", [0, 1])
def test_images_that_are_all_alike_stay_where_they_are(begin):
    for size in range(8):
        for kind in (True, False):
            assert in_pairs(np.full(size, kind), begin).tolist() == list(range(size))


def test_pairs_come_in_the_order_in_which_they_are_complete():
    kinds = np.array([True, False, True, True, False, False, True, True])
    assert in_pairs(kinds, 0).tolist() == [0, 2, 1, 4, 3, 6, 5, 7]
    assert in_pairs(kinds, 1).tolist() == [0, 2, 3, 1, 4, 6, 7, 5]


def test_random_shows_every_image_once_per_epoch_in_another_order():
    stream = indices(OrderedSampler(range(7), batch=4, seed=0), 21)
    epochs = [tuple(stream[e : e + 7]) for e in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) == 3


def test_repeat_factors_are_those_of_the_equation():
    dataset, threshold = long_tail(), 0.3
    annotated = {i for i, _ in dataset.pairs}
    factors = repeat_factors(60, *dataset.presence(), threshold)
    for image in range(60):
        own = [c for i, c in dataset.pairs if i == image]
        expected = 1.0
        for category in own:
            share = sum(c == category for _, c in dataset.pairs) / len(annotated)
            expected = max(expected, math.sqrt(threshold / share))
        assert factors[image] == pytest.approx(expected)
    assert factors[54] == factors.max() > 4 and factors[59] == 1


def test_repeat_factor_epochs_show_images_as_often_as_their_factors_say():
    sampler = RepeatFactorSampler(long_tail(), 4, seed=1, threshold=0.3)
    epochs, counts = 400, np.zeros(60)
    position = 0
    lengths = set()
    for epoch in range(epochs):
        sampler.image(position)
        assert (sampler._epoch, sampler._begin) == (epoch, position)
        shown = np.bincount([sampler.image(p) for p in range(position, sampler._end)], minlength=60)
        assert np.all((shown == np.floor(sampler.factors)) | (shown == np.ceil(sampler.factors)))
        counts += shown
        lengths.add(sampler._end - position)
        position = sampler._end
    assert len(lengths) > 1
    up = sampler.factors - np.floor(sampler.factors)
    rounded = up > 0
    excess = counts - epochs * np.floor(sampler.factors)
    expected, variance = epochs * up[rounded], epochs * (up * (1 - up))[rounded]
    chi_square = ((excess[rounded] - expected) ** 2 / variance).sum()
    freedom = rounded.sum()
    assert abs(chi_square - freedom) < 4 * math.sqrt(2 * freedom)
    assert np.all(excess[~rounded] == 0)


def test_repeat_factor_of_one_for_all_is_every_image_once():
    stream = indices(RepeatFactorSampler(long_tail(), 4, seed=0, threshold=1e-6), 120)
    assert sorted(stream[:60]) == sorted(stream[60:]) == list(range(60))


def test_class_aware_shows_each_category_equally_and_each_of_its_images_equally():
    dataset = long_tail()
    sampler = CategoryAwareSampler(dataset, 4, seed=1)
    images_of = {c: sorted(i for i, own in dataset.pairs if own == c) for c in (0, 1, 2, 4)}
    rounds = 100  # twice through the fifty images of category 0
    shown = {c: [] for c in images_of}
    for round_ in range(rounds):
        items = [sampler.image(4 * round_ + place) for place in range(4)]
        for category, item in zip(sampler.labels[sampler._order], items, strict=True):
            shown[category].append(item)
    for category, images in images_of.items():
        counts = np.bincount(shown[category], minlength=60)[images]
        assert counts.sum() == rounds
        assert counts.max() - counts.min() <= 1
    first, second = shown[0][:50], shown[0][50:]
    assert sorted(first) == sorted(second) == images_of[0]
    assert first != second


def test_class_aware_tells_which_category_an_image_was_drawn_for():
    categories_of = {0: [0, 2], 1: [2], 2: [0, 2, 5], 3: [5]}
    stream = CategoryAwareSampler(Shown(4, categories_of), batch=2, seed=3)
    shown = list(islice(stream, 60))
    assert all(one.drawn_for in categories_of[one.index] for one in shown)
    assert [sum(one.drawn_for == label for one in shown) for label in (0, 2, 5)] == [20] * 3


def test_other_samplers_draw_images_for_no_category():
    stream = RepeatFactorSampler(Shown(4, {0: [0], 1: [1]}), batch=2, seed=3)
    assert {one.drawn_for for one in islice(stream, 8)} == {None}


def test_class_aware_order_of_categories_is_even():
    sampler = CategoryAwareSampler(long_tail(), 4, seed=3)
    places = np.zeros((4, 4))
    for round_ in range(2000):
        sampler.image(4 * round_)
        places[np.arange(4), sampler._order] += 1
    chi_square = ((places - 500) ** 2 / 500).sum()
    assert chi_square < 28  # 9 degrees of freedom, 0.001


def test_class_aware_without_boxes_is_refused():
    with pytest.raises(UsageError, match="class_aware: expected images with boxes"):
        CategoryAwareSampler(Shown(3, {}), 4, 0)


def test_resuming_at_the_end_of_a_long_schedule_is_quick():
    """24 epochs of LVIS v1.0's size."""
    draw = np.random.default_rng(0)
    labels = np.minimum(draw.zipf(1.3, 300_000) - 1, 1202)
    pairs = np.unique(np.stack([draw.integers(0, 100_170, 300_000), labels]), axis=1)
    dataset = Shown(100_170, {})
    dataset.presence = lambda: (pairs[0], pairs[1])
    for build in KINDS.values():
        sampler = build(dataset, 16, 0, pair_alike=True)
        start = time.process_time()
        sampler.image(24 * 100_170)
        assert time.process_time() - start < 2


def test_batch_that_ranks_cannot_share_is_refused(monkeypatch):
    monkeypatch.setattr(samplers, "get_dist_info", lambda: (0, 3))
    with pytest.raises(UsageError, match="multiple of the 3 workers, got 4"):
        OrderedSampler(range(7), batch=4, seed=0)


@pytest.mark.parametrize(
    ("augmentation", "grouped"), [("multi_scale", True), ("copy_paste", False)]
)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("random", OrderedSampler),
        ("repeat_factor", RepeatFactorSampler),
        ("class_aware", CategoryAwareSampler),
    ],
)
def test_recipe_names_its_sampler(dataset_info, name, expected, augmentation, grouped):
    changes = {
        "sampler": name,
        "repeat_threshold": 0.5,
        "augmentation": augmentation,
        "group_aspect_ratio": grouped,
    }
    recipe = RECIPE.model_copy(update=changes)
    prepared = Prepared.load(dataset_info)
    variants = {"bce": BCE(method="bce")}
    config = stage_config(DETECTOR, prepared, dataset_info, recipe, variants, [], 3, 1)
    sampler = Runner.build_dataloader(config["train_dataloader"], seed=0).sampler
    assert type(sampler) is expected
    assert (sampler.batch, sampler.seed) == (4, 3)
    assert config["train_dataloader"]["sampler"]["pair_alike"] is grouped
    if name == "repeat_factor":
        pairs = Index(prepared.train.index).presence()
        factors = repeat_factors(len(sampler), *pairs, 0.5)
        assert np.array_equal(sampler.factors, factors) and factors.max() > 1
