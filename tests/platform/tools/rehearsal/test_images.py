"""The images of a rehearsal: the worst for memory, against all choices, and some of each split."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from bacl.datasets import index
from bacl.datasets.index import Index
from bacl.settings import Recipe, Schedule
from bacl_platform.tools.rehearsal.images import prepare_some, resized, spread, worst

SCHEDULE = Schedule(iterations=1)


@pytest.fixture
def shapes():
    """Width, height and number of boxes of images, drawn."""
    draw = np.random.default_rng(0)
    return np.stack([*draw.integers(50, 1500, (2, 40)), draw.integers(0, 60, 40)], axis=1).tolist()


@pytest.fixture
def written(tmp_path, shapes):
    """An index of such images."""
    rows = [
        (
            {"id": n, "width": width, "height": height},
            f"{n}.jpg",
            [{"id": 100 * n + k, "label": 0, "bbox": [0, 0, 9, 9]} for k in range(boxes)],
        )
        for n, (width, height, boxes) in enumerate(shapes)
    ]
    index.write(tmp_path / "a.arrow", rows)
    return Index(tmp_path / "a.arrow")


def as_shown(shape, recipe):
    width, height = map(np.array, (float(shape[0]), float(shape[1])))
    return tuple(float(side) for side in resized(width, height, recipe))


def padded(images, shapes, recipe):
    """Pixels of a batch of images, padded to the widest and the highest."""
    sides = [as_shown(shapes[n], recipe) for n in images]
    return max(w for w, _ in sides) * max(h for _, h in sides)


@pytest.mark.parametrize("scales", [[(1333, 800)], [(1333, 640), (1333, 800)]])
def test_largest_batch_is_padded_as_much_as_any(written, shapes, scales):
    recipe = Recipe(schedule=SCHEDULE, scales=scales)
    places = np.arange(40)
    mixed, _, _ = worst(written, places, recipe, 2)
    most = max(padded(pair, shapes, recipe) for pair in itertools.combinations(range(40), 2))
    assert padded(mixed, shapes, recipe) == pytest.approx(most)
    many, _, _ = worst(written, places, recipe, 6)
    assert padded(many, shapes, recipe) == pytest.approx(most) and len(set(many)) == 6


def test_sides_are_those_of_mmdetections_resizing():
    recipe = Recipe(schedule=SCHEDULE, scales=[(1333, 640), (1333, 800)])
    assert as_shown((640, 480), recipe) == pytest.approx((800 / 480 * 640, 800))
    assert as_shown((3000, 500), recipe) == pytest.approx((1333, 1333 / 3000 * 500))


def test_crowded_and_both_are_the_first_of_all(written, shapes):
    recipe = Recipe(schedule=SCHEDULE)
    places = np.arange(1, 40, 2)  # as if the others did not train
    _, crowded, both = worst(written, places, recipe, 4)
    own = [shapes[place] for place in places]
    assert sorted(own[n][2] for n in crowded) == sorted(boxes for *_, boxes in own)[-4:]

    def weight(shape):
        return np.prod(as_shown(shape, recipe)) * max(shape[2], 1)

    assert sorted(weight(own[n]) for n in both) == pytest.approx(sorted(map(weight, own))[-4:])


def test_few_images_are_shown_more_than_once(written):
    batches = worst(written, np.array([3, 5]), Recipe(schedule=SCHEDULE), 4)
    assert all(len(batch) == 4 and set(batch) <= {0, 1} for batch in batches)


def test_validation_begins_with_the_largest_and_has_no_image_twice(written, shapes):
    found = spread(written, 10, 2)
    area = [width * height for width, height, _ in shapes]
    assert found[:2] == sorted(range(40), key=lambda n: -area[n])[:2]
    assert len(set(found)) == 10 and sorted(found[2:]) == found[2:]
    assert sorted(spread(written, 100, 3)) == list(range(40))


def test_some_images_have_their_own_ground_truth(prepared, tmp_path):
    val = [7, 2, 11]
    shown = prepare_some(prepared, [4, 0], val, tmp_path)
    some = shown.prepared
    assert some.categories == prepared.categories and some.digest != prepared.digest
    assert (some.train.image_total, some.val.image_total) == (2, 3)
    whole = json.loads(Path(prepared.val.annotations).read_text(encoding="utf-8"))
    own = json.loads(Path(some.val.annotations).read_text(encoding="utf-8"))
    for number, place in enumerate(val):
        assert own["images"][number] == whole["images"][place] | {"id": number}

        def boxes(content, image):
            return [
                (a["category_id"], *a["bbox"])
                for a in content["annotations"]
                if a["image_id"] == image
            ]

        assert boxes(own, number) == boxes(whole, place)
        assert Index(some.val.index).image(number).file == whole["images"][place]["file_name"]
    numbers = [annotation["id"] for annotation in own["annotations"]]
    assert numbers == list(range(1, len(numbers) + 1))
