"""ROG's ranking loss against loops over an image's logits, one positive at a time."""

from dataclasses import replace

import pytest
import torch
from batches import (
    IMAGES,
    C,
    batch_of,
    built,
    drawn_labels,
    labelled,
    logits_of,
    on_ranks,
    split,
    step,
)
from scalars import bce

SETTINGS = {"method": "rog", "weight": 0.1, "gamma": 1.0, "slack": 0.5}
SEEN = [0.0, 3.0, 10.0, 90.0, 2.0, 500.0]


def rog(seen=SEEN, **changes):
    variant = built({**SETTINGS, **changes}).double()
    variant.seen.copy_(torch.tensor(seen))
    return variant


def above(other, own, slack):
    return min(max((other - own) / (2 * slack) + 0.5, 0.0), 1.0)


def loop(logits, images, settings, seen=SEEN, stands_for=None):
    """Ranking error, number of categories of images, and the update of each logit."""
    inverse = [(1 / max(n, 1)) ** settings["gamma"] for n in seen]
    weights = [len(inverse) * w / sum(inverse) for w in inverse]
    update = torch.zeros_like(logits)
    error, found, first = 0.0, 0, 0
    for labels in images:
        rows = range(first, first + len(labels))
        first += len(labels)
        positives = {(row, label) for row, label in zip(rows, labels) if label < C}
        negatives = [(r, j) for r in rows for j in range(C) if (r, j) not in positives]
        for category in {label for _, label in positives}:
            found += 1
            own = [place for place in positives if place[1] == category]
            for place in own:
                z = logits[place].item()
                slack = settings["slack"]
                before = sum(above(logits[p].item(), z, slack) for p in own)
                wrong = {n: above(logits[n].item(), z, slack) for n in negatives}
                if stands_for is not None:
                    wrong = {(r, j): value * stands_for[r] for (r, j), value in wrong.items()}
                rank = before + sum(wrong.values())
                share = settings["weight"] * weights[category] / len(own)
                error += sum(wrong.values()) / rank / len(own)
                update[place] -= share * sum(wrong.values()) / rank
                for n, value in wrong.items():
                    update[n] += share * value / rank
    return error, found, update


def ranked(variant, batch, logits):
    """Value, count and gradient of the ranking loss."""
    logits = logits.detach().requires_grad_()
    value, count = variant.terms(logits, batch)["rank"]
    (gradient,) = torch.autograd.grad(value, logits)
    return value.item(), int(count), gradient


@pytest.mark.parametrize(
    "changes", [{}, {"weight": 2.0, "gamma": 0.0}, {"gamma": 0.5, "slack": 0.05}, {"slack": 3.0}]
)
def test_errors_and_updates_equal_loops_over_the_logits(changes):
    settings = {**SETTINGS, **changes}
    for images in (IMAGES, drawn_labels(2, 40), [[C, C], []], [[1], [C]]):
        batch, logits = labelled(images, C + 1)
        value, count, gradient = ranked(rog(**changes), batch, logits)
        error, found, update = loop(logits[:, :C], images, settings)
        assert value == pytest.approx(error, rel=1e-9) and count == found
        torch.testing.assert_close(gradient[:, :C], update, rtol=1e-9, atol=1e-12)
        assert not gradient[:, C].any()


def test_sample_that_stands_for_several_counts_as_often():
    images = [[0, C, C, 3], [C, 1]]
    batch, logits = labelled(images, C + 1)
    weights = [1.0, 4.0, 0.0, 1.0, 2.5, 1.0]
    batch = replace(batch, weights=torch.tensor(weights))
    value, count, gradient = ranked(rog(), batch, logits)
    error, found, update = loop(logits[:, :C], images, SETTINGS, stands_for=weights)
    assert value == pytest.approx(error, rel=1e-6) and count == found
    torch.testing.assert_close(gradient[:, :C], update, rtol=1e-6, atol=1e-9)


def test_updates_move_positives_up_and_negatives_down_by_as_much():
    batch, logits = labelled(drawn_labels(4, 30), C + 1)
    _, _, gradient = ranked(rog(), batch, logits)
    assert gradient.sum().item() == pytest.approx(0, abs=1e-12)
    ordered = torch.full((4, C + 1), -5.0, dtype=torch.double)
    labels = [[0, 1], [2, C]]
    ordered[[0, 1, 2], [0, 1, 2]] = 5.0
    value, count, gradient = ranked(rog(), batch_of(labels), ordered)
    assert (value, count) == (0.0, 3) and not gradient.any()


def test_images_are_ranked_by_themselves_whichever_rank_holds_them():
    batch, logits = labelled(IMAGES, C + 1)
    value, count, gradient = ranked(rog(), batch, logits)
    shares = on_ranks(IMAGES)
    parts = [ranked(rog(), b, z) for b, z in zip(shares, split(logits, shares))]
    assert value == pytest.approx(sum(part[0] for part in parts))
    assert count == sum(part[1] for part in parts)
    torch.testing.assert_close(gradient, torch.cat([part[2] for part in parts]))


def test_classification_loss_is_binary_cross_entropy_with_objectness():
    batch, logits = labelled(IMAGES, C + 1)
    total, count = rog().terms(logits, batch)["cls"]
    expected = sum(
        bce(z, j == label)
        for row, label in zip(logits.tolist(), batch.labels.tolist())
        for j, z in enumerate(row)
    )
    assert total.item() == pytest.approx(expected, rel=1e-5) and count == len(logits)


def test_samples_of_all_ranks_are_counted_after_the_step():
    variant = rog(seen=[0.0] * C)
    step(variant, on_ranks(IMAGES), logits_of(15, C + 1))
    step(variant, on_ranks(IMAGES, first=4), logits_of(15, C + 1))
    labels = [label for image in IMAGES for label in image]
    assert variant.seen.tolist() == [2 * labels.count(j) for j in range(C)]
