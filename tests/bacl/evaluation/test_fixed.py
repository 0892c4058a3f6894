"""AP-Fixed and AP-Pool against MMDetection's metric and loops over their definitions."""

import contextlib
import io
import math
from collections import Counter

import evaluation_oracles as oracles
import numpy as np
import pytest
import torch
from evaluation_cases import (
    as_json,
    case_files,
    categories_of,
    coco_case,
    federated_case,
    guesses,
    with_masks,
)
from mmengine.structures import InstanceData

from bacl.evaluation import Detections, Evaluator, Unlimited
from bacl.evaluation.fixed import Cuts, best_of_categories, limit_of
from bacl.evaluation.matching import falling
from bacl.metric_names import of_group

FEW = 12
"""Detections of a category that count here, in place of 10,000."""


def items_of(truth, found):
    items = as_json(truth, found)
    return [item | {"area": item["bbox"][2] * item["bbox"][3]} for item in items]


def by_loops(truth, found, federated):
    """AP-Fixed and AP-Pool by name."""
    items = oracles.best_of_each(items_of(truth, found), FEW)
    judged = oracles.matched(truth, items, federated)
    total = oracles.totals(truth, federated)
    groups = {c["id"]: c["frequency"] for c in truth["categories"]}
    each = {
        category: oracles.average_precision([o for o in judged if o[2] == category], count)
        for category, count in total.items()
    }
    expected = {}
    for group in (None, "r", "c", "f"):
        members = {category for category, own in groups.items() if group in (None, own)}
        fixed = [ap for category, ap in each.items() if category in members]
        pool = [one for one in judged if one[2] in members]
        count = sum(number for category, number in total.items() if category in members)
        pooled = oracles.average_precision(pool, count) if count else math.nan
        expected["APFixed" + (f"_{group}" if group else "")] = (
            sum(fixed) / len(fixed) if fixed else math.nan
        )
        expected["APPool" + (f"_{group}" if group else "")] = pooled
    return expected


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("federated", [True, False])
def test_fixed_and_pool_equal_loops_over_the_definition(seed, federated, tmp_path):
    truth = federated_case(seed) if federated else coco_case(seed)
    _, path = case_files(tmp_path, truth)
    found = guesses(truth, seed, false=3)
    assert np.bincount(found.label).max() > FEW
    mode = "lvis" if federated else "coco"
    judge = Evaluator(path, categories_of(truth), mode, best=FEW)
    metrics = judge.evaluate(found).metrics
    expected = by_loops(truth, found, federated)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, nan_ok=True)
    assert metrics["APFixed"] != metrics["AP"]


@pytest.mark.parametrize("seed", range(12))
def test_fixed_equals_mmdetection(seed, tmp_path, monkeypatch):
    monkeypatch.setattr(np, "float", float, raising=False)  # lvis-api needs it
    from mmdet.evaluation.metrics.lvis_metric import LVISFixedAPMetric

    truth = federated_case(seed, images=6)
    file, path = case_files(tmp_path, truth)
    found = guesses(truth, seed, false=60 if seed < 2 else 3)
    best = 10_000 if seed < 2 else FEW
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = LVISFixedAPMetric(str(file), topk=best)
        for place, image in enumerate(truth["images"]):
            here = found.image == place
            box = torch.tensor(found.bbox[here])
            instances = InstanceData(
                bboxes=torch.cat([box[:, :2], box[:, :2] + box[:, 2:]], dim=1),
                scores=torch.tensor(found.score[here]),
                labels=torch.tensor(found.label[here]),
            )
            theirs.process({}, [{"img_id": image["id"], "pred_instances": instances}])
        expected = theirs.evaluate(len(truth["images"]))
    expected = {name.split("/")[1]: value for name, value in expected.items()}
    judge = Evaluator(path, categories_of(truth), "lvis", best=best)
    metrics = judge.evaluate(found).metrics
    if seed < 2:
        assert metrics["APFixed"] != metrics["AP"]  # more than 300 in an image
    for group in ("r", "c", "f"):
        value = expected[f"AP{group}"]
        own = metrics[of_group(group, "APFixed")]
        assert math.isnan(own) if value == -1 else own == pytest.approx(value, abs=1e-9)
    assert metrics["APFixed"] == pytest.approx(expected["AP"], abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mode", ["lvis", "coco"])
def test_our_matching_of_what_ap_counts_gives_the_ap(seed, mode, tmp_path):
    # where neither limit bites, Fixed is AP, which hotcoco computes
    truth = federated_case(seed) if mode == "lvis" else coco_case(seed)
    _, path = case_files(tmp_path, truth)
    found = guesses(truth, seed, tied=seed % 2 == 0)
    result = Evaluator(path, categories_of(truth), mode).evaluate(found)
    for name in ("AP", "AP_r", "AP_c", "AP_f"):
        own = result.metrics[name.replace("AP", "APFixed")]
        assert own == pytest.approx(result.metrics[name], abs=1e-9, nan_ok=True)
    for row in result.per_category:
        assert row["APFixed"] == (None if row["AP"] is None else pytest.approx(row["AP"], abs=1e-9))


@pytest.mark.parametrize("seed", range(3))
def test_fixed_of_masks_is_their_ap_where_no_limit_bites(seed, tmp_path):
    truth = federated_case(seed)
    _, path = case_files(tmp_path, truth)
    found = with_masks(truth, guesses(truth, seed), seed)
    metrics = Evaluator(path, categories_of(truth), "lvis").evaluate(found).metrics
    for name in ("mask_AP", "mask_AP_r", "mask_AP_c", "mask_AP_f"):
        own = metrics[name.replace("AP", "APFixed")]
        assert own == pytest.approx(metrics[name], abs=1e-9, nan_ok=True)


def test_what_lies_beyond_the_limit_counts_for_fixed_alone(tmp_path):
    truth = federated_case(1)
    _, path = case_files(tmp_path, truth)
    every = guesses(truth, 1, false=3)
    judge = Evaluator(path, categories_of(truth), "lvis", best=FEW)
    place = np.lexsort((-every.score, every.image))
    starts = np.searchsorted(every.image[place], every.image[place])
    first = np.zeros(len(place), dtype=bool)
    first[place] = np.arange(len(place)) - starts < 5  # the five best of each image
    within = best_of_categories(every, 7, FEW)
    limited = every.at(first)
    beyond = Unlimited(within[first], every.at(within & ~first))
    result = judge.evaluate(limited, beyond)
    whole, cut = judge.evaluate(every), judge.evaluate(limited)
    assert (result.fixed_limit, whole.fixed_limit, cut.fixed_limit) == (None, None, None)
    for name, value in result.metrics.items():
        same = whole if name.startswith(("APFixed", "APPool")) else cut
        assert value == pytest.approx(same.metrics[name], nan_ok=True), name
    assert whole.metrics["APFixed"] != cut.metrics["APFixed"]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tied", [False, True])
def test_cuts_of_batches_are_those_of_sorting_everything(seed, tied):
    draw = np.random.default_rng(seed)
    count, categories = 4000, 9
    label = draw.integers(0, categories, count) * draw.integers(0, 2, count)
    score = draw.normal(0, 2, count)  # also below zero
    score = np.round(score, 1) if tied else score
    image = np.sort(draw.integers(0, 60, count))
    pieces = np.array_split(np.arange(count), 7)
    batches = [(image[rows], label[rows], score[rows]) for rows in pieces]
    cuts = Cuts.of(lambda: batches, categories, 300)
    kept = cuts.within(image, label, score)
    for category in range(categories):
        own = np.flatnonzero(label == category)
        best = sorted(own.tolist(), key=lambda row: (-score[row], image[row]))[:300]
        counted = set(own[kept[own]].tolist())
        assert set(best) <= counted
        # beyond them only what equals the last one in score and image
        last = best[-1] if best else None
        assert all(
            score[row] == score[last] and image[row] == image[last] for row in counted - set(best)
        )
    assert Counter(label[~kept]).keys() == {0}


@pytest.mark.parametrize(
    ("counts", "limit"),
    [
        ([300, 12], 300),
        ([100], 100),
        ([40, 40, 3, 40], 40),
        ([40, 40, 3], None),
        ([7, 7, 7], None),
        ([301, 300, 300], None),
        ([40, 39], None),
        ([], None),
    ],
)
def test_results_that_were_cut_are_recognised(counts, limit):
    image = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    rows = len(image)
    found = Detections(image, image * 0, np.ones(rows), np.ones((rows, 4)))
    assert limit_of(found) == limit


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_detections_are_ranked_by_falling_score_and_equal_ones_as_they_come(kind):
    draw = np.random.default_rng(0)
    score = np.round(draw.normal(0, 1, 500), 1).astype(kind)
    score[:3] = [0.0, -0.0, np.float32(1e-40)]
    expected = sorted(range(500), key=lambda number: -score[number])
    assert falling(score).tolist() == expected
