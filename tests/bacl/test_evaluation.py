import contextlib
import csv
import dataclasses
import io
import json
import math
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask
from ranks import on_ranks

from bacl import evaluation
from bacl.datasets.categories import Category
from bacl.datasets.prepared import Prepared, Split
from bacl.digests import sha256
from bacl.errors import RunError, UsageError
from bacl.evaluation import BankMetric, Detections, Evaluator, evaluate
from bacl.settings import Groups

DATA = Path(__file__).parents[3] / "shared" / "data"
LVIS_VAL = DATA / "lvis" / "lvis_v0.5_val_100.json"
COCO_VAL = DATA / "coco_photos" / "val.json"
METRICS = ("AP", "AP50", "AP75", "AP_r", "AP_c", "AP_f")


def federated_case(seed, images=8, categories=7):
    """Ground truth with negatives, not-exhaustive lists, odd boxes and unseen categories."""
    draw = np.random.default_rng(seed)
    cats = [
        {"id": 2 * i + 3, "name": f"c{i}", "frequency": "rcf"[int(draw.integers(3))]}
        for i in range(categories)
    ]
    ids = [category["id"] for category in cats]
    for category in cats:
        category |= {"image_count": 1, "instance_count": 1}
    rows, annotations = [], []
    for image in range(1, images + 1):
        present = draw.choice(ids[:-1], size=draw.integers(0, 4), replace=False)
        absent = [int(c) for c in ids if c not in present and draw.random() < 0.4]
        partial = [int(c) for c in present if draw.random() < 0.3]
        rows.append(
            {
                "id": image * 10,
                "width": 200,
                "height": 150,
                "file_name": f"{image}.jpg",
                "neg_category_ids": absent,
                "not_exhaustive_category_ids": partial,
            }
        )
        for category in present:
            for _ in range(draw.integers(1, 5)):
                x, y, w, h = draw.integers(0, 100, 4).tolist()
                w = 0 if draw.random() < 0.05 else w
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image * 10,
                        "category_id": int(category),
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "segmentation": [[x, y, x + w, y, x + w, y + h]],
                    }
                )
    return {"images": rows, "annotations": annotations, "categories": cats}


def normalised(truth):
    """The content of an annotation file as `prepare` writes it: by position and label."""
    categories = sorted(truth["categories"], key=lambda item: item["id"])
    images = {image["id"]: place for place, image in enumerate(truth["images"])}
    labels = {category["id"]: label for label, category in enumerate(categories)}
    lists = ("neg_category_ids", "not_exhaustive_category_ids")
    return {
        "images": [
            image
            | {"id": images[image["id"]]}
            | {name: [labels[one] for one in image[name]] for name in lists if name in image}
            for image in truth["images"]
        ],
        "annotations": [
            one
            | {"id": number, "image_id": images[one["image_id"]]}
            | {"category_id": labels[one["category_id"]]}
            for number, one in enumerate(truth["annotations"], start=1)
        ],
        "categories": [one | {"id": labels[one["id"]]} for one in categories],
    }


def guesses(truth, seed, noise=6.0, false=1.0, tied=False):
    """Perturbed ground truth, some with the wrong category, and false detections."""
    truth = normalised(truth)
    draw = np.random.default_rng([seed, 1])
    ids = [category["id"] for category in truth["categories"]]
    columns = []
    for annotation in truth["annotations"]:
        for _ in range(draw.integers(0, 4)):
            box = np.asarray(annotation["bbox"]) + draw.normal(0, noise, 4)
            category = annotation["category_id"] if draw.random() < 0.8 else draw.choice(ids)
            columns.append((annotation["image_id"], category, draw.random(), *box))
    for image in truth["images"]:
        for _ in range(draw.poisson(false * len(ids))):
            columns.append((image["id"], draw.choice(ids), draw.random(), *draw.uniform(0, 99, 4)))
    table = np.array(columns).reshape(-1, 7)
    table[:, 5:] = np.abs(table[:, 5:])
    table[draw.random(len(table)) < 0.05, 5] = 0
    score = np.round(table[:, 2], 1) if tied else table[:, 2]
    return Detections(
        table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), score, table[:, 3:]
    )


def with_masks(truth, detections, seed):
    """The detections with masks: octagons in or near their boxes, some of them empty."""
    draw = np.random.default_rng([seed, 2])
    sizes = [(image["height"], image["width"]) for image in truth["images"]]
    turns = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    masks = []
    for image, (x, y, w, h) in zip(detections.image, detections.bbox, strict=True):
        reach = draw.uniform(0.6, 1.4, 8)
        corners = [
            x + w / 2 + w / 2 * reach * np.cos(turns),
            y + h / 2 + h / 2 * reach * np.sin(turns),
        ]
        polygon = [] if draw.random() < 0.05 else [np.stack(corners, axis=1).ravel().tolist()]
        masks.append(mask_of(polygon, *sizes[image])["counts"])
    return dataclasses.replace(detections, mask=np.array(masks, dtype=object))


def mask_of(polygons, height, width):
    if not polygons:
        return coco_mask.encode(np.zeros((height, width), dtype=np.uint8, order="F"))
    return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))


def masks_as_json(truth, detections):
    """As lvis-api and pycocotools take them for masks: without boxes."""
    sizes = {image["id"]: [image["height"], image["width"]] for image in truth["images"]}
    items = as_json(truth, detections)
    for item, counts in zip(items, detections.mask, strict=True):
        del item["bbox"]
        item["segmentation"] = {"size": sizes[item["image_id"]], "counts": counts}
    return items


def as_json(truth, detections):
    """With the ids of the annotation file, from which the oracles take their ground truth."""
    images = [image["id"] for image in truth["images"]]
    categories = sorted(category["id"] for category in truth["categories"])
    return [
        {
            "image_id": images[place],
            "category_id": categories[label],
            "score": float(score),
            "bbox": box.tolist(),
        }
        for place, label, score, box in zip(
            detections.image, detections.label, detections.score, detections.bbox, strict=True
        )
    ]


def categories_of(truth):
    return [
        Category(**{key: item[key] for key in Category.model_fields})
        for item in sorted(truth["categories"], key=lambda item: item["id"])
    ]


@pytest.fixture
def lvis(monkeypatch):
    """AP of lvis-api by name, which needs `np.float` that NumPy 2 has removed."""
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
        return {name: results[name.replace("_", "")] for name in METRICS}, each

    return run


def assert_same(result, expected, each=None, prefix=""):
    for name, value in expected.items():
        got = result.metrics[prefix + name]
        assert math.isnan(got) if value == -1 else got == pytest.approx(value, abs=1e-6), name
    for row, value in zip(result.per_category, each or [], strict=bool(each)):
        assert row[f"{prefix}AP"] == (None if value is None else pytest.approx(value, abs=1e-6))


def written(path, truth):
    path.write_text(json.dumps(truth))
    return path


def as_prepared(path, truth):
    return written(path, normalised(truth))


def case_files(folder, truth):
    """The annotation file, for the oracles, and what `prepare` makes of it."""
    return written(folder / "file.json", truth), as_prepared(folder / "val.json", truth)


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
    judged = judge._judged[found.image, found.label]
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


def coco_case(seed):
    truth = federated_case(seed)
    draw = np.random.default_rng(seed)
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = int(draw.random() < 0.2)
    for image in truth["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    return truth


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


def none():
    nothing = np.zeros(0)
    return Detections(
        nothing.astype(int), nothing.astype(int), nothing, np.zeros((0, 4)), nothing.astype(object)
    )


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
    own = [f"AP_{name}" for name in groups.names]
    names = ["AP", "AP50", "AP75", *own]
    assert list(result.metrics) == names + [f"mask_{name}" for name in names]
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


# The metric

VARIANTS = ["bacl", "softmax", "silent"]


def prepared_case(folder):
    """Files of a split, one category of which has text as id in the annotation file."""
    truth = federated_case(3)
    path = as_prepared(folder / "val.json", truth)
    categories = categories_of(truth)
    categories[2].id = "two"
    split = Split(annotations=str(path), images="", image_total=8, instance_total=1, masks=False)
    Prepared(
        digest="",
        evaluation="lvis",
        train=split,
        val=split,
        categories=categories,
        warnings=[],
    ).save(folder / "dataset.json")
    return truth


def samples_of(truth):
    """What a bank gives for each image: all variants' detections together."""
    found = [with_masks(truth, guesses(truth, seed), seed) for seed in (0, 1)]
    samples = []
    for place in range(len(truth["images"])):
        parts = []
        for index, detections in enumerate(found):
            here = detections.image == place
            box = torch.tensor(detections.bbox[here]).float()
            parts.append(
                InstanceData(
                    bboxes=torch.cat([box[:, :2], box[:, :2] + box[:, 2:]], dim=1),
                    scores=torch.tensor(detections.score[here]).float(),
                    labels=torch.tensor(detections.label[here]),
                    variant=torch.full((int(here.sum()),), index),
                    masks=[{"size": [150, 200], "counts": c} for c in detections.mask[here]],
                )
            )
        samples.append({"img_id": place, "pred_instances": InstanceData.cat(parts)})
    return samples


def metric(place, **changes):
    fields = {
        "annotations": str(place / "val.json"),
        "dataset_info": str(place / "dataset.json"),
        "variants": VARIANTS,
        "mode": "lvis",
        "folder": str(place / "variants"),
    }
    return BankMetric(**(fields | changes))


def run_metric(place, samples, **changes):
    measured = metric(place, masks=True, **changes)
    for sample in samples:
        measured.process(None, [sample])
    return measured.evaluate(8)


def test_metric_equals_evaluating_each_variant_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "FLUSH_ROWS", 20)
    truth = prepared_case(tmp_path)
    flat = run_metric(tmp_path, samples_of(truth))
    for name, detections in zip(VARIANTS, (guesses(truth, 0), guesses(truth, 1)), strict=False):
        expected = evaluate(tmp_path / "val.json", categories_of(truth), detections, "lvis")
        there = {key: value for key, value in expected.metrics.items() if not math.isnan(value)}
        assert flat.keys() >= {f"{name}/{key}" for key in there}
        for key, value in expected.metrics.items():
            if key in there:
                assert flat[f"{name}/{key}"] == pytest.approx(value, abs=1e-3)
            else:
                assert f"{name}/{key}" not in flat
        folder = tmp_path / "variants" / name
        stored = Detections.read(folder / "detections.parquet")
        assert len(stored.score) == len(detections.score)
        assert stored.image.dtype == stored.label.dtype == np.int32
        assert sorted(zip(stored.image, stored.label)) == sorted(
            zip(detections.image, detections.label)
        )
        again = evaluate(tmp_path / "val.json", categories_of(truth), stored, "lvis")
        assert flat[f"{name}/AP"] == again.metrics["AP"]
        told = json.loads((folder / "metrics.json").read_text())
        assert told["metrics"]["AP"] == flat[f"{name}/AP"]
        assert told["evaluator"]["name"] == "hotcoco"
        with (folder / "categories.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["id"] for row in rows] == ["3", "5", "two", "9", "11", "13", "15"]
        assert [row["AP"] for row in rows] == [
            "" if row["AP"] is None else str(row["AP"]) for row in again.per_category
        ]
    assert flat["silent/AP"] == 0
    assert sorted(os.listdir(tmp_path / "variants")) == sorted(VARIANTS)
    assert sorted(os.listdir(tmp_path / "variants" / "bacl")) == [
        "categories.csv",
        "detections.parquet",
        "metrics.json",
    ]


def test_metric_keeps_and_judges_masks_where_it_is_told_to(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "FLUSH_ROWS", 20)
    truth = prepared_case(tmp_path)
    measured = metric(tmp_path, masks=True)
    for sample in samples_of(truth):
        measured.process(None, [sample])
    flat = measured.evaluate(8)
    for seed, name in enumerate(VARIANTS[:2]):
        stored = Detections.read(tmp_path / "variants" / name / "detections.parquet")
        detections = with_masks(truth, guesses(truth, seed), seed)
        assert sorted(stored.mask) == sorted(detections.mask)
        expected = evaluate(tmp_path / "val.json", categories_of(truth), detections, "lvis")
        assert flat[f"{name}/mask_AP"] == pytest.approx(expected.metrics["mask_AP"], abs=1e-3)
    assert flat["silent/mask_AP"] == 0
    with (tmp_path / "variants" / "bacl" / "categories.csv").open() as file:
        assert "mask_AP" in next(csv.DictReader(file))


def test_metric_starts_anew_for_each_evaluation(tmp_path):
    samples = samples_of(prepared_case(tmp_path))
    measured = metric(tmp_path)
    results = []
    for _ in range(2):
        measured.process(None, samples)
        results.append(measured.evaluate(8))
    assert results[0] == pytest.approx(results[1], nan_ok=True)


def test_metric_without_any_sample_gives_zeros(tmp_path):
    prepared_case(tmp_path)
    assert metric(tmp_path).evaluate(8)["bacl/AP"] == 0


def evaluate_share(folder, spoil, apart=False):
    rank = torch.distributed.get_rank()
    place = folder / f"machine{rank}" if apart else folder
    place.mkdir(exist_ok=True)
    os.chdir(place)  # so that a relative path leads each to a folder of its own
    samples = samples_of(json.loads((folder / "val.json").read_text()))
    if spoil:
        samples[0]["pred_instances"].scores[:] = math.nan
    try:
        # The second rank repeats the first images, as a sampler does that evens out the ranks.
        own = samples[:5] if rank == 0 else samples[5:] + samples[:2] if rank == 1 else []
        told = run_metric(folder, own, folder="variants")
    except RunError as error:
        told = str(error)
    (folder / f"told{rank}.json").write_text(json.dumps(told))


@pytest.mark.parametrize("spoil", [False, True])
def test_two_ranks_tell_what_one_does_and_share_errors(tmp_path, spoil):
    truth = prepared_case(tmp_path)
    expected = run_metric(tmp_path, samples_of(truth))
    rows = len(pq.read_table(tmp_path / "variants" / "bacl" / "detections.parquet"))
    on_ranks(evaluate_share, 2, tmp_path, spoil)
    told = [json.loads((tmp_path / f"told{rank}.json").read_text()) for rank in (0, 1)]
    if spoil:
        assert told == ["expected detections with finite scores, got NaN or infinity"] * 2
    else:
        for values in told:
            assert values == pytest.approx(expected, nan_ok=True)
        merged = pq.read_table(tmp_path / "variants" / "bacl" / "detections.parquet")
        assert len(merged) == rows


def test_ranks_on_machines_that_share_no_folder_tell_what_one_does(tmp_path):
    expected = run_metric(tmp_path, samples_of(prepared_case(tmp_path)))
    on_ranks(evaluate_share, 3, tmp_path, False, True)  # the third of which sees no image
    for rank in range(3):
        told = json.loads((tmp_path / f"told{rank}.json").read_text())
        assert told == pytest.approx(expected, nan_ok=True)
    for name in VARIANTS:
        alone, merged = (
            Detections.read(place / "variants" / name / "detections.parquet")
            for place in (tmp_path, tmp_path / "machine0")
        )
        for column in ("image", "label", "score", "bbox", "mask"):
            assert np.array_equal(getattr(alone, column), getattr(merged, column)), column
    left = [path for path in tmp_path.glob("machine[12]/**/*") if path.is_file()]
    assert left == []
    assert sorted(os.listdir(tmp_path / "machine0/variants")) == sorted(VARIANTS)
