"""The index says what the annotations said, in any process, and its digest is of contents."""

import multiprocessing
import pickle
import random
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from pycocotools import mask as coco

from bacl.datasets import index
from bacl.datasets.index import Index
from bacl.errors import RunError, UsageError

LABELS = {3: 0, 7: 1, 9: 2}
RUNS = {"size": [30, 40], "counts": [100, 50, 1050]}
RLE = coco.frPyObjects(RUNS, 30, 40)


def annotations_of(draw, image, numbers):
    """Up to four annotations: polygons, RLE in both forms, or no mask."""
    masks = [
        [[draw.uniform(0, 30) for _ in range(2 * draw.randint(3, 9))] for _ in range(2)],
        {"size": [30, 40], "counts": RLE["counts"].decode()},
        RUNS,
        None,
    ]
    return [
        {
            "id": next(numbers),
            "image_id": image,
            "category_id": draw.choice(list(LABELS)),
            "bbox": [draw.uniform(0, 10), 2, draw.uniform(1, 20), 4],
            "segmentation": draw.choice(masks),
            "iscrowd": int(draw.random() < 0.2),
        }
        for _ in range(draw.randint(0, 4))
    ]


@pytest.fixture
def rows():
    draw, numbers = random.Random(0), iter(range(1000, 10_000))
    return [
        (
            {"id": 5 * i, "width": 40, "height": 30},
            f"bilder/ä{i}.jpg",
            annotations_of(draw, 5 * i, numbers),
        )
        for i in range(30)
    ]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(index, "AT_ONCE", 8)


@pytest.fixture
def path(tmp_path, rows):
    index.write(tmp_path / "a.arrow", rows, LABELS, tmp_path / "a.json")
    return tmp_path / "a.arrow"


def decoded(mask):
    if mask is None:
        return None
    rle = coco.merge(coco.frPyObjects(mask, 30, 40)) if isinstance(mask, list) else mask
    if not isinstance(mask, list) and isinstance(mask["counts"], list):
        rle = coco.frPyObjects(mask, 30, 40)
    return coco.decode(rle).tolist()


def test_every_image_comes_back_as_it_was(path, rows):
    read = Index(path)
    assert len(read) == 30
    for place in random.Random(1).sample(range(30), 30):
        image, file, annotations = rows[place]
        entry = read.image(place)
        assert (entry.id, entry.file) == (image["id"], file)
        assert (entry.width, entry.height) == (40, 30)
        assert entry.ids.tolist() == [a["id"] for a in annotations]
        assert entry.labels.tolist() == [LABELS[a["category_id"]] for a in annotations]
        assert entry.boxes.tolist() == [a["bbox"] for a in annotations]
        assert entry.crowd.tolist() == [bool(a["iscrowd"]) for a in annotations]
        masks = read.masks(place)
        assert list(map(decoded, masks)) == [decoded(a["segmentation"]) for a in annotations]
        for mask, annotation in zip(masks, annotations, strict=True):
            if isinstance(annotation["segmentation"], list):
                assert [polygon.tolist() for polygon in mask] == annotation["segmentation"]


def test_presence_is_every_category_of_every_image_once(path, rows):
    expected = sorted(
        {
            (place, LABELS[a["category_id"]])
            for place, (_, _, annotations) in enumerate(rows)
            for a in annotations
            if not a["iscrowd"]
        }
    )
    images, labels = Index(path).presence()
    assert list(zip(images.tolist(), labels.tolist())) == expected


def test_trained_are_large_enough_images_with_annotations(tmp_path):
    """Crowds and boxes of no size count as annotations, as in the release."""
    sizes = [(40, 30), (31, 90), (32, 32), (90, 31), (33, 400)] * 500  # more than a part's
    rows, places = [], {}
    draw = random.Random(0)
    for place, (width, height) in enumerate(sizes):
        annotation = {"id": place, "category_id": 7, "bbox": [0, 0, 0.1, 3], "iscrowd": 1}
        own = [annotation] if draw.random() < 0.7 else []
        rows.append(({"id": place, "width": width, "height": height}, f"{place}.jpg", own))
        places[place] = bool(own), min(width, height)
    index.write(tmp_path / "c.arrow", rows, {7: 0}, tmp_path)
    read = Index(tmp_path / "c.arrow")
    for least, empty in [(0, True), (32, True), (0, False), (32, False), (34, False)]:
        expected = [p for p, (own, side) in places.items() if side >= least and (own or empty)]
        assert read.trained(least, empty).tolist() == expected
    assert read.wide().tolist() == [width > height for width, height in sizes]


def test_first_annotation_without_mask_is_found(path, rows, tmp_path):
    without = [a["id"] for _, _, own in rows for a in own if not a["segmentation"]]
    assert Index(path).without_mask() == without[0]
    for _, _, own in rows:
        own[:] = [a for a in own if a["segmentation"]]
    index.write(tmp_path / "b.arrow", rows, LABELS, tmp_path / "a.json")
    assert Index(tmp_path / "b.arrow").without_mask() is None


def test_split_of_no_images_has_none(tmp_path):
    index.write(tmp_path / "a.arrow", [], LABELS, tmp_path)
    read = Index(tmp_path / "a.arrow")
    assert len(read) == 0
    assert [len(column) for column in read.presence()] == [0, 0]
    assert len(read.trained(0, True)) == len(read.wide()) == 0


def test_arrays_are_the_file_and_cannot_be_changed(path):
    entry = next(e for e in map(Index(path).image, range(30)) if len(e.boxes))
    with pytest.raises(ValueError, match="read-only"):
        entry.boxes[0, 0] = 1


def first_ids(read):
    return [read.image(place).id for place in range(3)]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_open_it_themselves(path, method):
    read = Index(path)
    here = first_ids(read)
    assert pickle.loads(pickle.dumps(read))._reader is None
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(first_ids, (read,)) == here == [0, 5, 10]


def test_reading_again_holds_no_more_memory(path):
    read = Index(path)

    def everything():
        for place in range(30):
            read.image(place)
            read.masks(place)

    everything()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(10):
            everything()
        assert tracemalloc.get_traced_memory()[0] - before < 20_000
    finally:
        tracemalloc.stop()


def change(rows, what):
    image, _, _ = rows[4]
    annotation = next(a for _, _, own in rows for a in own if isinstance(a["segmentation"], list))
    first, second = annotation["segmentation"]
    match what:
        case "file":
            rows[4] = (image, "other.jpg", rows[4][2])
        case "width":
            image["width"] += 1
            rows[4][2].clear()
        case "order":
            rows[0], rows[1] = rows[1], rows[0]
        case "point":
            first[0] += 1e-6
        case "polygons":
            annotation["segmentation"] = [first + second]
        case "category":
            annotation["category_id"] = 3 if annotation["category_id"] != 3 else 7
        case "crowd":
            annotation["iscrowd"] = 1 - annotation["iscrowd"]


CHANGES = ["file", "width", "order", "point", "polygons", "category", "crowd"]


@pytest.mark.parametrize("what", CHANGES)
def test_digest_is_of_contents(rows, tmp_path, what):
    first = index.write(tmp_path / "a.arrow", rows, LABELS, tmp_path)
    again = index.write(tmp_path / "b.arrow", iter(rows), LABELS, tmp_path / "elsewhere")
    change(rows, what)
    assert again == first != index.write(tmp_path / "c.arrow", rows, LABELS, tmp_path)


@pytest.mark.parametrize(
    "mask",
    [
        "text",
        [1, 2, 3],
        [[1, 2, "three"]],
        [[1, 2, None, 4, 5, 6]],
        [["1", "2", "3", "4", "5", "6"]],
        [[1, 2, 3, 4, 5, 6], [[1, 2], [3]]],
        [[1, 2, float("nan"), 4, 5, 6]],
        {"counts": "abc"},
        {"size": [40, 30], "counts": "abc"},
        {"size": [30, 40], "counts": None},
        {"size": [30, 40], "counts": ["a"]},
        {"size": 30, "counts": "abc"},
    ],
)
def test_masks_that_are_none_are_told_by_annotation(rows, tmp_path, mask):
    wrong = [own[0] for _, _, own in rows if own][:7]
    for annotation in wrong:
        annotation["segmentation"] = mask
    shown = ", ".join(str(annotation["id"]) for annotation in wrong[:5])
    with pytest.raises(UsageError) as told:
        index.write(tmp_path / "a.arrow", rows, LABELS, "train.json")
    assert str(told.value) == (
        "train.json: annotations: expected polygons or COCO's RLE of the image's size as "
        f"segmentation (or nothing), something else in 7: ids {shown} and 2 more"
    )


def damage(path, how):
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "text":
        path.write_text("[]")
    else:
        table = pa.table({"id": [1]})
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)


@pytest.mark.parametrize("how", ["missing", "cut", "text", "columns"])
def test_file_that_is_no_index_is_told(path, how):
    damage(path, how)
    with pytest.raises(RunError, match=f"^{path}: expected an index that .* has prepared, got"):
        len(Index(path))


def test_empty_polygons_are_no_mask(tmp_path):
    annotation = {"id": 1, "category_id": 3, "bbox": np.zeros(4).tolist(), "segmentation": []}
    rows = [({"id": 1, "width": 4, "height": 3}, "1.jpg", [annotation])]
    index.write(tmp_path / "a.arrow", rows, LABELS, tmp_path)
    assert Index(tmp_path / "a.arrow").masks(0) == [None]
