import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from evaluation_cases import (
    as_json,
    as_prepared,
    case_files,
    categories_of,
    coco_case,
    federated_case,
    guesses,
    mask_of,
    masks_as_json,
    none,
    normalised,
    with_masks,
    written,
)
from pycocotools import mask as coco_mask

from bacl.digests import sha256
from bacl.errors import RunError, UsageError
from bacl.evaluation import Detections, Evaluator, evaluate
from bacl.metric_names import metric_names
from bacl.settings import Groups

DATA = Path(__file__).parents[4] / "shared" / "data"
LVIS_VAL = DATA / "lvis" / "lvis_v0.5_val_100.json"
COCO_VAL = DATA / "coco_photos" / "val.json"
METRICS = ("AP", "AP50", "AP75", "AP_r", "AP_c", "AP_f")


@pytest.fixture
def lvis(monkeypatch):
    """AP and AR of lvis-api by name, which needs `np.float` that NumPy 2 has removed."""
    monkeypatch.setattr(np, "float", float, raising=False)
    from lvis import LVIS, LVISEval, LVISResults

    def run(path, detections, iou="bbox"):
        truth = LVIS(str(path))
        as_items = masks_as_json if iou == "segm" else as_json
        items = as_items(truth.dataset, detections)
        with contextlib.redirect_stdout(io.StringIO()):
            oracle = LVISEval(truth, LVISResults(truth, items), iou)
            oracle.run()
        results = {name.replace("_", ""): value for name, value in oracle.results.items()}
        precision = oracle.eval["precision"][:, :, :, 0]
        each = [p.mean() if p.max() > -1 else None for p in precision.transpose(2, 0, 1)]
        found = {name: results[name.replace("_", "")] for name in METRICS}
        return found | {"AR": results["AR@300"]}, each

    return run


def assert_same(result, expected, each=None, prefix=""):
    for name, value in expected.items():
        got = result.metrics[prefix + name]
        assert math.isnan(got) if value == -1 else got == pytest.approx(value, abs=1e-6), name
    for row, value in zip(result.per_category, each or [], strict=bool(each)):
        assert row[f"{prefix}AP"] == (None if value is None else pytest.approx(value, abs=1e-6))


@pytest.mark.parametrize("seed", range(25))
def test_lvis_mode_equals_lvis_api_on_random_federated_cases(seed, tmp_path, lvis):
    truth = federated_case(seed)
    file, path = case_files(tmp_path, truth)
    detections = guesses(truth, seed, tied=seed % 3 == 0)
    result = evaluate(path, categories_of(truth), detections, "lvis")
    assert_same(result, *lvis(file, detections))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tied", [False, True])
def test_lvis_mode_keeps_the_300_best_of_an_image_as_lvis_api(seed, tied, tmp_path, lvis):
    truth = federated_case(seed, images=3)
    file, path = case_files(tmp_path, truth)
    detections = guesses(truth, seed, false=100, tied=tied)
    assert np.bincount(detections.image).max() > 500
    result = evaluate(path, categories_of(truth), detections, "lvis")
    assert_same(result, *lvis(file, detections))


@pytest.mark.skipif(not LVIS_VAL.exists(), reason="LVIS's real ground truth is not here")
@pytest.mark.parametrize("seed", range(2))
def test_lvis_mode_equals_lvis_api_on_real_ground_truth(seed, tmp_path, lvis):
    truth = json.loads(LVIS_VAL.read_text())
    detections = guesses(truth, seed, false=0.1)
    path = as_prepared(tmp_path / "val.json", truth)
    result = evaluate(path, categories_of(truth), detections, "lvis")
    assert 0.05 < result.metrics["AP"] < 0.95
    assert_same(result, *lvis(LVIS_VAL, detections))


def test_counting_has_a_limit_per_image_only_where_it_is_asked_for(tmp_path):
    truth = federated_case(0)
    found = guesses(truth, 0, false=150)
    area = found.bbox[:, 2] * found.bbox[:, 3]
    judge = Evaluator(written(tmp_path / "a.json", normalised(truth)), categories_of(truth), "lvis")
    limited = judge.counting(found, area)
    unlimited = judge.counting(found, area, limit=False)
    assert np.isin(limited, unlimited).all()
    judged = judge.judged[found.image, found.label]
    assert len(limited) < len(unlimited) == np.sum(judged & (area > 0))


def test_joined_detections_keep_all_of_an_image_of_several_parts():
    truth = federated_case(0)
    found = guesses(truth, 0)
    joined = Detections.join(found, found)
    assert np.array_equal(joined.image, np.tile(found.image, 2))
    assert np.array_equal(joined.bbox, np.tile(found.bbox, (2, 1)))
    assert joined.mask is None
    masked = with_masks(truth, found, 0)
    assert len(Detections.join(masked, masked).mask) == 2 * len(found.score)


@pytest.mark.parametrize("seed", range(12))
def test_lvis_mode_equals_lvis_api_on_masks_of_random_federated_cases(seed, tmp_path, lvis):
    truth = federated_case(seed)
    file, path = case_files(tmp_path, truth)
    false = 100 if seed == 0 else 1  # more than 300 in an image
    detections = with_masks(truth, guesses(truth, seed, false=false, tied=seed % 3 == 0), seed)
    result = evaluate(path, categories_of(truth), detections, "lvis")
    assert_same(result, *lvis(file, detections, "segm"), prefix="mask_")
    assert_same(result, *lvis(file, detections))


@pytest.mark.skipif(not LVIS_VAL.exists(), reason="LVIS's real ground truth is not here")
@pytest.mark.slow
def test_lvis_mode_equals_lvis_api_on_masks_of_real_ground_truth(tmp_path, lvis):
    truth = json.loads(LVIS_VAL.read_text())
    detections = with_masks(truth, guesses(truth, 0, false=0.1), 0)
    path = as_prepared(tmp_path / "val.json", truth)
    result = evaluate(path, categories_of(truth), detections, "lvis")
    assert 0.02 < result.metrics["mask_AP"] < 0.95
    assert_same(result, *lvis(LVIS_VAL, detections, "segm"), prefix="mask_")


def pycocotools(path, detections, iou="bbox"):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        as_items = masks_as_json if iou == "segm" else as_json
        items = as_items(truth.dataset, detections)
        oracle = COCOeval(truth, truth.loadRes(items), iou)
        oracle.params.maxDets = [300]
        oracle.evaluate()
        oracle.accumulate()
    precision = oracle.eval["precision"][:, :, :, 0, 0]  # (T, R, C)

    def mean(values):
        return values[values > -1].mean() if (values > -1).any() else -1

    expected = {"AP": mean(precision), "AP50": mean(precision[0]), "AP75": mean(precision[5])}
    return expected, precision, mean


@pytest.mark.parametrize("seed", range(12))
def test_coco_mode_equals_pycocotools_on_random_cases(seed, tmp_path):
    truth = coco_case(seed)
    file, path = case_files(tmp_path, truth)
    detections = guesses(truth, seed, false=60 if seed == 0 else 1, tied=seed % 3 == 0)
    categories = categories_of(truth)
    result = evaluate(path, categories, detections, "coco")
    expected, precision, mean = pycocotools(file, detections)
    for group in "rcf":
        of_group = [i for i, category in enumerate(categories) if category.frequency == group]
        expected[f"AP_{group}"] = mean(precision[:, :, of_group])
    each = [mean(p) if p.max() > -1 else None for p in precision.transpose(2, 0, 1)]
    assert_same(result, expected, each)


@pytest.mark.parametrize("seed", range(8))
def test_coco_mode_equals_pycocotools_on_masks_of_random_cases(seed, tmp_path):
    truth = coco_case(seed)
    for annotation in truth["annotations"]:
        if annotation["iscrowd"]:  # COCO's crowds are RLE that is not compressed
            bitmap = coco_mask.decode(mask_of(annotation["segmentation"], 150, 200)).T.ravel()
            edges = np.flatnonzero(np.diff(bitmap, prepend=0)).tolist()
            runs = np.diff([0, *edges, bitmap.size]).tolist()
            annotation["segmentation"] = {"size": [150, 200], "counts": runs}
    file, path = case_files(tmp_path, truth)
    detections = with_masks(truth, guesses(truth, seed, tied=seed % 3 == 0), seed)
    result = evaluate(path, categories_of(truth), detections, "coco")
    expected, precision, mean = pycocotools(file, detections, "segm")
    each = [mean(p) if p.max() > -1 else None for p in precision.transpose(2, 0, 1)]
    assert_same(result, expected, each, prefix="mask_")


@pytest.mark.skipif(not COCO_VAL.exists(), reason="the real photographs are not here")
@pytest.mark.parametrize("iou", ["bbox", "segm"])
def test_coco_mode_equals_pycocotools_on_real_ground_truth(iou, tmp_path):
    truth = json.loads(COCO_VAL.read_text())
    for category in truth["categories"]:
        category |= {"frequency": "r", "image_count": 1, "instance_count": 1}
    detections = with_masks(truth, guesses(truth, 0, false=0.3), 0)
    path = as_prepared(tmp_path / "val.json", truth)
    result = evaluate(path, categories_of(truth), detections, "coco")
    prefix = {"bbox": "", "segm": "mask_"}[iou]
    assert_same(result, pycocotools(COCO_VAL, detections, iou)[0], prefix=prefix)


@pytest.mark.parametrize("mode", ["lvis", "coco"])
def test_no_detections_give_zeros(tmp_path, mode):
    truth = federated_case(0)
    path = as_prepared(tmp_path / "val.json", truth)
    result = evaluate(path, categories_of(truth), none(), mode)
    assert {v for v in result.metrics.values() if not math.isnan(v)} == {0}
    assert result.per_category[-1]["AP"] is None  # never in the ground truth
    assert {row["AP"] for row in result.per_category[:-1]} == {0}
    assert result.metrics["mask_AP"] == 0


@pytest.mark.parametrize("mode", ["lvis", "coco"])
def test_ground_truth_without_boxes_gives_no_metrics(tmp_path, mode):
    truth = federated_case(0) | {"annotations": []}
    path = as_prepared(tmp_path / "val.json", truth)
    detections = Detections(
        np.array([0]), np.array([0]), np.array([0.5]), np.array([[1.0, 1, 9, 9]])
    )
    result = evaluate(path, categories_of(truth), detections, mode)
    assert all(math.isnan(value) for value in result.metrics.values())
    result.save(tmp_path)
    assert set(json.loads((tmp_path / "metrics.json").read_text())["metrics"].values()) == {None}


def test_groups_go_by_the_training_counts_not_by_the_file(tmp_path):
    truth = federated_case(1)
    path = as_prepared(tmp_path / "val.json", truth)
    categories = [c.model_copy(update={"frequency": "r"}) for c in categories_of(truth)]
    metrics = evaluate(path, categories, guesses(truth, 1), "lvis").metrics
    assert metrics["AP_r"] == metrics["AP"] and math.isnan(metrics["AP_f"])


def test_groups_of_ones_own_have_metrics_in_their_order(tmp_path):
    truth = federated_case(1)
    path = as_prepared(tmp_path / "val.json", truth)
    groups = Groups(by="instances", bounds=[19, 399, 7999], names=["1", "2", "3", "4"])
    counts = (19, 20, 399, 400, 7999, 8000, 8001)
    categories = [
        c.model_copy(update={"instance_count": n, "frequency": groups.name(0, n)})
        for c, n in zip(categories_of(truth), counts, strict=True)
    ]
    assert [c.frequency for c in categories] == ["1", "2", "2", "3", "3", "4", "4"]
    detections = with_masks(truth, guesses(truth, 1), 1)
    result = evaluate(path, categories, detections, "lvis", groups)
    assert list(result.metrics) == metric_names(groups.names, masks=True)
    for kind in ("AP", "mask_AP"):
        for name in groups.names:
            of_group = [row[kind] for row in result.per_category if row["frequency"] == name]
            known = [value for value in of_group if value is not None]
            assert result.metrics[f"{kind}_{name}"] == pytest.approx(np.mean(known))


def test_masks_of_another_size_are_refused(tmp_path):
    truth = federated_case(0)
    detections = with_masks(truth, guesses(truth, 0), 0)
    detections.mask[3] = mask_of([[1, 1, 9, 1, 9, 9]], 150, 201)["counts"]
    detections.mask[5] = b""
    with pytest.raises(
        UsageError, match=r"got 2 that are none .* such as one of the image at place .* 200 x 150"
    ):
        evaluate(as_prepared(tmp_path / "v.json", truth), categories_of(truth), detections, "lvis")


def test_masks_are_not_judged_by_ground_truth_without(tmp_path):
    truth = federated_case(0)
    del truth["annotations"][2]["segmentation"]
    detections = with_masks(truth, guesses(truth, 0), 0)
    with pytest.raises(UsageError, match=r"v.json: expected a segmentation in every annotation"):
        evaluate(as_prepared(tmp_path / "v.json", truth), categories_of(truth), detections, "lvis")


def test_result_names_the_evaluator_and_the_ground_truth(tmp_path):
    truth = federated_case(0)
    path = as_prepared(tmp_path / "val.json", truth)
    told = evaluate(path, categories_of(truth), none(), "lvis").evaluator
    assert told == {"name": "hotcoco", "version": "1.3.0", "ground_truth_sha256": sha256(path)}


def test_detections_of_another_dataset_are_refused(tmp_path):
    truth = federated_case(0)
    evaluator = Evaluator(as_prepared(tmp_path / "val.json", truth), categories_of(truth), "lvis")
    for column, kind in (("image", "images"), ("label", "categories")):
        columns = {"image": [0], "label": [0], "score": [0.5], "bbox": [[0, 0, 5, 5]]}
        columns[column] = [77]
        with pytest.raises(UsageError, match=f"the {kind} of the ground truth, got 1 others, such"):
            evaluator.evaluate(Detections(**{k: np.array(v) for k, v in columns.items()}))


def test_scores_that_are_not_finite_are_refused(tmp_path):
    truth = federated_case(0)
    detections = Detections(
        np.array([0]), np.array([0]), np.array([np.nan]), np.array([[0, 0, 5, 5]])
    )
    with pytest.raises(RunError, match="finite scores, got NaN"):
        evaluate(as_prepared(tmp_path / "v.json", truth), categories_of(truth), detections, "lvis")
