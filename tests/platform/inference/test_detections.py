"""Detections of an image: as plain values, in COCO's form, and drawn."""

import io

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from bacl_platform.inference.detections import Detection, Detections, draw


def detections(**changed):
    facts = {
        "boxes": np.array([[1, 2, 11, 22], [0, 0, 5, 4]], dtype=np.float32),
        "scores": np.array([0.75, 0.25], dtype=np.float32),
        "labels": np.array([1, 0]),
        "masks": None,
        "categories": ["owl", "tern"],
        "category_ids": [7, "t"],
        "size": (40, 30),
    }
    return Detections(**{**facts, **changed})


def test_detections_are_a_sequence_of_named_boxes():
    found = detections()
    assert len(found) == 2 and found.names == ["tern", "owl"]
    assert found[0] == Detection(1, "tern", "t", 0.75, [1, 2, 11, 22])
    assert [one.category_id for one in found] == ["t", 7]
    assert found[-1] == found[1]
    assert repr(found) == "<2 detections in 40x30: tern 0.75, owl 0.25>"


def test_results_are_coco_entries():
    rle = {"size": [30, 40], "counts": "abc"}
    entry, other = detections(masks=[rle, rle]).to_coco(5)
    assert entry == {
        "image_id": 5,
        "category_id": "t",
        "bbox": [1, 2, 10, 20],
        "score": 0.75,
        "segmentation": rle,
    }
    assert other["bbox"] == [0, 0, 5, 4]
    assert [one["category_id"] for one in detections(category_ids=None).to_coco(5)] == [2, 1]


def test_those_above_a_score_keep_their_masks():
    masks = [{"size": [1, 1], "counts": name} for name in "ab"]
    kept = detections(masks=masks).above(0.5)
    assert [one.mask for one in kept] == masks[:1]
    assert len(detections().above(0.25)) == 2  # at least


def test_notebook_shows_the_picture_with_what_is_likely():
    assert detections()._repr_png_() is None
    black = np.zeros((30, 40, 3), dtype=np.uint8)
    shown = Image.open(io.BytesIO(detections(source=black)._repr_png_()))
    assert shown.size == (40 * 16, 30 * 16)
    likely = detections(source=black).above(0.3).draw()
    assert np.array_equal(np.asarray(shown), np.asarray(likely))
    with pytest.raises(ValueError, match="expected an image to draw on"):
        detections().draw()


def test_pixels_of_a_mask_have_its_colour_and_others_stay():
    pixels = np.zeros((20, 20), dtype=np.uint8, order="F")
    pixels[12:16, 2:10] = 1
    encoded = coco.encode(pixels)
    mask = {"size": encoded["size"], "counts": encoded["counts"].decode()}
    box = [2.0, 12.0, 10.0, 16.0]
    grey = Image.new("RGB", (20, 20), (100, 100, 100))
    with_mask = np.asarray(draw(grey, [Detection(0, "a", 1, 0.9, box, mask)]), dtype=int)
    without = np.asarray(draw(grey, [Detection(0, "a", 1, 0.9, box)]), dtype=int)
    changed = (with_mask != without).any(axis=2)
    assert changed[13 * 32 + 16, 5 * 32 + 16]  # the image is enlarged 32 times
    rows, columns = np.nonzero(changed)
    assert rows.min() >= 12 * 32 and rows.max() < 16 * 32
    assert columns.min() >= 2 * 32 and columns.max() < 10 * 32
    assert "mask" not in Detection(0, "a", 1, 0.9, box).as_json()


def test_small_images_are_enlarged_and_boxes_with_them():
    image = Image.new("RGB", (100, 50), "black")
    drawn = draw(image, [Detection(0, "disc", 1, 0.9, [10.0, 20.0, 40.0, 45.0])])
    assert drawn.size == (700, 350)
    pixels = np.asarray(drawn).any(axis=2)
    assert pixels[20 * 7, 10 * 7] and pixels[45 * 7 - 1, 40 * 7 - 1]
    assert not pixels[30 * 7, 25 * 7]
    assert draw(Image.new("RGB", (2000, 1000)), []).size == (2000, 1000)
