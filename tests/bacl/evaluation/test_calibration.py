"""Expected calibration error against a loop over its definition and hotcoco's own."""

import math

import evaluation_oracles as oracles
import hotcoco
import numpy as np
import pytest
from evaluation_cases import as_json, case_files, categories_of, coco_case, federated_case, guesses

from bacl.evaluation import Evaluator
from bacl.evaluation.calibration import Calibration


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("federated", [True, False])
def test_error_equals_a_loop_over_the_definition(seed, federated, tmp_path):
    truth = federated_case(seed) if federated else coco_case(seed)
    _, path = case_files(tmp_path, truth)
    found = guesses(truth, seed, tied=seed == 0)
    mode = "lvis" if federated else "coco"
    metrics = Evaluator(path, categories_of(truth), mode).evaluate(found).metrics
    items = [i | {"area": i["bbox"][2] * i["bbox"][3]} for i in as_json(truth, found)]
    judged = oracles.matched(truth, items, federated)
    total = oracles.totals(truth, federated)
    groups = {c["id"]: c["frequency"] for c in truth["categories"]}
    for group in ("", "r", "c", "f"):
        members = {category for category, own in groups.items() if group in ("", own)}
        own = [one for one in judged if one[2] in members]
        known = any(total[category] for category in members)
        expected = oracles.calibration_error(own) if known else math.nan
        name = f"ECE_{group}" if group else "ECE"
        assert metrics[name] == pytest.approx(expected, nan_ok=True), name


@pytest.mark.parametrize("seed", range(4))
def test_error_equals_hotcoco(seed, tmp_path):
    truth = federated_case(seed)
    _, path = case_files(tmp_path, truth)
    found = guesses(truth, seed)
    judge = Evaluator(path, categories_of(truth), "lvis")
    kept = judge.counting(found, found.bbox[:, 2] * found.bbox[:, 3])
    rows = np.column_stack([found.image, found.bbox, found.score, found.label])[kept]
    run = hotcoco.COCOeval(
        judge.ground_truth, judge.ground_truth.load_res(rows), "bbox", lvis_style=True
    )
    run.params.max_dets = [300]
    run.params.area_rng, run.params.area_rng_lbl = [run.params.area_rng[0]], ["all"]
    run.evaluate()
    expected = run.calibration(n_bins=15, iou_threshold=0.5)["ece"]
    assert judge.evaluate(found).metrics["ECE"] == pytest.approx(expected, abs=1e-9)


def test_error_of_known_cases():
    label, every = np.array([0, 0, 0, 0, 1]), np.array([True, False, False])
    score = np.array([0.9, 0.9, 0.1, 1.0, 7.0])
    found = Calibration.of(label, score, np.array([True, False, False, True, True]), 3)
    # 0.9 twice, right once: 0.4 off, both; 0.1 and wrong: 0.1 off; 1.0 shares the last bin, [14/15,
    # 1], with none
    assert found.error(every) == pytest.approx((2 * 0.4 + 0.1 + 0) / 4)
    assert math.isnan(found.error(np.array([True, True, False])))  # 7 is no probability
    assert math.isnan(found.error(np.array([False, False, True])))  # nothing was found
