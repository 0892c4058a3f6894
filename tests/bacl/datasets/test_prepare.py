"""What is written of a dataset: counts, boxes, masks and names as users' files have them."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from dataset_folder import content, entries, split
from pycocotools import mask as coco_mask

from bacl import settings
from bacl.datasets.index import Index
from bacl.datasets.prepare import prepare
from bacl.evaluation import Detections, evaluate

PHOTOS = Path(__file__).parents[4] / "shared" / "data" / "coco_photos"


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
