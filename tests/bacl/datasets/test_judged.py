"""Crowded images: what can be found at most, against a loop over images."""

import json
from collections import Counter

import numpy as np
import pytest

from bacl.datasets import index
from bacl.datasets.categories import Category
from bacl.datasets.judged import LVIS_DETECTIONS, Boxes, crowding, crowding_sentences
from bacl.evaluation import MAX_DETECTIONS, Detections, Evaluator
from bacl.settings import Detector


def boxes(*counts):
    """Boxes of images, each a mapping of categories to how many there are."""
    image = [place for place, own in enumerate(counts) for _ in range(sum(own.values()))]
    category = [c for own in counts for c, count in own.items() for _ in range(count)]
    return Boxes(np.array(image, dtype=np.int64), np.array(category, dtype=np.int64))


def looped(given, detections, proposals):
    """(crowded images, share) one image at a time."""
    crowded, found = 0, 0
    for image in np.unique(given.image):
        own = Counter(given.category[given.image == image].tolist())
        here = min(sum(min(count, proposals) for count in own.values()), detections)
        crowded += here < sum(own.values())
        found += here
    return crowded, found / len(given.image)


@pytest.mark.parametrize("seed", range(5))
def test_share_that_can_be_found_is_a_loops(seed):
    generator = np.random.default_rng(seed)
    given = Boxes(generator.integers(6, size=90), generator.integers(3, size=90))
    for detections, proposals in ((3, 100), (100, 4), (9, 5), (15, 6)):
        found = crowding(given, detections, proposals)
        assert (found.images, found.share) == pytest.approx(looped(given, detections, proposals))
        assert found.most == np.bincount(given.image).max()
    assert crowding(given, 90, 90) is None


def test_no_boxes_are_not_crowded():
    assert crowding(boxes(), 1, 1) is None
    assert list(crowding_sentences(boxes(), Detector(), "coco")) == []


def test_crowded_images_of_own_data_say_what_to_set():
    given = boxes({0: 5000}, {0: 20, 1: 5})
    (said,) = crowding_sentences(given, Detector(), "coco")
    assert said == (
        "1 validation image has more boxes than can be found in an image (up to 5,000): recall is "
        "6.5 % at most, and AP is lower for it; set detector.max_detections to 5000 (now 300) and "
        "detector.test_proposals to 5000 (now 1000)"
    )
    enough = Detector(max_detections=5000, test_proposals=5000)
    assert list(crowding_sentences(given, enough, "coco")) == []
    (said,) = crowding_sentences(given, Detector(max_detections=5000), "coco")
    assert said.endswith("set detector.test_proposals to 5000 (now 1000)")


def test_lvis_counts_300_whatever_is_set():
    given = boxes({0: 200, 1: 150}, {0: 1000})
    (said,) = crowding_sentences(given, Detector(max_detections=100), "lvis")
    assert said.endswith("set detector.max_detections to 300 (now 100)")
    (said,) = crowding_sentences(given, Detector(), "lvis")
    assert said.endswith("no setting helps under LVIS's evaluation")
    limit, said = crowding_sentences(given, Detector(max_detections=1000), "lvis")
    assert limit.startswith(
        "detector.max_detections is 1,000, but LVIS's evaluation counts the 300"
    )
    assert "recall is 44.4 % at most" in said
    assert LVIS_DETECTIONS == MAX_DETECTIONS


def test_recall_that_is_nearly_all_is_not_rounded_to_all():
    given = boxes({0: 301}, *({0: 300} for _ in range(400)))
    (said,) = crowding_sentences(given, Detector(), "coco")
    assert "recall is 99.99 % at most" in said


def test_boxes_of_an_index_are_those_of_its_annotations_without_crowds(tmp_path):
    annotations = [
        {"id": k, "image": k % 2, "label": k % 3, "bbox": [0, 0, 5, 5], "iscrowd": int(k == 5)}
        for k in range(9)
    ]
    rows = [
        ({"id": 7 * place, "width": 50, "height": 40}, "x.png", own)
        for place in range(3)
        for own in [[one for one in annotations if one["image"] == place]]
    ]
    index.write(tmp_path / "index", rows)
    read = Boxes.read(index.Index(tmp_path / "index"))
    pairs = Counter(zip(read.image.tolist(), read.category.tolist()))
    shown = [one for one in annotations if not one["iscrowd"]]
    assert pairs == Counter((one["image"], one["label"]) for one in shown)
    assert read.of_categories(4).tolist() == [3, 3, 2, 0]
    of = Boxes.of(annotations)
    assert sorted(zip(of.image, of.category)) == sorted(zip(read.image, read.category))


@pytest.mark.parametrize("mode", ["coco", "lvis"])
def test_share_is_the_recall_of_a_perfect_detector(tmp_path, mode):
    """The bound is reached: of so many boxes, evaluation counts no more as found."""
    count = 700
    corners = [(x * 14.0, y * 14.0) for x in range(30) for y in range(30)][:count]
    content = {
        "images": [{"id": 0, "file_name": "1.png", "width": 500, "height": 500}],
        "annotations": [
            {"id": k, "image_id": 0, "category_id": 0, "bbox": [x, y, 9, 9], "area": 81}
            for k, (x, y) in enumerate(corners, start=1)
        ],
        "categories": [{"id": 0, "name": "one"}],
    }
    path = tmp_path / "val.json"
    path.write_text(json.dumps(content))
    category = Category(id=1, name="one", frequency="f", image_count=200, instance_count=200)
    most = 300
    detections = Detections(
        np.zeros(most, dtype=int),
        np.zeros(most, dtype=int),
        np.linspace(1, 0.5, most),
        np.array([(x, y, 9, 9) for x, y in corners[:most]]),
    )
    found = crowding(boxes({0: count}), most, count)
    ap = Evaluator(path, [category], mode).evaluate(detections).metrics["AP"]
    # precision 1 at the recall thresholds 0, 0.01, ... that are reached
    assert ap == pytest.approx((np.linspace(0, 1, 101) <= found.share).mean())
