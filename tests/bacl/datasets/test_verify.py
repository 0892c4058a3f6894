"""Each thing that may be wrong with a data set, made wrong in a small sound one."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from bacl import settings
from bacl.datasets.verify import Findings, verify

PHOTOS = Path(__file__).parents[4] / "shared" / "data" / "coco_photos"
WIDTH, HEIGHT = 40, 30


class Folder:
    """A sound LVIS data set of five images, each with its own noise; to be spoilt."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images = path / "images"
        self.images.mkdir(parents=True)
        for i in range(1, 6):
            self.photograph(i)
        self.train, self.val = self.split([1, 2, 3]), self.split([4, 5])

    def photograph(self, number: int, width: int = WIDTH, height: int = HEIGHT, **how) -> None:
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(self.images / f"{number}.jpg", **how)

    def split(self, ids: list[int]) -> dict:
        square = [[5, 5, 15, 5, 15, 15, 5, 15]]
        return {
            "images": [
                {
                    "id": i,
                    "file_name": f"{i}.jpg",
                    "width": WIDTH,
                    "height": HEIGHT,
                    "neg_category_ids": [9],
                    "not_exhaustive_category_ids": [3],
                }
                for i in ids
            ],
            "annotations": [
                {
                    "id": 100 * i + number,
                    "image_id": i,
                    "category_id": 3,
                    "bbox": [5 + number, 5, 10, 10],
                    "area": 100.0,
                    "segmentation": [[x + number * (1 - k % 2) for k, x in enumerate(square[0])]],
                }
                for i in ids
                for number in range(10)
            ],
            "categories": [{"id": 3, "name": "mug"}, {"id": 9, "name": "cup"}],
        }

    def verify(self, quick: bool = False, watch=lambda *_: None) -> Findings:
        for name in ("train", "val"):
            (self.path / f"{name}.json").write_text(json.dumps(getattr(self, name)))
        dataset = settings.Dataset(
            format="lvis",
            train=str(self.path / "train.json"),
            val=str(self.path / "val.json"),
            images=str(self.images),
        )
        found = verify(dataset, self.path / "cache", quick, 2, watch)
        for sentences in (found.problems, found.remarks):
            sentences[:] = [text.replace(f"{self.path}/", "") for text in sentences]
        return found

    def problems(self, quick: bool = False) -> list[str]:
        found = self.verify(quick)
        assert found.remarks == []
        return found.problems

    def remarks(self) -> list[str]:
        found = self.verify()
        assert found.problems == []
        return found.remarks


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "data")


def test_sound_set_has_neither_problems_nor_remarks(folder):
    seen = []
    assert folder.verify(watch=lambda *w: seen.append(w)) == Findings(images=5)
    assert ("reading images", 2, 2) in seen and seen[-1] == ("decoding images", 5, 5)


# Images


def test_missing_images_are_told(folder):
    (folder.images / "4.jpg").unlink()
    assert folder.problems() == ["images: 1 of 2 images of val.json are missing: 4.jpg"]


def test_folder_without_images_is_told(folder):
    shutil.rmtree(folder.images)
    assert folder.problems() == ["images: expected the folder of the images, found none"]


def test_truncated_images_are_told_where_they_are_decoded(folder):
    for i in (1, 2):
        path = folder.images / f"{i}.jpg"
        path.write_bytes(path.read_bytes()[:-500])
    (problem,) = folder.problems()
    reason = "a JPEG that is truncated, damaged or not supported"
    assert problem == f"images: 2 images: cannot be decoded: 1.jpg ({reason}), 2.jpg ({reason})"
    assert folder.problems(quick=True) == []


@pytest.mark.parametrize("quick", [False, True])
def test_files_that_are_no_images_are_told(folder, quick):
    (folder.images / "1.jpg").write_bytes(b"")
    (folder.images / "2.jpg").write_text("<html>404</html>")
    first, second = folder.problems(quick)
    assert first == "images: 1 image: cannot be read, got an empty file: 1.jpg"
    assert second.startswith("images: 1 image: cannot be read, got none of JPEG, PNG, ")


@pytest.mark.parametrize("quick", [False, True])
def test_other_size_than_annotated_is_told(folder, quick):
    folder.photograph(2, HEIGHT, WIDTH)
    folder.photograph(4, 80, 60)
    advice = (
        "correct the annotations, or say `dataset.sizes: from_images` to take boxes as pixels of "
        "the images as they are"
    )
    turned = "1 by exchanging them, as EXIF orientation, which is followed, does"
    assert folder.problems(quick) == [
        f"images: 1 of 3 images have another width and height than annotated ({turned}): "
        f"2.jpg is 30 x 40, annotated 40 x 30; {advice}",
        "images: 1 of 2 images have another width and height than annotated: "
        f"4.jpg is 80 x 60, annotated 40 x 30; {advice}",
    ]


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_size_is_what_training_sees_after_turning(folder, form, quick):
    turned = {"exif": Image.Exif()}
    turned["exif"][0x0112] = 6
    if form == "TIFF":
        turned = {"tiffinfo": {0x0112: 6}}
    folder.photograph(1, HEIGHT, WIDTH, format=form, **turned)
    assert folder.problems(quick) == []
    folder.photograph(2, format=form, **turned)
    (problem,) = folder.problems(quick)
    assert "2.jpg is 30 x 40, annotated 40 x 30" in problem


@pytest.mark.parametrize("quick", [False, True])
def test_what_training_refuses_is_a_problem(folder, quick):
    floating = np.zeros((HEIGHT, WIDTH), dtype=np.float32)
    Image.fromarray(floating).save(folder.images / "1.jpg", "TIFF")
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder.images / "2.jpg", "PCX")
    first, second = folder.problems(quick)
    assert first.startswith("images: 1 image: cannot be read, got a TIFF with floating samples")
    assert second.startswith("images: 1 image: cannot be read, got none of JPEG, PNG, ")


# Splits


def test_image_in_both_splits_is_told(folder):
    folder.val = folder.split([3, 4])
    assert folder.problems() == ["val.json: images: 1 are images of train.json too: 3.jpg"]


def test_same_photograph_under_two_names(folder):
    shutil.copy(folder.images / "1.jpg", folder.images / "3.jpg")
    assert folder.remarks() == ["train.json: 1 image: there twice under two names: 3.jpg (1.jpg)"]
    shutil.copy(folder.images / "2.jpg", folder.images / "5.jpg")
    assert folder.verify().problems == [
        "val.json: 1 image: byte by byte a training image: 5.jpg (2.jpg)"
    ]


def test_files_that_cannot_be_read_are_told_with_all_that_is_wrong(folder):
    folder.train["annotations"][0]["bbox"] = [1, 2, 3]
    folder.val["annotations"][0]["image_id"] = 77
    assert folder.problems() == [
        "train.json: annotations: bbox: expected four finite numbers x, y, width, height in each, "
        "wrong in 1 of 30: in the first, with id 100, got [1, 2, 3]",
    ]
    folder.train = folder.split([1, 2, 3])
    assert folder.problems() == [
        "val.json: annotations: image_id: expected the id of one of images, unknown in 1: in the "
        "first, with id 400, got 77",
    ]


def test_categories_that_disagree_are_told(folder):
    folder.val["categories"][0]["name"] = "bowl"
    assert folder.problems() == [
        "val.json: categories: expected the names of train.json, they differ in 3 (mug and bowl)"
    ]


# Boxes


def with_box(folder, *boxes, split="train") -> None:
    """Give the first annotations of a split other boxes, without masks that would not fit."""
    for annotation in getattr(folder, split)["annotations"]:
        del annotation["segmentation"]
    for annotation, box in zip(getattr(folder, split)["annotations"], boxes):
        annotation |= {"bbox": list(box), "area": 1.0}


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ((5, 5, 0, 5), "boxes without area, which training leaves out"),
        ((40, 5, 5, 5), "boxes outside of their image, which training leaves out"),
        (
            (35, 5, 6, 5),
            "boxes (x, y, width, height) that reach out of their image, which training clips",
        ),
    ],
)
def test_odd_boxes_are_remarks_while_few_and_problems_when_many(folder, box, kind):
    x, y, w, h = box
    boxes = [(x, y + number, w, h) for number in range(4)]
    with_box(folder, *boxes[:3])
    assert folder.remarks() == [f"train.json: 3 annotations: {kind}: 100, 101, 102"]
    folder = type(folder)(folder.path / "more")
    with_box(folder, *boxes)
    assert folder.problems() == [f"train.json: 4 annotations: {kind}: 100, 101, 102, 103"]


def test_box_that_touches_the_edge_is_sound(folder):
    with_box(folder, (0, 0, 40, 30), (-0.3, 0, 40, 30.4))
    assert folder.verify() == Findings(images=5)


def test_area_larger_than_its_box_is_odd(folder):
    folder.val["annotations"][0]["area"] = 200.0
    assert folder.remarks() == ["val.json: 1 annotation: areas larger than their box: 400"]


def test_repeated_boxes_are_told(folder):
    folder.train["annotations"].append(dict(folder.train["annotations"][0], id=7))
    assert folder.remarks() == [
        "train.json: 1 annotation: repeats a box of the same image and category: 7"
    ]


# Masks


def rle(mask: np.ndarray) -> dict:
    encoded = coco_mask.encode(np.asfortranarray(mask))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def square() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[5:15, 5:15] = 1
    return mask


NEITHER = "segmentations that are neither lists of finite numbers nor COCO's RLE"


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        ([[5, 5, 15, 5, 15]], "polygons with an odd number of coordinates"),
        ([5, 5, 15, 5, 15, 15], NEITHER),
        ([[5, 5, 15, 5, 15, None]], NEITHER),
        ([[5, 5, 15, 5, 15, float("nan")]], NEITHER),
        ("mask.png", NEITHER),
        ({"size": [HEIGHT, WIDTH]}, NEITHER),
        (rle(square().T), "RLE of another size than their image's"),
        (rle(square()) | {"counts": "n4:"}, "RLE whose runs do not fill the image"),
        ({"size": [30, 40], "counts": [600, 500]}, "RLE whose runs do not fill the image"),
    ],
)
def test_masks_that_are_none_are_problems(folder, mask, problem):
    folder.train["annotations"][0]["segmentation"] = mask
    assert folder.problems() == [f"train.json: 1 annotation: {problem}: 100"]


def test_sound_rle_is_fine_compressed_or_not(folder):
    folder.train["annotations"][0]["segmentation"] = rle(square())
    runs = {"size": [HEIGHT, WIDTH], "counts": [155, 10, HEIGHT * WIDTH - 165]}
    folder.train["annotations"][1]["segmentation"] = runs
    assert folder.verify() == Findings(images=5)


@pytest.mark.parametrize(
    ("mask", "remark"),
    [
        (
            [[5, 5, 15, 5, 15, 15, 5, 15], [5, 5, 15, 15]],
            "polygons of fewer than three points, which have no area and are left out",
        ),
        ([[5, 5, 9, 5, 9, 9]], "polygons that fit their box badly"),
        ([[25, 20, 35, 20, 35, 28]], "polygons beside their box"),
    ],
)
def test_odd_polygons_are_remarks(folder, mask, remark):
    folder.train["annotations"][0]["segmentation"] = mask
    assert folder.remarks() == [f"train.json: 1 annotation: {remark}: 100"]


def test_polygon_out_of_the_image_is_odd(folder):
    first = folder.train["annotations"][0]
    first |= {"bbox": [30, 20, 10, 10], "segmentation": [[30, 20, 42, 20, 42, 30, 30, 30]]}
    assert folder.remarks() == [
        "train.json: 1 annotation: polygons that reach out of their image: 100"
    ]


def test_masks_for_some_only_are_told(folder):
    folder.train["annotations"][0]["segmentation"] = []
    assert folder.remarks() == ["train.json: annotations: 1 of 30 have no segmentation: 100"]


# Lists and counts


def test_federated_lists_that_contradict_the_annotations_are_told(folder):
    folder.val["images"][0]["neg_category_ids"] = [9, 3]
    assert folder.problems() == [
        "val.json: 1 image: neg_category_ids that are annotated in the image: 4",
    ]
    folder.val = folder.split([4, 5])
    folder.val["images"][1]["not_exhaustive_category_ids"] = [8]
    assert folder.remarks() == [
        "val.json: images: lists of 1 name categories that the file lacks, which are ignored: ids 5"
    ]


def test_given_counts_that_are_wrong_are_told(folder):
    folder.train["categories"][0] |= {"image_count": 3, "instance_count": 31}
    folder.train["categories"][1] |= {"image_count": 2}
    assert folder.remarks() == [
        "train.json: categories: 1 have another image_count than their annotations: cup (2, but 0)",
        "train.json: categories: 1 have another instance_count than their annotations: "
        "mug (31, but 30)",
    ]


def test_counts_may_include_crowds_or_not(folder):
    folder.train["annotations"][0]["iscrowd"] = 1
    for count in (30, 29):
        folder.train["categories"][0]["instance_count"] = count
        assert folder.verify() == Findings(images=5)


# Real data


@pytest.mark.skipif(not PHOTOS.exists(), reason="the real photographs are not here")
def test_real_photographs_are_sound(tmp_path):
    dataset = settings.Dataset(
        format="coco",
        train=str(PHOTOS / "train.json"),
        val=str(PHOTOS / "val.json"),
        images=str(PHOTOS / "images"),
    )
    assert verify(dataset, tmp_path, False, 2, lambda *_: None) == Findings(images=318)


@pytest.mark.skipif(not PHOTOS.exists(), reason="the real photographs are not here")
def test_corners_in_place_of_sizes_are_noticed_in_real_annotations(tmp_path):
    for name in ("train", "val"):
        content = json.loads((PHOTOS / f"{name}.json").read_text())
        for annotation in content["annotations"]:
            x, y, w, h = annotation["bbox"]
            annotation["bbox"] = [x, y, x + w, y + h]
        (tmp_path / f"{name}.json").write_text(json.dumps(copy.deepcopy(content)))
    dataset = settings.Dataset(
        format="coco",
        train=str(tmp_path / "train.json"),
        val=str(tmp_path / "val.json"),
        images=str(PHOTOS / "images"),
    )
    problems = verify(dataset, tmp_path, True, 2, lambda *_: None).problems
    assert any("that reach out of their image" in problem for problem in problems)
