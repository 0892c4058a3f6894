"""Kinds of errors and confusions, by hand and beside hotcoco and plain loops."""

import dataclasses

import hotcoco
import numpy as np
import pytest

from bacl_platform.analysis.error_types import KINDS, Confusion, confusion, errors, judged_pairs
from bacl_platform.analysis.matching import match

BOX = (10.0, 10.0, 20.0, 20.0)
MODES = ("lvis", "coco")


def looked_at(one, tmp_path):
    evaluator = one.evaluator(tmp_path)
    matched = match(evaluator, one.detections)
    judged = judged_pairs(evaluator, matched.truth, matched.images)
    return (
        errors(matched, one.detections.bbox),
        confusion(matched, one.detections.bbox, judged),
        matched,
    )


def by_hand(trial, truths, rows, absent=(), vague=()):
    """An image with these (label, box), and a second one with a box of label 1, found."""
    images = [
        {"id": 0, "neg_category_ids": list(absent), "not_exhaustive_category_ids": list(vague)},
        {"id": 1, "neg_category_ids": [], "not_exhaustive_category_ids": []},
    ]
    truths = [(0, *truth) for truth in truths] + [(1, 1, BOX)]
    content = {
        "images": [{**i, "file_name": "x.png", "width": 100, "height": 100} for i in images],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": list(box), "area": box[2] * box[3]}
            for n, (i, c, box) in enumerate(truths, start=1)
        ],
        "categories": trial(0).content["categories"],
    }
    rows = [(0, label, score, *box) for label, score, box in rows]
    return dataclasses.replace(trial(0), content=content, rows=[*rows, (1, 1, 0.8, *BOX)])


def told(found):
    """Counts that are not zero, and gains by kind of the first two labels."""
    counts = {name: int(n) for name, n in zip(KINDS, found.counts) if n}
    gains = {name: found.gain[k, :2].round(6).tolist() for k, name in enumerate(KINDS)}
    return counts, gains


def test_wrong_name_costs_the_true_category_and_the_one_it_is_taken_for(trial, tmp_path):
    one = by_hand(trial, [(0, BOX)], [(1, 0.9, BOX)], absent=[1])
    counts, gains = told(looked_at(one, tmp_path)[0])
    assert counts == {"Cls": 1}
    # 0 was never found; 1 had a false positive before its only box: AP50 1/2
    assert gains["Cls"] == [1, 0.5]


def test_wrong_name_on_a_box_that_is_found_costs_only_the_other(trial, tmp_path):
    one = by_hand(trial, [(0, BOX)], [(0, 0.95, BOX), (1, 0.9, BOX)], absent=[1])
    assert told(looked_at(one, tmp_path)[0])[1]["Cls"] == [0, 0.5]


def test_badly_placed_is_mended_where_it_is_best(trial, tmp_path):
    # 8 of 20 beside it: IoU 12 / 28
    beside = (18.0, 10.0, 20.0, 20.0)
    one = by_hand(trial, [(0, BOX)], [(0, 0.9, beside), (0, 0.7, beside)])
    counts, gains = told(looked_at(one, tmp_path)[0])
    assert counts == {"Loc": 2}
    assert gains["Loc"] == [1, 0]


def test_second_detection_of_a_box_is_a_duplicate(trial, tmp_path):
    near = (11.0, 10.0, 20.0, 20.0)
    one = by_hand(trial, [(0, BOX), (0, (60, 60, 9, 9))], [(0, 0.9, BOX), (0, 0.8, near)])
    counts, _ = told(looked_at(one, tmp_path)[0])
    assert counts == {"Dupe": 1, "Miss": 1}


def test_duplicate_before_the_last_box_costs_precision(trial, tmp_path):
    near, last = (11.0, 10.0, 20.0, 20.0), (60.0, 60.0, 9.0, 9.0)
    rows = [(0, 0.9, BOX), (0, 0.8, near), (0, 0.7, last)]
    _, gains = told(looked_at(by_hand(trial, [(0, BOX), (0, last)], rows), tmp_path)[0])
    # recall up to 0.5 at precision 1 (51 thresholds), the other 50 at 2/3
    assert gains["Dupe"][0] == pytest.approx(1 - (51 + 50 * 2 / 3) / 101, abs=1e-6)


def test_detection_of_nothing_is_background(trial, tmp_path):
    one = by_hand(trial, [(0, BOX)], [(0, 0.9, (70, 70, 9, 9)), (0, 0.8, BOX)])
    counts, gains = told(looked_at(one, tmp_path)[0])
    assert counts == {"Bkg": 1}
    assert gains["Bkg"] == [0.5, 0]


def test_wrong_name_beside_a_box_is_both(trial, tmp_path):
    one = by_hand(trial, [(0, BOX)], [(1, 0.9, (18.0, 10.0, 20.0, 20.0))], absent=[1])
    counts, gains = told(looked_at(one, tmp_path)[0])
    assert counts == {"Both": 1, "Miss": 1}
    assert gains["Both"] == [0, 0.5]


@pytest.mark.parametrize("annotated", [{}, {"absent": [1], "vague": [1]}])
def test_what_cannot_be_judged_is_no_error(trial, tmp_path, annotated):
    one = by_hand(trial, [(0, BOX)], [(1, 0.9, BOX)], **annotated)
    found, confused, _ = looked_at(one, tmp_path)
    assert told(found)[0] == {"Miss": 1}
    assert confused.counts[0].tolist() == [0, 0, 0, 0, 0, 1]
    assert confused.judged[0, :2].tolist() == [1, 0]
    assert np.isnan(confused.share[0, 1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(8))
def test_means_over_categories_are_hotcocos(trial, tmp_path, mode, seed):
    one = trial(seed, mode).untied()
    # hotcoco takes crowds for boxes that an error may be about, TIDE's own code does not
    single = [a for a in one.content["annotations"] if not a["iscrowd"]]
    one = dataclasses.replace(one, content={**one.content, "annotations": single})
    evaluator = one.evaluator(tmp_path)
    found, _, _ = looked_at(one, tmp_path)
    rows = np.array([(row[0], *row[3:], row[2], row[1]) for row in one.rows])
    results = evaluator.ground_truth.load_res(rows)
    run = hotcoco.COCOeval(evaluator.ground_truth, results, "bbox", lvis_style=mode == "lvis")
    run.params.max_dets = [300]
    run.params.area_rng, run.params.area_rng_lbl = [run.params.area_rng[0]], ["all"]
    run.evaluate()
    expected = run.tide_errors()
    gains = dict(zip(KINDS, np.nanmean(found.gain, axis=1)))
    assert dict(zip(KINDS, found.counts)) == {name: expected["counts"][name] for name in KINDS}
    assert gains == pytest.approx({name: expected["delta_ap"][name] for name in KINDS})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(4))
def test_confusion_is_what_a_loop_over_boxes_counts(trial, tmp_path, mode, seed):
    one = trial(seed, mode).untied()
    _, found, matched = looked_at(one, tmp_path)
    right = {int(row) for row in matched.row[matched.right[0]]}
    passed = {int(row) for row in matched.row[matched.passed[0]]}
    images = {image["id"]: image for image in one.content["images"]}
    truths = [a for a in one.content["annotations"] if not a["iscrowd"]]
    counts, judged = np.zeros((5, 6)), np.zeros((5, 5))
    for a in truths:
        image, own = images[a["image_id"]], a["category_id"]
        present = {
            b["category_id"] for b in one.content["annotations"] if b["image_id"] == image["id"]
        }
        known = present | set(image["neg_category_ids"])
        known -= set(image["not_exhaustive_category_ids"])
        known = set(range(5)) if mode == "coco" else known | {own}
        for category in known:
            judged[own, category] += 1
        candidates = [
            (-row[2], row[1])
            for number, row in enumerate(one.rows)
            if row[0] == image["id"]
            and row[1] in known
            and number not in passed
            and overlap(row[3:], a["bbox"]) >= 0.5
            and (row[1] == own or number not in right)
        ]
        best = min(candidates)[1] if candidates else None
        counts[own, 5 if best is None else best] += 1
    np.testing.assert_array_equal(found.judged, judged)
    np.testing.assert_array_equal(found.counts, counts)


def overlap(one, other):
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


def test_detection_that_is_right_about_a_neighbour_is_no_confusion(trial, tmp_path):
    around = (8.0, 8.0, 24.0, 24.0)
    truths, rows = [(0, BOX), (1, around)], [(1, 0.9, around), (0, 0.3, BOX)]
    _, found, _ = looked_at(by_hand(trial, truths, rows), tmp_path)
    assert found.counts[0].tolist() == [1, 0, 0, 0, 0, 0]
    # the same detection without its box is one
    _, found, _ = looked_at(by_hand(trial, [(0, BOX)], rows, absent=[1]), tmp_path)
    assert found.counts[0].tolist() == [0, 1, 0, 0, 0, 0]


def test_share_is_of_the_boxes_that_could_be_judged():
    counts, judged = np.array([[3, 1, 0], [0, 0, 2]]), np.array([[4, 2], [0, 2]])
    share = Confusion(counts, judged).share
    np.testing.assert_array_equal(share, [[0.75, 0.5], [np.nan, 0]])
