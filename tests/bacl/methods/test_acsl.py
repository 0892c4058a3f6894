"""ACSL against a loop over its weights: confident categories on foreground, draws on background."""

import math

import pytest
import torch
from batches import COUNTS, IMAGES, C, batch_of, built, labelled, logits_of, loss_of, weights_of
from scalars import bce, sigmoid

SHARES = [0.2, 0.6, 1.0]
GROUPS = COUNTS["groups"]


def acsl(threshold=0.7, shares=SHARES):
    settings = {"threshold": threshold, "background_shares": shares, "counts": COUNTS}
    return built({"method": "acsl", **settings}).double()


def loop(logits, batch, threshold, shares):
    total = 0.0
    draws = batch.uniform(len(shares)).tolist()
    for row, label, drawn in zip(logits.tolist(), batch.labels.tolist(), draws):
        for j, z in enumerate(row):
            if j == label:
                weight = 1
            elif label < C:
                weight = 1 if sigmoid(z) >= threshold else 0
            else:
                weight = 1 if drawn[GROUPS[j]] < shares[GROUPS[j]] else 0
            total += weight * bce(z, j == label)
    return total


@pytest.mark.parametrize("shares", [SHARES, [0.01, 0.1, 1.0], [0.0, 0.0, 0.0]])
@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.7, 1.0])
def test_loss_equals_loop_over_the_equation(threshold, shares):
    batch, logits = labelled(IMAGES, C + 1)
    expected = loop(logits, batch, threshold, shares)
    loss = loss_of(acsl(threshold, shares), batch, logits).item()
    assert loss == pytest.approx(expected, rel=1e-12)


def test_foreground_discourages_the_confident_only_background_among_them():
    images = [[1, 1]]
    logits = torch.tensor([[3.0, -3.0, 0.5, 0.9, -2.0, -1.0, 2.0], [0.0] * C + [0.8]]).double()
    weights = weights_of(acsl(), batch_of(images), logits)
    expected = [[1, 1, 0, 1, 0, 0, 1], [0, 1, 0, 0, 0, 0, 0]]  # 0.7 is the sigmoid of 0.847
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.double))


def test_background_discourages_each_group_on_its_share_of_samples():
    images = [[C] * 500] * 8
    logits = logits_of(4000, C + 1)
    weights = weights_of(acsl(), batch_of(images), logits).round()
    assert set(weights.unique().tolist()) == {0.0, 1.0}
    assert weights[:, 4:].all()
    assert torch.equal(weights[:, 0], weights[:, 1])  # of one group, and drawn together
    rare, common = weights[:, 0], weights[:, 3]
    chances = {0.2: rare, 0.6: common, 0.2 * 0.6: rare * common}
    for chance, drawn in chances.items():
        error = math.sqrt(chance * (1 - chance) / len(weights))
        assert drawn.mean().item() == pytest.approx(chance, abs=4 * error)


def test_probabilities_are_sigmoids_and_the_backgrounds_is_one_of_them():
    logits = logits_of(5, C + 1)
    for row, scores in zip(logits.tolist(), acsl().probabilities(logits).tolist()):
        assert scores == pytest.approx([*map(sigmoid, row)], rel=1e-12)
