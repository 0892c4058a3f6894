"""FASA against loops over samples, categories, ranks and epochs."""

import math
import statistics

import pytest
import torch
from batches import COUNTS, C, D, batch_of, built, drawn_labels, on_ranks, slopes, step
from scalars import cross_entropy
from sklearn.cluster import AffinityPropagation

SETTINGS = {
    "method": "fasa",
    "rate": 0.1,
    "weight": 0.1,
    "up": 1.1,
    "down": 0.9,
    "held_out": 0.4,
    "epoch": 8,
    "counts": COUNTS,
}
SPARE = [1, 2, 3, 4, 5]
"""Categories that at least three images show: all but category 0."""


def later(**settings):
    """A variant in its second epoch, that has seen all categories but 4."""
    variant = built({**SETTINGS, **settings})
    variant.epoch.fill_(1)
    draw = torch.Generator().manual_seed(6)
    variant.statistics.prototype.copy_(torch.randn(C, D, generator=draw))
    variant.statistics.variance.copy_(torch.rand(C, D, generator=draw))
    variant.statistics.seen.fill_(True)
    variant.statistics.seen[4] = False
    variant.chance.copy_(torch.tensor([0.0, 0.9, 0.5, 1.0, 0.7, 0.1]))
    return variant


def begun(variant, batch):
    """The variant, after it has been shown that its epoch is still the same."""
    variant.terms(variant.logits(batch.features), batch)
    return variant


def left_out(variant, batch):
    """Samples that the loss of real features does not depend on."""
    logits = variant.logits(batch.features).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(variant.terms(logits, batch)["cls"][0], logits)
    return (gradient.abs().sum(dim=1) == 0).tolist()


def test_chances_begin_with_inverse_counts():
    inverse = [1 / count for count in COUNTS["instances"]]
    expected = [value / sum(inverse) for value in inverse]
    assert built(SETTINGS).chance.tolist() == pytest.approx(expected)


def test_category_without_instances_has_the_chance_of_one_with_one():
    counts = {**COUNTS, "instances": [0, 1, 10, 99, 400, 2000]}
    chance = built({**SETTINGS, "counts": counts}).chance
    assert chance[0] == chance[1] and chance.isfinite().all()


def test_held_out_are_images_by_their_number_and_samples_of_categories_with_others():
    variant, images = built(SETTINGS), [[*range(C), C]] * 400
    out = torch.tensor(left_out(variant, batch_of(images))).view(400, C + 1)
    held = out[:, SPARE].all(dim=1)
    assert torch.equal(out[:, SPARE].any(dim=1), held)
    assert not out[:, [0, C]].any()
    assert abs(held.sum().item() - 160) < 33  # 3.3 standard deviations
    again = left_out(variant, batch_of(images[:8], first=16, ids=[0, 3, 1, 399, 5, 8, 7, 2]))
    assert again == out[[0, 3, 1, 399, 5, 8, 7, 2]].flatten().tolist()


@pytest.mark.parametrize("images", [drawn_labels(4, 20), [[C]] * 4, [[1], [2], [3], [4]]])
def test_loss_is_the_cross_entropy_over_what_is_not_held_out(images):
    variant, batch = built(SETTINGS), batch_of(images)
    out = left_out(variant, batch)
    logits = torch.randn(len(out), C + 1, generator=torch.Generator().manual_seed(1)) * 2
    terms = variant.terms(logits, batch)
    rows = zip(logits.tolist(), batch.labels.tolist(), out)
    expected = [cross_entropy(row, label) for row, label, held in rows if not held]
    assert terms["cls"][0].item() == pytest.approx(sum(expected), rel=1e-5)
    assert terms["cls"][1] == len(expected)
    assert terms["made"][0] == 0 and terms["made"][1] == 0  # it is the first epoch


def test_made_features_cost_their_weight_where_their_category_has_been_seen():
    variant, batch = later(weight=0.3), batch_of(drawn_labels(8, 5), first=8)
    logits = variant.logits(batch.features)
    total, count = variant.terms(logits, batch)["made"]
    made, labels, _ = variant.make(batch)
    rows = variant.logits(made).tolist()
    expected = [
        cross_entropy(row, label) for row, label in zip(rows, labels.tolist()) if label != 4
    ]
    assert 4 in labels and count == len(expected) > 4
    assert total.item() == pytest.approx(0.3 * sum(expected), rel=1e-5)


@pytest.mark.parametrize("part", ["cls", "made"])
def test_gradient_of_each_part_equals_finite_differences(part):
    variant, batch = later(), batch_of([[0, 3, C], [5, C, 1]], first=8)
    out = left_out(variant, batch)
    if part == "cls":
        features, labels, scale = batch.features, batch.labels, 1.0
    else:
        features, labels, seen = variant.make(batch)
        out, scale = (~seen).tolist(), 0.1

    def loop(weight):
        rows = (features.double() @ weight.T + variant.fc_cls.bias.double()).tolist()
        kept = zip(rows, labels.tolist(), out)
        return scale * sum(cross_entropy(row, label) for row, label, held in kept if not held)

    total, _ = variant.terms(variant.logits(batch.features), batch)[part]
    (gradient,) = torch.autograd.grad(total, variant.fc_cls.weight)
    expected = slopes(loop, variant.fc_cls.weight)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-5)


def test_nothing_is_made_in_the_first_epoch():
    variant = later()
    variant.epoch.zero_()
    batch = batch_of(drawn_labels(8, 5))
    made, labels, seen = begun(variant, batch).make(batch)
    assert len(made) == len(labels) == len(seen) == 0


def test_each_category_is_drawn_by_its_own_chance_in_each_image_pair():
    batch = batch_of([[C]] * 1000, first=1000)
    variant = begun(later(epoch=1000), batch)
    _, labels, seen = variant.make(batch)
    drawn = labels.bincount(minlength=C).tolist()
    for chance, times in zip([0.0, 0.9, 0.5, 1.0, 0.7, 0.1], drawn):
        assert abs(times - 500 * chance) <= 3.5 * math.sqrt(500 * chance * (1 - chance))
    assert torch.equal(seen, labels != 4)


def test_made_features_have_the_mean_and_variance_of_their_category():
    batch = batch_of([[C]] * 4000, first=4000)
    variant = begun(later(epoch=4000), batch)
    made, labels, _ = variant.make(batch)
    mine = made[labels == 3]  # 2000 of them
    mean, variance = variant.statistics.prototype[3], variant.statistics.variance[3]
    torch.testing.assert_close(mine.mean(dim=0), mean, rtol=0, atol=0.09)
    torch.testing.assert_close(mine.var(dim=0), variance, rtol=0.12, atol=0.0)


def test_what_is_made_and_held_out_does_not_depend_on_the_rank_that_holds_an_image():
    variant, images = later(), drawn_labels(8, 6)
    whole, shares = batch_of(images, first=8), on_ranks(images, first=8, ranks=4)
    begun(variant, whole)
    for made, of_ranks in zip(variant.make(whole), zip(*map(variant.make, shares))):
        assert torch.equal(made, torch.cat(of_ranks))
    parts = [variant.terms(variant.logits(share.features), share) for share in shares]
    for name, (total, count) in variant.terms(variant.logits(whole.features), whole).items():
        torch.testing.assert_close(total, sum(part[name][0] for part in parts))
        assert count == sum(part[name][1] for part in parts)


def mean(values):
    return sum(values) / len(values)


def unbiased(values):
    return statistics.variance(values) if len(values) > 1 else 0.0


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_moments_and_losses_follow_the_samples_of_all_ranks(ranks):
    variant = built(SETTINGS)
    moments, losses = {}, [[0.0, 0] for _ in range(C)]
    for number in range(3):
        images = drawn_labels(4, 12, seed=number)
        whole = batch_of(images, 4 * number)
        out = variant.held(whole).tolist()
        rows = variant.logits(whole.features).tolist()
        for i in range(C):
            own = [at for at, label in enumerate(whole.labels.tolist()) if label == i]
            for at in own:
                if out[at]:
                    losses[i][0] += cross_entropy(rows[at], i)
                    losses[i][1] += 1
            shown = [whole.features[at].tolist() for at in own if not out[at]]
            if shown:
                new = [(mean(column), unbiased(column)) for column in zip(*shown)]
                moments[i] = [
                    (0.9 * m + 0.1 * a, 0.9 * v + 0.1 * b)
                    for (m, v), (a, b) in zip(moments.get(i, new), new)
                ]
        step(variant, on_ranks(images, 4 * number, ranks=ranks))
    assert variant.statistics.seen.tolist() == [i in moments for i in range(C)]
    for i, expected in moments.items():
        means, variances = map(list, zip(*expected))
        assert variant.statistics.prototype[i].tolist() == pytest.approx(means, rel=1e-4, abs=1e-5)
        assert variant.statistics.variance[i].tolist() == pytest.approx(
            variances, rel=1e-3, abs=1e-5
        )
    assert sum(count for _, count in losses) > 5
    for found, expected in zip(variant.losses[0].tolist(), losses):
        assert found == pytest.approx(expected, rel=1e-4)


def judged(variant, losses):
    """Give a variant the held-out losses of an epoch, and end it."""
    variant.losses[0] = torch.tensor(losses)
    variant.adapt()
    return variant.chance.tolist()


def test_chances_of_a_group_fall_where_its_losses_rise(monkeypatch):
    variant = later()
    groups = [0, 0, 2, 2, 3, 3]
    monkeypatch.setattr(variant, "groups", lambda: torch.tensor(groups))
    epochs = [
        [[2.0, 2], [1.0, 1], [4.0, 5], [0.0, 0], [0.0, 0], [0.0, 0]],
        [[9.0, 3], [1.0, 1], [3.0, 4], [0.5, 2], [0.0, 0], [0.0, 0]],
        [[2.0, 3], [1.0, 4], [8.0, 4], [0.5, 2], [0.5, 1], [0.0, 0]],
    ]
    chances = variant.chance.tolist()
    for number, now in enumerate(epochs):
        if number:
            before = epochs[number - 1]
            of_now, of_before = (sum(count for _, count in epoch) for epoch in (now, before))
            for group in set(groups):
                members = [i for i in range(C) if groups[i] == group]
                rise = sum(now[i][0] / of_now - before[i][0] / of_before for i in members)
                factor = 0.9 if rise > 0 else 1.1 if rise < 0 else 1.0
                for i in members:
                    chances[i] = min(max(chances[i] * factor, 0), 1)
        assert judged(variant, now) == pytest.approx(chances, rel=1e-5)
        assert variant.losses[1].tolist() == now and not variant.losses[0].any()


def test_chances_never_exceed_one(monkeypatch):
    variant = later(up=100.0)
    monkeypatch.setattr(variant, "groups", lambda: torch.tensor([2] * C))
    judged(variant, [[9.0, 3]] * C)
    assert judged(variant, [[1.0, 3]] * C) == [0, 1, 1, 1, 1, 1]


def test_chances_stay_where_an_epoch_has_not_been_judged():
    variant = later()
    before = variant.chance.tolist()
    for losses in ([[9.0, 3]] * C, [[0.0, 0]] * C, [[1.0, 3]] * C):
        assert judged(variant, losses) == before


def test_groups_are_clusters_of_squared_distances_and_one_of_what_is_unseen():
    variant = later()
    seen = [0, 1, 2, 3, 5]
    means = variant.statistics.prototype.double().tolist()
    distances = [[math.dist(means[i], means[j]) ** 2 for j in seen] for i in seen]
    clusters = AffinityPropagation(affinity="precomputed", random_state=0).fit(distances).labels_
    found = variant.groups().tolist()
    assert all(found[4] != found[i] for i in seen)
    for a, i in enumerate(seen):
        for b, j in enumerate(seen):
            assert (found[i] == found[j]) == (clusters[a] == clusters[b])


def test_groups_without_any_category_seen_are_one():
    assert len(set(built(SETTINGS).groups().tolist())) == 1


def test_epochs_end_once_and_at_their_images(monkeypatch):
    variant, ended = built(SETTINGS), []
    monkeypatch.setattr(variant, "adapt", lambda: ended.append(int(variant.epoch)))
    for first in range(0, 28, 4):
        begun(variant, batch_of([[0, C]] * 4, first))
    assert ended == [1, 2, 3]  # before positions 8, 16 and 24
