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
from bacl.errors import RunError

RLE = coco.frPyObjects({"size": [30, 40], "counts": [100, 50, 1050]}, 30, 40)["counts"]


def any_id(number):
    """A number, a number too large for 64 bits, or text, as JSON allows them."""
    return (number, 10**20 + number, f"ü{number}")[number % 3]


def annotations_of(draw, numbers):
    """Up to four annotations: polygons, RLE, or no mask."""
    masks = [
        [np.array([draw.uniform(0, 30) for _ in range(2 * draw.randint(3, 9))]) for _ in range(2)],
        RLE,
        None,
    ]
    annotations = [
        {
            "id": any_id(next(numbers)),
            "label": draw.choice([0, 1, 2]),
            "bbox": [draw.uniform(0, 10), 2, draw.uniform(1, 20), 4],
            "segmentation": draw.choice(masks),
            "iscrowd": int(draw.random() < 0.2),
        }
        for _ in range(draw.randint(0, 4))
    ]
    return [{k: v for k, v in one.items() if v is not None} for one in annotations]


@pytest.fixture
def rows():
    draw, numbers = random.Random(0), iter(range(1000, 10_000))
    return [
        (
            {"id": any_id(5 * i), "width": 40, "height": 30},
            f"bilder/ä{i}.jpg",
            annotations_of(draw, numbers),
        )
        for i in range(30)
    ]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(index, "AT_ONCE", 8)


@pytest.fixture
def path(tmp_path, rows):
    index.write(tmp_path / "a.arrow", rows)
    return tmp_path / "a.arrow"


def as_read(mask):
    """What `Index.masks` should give for a mask that was written."""
    if isinstance(mask, bytes):
        return {"size": [30, 40], "counts": mask.decode()}
    return None if mask is None else [polygon.tolist() for polygon in mask]


def listed(mask):
    return [polygon.tolist() for polygon in mask] if isinstance(mask, list) else mask


def test_every_image_comes_back_as_it_was(path, rows):
    read = Index(path)
    assert len(read) == 30
    for place in random.Random(1).sample(range(30), 30):
        image, file, annotations = rows[place]
        entry = read.image(place)
        assert (entry.id, entry.file) == (image["id"], file)
        assert (entry.width, entry.height) == (40, 30)
        assert entry.labels.tolist() == [a["label"] for a in annotations]
        assert entry.boxes.tolist() == [a["bbox"] for a in annotations]
        assert entry.crowd.tolist() == [bool(a["iscrowd"]) for a in annotations]
        masks = [listed(mask) for mask in read.masks(place)]
        assert masks == [as_read(a.get("segmentation")) for a in annotations]


def test_masks_decode_to_the_pixels_that_were_written(path, rows):
    read, found = Index(path), 0
    for place, (_, _, annotations) in enumerate(rows):
        for mask, annotation in zip(read.masks(place), annotations, strict=True):
            if isinstance(mask, dict):
                expected = coco.decode({"size": [30, 40], "counts": annotation["segmentation"]})
                assert np.array_equal(coco.decode(mask), expected) and expected.sum() == 50
                found += 1
    assert found


def test_presence_is_every_category_of_every_image_once(path, rows):
    expected = sorted(
        {
            (place, a["label"])
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
        annotation = {"id": place, "label": 0, "bbox": [0, 0, 0.1, 3], "iscrowd": 1}
        own = [annotation] if draw.random() < 0.7 else []
        rows.append(({"id": place, "width": width, "height": height}, f"{place}.jpg", own))
        places[place] = bool(own), min(width, height)
    index.write(tmp_path / "c.arrow", rows)
    read = Index(tmp_path / "c.arrow")
    for least, empty in [(0, True), (32, True), (0, False), (32, False), (34, False)]:
        expected = [p for p, (own, side) in places.items() if side >= least and (own or empty)]
        assert read.trained(least, empty).tolist() == expected
    assert read.wide().tolist() == [width > height for width, height in sizes]


@pytest.mark.parametrize("number", [7, "7", 10**30, "ä"])
def test_first_annotation_without_mask_is_found(rows, tmp_path, number):
    without = [a for _, _, own in rows for a in own if "segmentation" not in a]
    assert len(without) > 1
    without[0]["id"] = number
    index.write(tmp_path / "a.arrow", rows)
    assert Index(tmp_path / "a.arrow").without_mask() == number
    for _, _, own in rows:
        own[:] = [a for a in own if "segmentation" in a]
    index.write(tmp_path / "b.arrow", rows)
    assert Index(tmp_path / "b.arrow").without_mask() is None


def test_split_of_no_images_has_none(tmp_path):
    index.write(tmp_path / "a.arrow", [])
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
        assert pool.apply(first_ids, (read,)) == here == [0, "ü5", 10**20 + 10]


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
    annotations = [a for _, _, own in rows for a in own]
    annotation = next(a for a in annotations if isinstance(a.get("segmentation"), list))
    first, second = annotation["segmentation"]
    match what:
        case "file":
            rows[4] = (image, "other.jpg", rows[4][2])
        case "width":
            image["width"] += 1
        case "order":
            rows[0], rows[1] = rows[1], rows[0]
        case "point":
            first[0] += 1e-6
        case "polygons":
            annotation["segmentation"] = [np.concatenate([first, second])]
        case "rle":
            other = next(a for a in annotations if isinstance(a.get("segmentation"), bytes))
            other["segmentation"] += b"0"
        case "mask":
            del annotation["segmentation"]
        case "category":
            annotation["label"] = 0 if annotation["label"] else 1
        case "crowd":
            annotation["iscrowd"] = 1 - annotation["iscrowd"]
        case "image id":
            rows[0][0]["id"] = str(rows[0][0]["id"])
        case "annotation id":
            annotation["id"] = "other"


CHANGES = [
    *("file", "width", "order", "point", "polygons", "rle", "mask", "category", "crowd"),
    *("image id", "annotation id"),
]


@pytest.mark.parametrize("what", CHANGES)
def test_digest_is_of_contents(rows, tmp_path, what):
    first = index.write(tmp_path / "a.arrow", rows)
    again = index.write(tmp_path / "b.arrow", iter(rows))
    change(rows, what)
    assert again == first != index.write(tmp_path / "c.arrow", rows)


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


def test_some_images_are_those_of_the_whole(path, rows, tmp_path):
    places = random.Random(2).sample(range(30), 19)  # in parts of 8
    index.write_some(tmp_path / "some.arrow", Index(path), places)
    whole, some = Index(path), Index(tmp_path / "some.arrow")
    assert len(some) == 19
    for number, place in enumerate(places):
        own, theirs = some.image(number), whole.image(place)
        assert (own.id, own.file) == (theirs.id, theirs.file)
        assert own.boxes.tolist() == theirs.boxes.tolist()
        assert list(map(listed, some.masks(number))) == list(map(listed, whole.masks(place)))
    assert some.files() == [rows[place][1] for place in places]


def test_shapes_count_all_annotations(path, rows):
    expected = [[40, 30, len(annotations)] for _, _, annotations in rows]
    assert Index(path).shapes().tolist() == expected
