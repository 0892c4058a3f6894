"""Division of a data set without validation split."""

import json
from collections import Counter

import numpy as np
import pytest

from bacl.errors import UsageError
from bacl_platform.tools.first_experiment.splitting import SHARE, drawn, split


def test_rare_categories_are_in_both_parts_and_single_ones_are_trained():
    rng = np.random.default_rng(3)
    chance = np.geomspace(0.5, 0.004, 30)
    shown = [{str(c) for c in np.flatnonzero(rng.random(30) < chance)} for _ in range(500)]
    total = Counter(category for own in shown for category in own)
    assert min(total.values()) < 5 and max(total.values()) > 200
    val = drawn(shown, seed=0)
    of_val = Counter(category for place in val for category in shown[place])
    for category, count in total.items():
        assert of_val[category] < count
        assert of_val[category] >= (1 if count > 1 else 0)
        assert of_val[category] <= max(2, 2 * SHARE * count)
    assert val == drawn(shown, seed=0) != drawn(shown, seed=1)


def whole(path, images, categories=2):
    content = {
        "info": {"year": 2026},
        "images": [{"id": n, "file_name": name} for n, name in enumerate(images)],
        "annotations": [
            {"id": n, "image_id": str(n), "category_id": n % categories, "bbox": [0, 0, 1, 1]}
            for n in range(len(images))
        ],
        "categories": [{"id": n, "name": f"k{n}", "image_count": 9} for n in range(categories)],
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return content


def test_files_keep_fields_and_copies_of_a_photograph_together(tmp_path):
    names = [f"IMG_{n // 3}_jpg.rf.{n:032x}.jpg" for n in range(60)]
    content = whole(tmp_path / "all.json", names)
    files = split(tmp_path / "all.json", tmp_path / "made", seed=0)
    train, val = (json.loads(file.read_text()) for file in files)
    assert train["info"] == val["info"] == content["info"]
    assert len(train["images"]) + len(val["images"]) == 60 and len(val["images"]) % 3 == 0
    assert len(train["annotations"]) + len(val["annotations"]) == 60
    photographs = [{i["file_name"].split(".rf.")[0] for i in s["images"]} for s in (train, val)]
    assert not photographs[0] & photographs[1]
    assert "image_count" not in train["categories"][0]  # counts were the whole set's


def test_set_that_cannot_be_divided_is_refused(tmp_path):
    whole(tmp_path / "all.json", ["a.jpg", "b.jpg"])
    with pytest.raises(UsageError, match="expected a category with two images"):
        split(tmp_path / "all.json", tmp_path / "made", seed=0)
    assert not (tmp_path / "made").exists()
