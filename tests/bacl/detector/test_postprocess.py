"""The best detections from the top, against MMDetection's function and a loop over the definition.

N regions, C categories.
"""

import math
from itertools import pairwise
from unittest.mock import patch

import pytest
import torch
from mmdet.models.layers import multiclass_nms
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmengine.config import ConfigDict
from torch import Tensor

from bacl.detector import postprocess
from bacl.detector.postprocess import detect, ranked_detections, top_detections
from bacl.detector.stock import TopKBBoxHead

NMS = {"type": "nms", "iou_threshold": 0.5}


def theirs(boxes: Tensor, probabilities: Tensor, threshold: float, most: int) -> list[Tensor]:
    """What `multiclass_nms` keeps of everything, equal scores by region and category, cut."""
    rows, labels, candidates = multiclass_nms(
        boxes, probabilities, threshold, NMS, return_inds=True
    )
    order = sorted(range(len(rows)), key=lambda i: (-rows[i, 4].item(), candidates[i].item()))
    order = torch.tensor(order[:most], dtype=torch.long)
    return [rows[order, :4], rows[order, 4], labels[order]]


def by_loop(boxes: Tensor, probabilities: Tensor, threshold: float, most: int) -> list[tuple]:
    """(score, region, label) of each detection: the definition, without moved boxes."""
    rows, scores = boxes.double().tolist(), probabilities.tolist()
    categories = len(scores[0]) - 1

    def box(region: int, label: int) -> list[float]:
        at = 4 * label if len(rows[region]) > 4 else 0
        return rows[region][at : at + 4]

    def overlap(a: list[float], b: list[float]) -> float:
        width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
        height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
        return width * height / union if union else 0.0

    candidates = [
        (scores[region][label], region, label)
        for region in range(len(rows))
        for label in range(categories)
        if scores[region][label] > threshold
    ]
    kept: list[tuple] = []
    for score, region, label in sorted(candidates, key=lambda one: -one[0]):  # stable
        own = box(region, label)
        if all(
            other != label or overlap(box(winner, other), own) <= 0.5 for _, winner, other in kept
        ):
            kept.append((score, region, label))
    return kept[:most]


def scene(regions: int, categories: int, each: int, seed: int) -> tuple[Tensor, Tensor]:
    """Clusters of boxes (N, each * 4) in 1333 x 800 pixels, and scores that are often small."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.rand(1 + regions // 8, 2, generator=draw) * torch.tensor([1333.0, 800.0])
    centres = centres[torch.randint(len(centres), (regions,), generator=draw)]
    centres = centres[:, None] + 8 * torch.randn(regions, each, 2, generator=draw)
    sides = 40 + 60 * torch.rand(regions, each, 2, generator=draw)
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=2).clamp_min(0)
    boxes = boxes.minimum(torch.tensor([1333.0, 800.0, 1333.0, 800.0]))
    logits = 2 * torch.randn(regions, categories + 1, generator=draw) - 5
    return boxes.view(regions, -1), logits.sigmoid()


def assert_same(boxes: Tensor, probabilities: Tensor, threshold: float, most: int) -> int:
    """Equal to the last bit, in the same order; returns the number of detections."""
    found = top_detections(boxes, probabilities, threshold, 0.5, most)
    for mine, other in zip(found, theirs(boxes, probabilities, threshold, most), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True)
    return len(found[0])


@pytest.mark.parametrize("agnostic", [True, False])
@pytest.mark.parametrize("most", [1, 40, 300])
@pytest.mark.parametrize(
    ("regions", "categories", "threshold"),
    [(60, 40, 1e-4), (60, 40, 0.2), (200, 120, 1e-4), (1, 30, 0.0), (90, 1, 1e-4)],
)
def test_detections_equal_multiclass_nms(regions, categories, threshold, most, agnostic):
    # 2,400 candidates are suppressed at once there, 24,000 category by category
    boxes, probabilities = scene(regions, categories, 1 if agnostic else categories, seed=most)
    assert assert_same(boxes, probabilities, threshold, most)


def test_detections_come_in_the_order_of_multiclass_nms():
    boxes, probabilities = scene(60, 40, 40, seed=0)
    assert len(probabilities[:, :-1].unique()) == 60 * 40
    rows, labels = multiclass_nms(boxes, probabilities, 1e-4, NMS, 300)
    found, scores, own = top_detections(boxes, probabilities, 1e-4, 0.5, 300)
    assert torch.equal(torch.cat([found, scores[:, None]], dim=1), rows)
    assert torch.equal(own, labels)


def test_many_candidates_equal_multiclass_nms_and_few_are_looked_at():
    boxes, probabilities = scene(1000, 1203, 1, seed=1)
    probabilities = probabilities.clamp_min(2e-4)
    probabilities[:, 100:-1] = 0  # theirs takes many seconds for a million
    with patch.object(postprocess, "nms", wraps=postprocess.nms) as suppression:
        assert assert_same(boxes, probabilities, 1e-4, 300) == 300
    ours = [len(call.args[0]) for call in suppression.call_args_list]
    assert sum(ours) < 10_000 < (probabilities[:, :-1] > 1e-4).sum()


@pytest.mark.parametrize("levels", [1, 2, 5])
@pytest.mark.parametrize("agnostic", [True, False])
@pytest.mark.parametrize("categories", [5, 130])
def test_equal_scores_rank_by_region_and_category(levels, agnostic, categories):
    # above 10,000 candidates `multiclass_nms` has no order among equals: `theirs` gives it one
    boxes, probabilities = scene(100, categories, 1 if agnostic else categories, seed=levels)
    probabilities = (probabilities * 8 * levels).ceil().clamp_max(levels) / levels
    for most in (30, 300):
        assert_same(boxes, probabilities, 0.1, most)


@pytest.mark.parametrize("seed", range(6))
def test_detections_equal_the_definition(seed):
    # whole pixels below 2 ** 24 / C: moving boxes rounds nothing
    boxes, probabilities = scene(40, 6, 6 if seed % 2 else 1, seed)
    boxes, probabilities = boxes.round(), (probabilities * 50).round() / 50
    kept = by_loop(boxes, probabilities, 0.02, 60)
    _, scores, labels = top_detections(boxes, probabilities, 0.02, 0.5, 60)
    assert scores.tolist() == [score for score, _, _ in kept]
    assert labels.tolist() == [label for _, _, label in kept]


@pytest.mark.parametrize("agnostic", [True, False])
def test_thousands_of_overlapping_boxes_of_one_category_are_all_gone_through(agnostic):
    draw = torch.Generator().manual_seed(2)
    each = 1 if agnostic else 2
    jitter = 4 * torch.rand(6000, each, 4, generator=draw)
    boxes = jitter + torch.tensor([100.0, 100.0, 300.0, 300.0])
    boxes[-3:] += torch.tensor([[[200.0]], [[400.0]], [[600.0]]])  # the worst three are alone
    probabilities = 0.1 + 0.9 * torch.rand(6000, 3, generator=draw)
    probabilities[-3:] = 0.05
    probabilities[:, 1] = 0
    assert assert_same(boxes.view(6000, -1), probabilities, 1e-4, 300) == 4


def test_categories_that_hide_one_another_are_all_gone_through():
    # every category has one survivor, and all its candidates come before the next category's
    draw = torch.Generator().manual_seed(3)
    boxes = torch.tensor([100.0, 100.0, 300.0, 300.0]) + 4 * torch.rand(100, 4, generator=draw)
    probabilities = torch.rand(100, 121, generator=draw) + torch.arange(121)
    probabilities = probabilities / 200 + 1e-3
    with patch.object(postprocess, "nms", wraps=postprocess.nms) as suppression:
        assert assert_same(boxes, probabilities, 1e-4, 100) == 100
    blocks = [len(call.args[0]) for call in suppression.call_args_list]
    assert len(blocks) <= 1 + 12_000 // postprocess.BLOCK + 1
    assert max(blocks) <= postprocess.BLOCK + 100


@pytest.mark.parametrize(("block", "first", "growth"), [(3, 1, 2), (7, 30, 2), (64, 16, 8)])
def test_sizes_of_blocks_change_nothing(monkeypatch, block, first, growth):
    monkeypatch.setattr(postprocess, "BLOCK", block)
    monkeypatch.setattr(postprocess, "FIRST", first)
    monkeypatch.setattr(postprocess, "GROWTH", growth)
    boxes, probabilities = scene(40, 8, 8, seed=4)
    for levels in (3, 1000):  # mostly equal scores, and mostly different ones
        rounded = (probabilities * levels).ceil() / levels
        for most in (5, 300):
            assert_same(boxes, rounded, 0.01, most)


def test_a_score_at_the_threshold_is_no_candidate():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    for threshold in (1e-4, 0.3, 0.0, -1.0):
        probabilities = torch.full((2, 3), threshold)
        probabilities[1, 1] = torch.nextafter(torch.tensor(threshold), torch.tensor(1.0))
        found = top_detections(boxes, probabilities, threshold, 0.5, 10)
        assert found[0].tolist() == [[20, 0, 30, 10]]
        assert found[2].tolist() == [1]
        assert_same(boxes, probabilities, threshold, 10)


def test_boxes_of_no_candidate_have_no_say_in_how_far_categories_are_moved():
    # far from 0, float32 rounds to whole pixels and more, and overlaps with it
    boxes, probabilities = scene(80, 30, 30, seed=5)
    boxes.view(80, 30, 4)[7] *= 4096
    probabilities[7] = 0
    expected = top_detections(boxes, probabilities, 1e-4, 0.5, 300)
    boxes.view(80, 30, 4)[7] *= 0
    for mine, other in zip(top_detections(boxes, probabilities, 1e-4, 0.5, 300), expected):
        assert torch.equal(mine, other)
    assert_same(boxes, probabilities, 1e-4, 300)


@pytest.mark.parametrize("agnostic", [True, False])
def test_boxes_without_area_equal_multiclass_nms(agnostic):
    boxes, probabilities = scene(80, 30, 1 if agnostic else 30, seed=6)
    corners = boxes.view(80, -1, 4)
    corners[:20, :, 2] = corners[:20, :, 0]  # lines
    corners[20:40, :, 2:] = corners[20:40, :, :2]  # points
    corners[40:50] = corners[40:41]  # the same
    corners[50:60] = 0
    assert_same(boxes, probabilities, 1e-4, 300)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("candidate", [True, False])
@pytest.mark.parametrize("agnostic", [True, False])
def test_boxes_that_are_no_numbers_equal_multiclass_nms(value, candidate, agnostic):
    boxes, probabilities = scene(80, 30, 1 if agnostic else 30, seed=7)
    boxes[3, 2] = value
    if not candidate:
        probabilities[3] = 0
    assert_same(boxes, probabilities, 1e-4, 300)


def test_scores_that_are_no_numbers_are_no_candidates():
    boxes, probabilities = scene(80, 30, 1, seed=8)
    probabilities[::3] = math.nan
    probabilities[1, 4] = math.inf
    found = top_detections(boxes, probabilities, 1e-4, 0.5, 300)
    assert found[1][0] == math.inf
    assert_same(boxes, probabilities, 1e-4, 300)


def without_limit(boxes: Tensor, probabilities: Tensor, threshold: float) -> list[tuple]:
    """(label, score, box) of everything that `multiclass_nms` keeps."""
    rows, labels = multiclass_nms(boxes, probabilities, threshold, NMS)
    return [
        (label, row[4], tuple(row[:4]))
        for label, row in zip(labels.tolist(), rows.tolist(), strict=True)
    ]


@pytest.mark.parametrize("agnostic", [True, False])
@pytest.mark.parametrize("most", [5, 60, 100_000])
@pytest.mark.parametrize("paired", [0, 3, 24])
@pytest.mark.parametrize("quantile", [None, 0.5, 0.97])
def test_what_comes_after_the_best_is_all_the_rest_above_its_category(
    quantile, paired, most, agnostic, monkeypatch
):
    monkeypatch.setattr(postprocess, "PAIRED", paired)
    boxes, probabilities = scene(70, 9, 1 if agnostic else 9, seed=most)
    lowest = torch.full((9,), -math.inf)
    if quantile is not None:
        lowest = probabilities[:, :-1].quantile(quantile, dim=0)
        lowest[4] = -math.inf
    best, (corners, scores, labels) = ranked_detections(
        boxes, probabilities, 1e-3, 0.5, most, lowest
    )
    for mine, other in zip(best, top_detections(boxes, probabilities, 1e-3, 0.5, most)):
        assert torch.equal(mine, other)
    found = {
        (label, score, tuple(box))
        for label, score, box in zip(labels.tolist(), scores.tolist(), corners.tolist())
    }
    known = {
        (label, score, tuple(box))
        for label, score, box in zip(best[2].tolist(), best[1].tolist(), best[0].tolist())
    }
    every = without_limit(boxes, probabilities, 1e-3)
    expected = {one for one in every if one[1] > lowest[one[0]].item()} - known
    assert found == expected and len(scores) == len(found)
    assert known <= set(every)
    assert len(found) > 0 or most > 1000


@pytest.mark.parametrize("levels", [2, 5])
def test_the_rest_of_equal_scores_are_by_region_and_category(levels):
    boxes, probabilities = scene(60, 8, 8, seed=levels)
    probabilities = (probabilities * 8 * levels).ceil().clamp_max(levels) / levels
    lowest = torch.full((8,), -math.inf)
    best, rest = ranked_detections(boxes, probabilities, 0.1, 0.5, 30, lowest)
    every = top_detections(boxes, probabilities, 0.1, 0.5, 100_000)
    joined = torch.cat([best[0], rest[0]]).tolist()
    assert sorted(joined) == sorted(every[0].tolist())


@pytest.mark.parametrize(("regions", "threshold"), [(0, 1e-4), (20, 1.0)])
def test_nothing_found_is_empty(regions, threshold):
    boxes, probabilities = scene(20, 5, 5, seed=9)
    boxes, scores, labels = top_detections(
        boxes[:regions], probabilities[:regions], threshold, 0.5, 300
    )
    assert boxes.shape == (0, 4) and scores.shape == (0,) and labels.shape == (0,)
    assert boxes.dtype == scores.dtype == torch.float32 and labels.dtype == torch.long


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precision_equals_multiclass_nms(dtype):
    boxes, probabilities = scene(60, 8, 8, seed=10)
    assert_same(boxes.to(dtype), probabilities.to(dtype), 1e-3, 100)


def test_the_layout_of_the_input_changes_nothing_and_the_input_stays():
    boxes, probabilities = scene(60, 8, 8, seed=11)
    expected = top_detections(boxes, probabilities, 1e-3, 0.5, 100)
    strided = [tensor.T.contiguous().T for tensor in (boxes, probabilities)]
    before = [tensor.clone() for tensor in strided]
    for mine, other in zip(top_detections(*strided, 1e-3, 0.5, 100), expected):
        assert torch.equal(mine, other)
    assert all(torch.equal(*pair) for pair in zip(strided, before))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"max_per_img": -1},
        {"nms": None},
        {"nms": {**NMS, "class_agnostic": True}},
        {"nms": {**NMS, "max_num": 3}},
    ],
)
def test_settings_of_every_kind_are_followed(changed):
    boxes, probabilities = scene(40, 6, 1, seed=12)
    config = ConfigDict({"score_thr": 1e-3, "nms": NMS, "max_per_img": 50, **changed})
    found = detect(boxes, probabilities, config)
    rows, labels = multiclass_nms(
        boxes, probabilities, config.score_thr, config.nms, config.max_per_img
    )
    assert torch.equal(found.bboxes, rows[:, :4])
    assert torch.equal(found.scores, rows[:, 4])
    assert torch.equal(found.labels, labels)


@pytest.mark.parametrize("agnostic", [True, False])
@pytest.mark.parametrize("regions", [0, 50])
def test_exported_head_finds_what_mmdetection_s_head_finds(agnostic, regions):
    facts = {"img_shape": (300, 400), "scale_factor": (0.5, 0.5)}
    config = ConfigDict(score_thr=1e-4, nms=NMS, max_per_img=40)
    draw = torch.Generator().manual_seed(14)
    rois = torch.rand(regions, 5, generator=draw) * 150
    rois[:, 3:] += rois[:, 1:3]
    logits = 2 * torch.randn(regions, 8, generator=draw)
    deltas = torch.randn(regions, 4 if agnostic else 28, generator=draw)
    results = []
    for kind in (TopKBBoxHead, Shared2FCBBoxHead):
        loss = {"type": "SigmoidObjectnessLoss"}
        head = kind(num_classes=7, reg_class_agnostic=agnostic, fc_out_channels=8, loss_cls=loss)
        given = [(rois,), (logits,), (deltas,), [facts]]
        results.append(head.predict_by_feat(*given, config, rescale=True)[0])
        raw = head.predict_by_feat(*given, None)[0]
        assert raw.scores.shape == (regions, 8)
    mine, other = results
    assert len(mine) == (40 if regions else 0)
    for field in ("bboxes", "scores", "labels"):
        assert torch.equal(mine[field], other[field])


@pytest.mark.gpu
@pytest.mark.parametrize("agnostic", [True, False])
def test_detections_on_the_gpu_equal_those_on_the_cpu_and_multiclass_nms(device, agnostic):
    boxes, probabilities = scene(200, 120, 1 if agnostic else 120, seed=13)
    for rounded in (probabilities, (probabilities * 20).ceil() / 20):
        mine = top_detections(boxes.to(device), rounded.to(device), 1e-4, 0.5, 300)
        on_cpu = top_detections(boxes, rounded, 1e-4, 0.5, 300)
        other = theirs(boxes.to(device), rounded.to(device), 1e-4, 300)
        for one, two, three in zip(mine, on_cpu, other, strict=True):
            assert torch.equal(one.cpu(), two)
            assert torch.equal(one, three.to(one.device))


def softly_by_loop(
    boxes: Tensor, scores: Tensor, method: str, sigma: float, min_score: float
) -> list[tuple[float, int]]:
    """(score, region) in the order in which they are taken, of one category: the definition."""
    left = {n: s for n, s in enumerate(scores.double().tolist()) if s >= min_score and s > 1e-4}
    corners = boxes.double().tolist()
    taken = []
    while left:
        best = max(left, key=lambda n: left[n])
        taken.append((left.pop(best), best))
        for other in left:
            (a, b, c, d), (e, f, g, h) = corners[best], corners[other]
            inter = max(0.0, min(c, g) - max(a, e)) * max(0.0, min(d, h) - max(b, f))
            iou = inter / ((c - a) * (d - b) + (g - e) * (h - f) - inter)
            if method == "gaussian":
                left[other] *= math.exp(-(iou**2) / sigma)
            elif iou >= 0.5:
                left[other] *= 1 - iou
        left = {n: s for n, s in left.items() if s >= min_score}
    return taken


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize(("regions", "categories", "each"), [(30, 5, 1), (120, 40, 40), (60, 3, 3)])
@pytest.mark.parametrize("most", [20, 300])
def test_soft_suppression_is_that_of_a_loop_over_categories(
    method, regions, categories, each, most, monkeypatch
):
    monkeypatch.setattr(postprocess, "FIRST", 64)  # several rounds
    monkeypatch.setattr(postprocess, "BLOCK", 32)
    boxes, probabilities = scene(regions, categories, each, seed=regions)
    how = {"type": "soft_nms", "iou_threshold": 0.5, "method": method, "sigma": 0.4}
    config = {"score_thr": 1e-4, "max_per_img": most, "nms": {**how, "min_score": 2e-3}}
    found = detect(boxes, probabilities, ConfigDict(config))
    expected = []
    for label in range(categories):
        own = boxes.view(regions, each, 4)[:, label if each > 1 else 0]
        taken = softly_by_loop(own, probabilities[:, label], method, 0.4, 2e-3)
        expected += [(score, label, own[region]) for score, region in taken]
    expected = sorted(expected, key=lambda one: -one[0])[:most]
    assert len(found.scores) == len(expected) > 10
    torch.testing.assert_close(
        found.scores.double(), torch.tensor([e[0] for e in expected], dtype=torch.float64)
    )
    apart = {n for n, (a, b) in enumerate(pairwise(expected)) if a[0] - b[0] < 1e-7}
    for number, (_, label, box) in enumerate(expected):
        if number not in apart and number - 1 not in apart:  # equal scores have any order
            assert found.labels[number] == label and torch.equal(found.bboxes[number], box)


def test_soft_suppression_of_nothing_and_of_boxes_without_area_is_defined():
    config = ConfigDict(
        score_thr=1e-4,
        max_per_img=5,
        nms={"type": "soft_nms", "iou_threshold": 0.5, "method": "linear"},
    )
    none = detect(torch.zeros(0, 4), torch.zeros(0, 3), config)
    assert len(none.scores) == len(none.bboxes) == len(none.labels) == 0
    points = detect(torch.ones(3, 4), torch.tensor([[0.5, 0.5]] * 3), config)
    assert points.scores.tolist() == [0.5] * 3
    assert len(detect(torch.ones(3, 4), torch.zeros(3, 2), config).scores) == 0
