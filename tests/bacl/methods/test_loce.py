"""LOCE and RIO, and the memory that both have, against loops over what a step shows them."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from bacl.draws import generator
from bacl.methods.memory import Memory
from bacl.variants import Batch, build_variant

C, D = 4, 6
LOCE = {
    "method": "loce",
    "momentum": 0.9,
    "drawn": 3,
    "samples": 2,
    "slots": 3,
    "batch": 4,
}
RIO = {
    "method": "rio",
    "most_images": 30,
    "slots": 5,
    "samples": 2,
    "scale": 48.0,
    "batch": 4,
    "counts": {
        "images": [5, 30, 31, 900],
        "instances": [9] * 4,
        "groups": [0, 1, 1, 2],
        "total": 1000,
    },
}


def batch_of(labels, first=0, seed=0):
    """A batch of images, given the labels of each image's samples."""
    flat = torch.tensor([label for image in labels for label in image])
    positions = list(range(first, first + len(labels)))
    images = torch.tensor([number for number, image in enumerate(labels) for _ in image])
    features = torch.cat(
        [
            torch.randn(len(image), D, generator=torch.Generator().manual_seed(seed + position))
            for position, image in zip(positions, labels)
        ]
    )
    return Batch(features, flat, images.float(), positions, positions, partial(generator, "cpu"))


def built(settings):
    return build_variant(settings, D, C, torch.Generator().manual_seed(0))


def test_memory_holds_the_last_features_of_each_category_whichever_rank_had_them():
    steps = [[[0, 0, 1], [C, 0], [2], [1, C]], [[0, 1], [0, 0], [3, 3, 3], [C]]]
    one, two = (Memory(C, D, slots=3, images=4, rows=2) for _ in range(2))
    seen = {label: [] for label in range(C)}
    for number, labels in enumerate(steps):
        whole = batch_of(labels, 4 * number)
        halves = [batch_of(labels[:2], 4 * number), batch_of(labels[2:], 4 * number + 2)]
        packed = one.increment(whole, whole.labels < C)
        of_ranks = [two.increment(half, half.labels < C) for half in halves]
        torch.testing.assert_close(packed, sum(of_ranks))
        for row in packed:  # at most two of an image, which `rank` draws
            if row[-1]:
                seen[int(row[-1]) - 1].append(row[:-1])
        one.add(packed)
        two.add(sum(of_ranks))
    assert sum(map(len, seen.values())) == 2 + 1 + 1 + 1 + 2 + 2 + 2
    for label, features in seen.items():
        held = {tuple(feature.tolist()) for feature in one.features[label] if feature.any()}
        assert held == {tuple(feature.tolist()) for feature in features[-3:]}
        assert int(one.held()[label]) == min(3, len(features))
        newest = torch.stack(features[-2:])
        found, labels = one.newest([label], one.pushed.tolist(), 2)
        torch.testing.assert_close(found, newest)
        assert labels.tolist() == [label] * len(newest)
    torch.testing.assert_close(one.features, two.features)


def test_memory_of_fewer_slots_than_a_step_brings_keeps_the_last():
    memory = Memory(C, D, slots=2, images=2, rows=4)
    batch = batch_of([[1, 1, 1], [1, 1]])
    packed = memory.increment(batch, batch.labels < C)
    memory.add(packed)
    pushed = [row[:-1] for row in packed if row[-1]]
    newest, _ = memory.newest([1], memory.pushed.tolist(), 9)
    torch.testing.assert_close(newest, torch.stack(pushed[-2:]))


def test_memory_with_more_room_than_there_are_samples_takes_none_but_the_wanted():
    memory = Memory(C, D, slots=9, images=2, rows=9)
    batch = batch_of([[1, C, 3], [C]])
    memory.add(memory.increment(batch, batch.labels == 3))
    assert memory.held().tolist() == [0, 0, 0, 1]


def test_memory_keeps_labels_apart_that_half_precision_cannot():
    memory = Memory(1203, D, slots=2, images=2, rows=4)
    batch = batch_of([[1001, 1002]])
    halved = replace(batch, features=batch.features.bfloat16())
    memory.add(memory.increment(halved, halved.labels < 1203))
    assert memory.held().nonzero()[:, 0].tolist() == [1001, 1002]


def test_draw_from_memory_says_of_which_categories_there_is_none():
    memory = Memory(C, D, slots=3, images=2, rows=4)
    batch = batch_of([[1, 1], [2]])
    memory.add(memory.increment(batch, batch.labels < C))
    features, there = memory.draw(torch.tensor([0, 1, 1, 2]), torch.Generator().manual_seed(0))
    assert there.tolist() == [False, True, True, True]
    held = {tuple(row.tolist()) for row in memory.features[1, :2]}
    assert {tuple(row.tolist()) for row in features[1:3]} <= held


def test_equilibrium_loss_weights_every_exponential_by_its_score():
    variant, batch = built(LOCE), batch_of([[0, C], [3]])
    variant.score.copy_(torch.tensor([0.4, 0.2, 0.5, 0.05, 0.01]))
    logits = variant.logits(batch.features)
    total, count = variant.terms(logits, batch)["cls"]
    expected = 0.0
    for row, label in zip(logits.double().tolist(), batch.labels.tolist()):
        weighted = [s * math.exp(z) for s, z in zip(variant.score.tolist(), row)]
        expected -= math.log(weighted[label] / sum(weighted))
    assert count == 3  # nothing is in memory yet, so nothing is replayed
    assert total.item() == pytest.approx(expected, rel=1e-5)


def test_replayed_features_count_as_samples_do():
    variant = built(LOCE)
    first = batch_of([[0, 1], [2, 3]])
    variant.update(variant.logits(first.features), first)
    batch = batch_of([[1], [C]], first=2)
    features, labels, held = variant.replay(batch)
    assert len(labels) == LOCE["drawn"] * LOCE["samples"] and held.all()
    logits = torch.cat([variant.logits(batch.features), variant.logits(features)])
    losses = torch.nn.functional.cross_entropy(
        logits + variant.score.log(), torch.cat([batch.labels, labels]), reduction="none"
    )
    total, count = variant.terms(variant.logits(batch.features), batch)["cls"]
    assert count == 2 + 6
    torch.testing.assert_close(total, losses.sum())


def test_scores_move_once_for_each_image_and_replay_that_shows_a_category():
    variant = built(LOCE)
    expected = [0.01] * C
    steps = [[[0, 0, 1], [C, 0]], [[2, 2], [0]]]
    for number, labels in enumerate(steps):
        batch = batch_of(labels, 2 * number)
        logits = variant.logits(batch.features)
        chances = logits.softmax(dim=1).tolist()
        entries = {label: [] for label in range(C)}
        rows = iter(chances)
        for image in labels:
            found = {}
            for label in image:
                found.setdefault(label, []).append(next(rows)[label])
            for label, values in found.items():
                if label < C:
                    entries[label].append(sum(values) / len(values))
        features, again, held = variant.replay(batch)
        scores = variant.logits(features).softmax(dim=1)
        for at in range(0, len(again), LOCE["samples"]):
            label = int(again[at])
            if held[at]:
                values = scores[at : at + LOCE["samples"], label]
                entries[label].append(values.mean().item())
        variant.update(logits, batch)
        for label, values in entries.items():
            old = 0.9 ** len(values)
            if values:
                expected[label] = old * expected[label] + (1 - old) * sum(values) / len(values)
    assert variant.score[:C].tolist() == pytest.approx(expected, rel=1e-5)
    assert variant.score[C].item() == pytest.approx(0.01)


def test_rare_categories_are_replayed_where_an_image_shows_them():
    variant = built(RIO)
    first = batch_of([[0, 0, 0], [1, 2, 3]])
    variant.update(variant.logits(first.features), first)
    assert variant.memory.held().tolist() == [2, 1, 0, 0]  # two samples of an image at most
    batch = batch_of([[0, 0, 2], [1, C]], first=2)
    features, labels = variant.replay(batch)
    assert labels.tolist() == [0, 0, 1]
    newest, _ = variant.memory.newest([0, 1], variant.memory.pushed.tolist(), 2)
    torch.testing.assert_close(features, newest)
    logits = torch.cat([variant.logits(batch.features), variant.logits(features)])
    total, count = variant.terms(variant.logits(batch.features), batch)["cls"]
    everything = torch.cat([batch.labels, labels])
    expected = torch.nn.functional.cross_entropy(logits, everything, reduction="sum")
    assert count == 5 + 3
    torch.testing.assert_close(total, expected)


def test_magnitude_classifier_scales_cosines_by_a_magnitude_of_each_column():
    variant = built(RIO)
    with torch.no_grad():
        variant.fc_cls.magnitude.copy_(torch.arange(1.0, C + 2))
    features = torch.randn(3, D, dtype=torch.double)
    logits = variant.double().logits(features)
    for row, feature in zip(logits, features):
        for column, weight in enumerate(variant.fc_cls.weight):
            cosine = feature @ weight / (feature.norm() * weight.norm())
            assert row[column].item() == pytest.approx(48 * (column + 1) * cosine.item())
