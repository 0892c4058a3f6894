import copy
import json
import os
import shutil
from pathlib import Path

import pytest

from bacl import settings
from bacl.datasets.annotations import Prepared, prepare
from bacl.datasets.index import Index
from bacl.errors import RunError, UsageError

PHOTOS = Path(__file__).parents[4] / "shared" / "data" / "coco_photos"


def split(ids, boxes=None, federated=True):
    """A split of images of 40 x 30, one box of category 3 in each unless `boxes` says otherwise."""
    lists = {"neg_category_ids": [9], "not_exhaustive_category_ids": []} if federated else {}
    boxes = boxes if boxes is not None else [(i, 3, [5, 5, 10, 10]) for i in ids]
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30, **lists} for i in ids
        ],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": box, "area": 50.0}
            for n, (i, c, box) in enumerate(boxes, start=1)
        ],
        "categories": [{"id": 3, "name": "mug"}, {"id": 9, "name": "cup"}],
    }


class Folder:
    """A dataset on disk that a test may spoil before it prepares it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.train, self.val = split([1, 2, 3]), split([4, 5])
        self.images = path / "images"
        self.images.mkdir(parents=True)
        for i in range(1, 6):
            (self.images / f"{i}.jpg").write_bytes(b"x" * i)

    def prepare(self, cache="cache", **changes) -> Prepared:
        for name in ("train", "val"):
            text = json.dumps(getattr(self, name))
            path = self.path / f"{name}.json"
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
        return self.prepare_as_it_is(cache, **changes)

    def prepare_as_it_is(self, cache="cache", **changes) -> Prepared:
        fields = {
            "format": "lvis",
            "train": str(self.path / "train.json"),
            "val": str(self.path / "val.json"),
            "images": str(self.images),
        }
        return prepare(settings.Dataset(**(fields | changes)), self.path / cache)

    def problems(self, **changes) -> list[str]:
        with pytest.raises(UsageError) as told:
            self.prepare(**changes)
        return str(told.value).replace(f"{self.path}/", "").splitlines()


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "data")


def content(split):
    return json.loads(Path(split.annotations).read_text(encoding="utf-8"))


def entries(split):
    """What the split's index has, image by image."""
    index = Index(split.index)
    return [index.image(place) for place in range(len(index))]


def test_counts_and_frequencies_are_derived_from_the_training_split(folder):
    for i in range(1, 200):
        (folder.images / f"{i}.jpg").touch()
    boxes = [(i, 3, [5, 5, 10, 10]) for i in range(1, 12)] + [(1, 3, [0, 0, 5, 5])]
    boxes += [(i, 7, [5, 5, 10, 10]) for i in range(1, 102)]
    boxes += [(i, 9, [5, 5, 10, 10]) for i in range(1, 11)]
    folder.train = split(range(1, 150), boxes)
    folder.val = split(range(150, 152))
    categories = [{"id": 9, "name": "cup"}, {"id": 3, "name": "mug"}, {"id": 7, "name": "jug"}]
    folder.train["categories"] = folder.val["categories"] = categories
    prepared = folder.prepare()
    rows = [(c.id, c.frequency, c.image_count, c.instance_count) for c in prepared.categories]
    assert rows == [(3, "c", 11, 12), (7, "f", 101, 101), (9, "r", 10, 10)]
    assert content(prepared.val)["categories"] == [c.model_dump() for c in prepared.categories]
    assert (prepared.train.image_total, prepared.train.instance_total) == (149, 123)
    assert not prepared.warnings


def test_given_counts_and_frequencies_are_kept(folder):
    folder.train["categories"][0] |= {"image_count": 50, "instance_count": 70, "frequency": "f"}
    folder.train["categories"][1] |= {"image_count": 50}
    mug, cup = folder.prepare().categories
    assert (mug.frequency, mug.image_count, mug.instance_count) == ("f", 50, 70)
    assert (cup.frequency, cup.image_count, cup.instance_count) == ("c", 50, 0)


def test_groups_of_ones_own_go_by_counts_whatever_the_file_says(folder):
    for split_ in (folder.train, folder.val):
        for category, count in zip(split_["categories"], (19, 20), strict=True):
            category |= {"instance_count": count, "image_count": 5, "frequency": "often"}
    groups = {"by": "instances", "bounds": [19, 399, 7999], "names": ["1", "2", "3", "4"]}
    prepared = folder.prepare(groups=groups)
    assert [category.frequency for category in prepared.categories] == ["1", "2"]
    assert prepared.groups == settings.Groups(**groups)
    assert [c["frequency"] for c in content(prepared.val)["categories"]] == ["1", "2"]


def test_other_groups_are_another_dataset(folder):
    plain = folder.prepare()
    groups = settings.Groups(bounds=[11, 100])  # which moves no category of these few
    other = folder.prepare(groups=groups)
    assert other.categories == plain.categories
    assert other.digest != plain.digest and other.groups == groups
    assert folder.prepare() == plain
    assert folder.prepare(groups=groups) == other


def test_category_without_training_image_is_rare_and_told(folder):
    prepared = folder.prepare()
    assert prepared.categories[1].model_dump() == {
        "id": 9,
        "name": "cup",
        "frequency": "r",
        "image_count": 0,
        "instance_count": 0,
    }
    assert prepared.warnings == ["1 categories have no training image: cup"]


def test_boxes_are_mended_for_training_and_kept_for_evaluation(folder):
    boxes = [
        (1, 3, [-5, 5, 10, 10]),
        (1, 3, [30, 20, 20, 20]),
        (1, 3, [5, 5, 0, 10]),
        (1, 9, [40, 5, 5, 5]),
        (1, 9, [5, 5, 35.1, 5]),
    ]
    folder.train = split([1], boxes)
    folder.val = split([4], [(4, c, box) for _, c, box in boxes])
    prepared = folder.prepare()
    (entry,) = entries(prepared.train)
    assert entry.boxes.tolist() == [[0, 5, 5, 10], [30, 20, 10, 10], [5, 5, 35, 5]]
    assert [a["bbox"] for a in content(prepared.val)["annotations"]] == [b for *_, b in boxes]
    assert prepared.train.instance_total == 3
    assert prepared.warnings == [
        "train.json: 2 boxes reach out of their image and are clipped: annotations 1, 2",
        "train.json: 2 boxes have no area inside their image and are left out of training: "
        "annotations 3, 4",
        "val.json: 4 boxes reach out of their image or have no area; evaluation takes them as "
        "lvis-api does: annotations 1, 2, 3, 4",
    ]


def test_coco_format_is_exhaustive_and_keeps_crowds(folder):
    folder.train, folder.val = split([1, 2, 3], federated=False), split([4, 5], federated=False)
    folder.train["annotations"][0]["iscrowd"] = folder.val["annotations"][0]["iscrowd"] = 1
    prepared = folder.prepare(format="coco")
    assert prepared.evaluation == "coco"
    assert content(prepared.val)["annotations"][0]["iscrowd"] == 1
    assert "neg_category_ids" not in content(prepared.val)["images"][0]
    assert prepared.categories[0].image_count == 2


def test_crowds_of_lvis_are_single_objects_in_evaluation_as_in_lvis_api(folder):
    folder.train["annotations"][0]["iscrowd"] = folder.val["annotations"][0]["iscrowd"] = 1
    prepared = folder.prepare()
    assert entries(prepared.train)[0].crowd.tolist() == [True]
    assert "iscrowd" not in content(prepared.val)["annotations"][0]


def test_training_split_is_not_written_as_json(folder):
    prepared = folder.prepare()
    written = os.listdir(Path(prepared.train.index).parent)
    assert sorted(written) == ["dataset.json", "train.arrow", "val.arrow", "val.json"]
    assert prepared.train.annotations == ""
    assert [entry.id for entry in entries(prepared.val)] == [4, 5]


def test_segmentations_that_are_none_are_told(folder):
    folder.train["annotations"][1]["segmentation"] = {"size": [9, 9], "counts": "abc"}
    folder.train["annotations"][2]["segmentation"] = [[1, "two"]]
    assert folder.problems() == [
        "train.json: annotations: expected polygons or COCO's RLE of the image's size as "
        "segmentation (or nothing), something else in 2: ids 2, 3"
    ]


def test_masks_and_federated_lists_pass_through(folder):
    folder.val["annotations"][0]["segmentation"] = [[1.5, 2, 3, 4, 5, 6]]
    folder.val["annotations"][1]["segmentation"] = {"size": [30, 40], "counts": "abc"}
    prepared = folder.prepare()
    masks = [a["segmentation"] for a in content(prepared.val)["annotations"]]
    assert masks == [[[1.5, 2, 3, 4, 5, 6]], {"size": [30, 40], "counts": "abc"}]
    assert content(prepared.val)["images"][0]["neg_category_ids"] == [9]


def test_area_is_added_where_missing(folder):
    del folder.val["annotations"][0]["area"]
    annotations = content(folder.prepare().val)["annotations"]
    assert [a["area"] for a in annotations] == [100, 50]


@pytest.mark.parametrize(
    ("image", "place"),
    [
        ({"coco_url": "http://x/train2017/1.jpg"}, "train2017/1.jpg"),
        ({"coco_url": "http://x/train2017/1.jpg"}, "1.jpg"),
        ({"file_name": "COCO_train2014_1.jpg"}, "1.jpg"),
        (
            {"file_name": "COCO_val2014_1.jpg", "coco_url": "http://x/val2017/1.jpg"},
            "val2017/1.jpg",
        ),
        ({"file_name": "a/b/1.jpg"}, "a/b/1.jpg"),
    ],
)
def test_images_are_found_by_the_names_of_each_version(folder, image, place):
    (folder.images / "1.jpg").unlink()
    (folder.images / place).parent.mkdir(parents=True, exist_ok=True)
    (folder.images / place).write_bytes(b"x")
    del folder.train["images"][0]["file_name"]
    folder.train["images"][0] |= image
    assert entries(folder.prepare().train)[0].file == place


def test_validation_images_may_lie_elsewhere(folder, tmp_path):
    folder.images.rename(folder.path / "all")
    folder.images.mkdir()
    for i in (1, 2, 3):
        shutil.copy(folder.path / "all" / f"{i}.jpg", folder.images)
    prepared = folder.prepare(val_images=str(folder.path / "all"))
    assert prepared.val.images.endswith("/all")


def test_images_in_both_splits_are_told(folder):
    folder.val = split([3, 4])
    told = folder.prepare().warnings
    assert "1 images are in both the training and the validation split: 3.jpg" in told


# What is wrong with the input


def test_missing_files_are_told_together(folder):
    folder.prepare()
    os.remove(folder.path / "train.json")
    (folder.path / "val.json").write_text('{"images": [\n1,,]}')
    with pytest.raises(UsageError) as told:
        folder.prepare_as_it_is()
    assert str(told.value).replace(f"{folder.path}/", "").splitlines() == [
        "train.json: expected an annotation file, found none",
        "val.json: line 2, column 3: expected JSON, got: Expecting value",
    ]


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ([], "train.json: expected LVIS or COCO JSON, an object, got a list"),
        (
            {"images": [], "annotations": {}},
            "train.json: expected LVIS or COCO JSON, got none of its lists of objects "
            "annotations, categories",
        ),
        (
            {"images": [1], "annotations": [], "categories": []},
            "train.json: expected LVIS or COCO JSON, got none of its lists of objects images",
        ),
    ],
)
def test_other_json_is_told_by_what_it_lacks(folder, train, expected):
    folder.train = train
    assert folder.problems() == [expected]


def test_binary_file_is_told(folder):
    folder.prepare()
    (folder.path / "train.json").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UsageError, match="expected JSON, got bytes that are no text"):
        folder.prepare_as_it_is()


def test_coco_file_given_as_lvis_is_told_what_to_say(folder):
    folder.val = split([4, 5], federated=False)
    assert folder.problems() == [
        f"val.json: images: expected LVIS's list of ids {name}, missing in 2 of 2; for exhaustive "
        "annotations say format: coco"
        for name in ("neg_category_ids", "not_exhaustive_category_ids")
    ]


def test_wrong_fields_are_listed_together(folder):
    folder.train["images"][0]["width"] = 0
    del folder.train["images"][1]["file_name"]
    folder.train["annotations"][0]["bbox"] = [1, 2, 3]
    folder.train["annotations"][1]["bbox"] = [1, 2, 3, float("nan")]
    folder.train["categories"][1]["name"] = None
    folder.train["categories"][0] |= {"frequency": "often", "image_count": "12"}
    folder.val["categories"][0]["id"] = "3"
    assert folder.problems() == [
        "train.json: images: expected a whole number above 0 as width, "
        "missing or something else in 1: ids 1",
        "train.json: annotations: expected four finite numbers x, y, width, height as bbox, "
        "missing or something else in 2: ids 1, 2",
        "train.json: categories: expected text as name, missing or something else in 1: ids 9",
        "train.json: categories: expected r, c or f (or nothing) as frequency, "
        "missing or something else in 1: ids 3",
        "train.json: categories: expected a whole number from 0 (or nothing) as image_count, "
        "missing or something else in 1: ids 3",
        "train.json: images: expected file_name or coco_url, missing in 1: ids 2",
        "val.json: categories: expected a whole number as id of each, got none in those at 0",
    ]


def test_repeated_ids_are_told(folder):
    for kind in ("images", "annotations", "categories"):
        folder.train[kind].append(copy.deepcopy(folder.train[kind][0]))
    assert folder.problems() == [
        "train.json: images: expected each id once, repeated: 1",
        "train.json: annotations: expected each id once, repeated: 1",
        "train.json: categories: expected each id once, repeated: 3",
    ]


def test_annotations_that_lead_nowhere_are_told(folder):
    folder.train["annotations"][0]["image_id"] = 77
    folder.train["annotations"][2]["category_id"] = 78
    assert folder.problems() == [
        "train.json: annotations: expected image_id to be one of images, unknown in 1: ids 1",
        "train.json: annotations: expected category_id to be one of categories, "
        "unknown in 1: ids 3",
    ]


def test_split_without_images_is_told(folder):
    folder.val = split([])
    assert folder.problems() == ["val.json: images: expected at least one, got none"]


def test_validation_categories_must_be_those_of_training(folder):
    folder.val["categories"] = [{"id": 3, "name": "bowl"}, {"id": 4, "name": "pan"}]
    assert folder.problems() == [
        "val.json: categories: expected those of train.json, which has no 4 (pan)",
        "val.json: categories: expected the names of train.json, they differ in 3 (mug and bowl)",
    ]


def test_validation_may_lack_categories_of_training(folder):
    del folder.val["categories"][1]
    assert len(content(folder.prepare().val)["categories"]) == 2


def test_missing_images_are_counted_and_listed(folder):
    folder.train = split(range(10, 17))
    (folder.images / "4.jpg").unlink()
    assert folder.problems() == [
        "images: 7 of 7 images of train.json are missing: "
        "10.jpg, 11.jpg, 12.jpg, 13.jpg, 14.jpg and 2 more",
        "images: 1 of 2 images of val.json are missing: 4.jpg",
    ]
    assert folder.problems(images=str(folder.path / "photos")) == [
        "photos: expected the folder of the images, found none"
    ]


def test_cache_that_cannot_be_written_is_told(folder):
    (folder.path / "cache").write_text("in the way")
    with pytest.raises(RunError, match="cache: the dataset could not be prepared: File exists"):
        folder.prepare()


# The cache


def test_second_call_reads_nothing_but_the_result(folder, monkeypatch):
    first = folder.prepare()
    monkeypatch.setattr("bacl.datasets.annotations._read", None)
    assert folder.prepare() == first


def test_digest_is_of_contents_not_of_places_and_times(folder, tmp_path):
    digest = folder.prepare().digest
    other = Folder(tmp_path / "elsewhere")
    os.utime(other.images / "1.jpg", (0, 0))
    moved = other.prepare()
    assert moved.digest == digest
    assert moved.train.images == str(other.images)

    for spoil in (
        lambda: (other.images / "2.jpg").replace(other.images / "2.png"),
        lambda: other.val["images"][0]["neg_category_ids"].append(3),
        lambda: other.train["annotations"][0]["bbox"].__setitem__(0, 6),
        lambda: other.train["annotations"][0].__setitem__("segmentation", [[1, 2, 3, 4, 5, 6]]),
        lambda: other.train["annotations"][0].__setitem__("category_id", 9),
    ):
        spoil()
        other.train["images"][1]["file_name"] = (
            "2.png" if (other.images / "2.png").exists() else "2.jpg"
        )
        seen, digest = digest, other.prepare().digest
        assert digest != seen


def test_image_of_another_size_changes_the_digest(folder):
    digest = folder.prepare().digest
    (folder.images / "new").write_bytes(b"other content")
    (folder.images / "new").replace(folder.images / "1.jpg")
    assert folder.prepare().digest != digest


def test_images_that_vanish_are_noticed_at_the_next_call(folder):
    folder.prepare()
    (folder.images / "4.jpg").unlink()
    assert folder.problems() == ["images: 1 of 2 images of val.json are missing: 4.jpg"]


def test_two_places_with_equal_contents_share_a_cache(folder, tmp_path):
    other = Folder(tmp_path / "elsewhere")
    cache = str(tmp_path / "cache")
    assert folder.prepare(cache).train.images == str(folder.images)
    assert other.prepare(cache).train.images == str(other.images)
    assert folder.prepare(cache).train.images == str(folder.images)


def test_nothing_half_written_stays(folder, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Prepared, "save", full)
        with pytest.raises(RunError, match="No space left on device"):
            folder.prepare()
    assert os.listdir(folder.path / "cache") == []
    folder.prepare()


def test_prepared_dataset_reads_back(folder):
    prepared = folder.prepare()
    path = Path(prepared.train.index).with_name("dataset.json")
    assert Prepared.load(path) == prepared


def test_embedded_set_goes_the_same_way(tmp_path):
    pytest.importorskip("bacl.datasets.embedded")
    dataset = settings.Dataset(format="embedded", size="small")
    prepared = prepare(dataset, tmp_path)
    assert prepared.evaluation == "lvis"
    assert {category.frequency for category in prepared.categories} == {"r", "c", "f"}
    assert prepare(dataset, tmp_path) == prepared


@pytest.mark.skipif(not PHOTOS.exists(), reason="the real photographs are not here")
def test_real_photographs_are_prepared(tmp_path):
    dataset = settings.Dataset(
        format="coco",
        train=str(PHOTOS / "train.json"),
        val=str(PHOTOS / "val.json"),
        images=str(PHOTOS / "images"),
    )
    prepared = prepare(dataset, tmp_path)
    groups = [category.frequency for category in prepared.categories]
    assert [groups.count(group) for group in "rcf"] == [57, 22, 1]
    assert (prepared.train.image_total, prepared.train.instance_total) == (223, 1963)
    assert (prepared.val.image_total, prepared.val.instance_total) == (95, 875)
