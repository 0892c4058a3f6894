"""Trees of categories: what is under one parent, against loops over the procedure; and the file."""

import json
import math
import random
from collections import defaultdict

import numpy as np
import pytest

from bacl.datasets.index import Index
from bacl.datasets.prepared import Prepared
from bacl.errors import UsageError
from bacl.forest.trees import (
    geometric,
    lexical,
    numbered,
    read_trees,
    shapes_of,
    visual,
    write_trees,
)


def together(tree):
    """Categories by parent, whatever the numbers are."""
    groups = defaultdict(set)
    for category, parent in enumerate(tree):
        groups[parent].add(category)
    assert set(groups) == set(range(len(groups)))
    return {frozenset(group) for group in groups.values()}


def test_shapes_are_those_of_a_loop_over_the_boxes(dataset_info):
    prepared = Prepared.load(dataset_info)
    index = Index(prepared.train.index)
    found = shapes_of(index, len(prepared.categories) + 1)
    for label in range(len(prepared.categories)):
        ratios, sizes = [], []
        for place in range(len(index)):
            entry = index.image(place)
            for own, (_, _, width, height) in zip(entry.labels, entry.boxes):
                if own == label:
                    ratios.append(math.log(width / height))
                    image = math.sqrt(entry.width * entry.height)
                    sizes.append(math.log(math.sqrt(width * height) / image))
        wanted = []
        for values in (ratios, sizes):
            mean = sum(values) / len(values)
            wanted += [mean, math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))]
        assert found[label] == pytest.approx(wanted)
    assert np.isnan(found[-1]).all()


def test_categories_of_like_boxes_share_a_geometric_parent():
    wide, tall = [1.0, 0.1, -1.0, 0.2], [-1.0, 0.1, -1.0, 0.2]
    small = [0.0, 0.1, -3.0, 0.2]
    near = np.array([wide, small, tall, wide, tall, small, wide])
    near[:, [0, 2]] += np.arange(7)[:, None] / 1000
    assert together(geometric(near, 3)) == {frozenset(g) for g in ({0, 3, 6}, {1, 5}, {2, 4})}


def test_each_measure_counts_alike_whatever_its_unit():
    shapes = np.random.default_rng(0).normal(size=(30, 4))
    assert geometric(shapes, 5) == geometric(shapes * [1, 1000, 0.01, 5] + 7, 5)


def test_length_of_features_does_not_matter_to_the_visual_tree():
    means = np.array([[1.0, 0], [0, 2.0], [50, 1], [0.1, 9], [0, 0.01]])
    assert visual(means, 2) == [0, 1, 0, 1, 1]


@pytest.mark.parametrize("make", [visual, geometric])
def test_categories_without_boxes_share_a_parent_of_their_own(make):
    points = np.array([[1.0, 0, 0, 0], [np.nan] * 4, [0, 1.0, 0, 0], [np.nan] * 4, [1, 0.01, 0, 0]])
    assert make(points, 2) == [0, 1, 2, 1, 0]


@pytest.mark.parametrize("make", [visual, geometric])
def test_there_are_at_most_as_many_parents_as_different_categories(make):
    points = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]])
    assert make(points, 25) == [0, 1, 0]


def test_clusters_are_the_same_each_time():
    points = np.random.default_rng(1).normal(size=(60, 8))
    assert visual(points, 9) == visual(points, 9)


def divided(paths, parents):
    """`lexical`'s rule, as a loop over the named groups there are."""
    groups = {("",): [n for n, path in enumerate(paths) if path is not None]}

    def kind(category, name):
        path = ("", *paths[category])
        return path[: len(name) + 1] if len(path) > len(name) else (*name, None)

    while len(groups) < parents:
        able = [name for name in groups if name[-1] is not None]
        if not able:
            break
        largest = min(able, key=lambda name: (-len(groups[name]), name[-1]))
        for category in groups.pop(largest):
            groups.setdefault(kind(category, largest), []).append(category)
    own = {frozenset(group) for group in groups.values() if group}
    lacking = frozenset(n for n, path in enumerate(paths) if path is None)
    return own | ({lacking} if lacking else set())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("parents", [1, 2, 5, 9, 1000])
def test_largest_kind_is_divided_until_there_are_enough(seed, parents):
    draw = random.Random(seed)
    paths = []
    for _ in range(40):
        path = ["entity"]
        while draw.random() < 0.8:
            path.append(f"{path[-1]}{draw.choice('abc')}")
        paths.append(None if draw.random() < 0.1 else path)
    found = together(lexical(paths, parents))
    assert found == divided(paths, parents)


def test_kinds_are_divided_from_the_most_general_on():
    dog, cat = ["entity", "animal", "dog"], ["entity", "animal", "cat"]
    animal, car = ["entity", "animal"], ["entity", "vehicle", "car"]
    paths = [dog, None, cat, car, animal, car, None]
    assert lexical(paths, 1) == [0, 1, 0, 0, 0, 0, 1]
    assert lexical(paths, 2) == [0, 1, 0, 2, 0, 2, 1]
    assert lexical(paths, 3) == [0, 1, 2, 3, 4, 3, 1]


def test_numbers_follow_the_categories():
    assert numbered(["b", "a", "b", None, "a"]) == [0, 1, 0, 2, 1]


NAMES = ["dog", "cat", "car", "hat"]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "trees.json"
    trees = {"visual": [0, 0, 1, 2], "lexical": [0, 1, 2, 2]}
    write_trees(path, NAMES, trees, {"dataset": "ë"})
    return path


def test_trees_are_read_by_the_names_of_categories(file):
    assert read_trees(file, NAMES) == [[0, 0, 1, 2], [0, 1, 2, 2]]
    assert read_trees(str(file), ["hat", "cat", "car", "dog"]) == [[0, 1, 2, 1], [0, 1, 0, 2]]
    assert json.loads(file.read_text(encoding="utf-8"))["made"] == {"dataset": "ë"}


def test_parents_that_no_category_of_the_dataset_has_are_left_out(file):
    assert read_trees(file, ["car", "hat"]) == [[0, 1], [0, 0]]


def test_missing_file_is_told_with_what_makes_it(tmp_path):
    with pytest.raises(UsageError, match=r"none\.json: .* no such file: `bacl trees` makes it"):
        read_trees(tmp_path / "none.json", NAMES)


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "[]",
        '{"trees": {}}',
        '{"categories": ["dog"], "trees": [[0]]}',
        '{"categories": ["dog"], "trees": {"visual": [0, 1]}}',
        '{"categories": ["dog"], "trees": {"visual": ["0"]}}',
        '{"categories": ["dog"], "trees": {"visual": 0}}',
        '{"categories": [1], "trees": {"visual": [0]}}',
    ],
)
def test_file_that_is_something_else_is_told(tmp_path, content):
    path = tmp_path / "trees.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"trees\.json: expected JSON with `categories` and"):
        read_trees(path, ["dog"])


def test_category_that_the_file_lacks_is_told(file):
    with pytest.raises(
        UsageError, match=r"expected all of the dataset's, got none named cup, pen$"
    ):
        read_trees(file, ["dog", "cup", "pen"])


def test_file_without_a_tree_is_told(file):
    write_trees(file, NAMES, {}, {})
    with pytest.raises(UsageError, match="trees: expected at least one, got none"):
        read_trees(file, NAMES)
