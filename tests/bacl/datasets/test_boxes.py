"""What becomes of boxes, and that nobody is left in the dark about it."""

from pathlib import Path

import pytest

from bacl.datasets import boxes
from bacl.datasets.content import Content


def content(*annotations: dict, size=(40, 30)) -> Content:
    image = {"id": 1, "width": size[0], "height": size[1]}
    items = [{"id": n, "image": 0, "label": 0} | a for n, a in enumerate(annotations, start=1)]
    return Content([image], items, [{"id": 1, "name": "mug"}])


def box(*sides: float, **fields) -> dict:
    return {"bbox": list(sides)} | fields


@pytest.mark.parametrize(
    ("annotation", "told", "trained"),
    [
        (box(5, 5, 10, 10), "", [5, 5, 10, 10]),
        (box(-0.4, 0, 40.8, 30), "", [0, 0, 40, 30]),
        (box(35, 5, 10, 10), "that reach out of their image, which training clips", [35, 5, 5, 10]),
        (box(5, 5, 0, 10), "boxes without area, which training leaves out", None),
        (box(5, 5, 10, -1), "boxes without area, which training leaves out", None),
        (box(40, 5, 3, 3), "boxes outside of their image, which training leaves out", None),
        (box(5, 5, 9, 0.5), "with a side under a pixel, which training leaves", [5, 5, 9, 0.5]),
        (box(5, 5, 10, 10, area=0), "areas of 0 or less, in whose place", [5, 5, 10, 10]),
        (box(5, 5, 10, 10, area=500), "areas larger than their box", [5, 5, 10, 10]),
    ],
)
def test_each_box_is_told_what_becomes_of_it(annotation, told, trained):
    split = content(annotation)
    sentences = list(boxes.examine(split, Path("train.json"), "train", "lvis"))
    assert len(sentences) == bool(told) and all(told in sentence for sentence in sentences)
    assert [kept["bbox"] for kept in boxes.trained(split)] == ([trained] if trained else [])


@pytest.mark.parametrize(
    ("annotation", "area"),
    [
        (box(0, 0, 4, 5), 20),
        (box(0, 0, 4, 5, area=0), 20),
        (box(0, 0, 4, 5, area=-1), 20),
        (box(0, 0, 4, 5, area=7), 7),
        (box(0, 0, 0, 5, area=0), 0),
    ],
)
def test_area_is_the_boxes_where_the_file_has_none_or_a_senseless_one(annotation, area):
    assert boxes.area(annotation) == area


@pytest.mark.parametrize(
    ("annotations", "size", "suspected"),
    [
        ([box(0.1, 0.2, 0.3, 0.4), box(0.5, 0.5, 0.5, 0.5)], (40, 30), True),
        ([box(0.1, 0.2, 0.3, 0.4), box(5, 5, 3, 3)], (40, 30), False),
        ([box(0, 0, 1, 1)], (2, 2), False),
        ([], (40, 30), False),
    ],
)
def test_boxes_in_shares_of_the_image_are_noticed(annotations, size, suspected):
    found = boxes.problems(content(*annotations, size=size), Path("train.json"))
    assert bool(found) is suspected
    assert all("multiply x and width by the image's width" in sentence for sentence in found)
