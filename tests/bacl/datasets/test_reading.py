"""Each field of an annotation file, as users write it: understood, or named with its value."""

import json

import pytest

from bacl.datasets.content import Content
from bacl.datasets.formats import FORMATS
from bacl.datasets.reading import by_label, read, relate

CATEGORIES = [{"id": 3, "name": "mug"}, {"id": 9, "name": "cup"}]


def file(image=None, annotation=None, category=None) -> dict:
    """A file of one image, annotation and category, with other fields."""
    return {
        "images": [
            {"id": 1, "file_name": "1.jpg", "width": 40, "height": 30}
            | {"neg_category_ids": [], "not_exhaustive_category_ids": []}
            | (image or {})
        ],
        "annotations": [
            {"id": 7, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]} | (annotation or {})
        ],
        "categories": [{"id": 3, "name": "mug"} | (category or {})],
    }


@pytest.fixture
def understand(tmp_path):
    """Reads content as a file; gives what it says, or the sentences on what is wrong."""

    def understand(content, federated=True, counted=False, sized=True):
        path = tmp_path / "train.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        problems: list[str] = []
        wanted = {"federated": federated, "counted": counted, "sized": sized}
        found = read(path, problems, form=FORMATS["lvis"], **wanted)
        if found and not problems:
            found.categories = by_label(found.categories)
            relate(found, found.categories, path, problems)
        told = [problem.replace(f"{tmp_path}/", "") for problem in problems]
        assert bool(told) != bool(found and not problems)
        return told or found

    return understand


@pytest.mark.parametrize(
    ("value", "meant"),
    [("0", 0), ("1", 1), (False, 0), (True, 1), (0.0, 0), (1.0, 1), (0, 0), ("1.0", 1)],
)
def test_crowd_flag_is_understood_however_it_is_written(understand, value, meant):
    assert understand(file(annotation={"iscrowd": value})).annotations[0]["iscrowd"] == meant


@pytest.mark.parametrize("value", ["no", "", 2, -1, [0], 0.5, {"x": 1}])
def test_crowd_flag_that_means_nothing_is_named(understand, value):
    assert understand(file(annotation={"iscrowd": value})) == [
        "train.json: annotations: iscrowd: expected 0 or 1 (or nothing) in each, wrong in 1 of 1: "
        f"in the first, with id 7, got {json.dumps(value)}"
    ]


@pytest.mark.parametrize(
    ("kind", "field", "value", "meant"),
    [
        ("image", "width", 40.0, 40),
        ("image", "width", "40", 40),
        ("image", "height", "30.0", 30),
        ("annotation", "bbox", ["1", 2.5, "3e0", 4], [1, 2.5, 3, 4]),
        ("annotation", "area", "12.5", 12.5),
        ("category", "image_count", "12", 12),
        ("category", "instance_count", 12.0, 12),
    ],
)
def test_numbers_may_be_text_or_whole_fractions(understand, kind, field, value, meant):
    content = understand(file(**{kind: {field: value}}))
    lists = {"image": content.images, "annotation": content.annotations}
    assert lists.get(kind, content.categories)[0][field] == meant


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("image", "width", 0),
        ("image", "width", -4),
        ("image", "width", 40.5),
        ("image", "width", True),
        ("image", "width", None),
        ("image", "width", "40 px"),
        ("image", "height", 2**31),
        ("image", "height", "1_000"),
        ("image", "height", [30]),
        ("image", "file_name", 7),
        ("image", "file_name", "\ud83d.jpg"),
        ("image", "neg_category_ids", "3"),
        ("image", "neg_category_ids", [True]),
        ("image", "not_exhaustive_category_ids", None),
        ("annotation", "bbox", None),
        ("annotation", "bbox", [1, 2, 3]),
        ("annotation", "bbox", [1, 2, 3, float("nan")]),
        ("annotation", "bbox", [1, 2, 3, 10**400]),
        ("annotation", "bbox", [1, 2, 3, True]),
        ("annotation", "bbox", "1 2 3 4"),
        ("annotation", "area", float("inf")),
        ("annotation", "area", "large"),
        ("annotation", "id", None),
        ("annotation", "id", True),
        ("annotation", "id", 7.5),
        ("annotation", "image_id", [1]),
        ("annotation", "category_id", {}),
        ("category", "name", None),
        ("category", "name", ""),
        ("category", "name", 5),
        ("category", "name", "half \ud83d"),
        ("category", "frequency", "often"),
        ("category", "frequency", ["r"]),
        ("category", "image_count", -1),
        ("category", "instance_count", "many"),
    ],
)
def test_value_that_means_nothing_is_named_with_its_place(understand, kind, field, value):
    (problem,) = understand(file(**{kind: {field: value}}))
    plural = {"image": "images", "annotation": "annotations", "category": "categories"}[kind]
    assert problem.startswith(f"train.json: {plural}: {field}: expected ")
    shown = json.dumps(value)
    assert f"got {shown if len(shown) <= 40 else shown[:37]}" in problem
    assert problem.encode()  # half a character is shown in a way that can be printed


def test_missing_field_is_told_as_missing(understand):
    content = file()
    del content["annotations"][0]["bbox"]
    (problem,) = understand(content)
    assert problem.endswith("wrong in 1 of 1: in the first, with id 7, got none")


def test_all_that_is_wrong_is_told_together(understand):
    content = file(image={"width": 0}, annotation={"bbox": 1}, category={"name": None})
    assert [problem.split(": ")[2] for problem in understand(content)] == ["width", "bbox", "name"]


def test_image_needs_a_name_or_an_address(understand):
    content = file()
    del content["images"][0]["file_name"]
    assert understand(content) == [
        "train.json: images: expected file_name or coco_url, missing in 1: ids 1"
    ]


def test_sizes_and_frequencies_are_asked_for_where_they_matter(understand):
    content = file(image={"width": None, "height": "?"}, category={"frequency": "often"})
    assert isinstance(understand(content, sized=False, counted=True), Content)


def test_lists_of_lvis_are_asked_for_where_they_matter(understand):
    content = file()
    del content["images"][0]["neg_category_ids"]
    (problem,) = understand(content)
    assert problem.endswith("got none; for exhaustive annotations say `format: coco`")
    assert isinstance(understand(content, federated=False), Content)


# Ids


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (2**53, 2**53 + 1),  # a float cannot tell these apart
        (2**60 + 1, 2**60 + 2),
        (2**63, 2**63 + 1),
        (10**40, 10**40 + 1),
        (-5, 0),
        ("a1b2", "größe/1"),
        ("007", "7"),
    ],
)
def test_ids_of_any_kind_are_kept_and_lead_where_they_should(understand, first, second):
    content = file()
    for kind, field in (("images", "image_id"), ("categories", "category_id")):
        one = content[kind][0]
        content[kind] = [one | {"id": second}, one | {"id": first, "name": "other"}]
        content["annotations"][0][field] = first
    content["annotations"][0]["id"] = first
    found = understand(content)
    assert [image["id"] for image in found.images] == [second, first]
    (annotation,) = found.annotations
    assert (annotation["id"], annotation["image"]) == (first, 1)
    assert found.categories[annotation["label"]]["id"] == first


@pytest.mark.parametrize(("given", "there"), [("1", 1), (1, "1"), (1.0, 1), ("-1", -1)])
def test_id_that_only_the_other_spelling_of_is_there_is_understood(understand, given, there):
    content = file(image={"id": there}, annotation={"image_id": given})
    assert understand(content).annotations[0]["image"] == 0


def test_own_spelling_of_an_id_comes_first(understand):
    content = file(image={"id": 1}, annotation={"image_id": "1"})
    content["images"].append(content["images"][0] | {"id": "1"})
    assert understand(content).annotations[0]["image"] == 1


@pytest.mark.parametrize(("field", "kind"), [("image_id", "images"), ("category_id", "categories")])
@pytest.mark.parametrize("lost", [77, "x", "01", "9" * 5000])
def test_id_that_leads_nowhere_is_told(understand, field, kind, lost):
    (problem,) = understand(file(annotation={field: lost}))
    assert problem.startswith(
        f"train.json: annotations: {field}: expected the id of one of {kind}, unknown in 1: in the "
        "first, with id 7, got "
    )


def test_repeated_ids_are_told(understand):
    content = file()
    for kind in ("images", "annotations", "categories"):
        content[kind] *= 2
    assert understand(content) == [
        "train.json: images: expected each id once, repeated: 1",
        "train.json: annotations: expected each id once, repeated: 7",
        "train.json: categories: expected each id once, repeated: 3",
    ]


def test_labels_go_by_id_numbers_before_text():
    ids = ["b", 10, "a", -2, 2**70]
    assert [c["id"] for c in by_label([{"id": i} for i in ids])] == [-2, 10, 2**70, "a", "b"]


def test_lists_name_labels_and_categories_that_are_left_out_are_told(understand):
    lists = {"neg_category_ids": [9, 3, 55], "not_exhaustive_category_ids": ["9"]}
    content = file(image=lists)
    content["categories"] = CATEGORIES
    found = understand(content)
    assert found.images[0]["neg_category_ids"] == [1, 0]
    assert found.images[0]["not_exhaustive_category_ids"] == [1]
    assert found.strange == (
        "train.json: images: lists of 1 name categories that the file lacks, which are "
        "ignored: ids 1"
    )


# Files


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 100_000, "expected LVIS or COCO JSON, got: "),
        ('{"images": ' + "9" * 5000 + "}", "expected LVIS or COCO JSON, got: "),
        ("{]", "line 1, column 2: expected JSON, got: "),
        ("[]", "expected LVIS or COCO JSON, an object, got a list"),
    ],
    ids=["deep", "long", "broken", "list"],
)
def test_file_that_is_no_annotation_file_is_told(understand, text, told):
    (problem,) = understand(text)
    assert problem.startswith(f"train.json: {told}")
