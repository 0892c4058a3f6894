"""SimCal against loops over images and samples, and where its copy starts from."""

import math

import pytest
import torch
from batches import COUNTS, C, D, batch_of, built, drawn_labels, logits_of, slopes
from scalars import softmax
from training import build, config_of, train

from bacl.detector.warmstart import load_trunk
from bacl.method_settings.paper import Softmax
from bacl.method_settings.resampling import SimCal
from bacl.settings import FROZEN_TRUNK

POOLED = 18
SETTINGS = {"method": "simcal", "threshold": 100, "pooled": POOLED, "counts": COUNTS}
COLUMNS = 2 * (C + 1)


def drawn(images, drawn_for):
    """A batch of images with the labels of the categories that they were drawn for."""
    batch = batch_of(images)
    object.__setattr__(batch, "drawn_for", drawn_for)
    return batch


def test_logits_are_those_of_the_first_classifier_and_of_the_second_box_head():
    variant = built(SETTINGS)
    pooled, h = torch.randn(5, POOLED), torch.randn(5, D)
    found = variant.logits(torch.cat([pooled, h], dim=1)).tolist()
    variant.requires_grad_(False)
    first, second = (fc.weight.double() for fc in variant.copy.shared_fcs)
    for row, x, own in zip(pooled.double(), h.double(), found, strict=True):
        for fc in (first, second):
            row = torch.tensor([max(0.0, sum(w * v for w, v in zip(ws, row))) for ws in fc])
        theirs = [sum(w * v for w, v in zip(ws, x)) for ws in variant.fc_cls.weight.double()]
        mine = [sum(w * v for w, v in zip(ws, row)) for ws in variant.copy.fc_cls.weight.double()]
        assert own == pytest.approx([float(z) for z in (*theirs, *mine)], rel=1e-4, abs=1e-6)


def test_samples_are_those_of_the_category_drawn_and_as_many_of_background():
    images = [[0, 1, C, C, 0, C], [2, C, C], [C, C], [3, 3, 3, C]]
    batch = drawn(images, [0, 5, 1, 3])
    sampled = built(SETTINGS).sampled(batch).tolist()
    first, second, third, fourth = (
        [label for label, kept in zip(batch.labels.tolist()[a:b], sampled[a:b]) if kept]
        for a, b in ((0, 6), (6, 9), (9, 11), (11, 15))
    )
    assert sorted(first) == [0, 0, C, C]
    assert second == [] and third == []
    assert sorted(fourth) == [3, 3, 3, C]  # there is no more


def test_every_background_sample_is_drawn_equally_often():
    times = [0] * 5
    variant = built(SETTINGS)
    for position in range(0, 2000, 2):
        batch = batch_of([[1, C, C, C, C, C]], first=position)
        object.__setattr__(batch, "drawn_for", [1])
        for place, kept in enumerate(variant.sampled(batch).tolist()[1:]):
            times[place] += kept
    assert sum(times) == 1000
    assert all(abs(count - 200) < 60 for count in times)


def loop(logits, labels, sampled):
    return sum(
        -math.log(softmax(row[C + 1 :])[label])
        for row, label, kept in zip(logits.tolist(), labels.tolist(), sampled.tolist())
        if kept
    )


@pytest.mark.parametrize("drawn_for", [[0, 1, 2, 3], [5, 5, 5, 5]])
def test_loss_is_the_cross_entropy_of_sampled_by_the_second_box_head(drawn_for):
    variant = built(SETTINGS)
    batch = drawn(drawn_labels(4, 12), drawn_for)
    logits = logits_of(len(batch.labels), COLUMNS)
    total, count = variant.terms(logits, batch)["cls"]
    sampled = variant.sampled(batch)
    assert count == sampled.sum() > 0
    assert total.item() == pytest.approx(loop(logits, batch.labels, sampled), rel=1e-5)


def test_gradient_equals_finite_differences():
    variant = built(SETTINGS)
    batch = drawn([[0, C, 3, C], [5, C]], [0, 5])
    logits = logits_of(6, COLUMNS).float().requires_grad_()
    (gradient,) = torch.autograd.grad(variant.terms(logits, batch)["cls"][0], logits)
    expected = slopes(lambda z: loop(z, batch.labels, variant.sampled(batch)), logits)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threshold", [1, 10, 100, 10**6])
def test_scores_are_the_second_ones_where_instances_are_few(threshold):
    logits = logits_of(4, COLUMNS)
    variant = built({**SETTINGS, "threshold": threshold})
    for row, scores in zip(logits.tolist(), variant.probabilities(logits).tolist()):
        first, second = softmax(row[: C + 1]), softmax(row[C + 1 :])
        few = [count < threshold for count in COUNTS["instances"]] + [False]
        expected = [b if rare else a for a, b, rare in zip(first, second, few)]
        assert scores == pytest.approx(expected, rel=1e-5)


def test_copy_starts_from_the_box_head_and_the_classifier_before(dataset_info, tmp_path):
    torch.manual_seed(3)
    before = build(config_of(dataset_info, {"sce": Softmax(method="softmax")}, freeze=()))
    for parameter in before.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.01)
    torch.save({"state_dict": before.state_dict(), "meta": {}}, tmp_path / "before.pth")
    config = config_of(dataset_info, {"mine": SimCal(method="simcal")}, sampler="class_aware")
    model = build(config)
    assert load_trunk(model, tmp_path / "before.pth") == []
    model.eval()
    pooled = torch.randn(3, 16, 7, 7)
    with torch.no_grad():
        logits, _ = model.roi_head.bbox_head(pooled)
    first, second = logits.chunk(2, dim=1)
    torch.testing.assert_close(first, second)
    mine = model.roi_head.bbox_head.variants.mine
    assert not mine.fc_cls.weight.requires_grad and mine.copy.fc_cls.weight.requires_grad


CALIBRATION = (*FROZEN_TRUNK, "rpn_head", "roi_head.bbox_head*.fc_reg")
"""What `experiments/*/table13.yaml` freeze while SimCal trains."""


def test_whole_copy_trains_while_the_trunk_is_frozen(dataset_info):
    variants = {"mine": SimCal(method="simcal")}
    config = config_of(dataset_info, variants, freeze=CALIBRATION, sampler="class_aware")
    model = build(config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(config, model, 2)
    moved = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    layers = ("shared_fcs.0", "shared_fcs.1", "fc_cls")
    assert moved == {
        f"roi_head.bbox_head.variants.mine.copy.{layer}.{kind}"
        for layer in layers
        for kind in ("weight", "bias")
    }


def test_copy_is_frozen_where_a_pattern_names_it(dataset_info):
    variants = {"mine": SimCal(method="simcal")}
    freeze = (*FROZEN_TRUNK, "roi_head.bbox_head.variants.*.shared_fcs")
    model = build(config_of(dataset_info, variants, freeze=freeze, sampler="class_aware"))
    own = model.roi_head.bbox_head.variants.mine.copy
    assert not any(parameter.requires_grad for parameter in own.shared_fcs.parameters())
    assert own.fc_cls.weight.requires_grad
