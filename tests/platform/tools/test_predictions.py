"""Files of predictions: which of a dataset's images an input is, and what is written of it."""

import json

import numpy as np
import pytest
from PIL import Image

from bacl.datasets.prepare import prepare
from bacl.errors import UsageError
from bacl.settings import Dataset
from bacl_platform.tools.inputs import Input
from bacl_platform.tools.predictions import Ids, match, write

LABELS = np.array([1, -1, 0])


@pytest.fixture
def dataset(tmp_path):
    """A dataset two of whose images have one name, in folders of their own."""
    files = ["a/1.png", "b/1.png", "b/2.png"]
    for file in files:
        (tmp_path / "photos" / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (len(file), ord(file[0]), ord(file[2]))).save(
            tmp_path / "photos" / file
        )
    content = {
        "images": [
            {"id": 10 + n, "file_name": file, "width": 8, "height": 6}
            for n, file in enumerate(files)
        ],
        "annotations": [
            {"id": n, "image_id": 10 + n, "category_id": 5 + n % 2, "bbox": [1, 1, 3, 3], "area": 9}
            for n in range(3)
        ],
        "categories": [{"id": 5, "name": "cup"}, {"id": 6, "name": "mug"}],
    }
    (tmp_path / "all.json").write_text(json.dumps(content))
    path = str(tmp_path / "all.json")
    photos = str(tmp_path / "photos")
    return prepare(Dataset(format="coco", train=path, val=path, images=photos), tmp_path)


def ids_of(dataset, *names):
    return match([Input(str(name), "image") for name in names], dataset, LABELS)


def test_images_are_found_by_path_and_by_as_much_of_it_as_tells_them_apart(dataset, tmp_path):
    photos = tmp_path / "photos"
    for names in (
        (photos / "b/1.png", photos / "b/2.png", photos / "a/1.png"),
        (tmp_path / "copy/b/1.png", "elsewhere/2.png", tmp_path / "copy/a/1.png"),
    ):
        found = ids_of(dataset, *names)
        assert list(found.images.values()) == [11, 12, 10]
        assert set(found.sizes.values()) == {(8, 6)}
        assert found.categories == [6, None, 5]


def test_what_may_be_none_or_several_images_is_told(dataset, tmp_path):
    with pytest.raises(UsageError, match=r"got 2 of 3 that .* \(x/1.png, x/9.png\)"):
        ids_of(dataset, "x/2.png", "x/1.png", "x/9.png")
    with pytest.raises(UsageError, match=r"expected each image once, got several of one \(x/2"):
        ids_of(dataset, "x/2.png", "y/2.png")
    with pytest.raises(UsageError, match=r"got 1 of 1"):
        match([Input("b/2.png", "address")], dataset, LABELS)


def test_lvis_has_the_best_of_an_image_and_neither_has_foreign_categories(tmp_path):
    scores = np.random.default_rng(0).random(350).tolist()
    detections = [
        {"label": n % 3, "score": score, "box": [0.1, 0.2, 1.3, 2.4]}
        for n, score in enumerate(scores)
    ]
    entry = {"name": "x", "picture": None, "detections": detections}
    ids = Ids({"x": 7}, {"x": (8, 6)}, [6, None, 5])
    known = sorted((one["score"] for one in detections if one["label"] != 1), reverse=True)
    best = sorted(scores, reverse=True)[:300]
    for kind, expected in (("coco", known), ("lvis", [s for s in known if s in best])):
        write(kind, tmp_path / "results.json", [entry], {}, ids)
        written = json.loads((tmp_path / "results.json").read_text())
        assert [one["score"] for one in written] == expected
        assert {(one["image_id"], one["category_id"]) for one in written} == {(7, 5), (7, 6)}
        x1, y1, x2, y2 = np.float32([0.1, 0.2, 1.3, 2.4])
        assert written[0]["bbox"] == [float(side) for side in (x1, y1, x2 - x1, y2 - y1)]
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_file_is_as_it_was_where_writing_it_fails(tmp_path):
    path = tmp_path / "predictions.json"
    path.write_text("before")

    def entries():
        yield {"name": "a", "picture": None, "detections": []}
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        write("json", path, entries(), {}, None)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
