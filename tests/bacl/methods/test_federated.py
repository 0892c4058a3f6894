"""Federated loss against loops over its categories, and how often each category is drawn."""

from collections import Counter

import pytest
import torch
from batches import COUNTS, IMAGES, C, batch_of, built, labelled, loss_of, on_ranks, split
from scalars import bce

SETTINGS = {"method": "federated", "power": 0.5, "prior": 0.01, "counts": COUNTS}


def federated(trained=3, **changes):
    return built({**SETTINGS, "trained": trained, **changes}).double()


@pytest.mark.parametrize("trained", [1, 3, 5, 50])
def test_loss_is_that_of_the_kept_categories_of_each_image(trained):
    variant = federated(trained)
    batch, logits = labelled(IMAGES, C)
    kept = variant.kept(batch).tolist()
    expected = sum(
        bce(z, j == label)
        for row, label, image in zip(logits.tolist(), batch.labels.tolist(), batch.images.tolist())
        for j, z in enumerate(row)
        if kept[int(image)][j]
    )
    assert loss_of(variant, batch, logits).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("trained", [1, 3, 5, 50])
def test_image_keeps_its_own_categories_and_as_many_as_are_asked_for(trained):
    kept = federated(trained).kept(batch_of(IMAGES))
    for labels, mask in zip(IMAGES, kept.tolist()):
        own = {label for label in labels if label < C}
        chosen = {j for j, kept in enumerate(mask) if kept}
        assert own <= chosen and len(chosen) == max(len(own), min(trained, C))


def test_two_images_of_a_pair_are_filled_from_the_same_draw():
    images = [[C]] * 40
    kept = federated().kept(batch_of(images))
    assert torch.equal(kept[0::2], kept[1::2])
    assert len({tuple(row) for row in kept.tolist()}) > 1


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_categories_are_drawn_as_torchs_multinomial_draws_them(power):
    """Which two categories images without objects train, beside draws without replacement."""
    pairs = 6000
    kept = federated(2, power=power).kept(batch_of([[C]] * 2 * pairs))[::2]
    found = Counter(tuple(row.nonzero()[:, 0].tolist()) for row in kept)
    chances = torch.tensor(COUNTS["images"], dtype=torch.double) ** power
    draw = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(chances.expand(200_000, -1), 2, generator=draw).sort(dim=1).values
    expected = Counter(map(tuple, drawn.tolist()))
    for both, times in expected.items():
        share = times / 200_000
        spread = (share * (1 - share) / pairs) ** 0.5
        assert abs(found[both] / pairs - share) < 5 * spread + 1e-4, both


def test_same_is_drawn_of_an_image_whichever_rank_holds_it():
    images = [[C] * 3, [0, C], [C], [2, 5]]
    for ranks in (2, 4):  # four ranks hold an image each
        variant = federated()
        batch, logits = labelled(images, C, first=4)
        shares = on_ranks(images, first=4, ranks=ranks)
        kept = torch.cat([variant.kept(share) for share in shares])
        assert torch.equal(kept, variant.kept(batch))
        parts = [loss_of(variant, b, z) for b, z in zip(shares, split(logits, shares))]
        torch.testing.assert_close(sum(parts), loss_of(variant, batch, logits))


def test_category_without_images_is_never_drawn():
    counts = {**COUNTS, "images": [0, 5, 10, 0, 300, 900]}
    kept = federated(C, counts=counts).kept(batch_of([[C]] * 20 + [[3]] * 2))
    assert not kept[:, 0].any() and not kept[:20, 3].any() and kept[20:, 3].all()
    assert kept[:, [1, 2, 4, 5]].all()
