import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from bacl import settings
from bacl.datasets.annotations import Prepared, prepare
from bacl.datasets.index import Index
from bacl.errors import RunError, UsageError
from bacl.evaluation import Detections, evaluate

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
            {"id": n, "image_id": i, "category_id": c, "bbox": box, "area": box[2] * box[3] / 2}
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
            self.photograph(f"{i}.jpg", i)

    def photograph(self, name: str, shade: int = 0, size: tuple[int, int] = (40, 30)) -> None:
        Image.new("RGB", size, (shade, shade, shade)).save(self.images / name, "BMP")

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
    for i in range(1, 152):
        folder.photograph(f"{i}.jpg", i)
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
    assert content(prepared.val)["categories"] == [
        category.model_dump() | {"id": label} for label, category in enumerate(prepared.categories)
    ]
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
    out = "boxes (x, y, width, height) that reach out of their image"
    assert prepared.warnings == [
        f"train.json: 2 annotations: {out}, which training clips: 1, 2",
        "train.json: 1 annotation: boxes without area, which training leaves out: 3",
        "train.json: 1 annotation: boxes outside of their image, which training leaves out: 4",
        f"val.json: 2 annotations: {out}, which evaluation takes as lvis-api does: 1, 2",
        "val.json: 1 annotation: boxes without area, which evaluation takes as lvis-api does: 3",
        "val.json: 1 annotation: boxes outside of their image, which evaluation takes as lvis-api "
        "does: 4",
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
        "train.json: 1 annotation: RLE of another size than their image's: 2",
        "train.json: 1 annotation: segmentations that are neither lists of finite numbers nor "
        "COCO's RLE: 3",
    ]


def test_masks_and_federated_lists_pass_through(folder):
    folder.val["annotations"][0]["segmentation"] = [[1.5, 2, 3, 4, 5, 6]]
    mask = np.zeros((30, 40), dtype=np.uint8, order="F")
    mask[5:15, 5:15] = 1
    counts = coco_mask.encode(mask)["counts"].decode()
    folder.val["annotations"][1]["segmentation"] = {"size": [30, 40], "counts": counts}
    prepared = folder.prepare()
    masks = [a["segmentation"] for a in content(prepared.val)["annotations"]]
    assert masks == [[[1.5, 2, 3, 4, 5, 6]], {"size": [30, 40], "counts": counts}]
    assert content(prepared.val)["images"][0]["neg_category_ids"] == [1]  # the label of 9


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
    folder.photograph(place, 1)
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


@pytest.mark.parametrize("first", [2**53, 2**60, 2**63, -3, "hash"])
@pytest.mark.parametrize("format_", ["lvis", "coco"])
def test_perfect_detector_has_ap_1_whatever_ids_the_file_has(folder, first, format_):
    def other(number: int) -> int | str:
        return first + number if isinstance(first, int) else f"{first}{number}"

    for content_ in (folder.train, folder.val):
        for image in content_["images"]:
            image["id"] = other(image["id"])
            image["neg_category_ids"] = [other(9)]
        for annotation in content_["annotations"]:
            annotation |= {
                "id": other(annotation["id"]),
                "image_id": other(annotation["image_id"]),
                "category_id": other(3),
            }
        content_["categories"] = [{"id": other(i), "name": str(i)} for i in (9, 3)]
    prepared = folder.prepare(format=format_)
    assert [category.id for category in prepared.categories] == [other(3), other(9)]
    assert [entry.id for entry in entries(prepared.val)] == [other(4), other(5)]
    found = content(prepared.val)["annotations"]
    detections = Detections(
        np.array([one["image_id"] for one in found]),
        np.array([one["category_id"] for one in found]),
        np.ones(len(found)),
        np.array([one["bbox"] for one in found]),
    )
    result = evaluate(
        Path(prepared.val.annotations), prepared.categories, detections, prepared.evaluation
    )
    assert result.metrics["AP"] == pytest.approx(1)
    assert [row["id"] for row in result.per_category] == [other(3), other(9)]


def test_sizes_of_the_images_hold_where_asked_for(folder):
    folder.photograph("1.jpg", 1, size=(30, 40))
    (problem,) = folder.problems()
    assert "1.jpg is 30 x 40, annotated 40 x 30" in problem
    folder.train["annotations"][0]["bbox"] = [5, 5, 10, 33]
    del folder.val["images"][0]["width"]
    prepared = folder.prepare(sizes="from_images")
    (first, *_), (seen, *_) = entries(prepared.train), entries(prepared.val)
    assert (first.width, first.height, first.boxes.tolist()) == (30, 40, [[5, 5, 10, 33]])
    assert (seen.width, seen.height) == (40, 30)


def test_categories_of_one_name_stay_apart_and_are_told(folder):
    for content_ in (folder.train, folder.val):
        content_["categories"] = [{"id": 3, "name": "mug"}, {"id": 9, "name": "mug"}]
    prepared = folder.prepare()
    assert [category.name for category in prepared.categories] == ["mug", "mug"]
    assert any("mug (ids 3, 9)" in warning for warning in prepared.warnings)


def test_area_of_0_does_not_make_ground_truth_vanish(folder):
    for annotation in folder.val["annotations"]:
        annotation["area"] = 0
    prepared = folder.prepare()
    assert [one["area"] for one in content(prepared.val)["annotations"]] == [100, 100]
    assert any("2 annotations: areas of 0 or less" in warning for warning in prepared.warnings)


def test_mask_that_is_left_out_leaves_its_box_and_is_told(folder):
    for annotation, polygons in zip(
        folder.train["annotations"],
        ([[5, 5]], [[5, 5, 9, 5, 9, 9], [1, 1, 2, 2]], [[5, 5, 9, 5, 9, 9]]),
    ):
        annotation["segmentation"] = polygons
    prepared = folder.prepare()
    index = Index(prepared.train.index)
    assert [len(index.masks(place)[0] or ()) for place in range(3)] == [0, 1, 1]
    assert not prepared.train.masks and prepared.categories[0].instance_count == 3
    assert index.without_mask() == 1
    assert (
        "train.json: 2 annotations: polygons of fewer than three points, which have no area and "
        "are left out: 1, 2"
    ) in prepared.warnings


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
    monkeypatch.setattr("bacl.datasets.reading.read", None)
    monkeypatch.setattr("bacl.datasets.images.look", None)
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


@pytest.mark.parametrize("keep_times", [False, True])
def test_image_that_is_overwritten_in_place_is_another_dataset(folder, keep_times):
    digest = folder.prepare().digest
    path, before = folder.images / "1.jpg", os.stat(folder.images / "1.jpg")
    folder.photograph("1.jpg", 99)
    assert path.stat().st_size == before.st_size  # so that size alone does not tell it
    if keep_times:  # as tools that turn photographs do
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert folder.prepare().digest != digest
    folder.photograph("1.jpg", 1)
    assert folder.prepare().digest == digest


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
    assert os.listdir(folder.path / "cache") == ["images"]  # what was seen in them
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
