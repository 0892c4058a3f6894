"""Masks in parts beside MMDetection's bitmaps, through every change that pipelines make."""

import pickle

import numpy as np
import pytest
import torch
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks

from bacl.datasets.masks import LoadAnnotationsInParts, Part, PartMasks, parts_of, placed

HEIGHT, WIDTH = 37, 52


def both(draw, objects=5):
    """Masks of blots, one of them empty and one of the whole image, in both forms."""
    bitmaps = np.zeros((objects, HEIGHT, WIDTH), np.uint8)
    for mask in bitmaps[1:]:
        (top, left), (high, wide) = draw.integers(0, 25, 2), draw.integers(1, 12, 2)
        mask[top : top + high, left : left + wide] = draw.random((high, wide)) < 0.7
    if objects > 2:
        bitmaps[2] = 1
    if objects > 1:  # one that has bounds of its own
        bitmaps[1, :10], bitmaps[1, 36:], bitmaps[1, :, :3], bitmaps[1, :, 50:] = 0, 0, 0, 0
    parts = [Part(0, 0, mask) for mask in bitmaps]
    parts[1:2] = [Part(10, 3, mask[10:36, 3:50].copy()) for mask in bitmaps[1:2]]
    return placed(parts, HEIGHT, WIDTH), BitmapMasks(bitmaps, HEIGHT, WIDTH)


def alike(found, expected):
    assert (len(found), found.height, found.width) == (
        len(expected),
        expected.height,
        expected.width,
    )
    boxes = [one.get_bboxes(HorizontalBoxes).tensor for one in (found, expected)]
    assert torch.equal(*boxes) and boxes[0].dtype == boxes[1].dtype
    again = pickle.loads(pickle.dumps(found))
    for one in (again, found):
        assert one.masks.dtype == expected.masks.dtype
        assert np.array_equal(one.masks, expected.masks)
    assert np.array_equal(found.areas, expected.areas)


CHANGES = {
    "enlarged": lambda m: m.rescale((131, 97)),
    "reduced": lambda m: m.rescale(0.43),
    "resized": lambda m: m.resize((29, 111)),
    "mirrored": lambda m: m.flip("horizontal"),
    "upside down": lambda m: m.flip("vertical"),
    "turned": lambda m: m.flip("diagonal"),
    "cropped": lambda m: m.crop(np.array([5, 7, 33, 300])),
    "cropped to nothing": lambda m: m.crop(np.array([5, 7, 5, 7])),
    "padded": lambda m: m.pad((m.height + 9, m.width + 4)),
    "padded with ones": lambda m: m.pad((m.height + 9, m.width + 4), pad_val=1),
    "smoothly": lambda m: m.rescale(1.7, "bilinear"),
    "some": lambda m: m[np.array([3, 0])],
    "masked": lambda m: m[np.arange(len(m)) % 2 == 0],
    "one": lambda m: m[1],
    "none": lambda m: m[np.zeros(0, dtype=int)],
    "expanded": lambda m: m.expand(m.height + 11, m.width + 5, 3, 2),
    "translated": lambda m: m.translate((m.height, m.width), 4.0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_change_is_mmdetections_to_the_bit(change):
    found, expected = both(np.random.default_rng(0))
    alike(CHANGES[change](found), CHANGES[change](expected))


@pytest.mark.parametrize("seed", range(40))
def test_changes_one_after_another_are_mmdetections_to_the_bit(seed):
    draw = np.random.default_rng(seed)
    found, expected = both(draw, objects=int(draw.integers(0, 6)))
    for _ in range(5):
        change = draw.choice([name for name in CHANGES if name not in ("one", "some")])
        if change in ("translated", "expanded") and not len(found):
            continue
        try:
            changed = CHANGES[change](expected)
        except AssertionError:  # MMDetection refuses a crop that lies outside
            continue
        found, expected = CHANGES[change](found), changed
    alike(found, expected)


def test_what_pipelines_do_with_large_images_stays_in_parts():
    found, _ = both(np.random.default_rng(0))
    for change in ("enlarged", "cropped", "padded", "mirrored", "some"):
        found = CHANGES[change](found)
    assert isinstance(found, PartMasks)
    assert all(part.pixels.size < found.height * found.width for part in found.parts()[1:])
    assert found._parts is not None
    assert len(pickle.dumps(found)) < found.masks.nbytes


def test_bitmaps_that_are_written_to_stay_written():
    found, expected = both(np.random.default_rng(0))
    for one in (found, expected):
        one.masks[:, 3:20, 5:30] = 0
    found, expected = (one.flip("horizontal") for one in (found, expected))
    alike(found, expected)
    assert len(parts_of(expected)) == len(expected)


def test_masks_that_are_not_of_the_image_are_told():
    step = LoadAnnotationsInParts(with_mask=True)
    run_lengths = {"size": [4, 6], "counts": [24]}
    sample = {
        "img_path": "a.jpg",
        "ori_shape": (5, 6),
        "instances": [
            {"bbox": [0, 0, 1, 1], "bbox_label": 0, "ignore_flag": 0, "mask": run_lengths}
        ],
    }
    with pytest.raises(ValueError, match=r"a\.jpg: expected masks of 5 x 6 pixels, got one of"):
        step(sample)
