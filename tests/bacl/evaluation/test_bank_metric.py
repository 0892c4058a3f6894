import csv
import json
import math
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from evaluation_cases import as_prepared, categories_of, federated_case, guesses, with_masks
from mmengine.structures import InstanceData
from ranks import on_ranks

from bacl.datasets.prepared import Prepared, Split
from bacl.errors import RunError
from bacl.evaluation import BankMetric, Detections, bank_metric, evaluate

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
    monkeypatch.setattr(bank_metric, "FLUSH_ROWS", 20)
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
    monkeypatch.setattr(bank_metric, "FLUSH_ROWS", 20)
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
