"""A format from outside goes the way of BACL's own: named, checked, prepared and remembered."""

import csv
import json

import pytest
from dataset_folder import Folder, entries
from foreign import forgotten
from pydantic import ValidationError

from bacl import extensions, settings
from bacl.datasets import formats, sources
from bacl.errors import UsageError

READER = '''
"""Boxes in a table: file, x, y, width, height, category; a file without category has no box."""

import csv

from bacl.datasets.formats import register


@register("table")
def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    boxes = [(n, row) for n, row in enumerate(rows) if row["category"]]
    return {
        "images": [{"id": name, "file_name": name} for name in {row["file"]: 0 for row in rows}],
        "annotations": [
            {
                "id": n,
                "image_id": row["file"],
                "category_id": row["category"],
                "bbox": [row[side] for side in ("x", "y", "width", "height")],
                "segmentation": [[0, 0, 9, 0, 9, 9]],
            }
            for n, row in boxes
        ],
        "categories": [{"id": n, "name": n} for n in sorted({row["category"] for _, row in boxes})],
    }
'''


@pytest.fixture(autouse=True)
def outside():
    with forgotten():
        yield


@pytest.fixture
def load(tmp_path):
    """Imports a reader's source as a module of a user's."""

    def load(source=READER):
        (tmp_path / "my_format.py").write_text(source)
        extensions.load(["my_format"], [tmp_path])

    return load


class Tables(Folder):
    """The dataset in tables."""

    def write(self, header="file,x,y,width,height,category") -> None:
        for name in ("train", "val"):
            content = getattr(self, name)
            names = {item["id"]: item["name"] for item in content["categories"]}
            with (self.path / f"{name}.csv").open("w", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(header.split(","))
                for one in content["annotations"]:
                    rows.writerow(
                        [f"{one['image_id']}.jpg", *one["bbox"], names[one["category_id"]]]
                    )

    def prepare_as_it_is(self, cache="cache", **changes):
        paths = {name: str(self.path / f"{name}.csv") for name in ("train", "val")}
        fields = {"format": "table", "sizes": "from_images", **paths}
        return super().prepare_as_it_is(cache, **(fields | changes))


@pytest.fixture
def tables(tmp_path):
    made = Tables(tmp_path / "tables")
    made.write()
    return made


def test_what_a_reader_gives_is_prepared_as_coco_is(load, tables):
    load()
    prepared = tables.prepare_as_it_is()
    assert prepared.evaluation == "coco" and prepared.train.masks
    assert [(c.id, c.name, c.instance_count) for c in prepared.categories] == [("mug", "mug", 3)]
    assert [entry.id for entry in entries(prepared.train)] == ["1.jpg", "2.jpg", "3.jpg"]
    assert [entry.boxes.tolist() for entry in entries(prepared.val)] == [[[5, 5, 10, 10]]] * 2


def test_reader_of_the_same_content_makes_the_same_dataset(load, tables, folder):
    load()
    digest = tables.prepare_as_it_is().digest
    named = {"mug": {"id": "mug", "name": "mug"}}
    for content in (tables.train, tables.val):
        content["categories"] = list(named.values())
        for image in content["images"]:
            image["id"] = image["file_name"]
            for field in ("neg_category_ids", "not_exhaustive_category_ids"):
                del image[field]
        for number, one in enumerate(content["annotations"]):
            one |= {"id": number, "image_id": f"{one['image_id']}.jpg", "category_id": "mug"}
            one["segmentation"] = [[0, 0, 9, 0, 9, 9]]
            del one["area"]
    for name in ("train", "val"):
        (tables.path / f"{name}.json").write_text(json.dumps(getattr(tables, name)))
    paths = {name: str(tables.path / f"{name}.json") for name in ("train", "val")}
    assert tables.prepare_as_it_is(format="coco", **paths).digest == digest


def test_edited_reader_reads_again(load, tables):
    load()
    first = tables.prepare_as_it_is()
    path = tables.path.parent / "my_format.py"
    source = path.read_text()
    path.write_text(f"{source}\n# an edit\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bacl.datasets.reading.read", None)
        with pytest.raises(TypeError):
            tables.prepare_as_it_is()
        path.write_text(source)
        assert tables.prepare_as_it_is() == first


def test_all_inputs_are_watched(load, tables):
    beside = tables.path / "beside.txt"
    beside.write_text("mug")
    source = READER.replace(
        '@register("table")',
        """@register("table", inputs=lambda path: [path, path.with_name("beside.txt")])""",
    )
    load(source.replace('"name": n}', '"name": path.with_name("beside.txt").read_text()}'))
    assert [category.name for category in tables.prepare_as_it_is().categories] == ["mug"]
    beside.write_text("cups")
    assert [category.name for category in tables.prepare_as_it_is().categories] == ["cups"]
    beside.unlink()
    with pytest.raises(UsageError, match=r"beside\.txt: expected an annotation file, found none"):
        tables.prepare_as_it_is()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("boxes = [(", "raise ValueError('no table')\n    boxes = [(", ", got: no table"),
        ('row["category"]', 'row["kind"]', ", its reader failed: KeyError: 'kind' ("),
        ("    return {", "    return 3, {", ", an object, got a tuple"),
        ('"annotations": [', '"boxes": [', ", got none of its lists of objects annotations"),
    ],
)
def test_reader_that_fails_is_told(load, tables, old, new, problem):
    load(READER.replace(old, new))
    with pytest.raises(UsageError) as told:
        tables.prepare_as_it_is()
    first = str(told.value).splitlines()[0]
    assert first.startswith(f"{tables.path}/train.csv: expected content of format table{problem}")
    assert ("my_format.py, line " in first) == ("failed" in problem)


def test_fields_that_mean_nothing_are_named(load, tables):
    load(READER.replace('row["file"],\n', 'row["file"] + "!",\n'))
    assert tables.problems_as_it_is()[0].startswith(
        "train.csv: annotations: image_id: expected the id of one of images, unknown in 3: in the "
        "first, with id 0, got"
    )


@pytest.mark.parametrize("name", ["coco", "embedded", "lvis_v1", "table"])
def test_name_that_is_taken_is_refused(load, name):
    load()
    owner = "my_format" if name == "table" else "bacl.datasets.formats"
    with pytest.raises(UsageError) as told:
        formats.register(name)(lambda path: {})
    assert str(told.value) == (
        f"dataset format {name} of {__name__} is registered already by {owner}: expected another "
        "name"
    )


def test_settings_know_a_format_once_it_is_registered(load):
    fields = {"format": "table", "train": "t", "val": "v", "images": "i"}
    with pytest.raises(ValidationError):
        settings.Dataset(**fields)
    load()
    assert settings.Dataset(**fields).format == "table"
    with pytest.raises(ValidationError, match="format table needs val, images"):
        settings.Dataset(format="table", train="t")


def test_named_data_sets_have_the_names_that_settings_take():
    assert sources.NAMED.keys() == {formats.EMBEDDED, *formats.NAMED}
