"""Masks: what is taken for one, what is left out, and what is told."""

import numpy as np
import pytest
from pycocotools import mask as coco

from bacl.datasets import segmentations
from bacl.datasets.content import Content, Tally

WIDTH, HEIGHT = 40, 30
RUNS = [100, 50, 1050]
RLE = coco.frPyObjects({"size": [HEIGHT, WIDTH], "counts": RUNS}, HEIGHT, WIDTH)["counts"]
TRIANGLE = [5, 5, 15, 5, 15, 15]

NEITHER = "segmentations that are neither lists of finite numbers nor COCO's RLE"
ODD = "polygons with an odd number of coordinates"
SIZE = "RLE of another size than their image's"
RUNS_WRONG = "RLE whose runs do not fill the image"
FEW = "polygons of fewer than three points, which have no area and are left out"


def split(*masks, ids=None):
    """A split with one annotation for each mask, as `reading` gives it."""
    given = [{"segmentation": mask} for mask in masks]
    annotations = [
        {"id": number, "image": 0, **segmentations.compact(one)}
        for number, one in zip(ids or range(len(masks)), given, strict=True)
    ]
    return Content([{"id": 9, "width": WIDTH, "height": HEIGHT}], annotations, [])


def understood(*masks):
    """The masks of annotations after `understand`; None where there is none."""
    content = split(*masks)
    assert segmentations.understand(content) == ({}, {})
    return [annotation.get("segmentation") for annotation in content.annotations]


def compressed(runs):
    """COCO's text for runs, which may be negative here as pycocotools' own may not."""
    text = ""
    for place, run in enumerate(runs):
        number, more = run - (runs[place - 2] if place > 2 else 0), True
        while more:
            bits, number = number & 31, number >> 5
            more = number != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return text


def rle(counts, size=(HEIGHT, WIDTH)):
    return {"size": list(size), "counts": counts}


def test_polygons_become_arrays_of_doubles():
    (found,) = understood([TRIANGLE, [0.5, 1, 2, 3, 4, 5, 6, 7]])
    assert [polygon.tolist() for polygon in found] == [TRIANGLE, [0.5, 1, 2, 3, 4, 5, 6, 7]]
    assert {polygon.dtype for polygon in found} == {np.dtype(np.float64)}


def test_rle_becomes_the_compressed_counts_whatever_it_was():
    assert understood(rle(RUNS), rle(RLE.decode())) == [RLE, RLE]


def test_compressed_runs_of_these_tests_are_pycocotools():
    for runs in (RUNS, [1200], [0, 1200], [7, 1, 3, 900, 2, 287]):
        theirs = coco.frPyObjects(rle(runs), HEIGHT, WIDTH)["counts"]
        assert compressed(runs).encode() == theirs
        assert understood(rle(compressed(runs))) == [theirs]


def test_masks_come_back_as_json_had_them():
    given = [[TRIANGLE], rle(RLE.decode())]
    assert [segmentations.as_coco(mask, WIDTH, HEIGHT) for mask in understood(*given)] == given


@pytest.mark.parametrize("nothing", [None, [], {}])
def test_nothing_is_no_mask(nothing):
    content = split(nothing)
    assert segmentations.understand(content) == ({}, {})
    assert "segmentation" not in content.annotations[0]


def test_annotation_without_the_field_has_no_mask():
    content = split(None)
    del content.annotations[0]["segmentation"]
    assert segmentations.understand(content) == ({}, {})
    assert "segmentation" not in content.annotations[0]


def test_polygons_of_fewer_than_three_points_are_left_out_and_told():
    content = split([TRIANGLE, [1, 2, 3, 4]], [[1, 2], []], [TRIANGLE], ids=["a", 2, 3])
    assert segmentations.understand(content) == ({}, {FEW: ["a", 2]})
    first, second, third = content.annotations
    assert [polygon.tolist() for polygon in first["segmentation"]] == [TRIANGLE]
    assert "segmentation" not in second
    assert [polygon.tolist() for polygon in third["segmentation"]] == [TRIANGLE]


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        ("text", NEITHER),
        (7, NEITHER),
        (True, NEITHER),
        ([1, 2, 3], NEITHER),
        ([1, 2, 3, 4, 5, 6], NEITHER),
        ([[1, 2, "three"]], NEITHER),
        ([[1, 2, None, 4, 5, 6]], NEITHER),
        ([["1", "2", "3", "4", "5", "6"]], NEITHER),
        ([[True, False, True, False, True, True]], NEITHER),
        ([[1, 2, 3, 4, 5, 6], [[1, 2], [3]]], NEITHER),
        ([[[1, 2], [3, 4], [5, 6]]], NEITHER),
        ([[1, 2, float("nan"), 4, 5, 6]], NEITHER),
        ([[1, 2, float("-inf"), 4, 5, 6]], NEITHER),
        ([[10**30, 2, 3, 4, 5, 6]], NEITHER),
        ([TRIANGLE, {"size": [30, 40]}], NEITHER),
        ([[1, 2, 3, 4, 5, 6, 7]], ODD),
        ([TRIANGLE, [1]], ODD),
        ({"counts": "abc"}, NEITHER),
        ({"size": [30, 40]}, NEITHER),
        ({"size": [30, 40], "counts": None}, NEITHER),
        ({"size": 30, "counts": "abc"}, NEITHER),
        (rle(RLE.decode(), (40, 30)), SIZE),
        (rle(RUNS, (40, 30)), SIZE),
        (rle(RUNS, ("30", "40")), SIZE),
        (rle(RUNS, (30,)), SIZE),
        (rle(["a"]), RUNS_WRONG),
        (rle([]), RUNS_WRONG),
        (rle(""), RUNS_WRONG),
        (rle("abc"), RUNS_WRONG),
        (rle("n4:"), RUNS_WRONG),
        (rle("ä" + RLE.decode()), RUNS_WRONG),
        (rle("\ud800"), RUNS_WRONG),
        (rle([100, 50, 1049]), RUNS_WRONG),
        (rle([100, 50, 1051]), RUNS_WRONG),
        (rle([100.0, 50.0, 1050.0]), RUNS_WRONG),
        (rle([-50, 1250]), RUNS_WRONG),
        (rle([10**30, 50, 1050]), RUNS_WRONG),
        (rle(compressed([-50, 1250])), RUNS_WRONG),
        (rle(compressed([1300, 50, -150])), RUNS_WRONG),
        (rle(compressed([100, 50, 1049])), RUNS_WRONG),
    ],
)
def test_masks_that_are_none_are_told_by_annotation(mask, problem):
    ids = [3, "four", 5, 6, 7, 8, 9, 10]
    content = split(*[mask] * 7, [TRIANGLE], ids=ids)
    wrong, left_out = segmentations.understand(content)
    assert (wrong, left_out) == ({problem: ids[:7]}, {})
    (sentence,) = Tally("train.json", "annotation", wrong)
    assert sentence == f"train.json: 7 annotations: {problem}: 3, four, 5, 6, 7 and 2 more"
    assert [polygon.tolist() for polygon in content.annotations[7]["segmentation"]] == [TRIANGLE]


def test_different_problems_are_told_apart():
    content = split("text", [[1, 2, 3, 4, 5]], rle(RUNS), rle(RUNS, (40, 30)), rle([1]), [[1, 2]])
    assert segmentations.understand(content) == (
        {NEITHER: [0], ODD: [1], SIZE: [3], RUNS_WRONG: [4]},
        {FEW: [5]},
    )
