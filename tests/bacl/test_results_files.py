"""Results files: what is read of them, whichever way, and the sentence that a bad one gets."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco

from bacl import results_files
from bacl.errors import UsageError
from bacl.results_files import Split, read_results

SPLIT = Split(images=[900, 7, 12], categories=[5, 3])
ITEMS = [
    {"image_id": 7, "category_id": 3, "bbox": [1.5, 2, 3.25, 4], "score": 0.5},
    {"image_id": 900, "category_id": 5, "bbox": [0, 0, 1e-05, 7], "score": 1e-7},
    {"image_id": 7, "category_id": 5, "bbox": [0.1, 0.2, 0.3, 0.4], "score": 1},
]


@pytest.fixture
def read(tmp_path):
    """Writes a file and reads it."""

    def written(content, name="results.json", split=SPLIT, **options):
        path = tmp_path / name
        if not isinstance(content, str | bytes):
            content = json.dumps(content, **options)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_results(path, split)

    return written


@pytest.fixture
def told(read, tmp_path):
    """The sentence that a content gets, with FILE for the path."""

    def sentence(content, **options):
        with pytest.raises(UsageError) as raised:
            read(content, **options)
        text = str(raised.value)
        assert text.isprintable() and len(text) < 400
        return text.replace(str(tmp_path / "results.json"), "FILE")

    return sentence


def listed(found):
    """Detections as their file has them."""
    columns = (found.image, found.label, found.bbox, found.score)
    return [
        {
            "image_id": SPLIT.images[image],
            "category_id": SPLIT.categories[label],
            "bbox": box,
            "score": score,
        }
        for image, label, box, score in zip(*(column.tolist() for column in columns))
    ]


@pytest.fixture(params=["as a table", "item by item"])
def way(request, monkeypatch):
    """Either way of reading, with a file whose items are all alike."""
    if request.param == "item by item":
        monkeypatch.setattr(results_files, "_read_flat", lambda *_: None)
    else:
        monkeypatch.setattr(results_files, "_read_any", None)  # must not be needed


@pytest.mark.parametrize("form", [{}, {"indent": 1}, {"separators": (",", ":")}])
def test_detections_are_those_of_the_file_to_the_last_bit(read, way, form):
    generator = np.random.default_rng(0)
    items = [
        {
            "image_id": SPLIT.images[generator.integers(3)],
            "category_id": SPLIT.categories[generator.integers(2)],
            "bbox": (generator.random(4) * 10.0 ** generator.integers(-12, 4)).tolist(),
            "score": float(generator.random()),
        }
        for _ in range(2000)
    ]
    assert listed(read(items, **form)) == items
    assert listed(read(ITEMS, **form)) == ITEMS


def test_pieces_may_end_anywhere(read, monkeypatch):
    monkeypatch.setattr(results_files, "_read_any", None)
    for size in (256, 257, 300):
        monkeypatch.setattr(results_files, "_PIECE", size)
        assert listed(read(ITEMS * 20)) == ITEMS * 20


def test_other_orders_and_more_numbers_are_taken(read, way):
    items = [
        {"id": number, **dict(reversed(item.items())), "area": 1.5, "iscrowd": 0}
        for number, item in enumerate(ITEMS)
    ]
    assert listed(read(items)) == ITEMS


def test_items_that_are_not_alike_are_read_one_by_one(read):
    items = [ITEMS[0], dict(reversed(ITEMS[1].items())), {**ITEMS[2], "note": "x"}]
    assert listed(read(items)) == ITEMS


@pytest.mark.parametrize("place", [0, 1])
def test_key_in_another_place_is_never_taken_for_another(read, place):
    """All rows have the shape of the first, but one has two ids changed about."""
    items = [dict(item) for item in ITEMS * 2]
    first, second = list(items[3])[place : place + 2]
    names = list(items[3])
    names[place : place + 2] = second, first
    items[3] = {name: items[3][name] for name in names}
    assert listed(read(items)) == ITEMS * 2


def test_ids_may_be_text_or_larger_than_columns_hold(read):
    split = Split(images=["a/b, c", 10**30], categories=["π"])
    items = [
        {"image_id": image, "category_id": "π", "bbox": [0, 0, 1, 1], "score": 0.5}
        for image in (10**30, "a/b, c")
    ]
    found = read(items, split=split)
    assert found.image.tolist() == [1, 0] and found.label.tolist() == [0, 0]


def test_masks_are_rle_of_the_whole_image(read):
    pixels = np.zeros((6, 9), dtype=np.uint8, order="F")
    pixels[1:3, 2:6] = 1
    packed = coco.encode(pixels)
    compressed = {"size": [6, 9], "counts": packed["counts"].decode()}
    runs = np.diff(np.flatnonzero(np.diff(pixels.ravel("F"), prepend=0, append=2)), prepend=0)
    plain = {"size": [6, 9], "counts": runs.tolist()}
    boxless = {"image_id": 7, "category_id": 3, "score": 0.5}
    found = read([{**boxless, "segmentation": mask} for mask in (compressed, plain)])
    assert list(found.mask) == [packed["counts"]] * 2
    assert found.bbox.tolist() == [[2, 1, 4, 2]] * 2
    kept = read([{**ITEMS[0], "segmentation": compressed}])
    assert kept.bbox.tolist() == [ITEMS[0]["bbox"]]


def test_parquet_of_an_evaluation_is_read(tmp_path):
    write(tmp_path / "detections.parquet", image=[1, 2], label=[0, 1])
    found = read_results(tmp_path / "detections.parquet", SPLIT)
    assert found.image.tolist() == [1, 2] and found.score.tolist() == [0.5, 0.5]


def write(path, image, label, **more):
    columns = {"image": image, "label": label, **more}
    columns |= dict.fromkeys(("score", "x", "y", "width", "height"), [0.5] * len(image))
    pq.write_table(pa.table(columns), path)


@pytest.mark.parametrize(
    "content, sentence",
    [
        ("", "FILE: expected a JSON list of detections, got an empty file"),
        (" \n", "FILE: expected a JSON list of detections, got an empty file"),
        ([], "FILE: expected a list of detections, got an empty one"),
        ({"annotations": ITEMS}, "got an object"),
        ('"text"', "got something else"),
        (json.dumps(ITEMS)[:-40], "got a file that breaks off at detection 3: write or copy"),
        (json.dumps(ITEMS)[:-1], "got a file that breaks off at detection 3: write or copy"),
        (json.dumps(ITEMS).replace("}, {", "} {"), "line 1, column 77: expected JSON, in detec"),
        (b"\xff[]", "expected JSON, got bytes that are no text"),
        ([ITEMS[0], 5], "FILE: detection 2: expected an object with image_id"),
    ],
)
def test_file_that_is_no_list_of_detections_is_told(told, content, sentence):
    assert sentence in told(content)


def changed(**fields):
    item = {**ITEMS[1], **fields}
    return [*ITEMS, {name: value for name, value in item.items() if value is not None}, ITEMS[0]]


@pytest.mark.parametrize(
    "items, sentence",
    [
        (changed(score=None), "FILE: detection 4: expected `score`, found none"),
        (changed(bbox=None), "FILE: detection 4: expected `bbox`, found none"),
        (changed(score="high"), "FILE: detection 4: score: expected a number, got 'high'"),
        (changed(score=True), "FILE: detection 4: score: expected a number, got True"),
        (changed(image_id=1.5), "FILE: detection 4: image_id: expected an id, got 1.5"),
        (changed(bbox=[1, 2, 3]), "FILE: detection 4: bbox: expected 4 numbers x, y, width, hei"),
        (changed(bbox=[1, 2, 3, "4"]), "FILE: detection 4: bbox: expected 4 numbers"),
        (changed(score=float("nan")), "scores that are finite numbers, got 1 other (detections 4)"),
        (changed(bbox=[1, 2, float("nan"), 4]), "no negative size, got 1 other (detections 4)"),
        (changed(bbox=[1, 2, float("inf"), 4]), "no negative size, got 1 other (detections 4)"),
        (changed(bbox=[1, 2, -3, 4]), "no negative size, got 1 other (detections 4)"),
        (changed(bbox=[1, 2, 3, -1e-9]), "no negative size, got 1 other (detections 4)"),
        (changed(segmentation=[[1, 2, 3, 4, 5, 6]]), "detection 4: expected a `segmentation` in e"),
        ([{**ITEMS[0], "segmentation": [[1, 2]]}], "expected COCO's RLE (size and counts) of the"),
        (
            changed(image_id=8),
            "FILE: expected detections with the image ids of the validation split (such as 900, 7, "
            "12), got 1 other (8) in 1 of 5 detections: give the dataset whose validation images",
        ),
        (
            [{**ITEMS[0], "image_id": k} for k in range(20, 40)],
            "got 20 others (20, 21, 22, 23, 24 and 15 more) in 20 of 20 detections",
        ),
        (
            changed(category_id=4),
            "the category ids of the validation split (such as 5, 3), got 1 other (4) in 1 of 5",
        ),
        (changed(category_id="3"), "such as 5, 3), got 1 other (3) in 1 of 5 detections"),
    ],
)
def test_detection_that_is_none_is_told_with_its_number(told, items, sentence):
    assert sentence in told(items)


def test_parquet_of_something_else_is_told(tmp_path):
    path = tmp_path / "detections.parquet"

    def told(split=SPLIT):
        with pytest.raises(UsageError) as raised:
            read_results(path, split)
        return str(raised.value)

    path.write_bytes(b"PAR1")
    assert "got one that is damaged or something else" in told()
    pq.write_table(pa.table({"image": [1]}), path)
    assert "found no label" in told()
    write(path, image=[3], label=[0])
    assert "image ids of the validation split" in told()
    write(path, image=[0], label=[-1])
    assert "category ids of the validation split" in told()
    write(path, image=[0], label=[0])
    (tmp_path / "metrics.json").write_text('{"evaluator": {"ground_truth_sha256": "aa"}}')
    assert "got those of another" in told(Split(SPLIT.images, SPLIT.categories, "bb"))
    assert len(read_results(path, Split(SPLIT.images, SPLIT.categories, "aa")).score) == 1


def test_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UsageError, match="there is no such file"):
        read_results(tmp_path / "none.json", SPLIT)
