"""BAGS against loops over samples, groups and their columns, in float64."""

import math

import pytest
import torch
from batches import COUNTS, C, batch_of, built, drawn_labels, on_ranks, slopes

from bacl.methods.bags import groups_of

SETTINGS = {"method": "bags", "bounds": [10, 100], "others": 2, "counts": COUNTS}
GROUPS = [[0, 1], [2, 3], [4, 5]]  # of 3 and 9, 10 and 99, 400 and 2000 instances
K = C + len(GROUPS) + 2
BACKGROUND, FOREGROUND = K - 2, K - 1
RARE = [[0, C, C, C, C, 5, 4, 3], [C, 2, 2, 1, C, C, C, C, C], [C, C, 4, 4], [0, 1, 0]]


def logits_for(batch, scale=2.0):
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(len(batch.labels), K, generator=draw) * scale
    return logits.requires_grad_()


def kept_rows(variant, logits, batch, part):
    """Samples that a part of the loss depends on."""
    total, _ = variant.terms(logits, batch)[part]
    (gradient,) = torch.autograd.grad(total, logits)
    return gradient.abs().sum(dim=1) > 0


def cross_entropy(row, columns, target):
    return math.log(sum(math.exp(row[column]) for column in columns)) - row[target]


def loop(logits, labels, kept):
    """Sums of each group's losses over kept samples, and of foreground against background."""
    parts = {}
    for number, members in enumerate(GROUPS):
        others = C + number
        parts[f"group{number}"] = sum(
            cross_entropy(row, [*members, others], label if label in members else others)
            for row, label, counts in zip(logits.tolist(), labels.tolist(), kept[number])
            if counts
        )
    parts["foreground"] = sum(
        cross_entropy(row, [BACKGROUND, FOREGROUND], BACKGROUND if label == C else FOREGROUND)
        for row, label in zip(logits.tolist(), labels.tolist())
    )
    return parts


def test_groups_are_bounded_by_instances():
    assert groups_of(COUNTS["instances"], [10, 100]) == GROUPS
    assert groups_of([1000, 9, 999], [10, 100, 1000]) == [[1], [], [2], [0]]


@pytest.mark.parametrize("images", [RARE, drawn_labels(4, 30), [[C, C], [C]], [[0], [5, 2]]])
def test_each_group_and_foreground_have_cross_entropies_of_their_own(images):
    variant, batch = built(SETTINGS), batch_of(images)
    logits = logits_for(batch)
    kept = [kept_rows(variant, logits, batch, f"group{number}") for number in range(3)]
    expected = loop(logits, batch.labels, kept)
    terms = variant.terms(logits, batch)
    assert terms.keys() == expected.keys()
    for part, (total, count) in terms.items():
        assert total.item() == pytest.approx(expected[part], rel=1e-5), part
        samples = len(batch.labels) if part == "foreground" else sum(kept[int(part[-1])])
        assert count == samples, part


def test_gradient_equals_finite_differences():
    variant, batch = built(SETTINGS), batch_of([[0, C, 3], [C, 5]])
    logits = logits_for(batch)
    kept = [kept_rows(variant, logits, batch, f"group{number}") for number in range(3)]
    total = sum(total for total, _ in variant.terms(logits, batch).values())
    (gradient,) = torch.autograd.grad(total, logits)
    expected = slopes(lambda z: sum(loop(z, batch.labels, kept).values()), logits)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("others", [1, 2, 8])
def test_others_are_so_many_times_an_images_own_or_all_there_are(others):
    variant, batch = built({**SETTINGS, "others": others}), batch_of(RARE)
    logits = logits_for(batch)
    for number, members in enumerate(GROUPS):
        kept = iter(kept_rows(variant, logits, batch, f"group{number}").tolist())
        for labels in RARE:
            of_image = [(label in members, next(kept)) for label in labels]
            own = sum(mine for mine, _ in of_image)
            drawn = sum(counts for mine, counts in of_image if not mine)
            assert all(counts for mine, counts in of_image if mine)
            assert drawn == min(others * own, len(labels) - own)


def test_draws_do_not_depend_on_the_rank_that_holds_an_image():
    variant, images = built(SETTINGS), drawn_labels(4, 40)
    shares = on_ranks(images, first=8)
    whole = batch_of(images, first=8)
    logits = logits_for(whole)
    parts = logits.detach().split([len(share.labels) for share in shares])
    of_ranks = [variant.terms(part, share) for part, share in zip(parts, shares)]
    for part, (total, count) in variant.terms(logits, whole).items():
        torch.testing.assert_close(total, sum(terms[part][0] for terms in of_ranks))
        assert count == sum(terms[part][1] for terms in of_ranks)


def test_others_are_drawn_evenly_and_anew_for_each_image():
    variant = built(SETTINGS)
    images = [[0] + [C] * 10] * 500  # two others of ten each
    batch = batch_of(images)
    kept = kept_rows(variant, logits_for(batch), batch, "group0").view(500, 11)
    observed = kept[:, 1:].sum(dim=0)
    statistic = ((observed - 100.0) ** 2 / 80).sum() * 0.9  # 9 degrees of freedom: two each
    assert observed.sum() == 1000 and statistic < 27.9  # p = 0.001


def test_score_is_the_groups_softmax_times_foreground():
    variant = built(SETTINGS)
    logits = torch.randn(5, K, generator=torch.Generator().manual_seed(2)) * 3
    scores = variant.probabilities(logits)
    assert scores.shape == (5, C + 1) and variant.columns == K
    for row, found in zip(logits.tolist(), scores.tolist()):
        there = math.exp(-cross_entropy(row, [BACKGROUND, FOREGROUND], FOREGROUND))
        assert found[C] == pytest.approx(1 - there, rel=1e-4)
        for number, members in enumerate(GROUPS):
            for label in members:
                share = math.exp(-cross_entropy(row, [*members, C + number], label))
                assert found[label] == pytest.approx(share * there, rel=1e-4)
