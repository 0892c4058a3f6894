"""What lies beyond the limit per image, as ranks collect it, against keeping everything."""

import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from evaluation_cases import as_prepared, categories_of, coco_case, federated_case, guesses
from mmengine.structures import InstanceData
from ranks import on_ranks

from bacl.datasets.prepared import Prepared, Split
from bacl.evaluation import BankMetric, Detections, Evaluator, beyond, read_unlimited

LIMIT, BEST, CATEGORIES = 6, 25, 7
NAMES = ["one", "two"]


def prepared_case(folder, mode, images=40):
    truth = (federated_case if mode == "lvis" else coco_case)(5)
    truth = federated_case(5, images=images) if mode == "lvis" else truth
    path = as_prepared(folder / "val.json", truth)
    split = Split(annotations=str(path), images="", image_total=8, instance_total=1, masks=False)
    Prepared(
        digest="",
        evaluation=mode,
        train=split,
        val=split,
        categories=categories_of(truth),
        warnings=[],
    ).save(folder / "dataset.json")
    return truth


def found_of(truth):
    """All detections of each variant, in float32 as detectors have them."""
    every = [guesses(truth, seed, false=4, tied=seed == 1) for seed in (0, 1)]
    return [
        Detections(
            one.image.astype(np.int32),
            one.label.astype(np.int32),
            one.score.astype(np.float32),
            one.bbox.astype(np.float32),
        )
        for one in every
    ]


def show(measured, every, place):
    """Pass an image's detections as a detector does that hands on what it finds."""
    parts = []
    for number, found in enumerate(every):
        rows = np.flatnonzero(found.image == place)
        rows = rows[np.argsort(-found.score[rows], kind="stable")]
        boxes = torch.tensor(found.bbox[rows])
        boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
        scores, labels = torch.tensor(found.score[rows]), torch.tensor(found.label[rows])
        best = boxes[:LIMIT], scores[:LIMIT], labels[:LIMIT]
        lowest = measured.beyond.lowest(number, scores)
        after = torch.arange(len(rows)) >= LIMIT
        after &= scores > lowest[labels.long()]
        measured.beyond.take(place, number, best, (boxes[after], scores[after], labels[after]))
        parts.append(
            InstanceData(
                bboxes=best[0],
                scores=best[1],
                labels=best[2],
                variant=torch.full((len(best[1]),), number),
            )
        )
    sample = {"img_id": place, "pred_instances": InstanceData.cat(parts)}
    measured.process(None, [sample])


def metric(folder, mode, out):
    made = BankMetric(
        str(folder / "val.json"), str(folder / "dataset.json"), NAMES, mode, str(out), best=BEST
    )
    made.beyond.connect()
    return made


@pytest.mark.parametrize("mode", ["lvis", "coco"])
@pytest.mark.parametrize("flush", [1, 60, 200_000])
def test_fixed_is_that_of_all_detections(mode, flush, tmp_path, monkeypatch):
    monkeypatch.setattr(beyond, "FLUSH_ROWS", flush)
    truth = prepared_case(tmp_path, mode)
    every = found_of(truth)
    measured = metric(tmp_path, mode, tmp_path / "out")
    for _ in range(2):  # the second evaluation begins anew
        for place in range(len(truth["images"])):
            show(measured, every, place)
        flat = measured.evaluate(0)
    judge = Evaluator(tmp_path / "val.json", categories_of(truth), mode, best=BEST)
    for name, found in zip(NAMES, every, strict=True):
        expected = judge.evaluate(found).metrics
        for kind in ("APFixed", "APFixed_c", "APPool", "APPool_f"):
            if not np.isnan(expected[kind]):
                assert flat[f"{name}/{kind}"] == pytest.approx(expected[kind], abs=1e-6), kind
        folder = tmp_path / "out" / name
        stored = Detections.read(folder / "detections.parquet")
        assert np.bincount(stored.image).max() == LIMIT
        assert flat[f"{name}/AP"] == judge.evaluate(stored).metrics["AP"]
        unlimited = read_unlimited(stored, folder / "beyond.parquet")
        again = judge.evaluate(stored, unlimited)
        assert again.metrics["APFixed"] == flat[f"{name}/APFixed"]
        assert again.fixed_limit is None
        assert json.loads((folder / "metrics.json").read_text())["fixed_limit"] is None
        beside = unlimited.beyond
        assert len(beside.score) > 0 and np.bincount(beside.label).max() <= BEST
        assert judge.mode == "coco" or judge.judged[beside.image, beside.label].all()
    assert not (tmp_path / "out" / ".shards").exists()


def test_thresholds_follow_the_best_scores_from_below(tmp_path):
    draw = np.random.default_rng(0)
    collected = beyond.Beyond(3, lambda: None, lambda number: tmp_path / f"{number}.parquet", 50)
    seen = {0: [], 1: []}
    for image in range(200):
        scores = draw.beta(1, 20, 12).astype(np.float32)
        labels = draw.integers(0, 2, 12)
        lowest = collected.lowest(0, torch.zeros(1)).numpy()
        for label, own in seen.items():
            if len(own) >= 50:
                last = np.sort(own)[-50]
                assert lowest[label] <= last
                # bins are a sixteenth of a power of two wide; thresholds wait for some images
                assert lowest[label] >= 0.7 * last or image < 40
        assert lowest[2] == -np.inf
        kept = scores > lowest[labels]
        boxes = torch.zeros(int(kept.sum()), 4)
        nothing = (boxes[:0], torch.zeros(0), torch.zeros(0, dtype=torch.long))
        rest = (boxes, torch.tensor(scores[kept]), torch.tensor(labels[kept]))
        collected.take(image, 0, nothing, rest)
        for label, own in seen.items():
            own += scores[labels == label].tolist()
    collected.close(1)
    assert (collected.lowest(0, torch.zeros(1))[:2] > 0.1).all()


def test_a_shard_stays_within_twice_what_can_count(tmp_path, monkeypatch):
    monkeypatch.setattr(beyond, "FLUSH_ROWS", 100)
    best, categories = 20, 4
    path = tmp_path / "0.parquet"
    collected = beyond.Beyond(categories, lambda: None, lambda number: path, best)
    draw = np.random.default_rng(1)
    every = []
    for image in range(300):
        scores = np.sort(draw.random(60).astype(np.float32) * (image + 1) / 300)[::-1]
        labels = draw.integers(0, categories, 60)
        every += [(-score, image, label) for score, label in zip(scores, labels, strict=True)]
        boxes = torch.zeros(60, 4)
        nothing = (boxes[:0], torch.zeros(0), torch.zeros(0, dtype=torch.long))
        rest = (boxes, torch.tensor(scores.copy()), torch.tensor(labels))
        collected.take(image, 0, nothing, rest)  # more than a detector would hand on
    collected.close(1)
    table = pq.read_table(path)
    assert len(table) <= 2 * best * categories + 2 * 100 + 60 < len(every)
    kept = set(zip(table["image"].to_pylist(), np.float32(table["score"].to_numpy()).tolist()))
    for category in range(categories):
        for score, image, _ in sorted(one for one in every if one[2] == category)[:best]:
            assert (image, float(-score)) in kept


def evaluate_share(folder, mode):
    rank = torch.distributed.get_rank()
    os.chdir(folder)
    truth = json.loads((folder / "truth.json").read_text())
    every = found_of(truth)
    measured = metric(folder, mode, folder / "shared")
    images = len(truth["images"])
    # the second rank sees the first image again, as a sampler has it that evens out the ranks
    for place in [*range(rank, images, 2), *([0] if rank else [])]:
        show(measured, every, place)
    flat = measured.evaluate(0)
    (folder / f"rank{rank}.json").write_text(json.dumps(flat))


def test_two_ranks_find_what_one_does(tmp_path):
    truth = prepared_case(tmp_path, "lvis")
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    measured = metric(tmp_path, "lvis", tmp_path / "alone")
    every = found_of(truth)
    for place in range(len(truth["images"])):
        show(measured, every, place)
    expected = measured.evaluate(0)
    on_ranks(evaluate_share, 2, tmp_path, "lvis")
    for rank in (0, 1):
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == pytest.approx(expected)
    for name in NAMES:
        alone, shared = (
            pq.read_table(tmp_path / folder / name / "beyond.parquet")
            for folder in ("alone", "shared")
        )
        assert alone.schema.metadata == shared.schema.metadata
        order = [(c, "ascending") for c in alone.column_names]
        assert alone.sort_by(order).equals(shared.sort_by(order))
