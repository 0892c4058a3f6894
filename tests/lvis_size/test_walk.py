"""The walk at LVIS's size, at a small one."""

import json
import sys
from collections import Counter

import numpy as np
import pytest
import walk
from entries import drawn
from rich.console import Console

from bacl.evaluation import MAX_DETECTIONS
from bacl_platform.bench.drawn import Size, write_annotations

COUNTS = (40, 12, 3, 1)
SMALL = Size(60, 200, len(COUNTS), COUNTS, negatives=2)


def test_image_counts_are_lvis_v1s():
    groups = Counter("r" if n <= 10 else "c" if n <= 100 else "f" for n in walk.COUNTS)
    assert groups == {"r": 337, "c": 461, "f": 405}  # as LVIS publishes them
    assert sum(walk.VAL.image_counts) < walk.VAL.annotations


def test_annotations_have_the_image_counts_asked_for(tmp_path):
    write_annotations(tmp_path / "train.json", SMALL)
    content = json.loads((tmp_path / "train.json").read_text())
    assert len(content["annotations"]) == 200
    seen = {(a["category_id"], a["image_id"]) for a in content["annotations"]}
    images = Counter(category for category, _ in seen)
    assert [images[n + 1] for n in range(len(COUNTS))] == list(COUNTS)
    assert [category["image_count"] for category in content["categories"]] == list(COUNTS)
    for image in content["images"]:
        assert not {(absent, image["id"]) for absent in image["neg_category_ids"]} & seen


def test_detections_are_drawn_for_every_image_and_the_later_variants_are_better():
    boxes = [[10.0 * n, 5, 40, 30] for n in range(5)]
    truth = {
        "images": [
            {"id": n, "width": 640, "height": 480, "neg_category_ids": [3]} for n in range(200)
        ],
        "annotations": [
            {"image_id": n, "category_id": k % 3, "bbox": box}
            for n in range(200)
            for k, box in enumerate(boxes)
        ],
    }
    scores = {0: [], 2: []}
    seen = []
    for image, found in drawn(truth, 4, ["worst", "middle", "best"]):
        seen.append(image)
        assert len(found["scores"]) == 3 * MAX_DETECTIONS
        for variant in scores:
            mine = found["variant"] == variant
            scores[variant].append(found["scores"][mine][:3].mean())  # those near to objects
    assert seen == list(range(200))
    assert np.mean(scores[2]) > np.mean(scores[0]) + 0.02


@pytest.mark.slow
def test_memory_is_that_of_a_process_and_what_it_starts(tmp_path):
    inner = "b = bytearray(200 * 2**20); import time; time.sleep(3)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    taken = walk.take(walk.Step("hold", [sys.executable, "-c", outer], memory=0.1), tmp_path)
    assert 0.2 < taken.memory < 0.5
    assert taken.trouble == "more than 0.1 GiB"


def test_step_that_fails_says_how_it_ended(tmp_path):
    command = [sys.executable, "-c", "import sys; sys.exit('no such thing')"]
    taken = walk.take(walk.Step("fail", command), tmp_path)
    assert taken.trouble == "ended with exit code 1:\nno such thing"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_walk_judges_reports_and_compares_drawn_detections(tmp_path, monkeypatch):
    monkeypatch.setattr(walk, "TRAIN", SMALL)
    monkeypatch.setattr(walk, "VAL", SMALL)
    few = Size(4, 12, len(COUNTS), (3, 2, 1, 1), negatives=2)
    monkeypatch.setattr(walk, "FEW", few)
    tiny = "{backbone: tiny, neck_channels: 16, fc_channels: 32, test_proposals: 50}"
    monkeypatch.setattr(walk, "TRAINED", walk.TRAINED.replace("{backbone: resnet50}", tiny))
    for name in ("evaluate 5", "report of 5", "compare"):
        (taken,) = walk.walk(tmp_path, name, Console(quiet=True))
        assert taken.seconds > 0 and not taken.trouble
    for file in ("report.html", "compare_softmax_bacl.html"):
        assert (tmp_path / "store/reports/lvis-size-judged" / file).exists()
