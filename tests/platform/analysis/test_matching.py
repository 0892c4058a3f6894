"""Matches and the AP made from them, beside the evaluator's own."""

import copy
import dataclasses

import numpy as np
import pytest

from bacl.evaluation import Detections
from bacl_platform.analysis.matching import (
    RECALLS,
    _reached,
    average_precision,
    average_recall,
    calibration_error,
    match,
    pooled_precision,
    precision_at,
    rank,
)

MODES = ("lvis", "coco")


def once(matched):
    return np.ones((1, matched.images), dtype=int)


def per_category(evaluator, detections):
    rows = evaluator.evaluate(detections).per_category
    return np.array([np.nan if row["AP"] is None else row["AP"] for row in rows])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(6))
def test_every_image_once_gives_the_evaluators_ap(trial, tmp_path, mode, seed):
    one = trial(seed, mode)
    evaluator = one.evaluator(tmp_path)
    matched = match(evaluator, one.detections)
    ap = average_precision(matched, once(matched))[0]
    np.testing.assert_allclose(ap.mean(axis=0), per_category(evaluator, one.detections), atol=1e-9)
    metrics = evaluator.evaluate(one.detections).metrics
    assert np.nanmean(ap[0]) == pytest.approx(metrics["AP50"])
    assert np.nanmean(ap[5]) == pytest.approx(metrics["AP75"])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(3))
def test_masks_are_matched_as_the_evaluator_does(trial, masked, tmp_path, mode, seed):
    one, detections = masked(trial(seed, mode))
    evaluator = one.evaluator(tmp_path)
    result = evaluator.evaluate(detections)
    matched = match(evaluator, detections, "segm")
    ap = average_precision(matched, once(matched))[0]
    expected = [np.nan if r["mask_AP"] is None else r["mask_AP"] for r in result.per_category]
    np.testing.assert_allclose(ap.mean(axis=0), expected, atol=1e-9)
    assert result.metrics["mask_AP"] != pytest.approx(result.metrics["AP"])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(4))
def test_weights_are_copies_of_images(trial, tmp_path, mode, seed):
    one = trial(seed, mode).untied()
    matched = match(one.evaluator(tmp_path), one.detections)
    images = matched.images
    generator = np.random.default_rng(seed)
    weights = np.stack(
        [np.bincount(generator.integers(images, size=images), minlength=images) for _ in range(5)]
    )
    drawn = average_precision(matched, weights).mean(axis=1)
    for ap, counts in zip(drawn, weights):
        copied = copies(one, counts.tolist())
        expected = per_category(copied.evaluator(tmp_path), copied.detections)
        np.testing.assert_allclose(ap, expected, atol=1e-9)


def copies(one, counts):
    """The trial with each image as often as its count; copies lie beside each other."""
    places = iter(range(sum(counts)))
    numbers = [[next(places) for _ in range(count)] for count in counts]
    content = {"images": [], "annotations": [], "categories": one.content["categories"]}
    for image in one.content["images"]:
        content["images"] += [{**image, "id": new} for new in numbers[image["id"]]]
    for annotation in one.content["annotations"]:
        for new in numbers[annotation["image_id"]]:
            number = len(content["annotations"]) + 1
            content["annotations"].append({**annotation, "id": number, "image_id": new})
    rows = [(new, *row[1:]) for row in one.rows for new in numbers[row[0]]]
    return dataclasses.replace(one, content=copy.deepcopy(content), rows=rows)


def greedy_ap(rows, total):
    """AP of (score, weight, right, passed) rows, by a loop over recall thresholds."""
    rows = sorted((row for row in rows if row[1] and not row[3]), key=lambda row: -row[0])
    hits, seen, curve = 0, 0, []
    for _, weight, right, _ in rows:
        hits, seen = hits + weight * right, seen + weight
        curve.append((hits / total, hits / seen))
    return np.mean([max((p for r, p in curve if r >= recall), default=0) for recall in RECALLS])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(3))
def test_pooled_precision_and_recall_are_those_of_loops(trial, tmp_path, mode, seed):
    one = trial(seed, mode).untied()
    matched = rank(one.evaluator(tmp_path), one.detections)
    truth = matched.truth
    weights = np.random.default_rng(seed).integers(0, 3, (4, matched.images))
    labels = np.array([1, 2, 4])
    pooled = pooled_precision(matched, weights, labels)
    recall = average_recall(matched, weights)
    for b, times in enumerate(weights):
        for step in (0, 5):
            rows = [
                (score, times[image], right, passed)
                for image, label, score, right, passed in zip(
                    matched.image,
                    matched.label,
                    matched.score,
                    matched.right[step],
                    matched.passed[step],
                )
                if label in labels
            ]
            mine = truth.counted & np.isin(truth.label, labels)
            total = times[truth.image[mine]].sum()
            assert pooled[b, step] == pytest.approx(greedy_ap(rows, total))
        for label in np.unique(truth.label[truth.counted]):
            total = times[truth.image[truth.counted & (truth.label == label)]].sum()
            mine = (matched.label == label) & matched.right[5]
            found = times[matched.image[mine]].sum()
            expected = found / total if total else np.nan
            assert recall[b, 5, label] == pytest.approx(expected, nan_ok=True)


def test_recall_thresholds_are_reached_as_by_searching_them():
    for total in (1, 3, 7, 25, 29, 50, 100, 200, 203, 1000):
        hits = np.arange(total + 1)[:, None]
        expected = np.searchsorted(RECALLS, hits / total, side="right")
        np.testing.assert_array_equal(_reached(hits, np.array([total])), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(4))
def test_ranked_detections_are_the_matched_ones(trial, tmp_path, mode, seed):
    one = trial(seed, mode).untied()
    evaluator = one.evaluator(tmp_path)
    ranked, matched = rank(evaluator, one.detections), match(evaluator, one.detections)
    for name in ("image", "label", "score", "right", "passed"):
        np.testing.assert_array_equal(getattr(ranked, name), getattr(matched, name))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(3))
def test_every_image_once_gives_the_evaluators_metrics(trial, masked, tmp_path, mode, seed):
    one, found = masked(trial(seed, mode).untied())
    found = dataclasses.replace(found, score=0.99 * found.score)  # none above 1
    evaluator = one.evaluator(tmp_path)
    result = evaluator.evaluate(found)
    every = np.arange(len(one.categories))
    boxes = rank(evaluator, found)
    masks = rank(evaluator, found, "segm")
    measured = {
        "APFixed": average_precision(rank(evaluator, found, limit=False), once(boxes)),
        "APPool": pooled_precision(rank(evaluator, found, limit=False), once(boxes), every),
        "AR": average_recall(boxes, once(boxes)),
        "ECE": calibration_error(boxes, once(boxes), every),
        "mask_AP": average_precision(masks, once(boxes)),
        "mask_AR": average_recall(masks, once(boxes)),
        "boundary_AP": average_precision(rank(evaluator, found, "boundary"), once(boxes)),
    }
    for name, values in measured.items():
        assert np.nanmean(values) == pytest.approx(result.metrics[name], abs=1e-9), name


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_is_that_of_a_loop_over_copies(trial, tmp_path, seed):
    one = trial(seed)
    matched = rank(one.evaluator(tmp_path), one.detections)
    weights = np.random.default_rng(seed).integers(0, 3, (3, matched.images))
    labels = np.array([0, 1, 3])
    for times, error in zip(weights, calibration_error(matched, weights, labels)):
        bins = [[] for _ in range(15)]
        for image, label, score, right, passed in zip(
            matched.image, matched.label, matched.score, matched.right[0], matched.passed[0]
        ):
            if label in labels and not passed:
                bins[min(int(score * 15), 14)] += [(score, right)] * times[image]
        total = sum(map(len, bins))
        expected = sum(
            len(some) / total * abs(np.mean([s for s, _ in some]) - np.mean([r for _, r in some]))
            for some in bins
            if some
        )
        assert error == pytest.approx(expected)


def test_without_a_limit_more_than_300_of_an_image_count(trial, tmp_path):
    one = trial(2)
    crowd = [(0, 1, 0.5 + k / 1000, 5.0, 5.0, 9.0, 9.0) for k in range(400)]
    one = dataclasses.replace(one, rows=[*one.rows, *crowd])
    evaluator = one.evaluator(tmp_path)
    assert (rank(evaluator, one.detections, limit=False).image == 0).sum() > 400
    assert (rank(evaluator, one.detections).image == 0).sum() <= 300


def test_category_without_a_drawn_box_is_unknown(trial, tmp_path):
    one = trial(0)
    matched = match(one.evaluator(tmp_path), one.detections)
    truth = matched.truth
    weights = once(matched)
    weights[0, truth.image[truth.label == 1]] = 0
    ap = average_precision(matched, weights)[0]
    assert np.isnan(ap[:, 1]).all()
    left = {int(label) for image, label in zip(truth.image, truth.label) if weights[0, image]}
    assert not np.isnan(ap[:, sorted(left)]).any()


@pytest.mark.parametrize("mode", MODES)
def test_found_is_the_score_of_the_first_free_detection_on_a_box(trial, tmp_path, mode):
    one = trial(3, mode)
    matched = match(one.evaluator(tmp_path), one.detections)
    expected = greedy(one)
    counted = matched.truth.counted
    for number, score in zip(matched.truth.id[counted], matched.found[counted]):
        assert score == pytest.approx(expected.get(int(number), -1)), number
    scores = [one.rows[row][2] if row >= 0 else -1 for row in matched.finder]
    np.testing.assert_allclose(scores, matched.found)


def greedy(one):
    """Scores of the detections that match boxes at IoU 0.5, by annotation id."""
    matches = {}
    for row in sorted(one.rows, key=lambda row: -row[2]):
        image, category, score, *box = row
        free = [
            (iou(box, a["bbox"]), a["id"])
            for a in one.content["annotations"]
            if (a["image_id"], a["category_id"], a["iscrowd"]) == (image, category, 0)
            and a["id"] not in matches
        ]
        if free and max(free)[0] >= 0.5:
            matches[max(free)[1]] = score
    return matches


def iou(one, other):
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


def test_detections_come_by_category_and_falling_score(trial, tmp_path):
    one = trial(1)
    matched = match(one.evaluator(tmp_path), one.detections)
    for label in range(len(one.categories)):
        mine = matched.of(label)
        assert (np.diff(matched.score[mine]) <= 0).all()
        rows = [one.rows[row] for row in matched.row[mine]]
        assert all(row[1] == label for row in rows)
        assert [row[0] for row in rows] == matched.image[mine].tolist()


def test_no_more_than_the_300_best_of_an_image_and_none_without_area_count(trial, tmp_path):
    one = trial(2)
    crowd = [(0, 1, 0.5 + k / 1000, 5.0, 5.0, 0.0 if k % 3 else 9.0, 9.0) for k in range(400)]
    one = dataclasses.replace(one, rows=[*one.rows, *crowd])
    evaluator = one.evaluator(tmp_path)
    matched = match(evaluator, one.detections)
    ap = average_precision(matched, once(matched))[0].mean(axis=0)
    np.testing.assert_allclose(ap, per_category(evaluator, one.detections), atol=1e-9)
    assert (matched.image == 0).sum() <= 300


def test_all_detections_of_an_image_count_in_coco(tmp_path, trial):
    """As many as the detector keeps, and not the first 100 or 300 of a category."""
    one = trial(0, "coco")
    boxes = [(x * 2.0, y * 2.0, 1.5, 1.5) for x in range(40) for y in range(20)]
    box = {"image_id": 1, "category_id": 2, "iscrowd": 0, "area": 2.25}
    annotations = [{**box, "id": k, "bbox": list(b)} for k, b in enumerate(boxes, start=1)]
    rows = [(1, 2, 1 - k / 1000, *b) for k, b in enumerate(boxes)]
    one = dataclasses.replace(one, content={**one.content, "annotations": annotations}, rows=rows)
    matched = match(one.evaluator(tmp_path), one.detections)
    assert (matched.found > 0).sum() == len(boxes) == 800
    assert average_precision(matched, once(matched))[0, :, 2] == pytest.approx(1)


def test_no_detections_is_no_precision(trial, tmp_path):
    one = trial(1)
    whole = one.detections
    columns = (whole.image, whole.label, whole.score, whole.bbox)
    nothing = Detections(*(column[:0] for column in columns))
    matched = match(one.evaluator(tmp_path), nothing)
    ap = average_precision(matched, once(matched))
    assert np.nanmax(ap) == 0
    assert (matched.found == -1).all()


def test_precision_at_is_the_best_at_a_recall_or_beyond():
    right = np.array([0, 1, 0, 0, 1, 1], dtype=bool)
    total = 4
    points = [(right[:n].sum() / total, right[:n].mean()) for n in range(1, len(right) + 1)]
    expected = [max((p for r, p in points if r >= recall), default=0) for recall in RECALLS]
    np.testing.assert_allclose(precision_at(right, total), expected)
