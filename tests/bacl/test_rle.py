import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from bacl import rle


def test_encoded_masks_decode_to_themselves():
    masks = torch.rand(4, 13, 21, generator=torch.Generator().manual_seed(0)) > 0.5
    for encoded, mask in zip(rle.encode(masks), masks, strict=True):
        assert encoded["size"] == [13, 21]
        assert np.array_equal(coco.decode(encoded), mask.numpy())


def test_no_masks_encode_to_none():
    assert rle.encode(torch.zeros(0, 5, 5, dtype=torch.bool)) == []


@pytest.mark.parametrize("density", [0, 0.02, 0.5, 1])
def test_measure_equals_counting_pixels(density, monkeypatch):
    monkeypatch.setattr(rle, "_AT_ONCE", 7)
    draw = np.random.default_rng(0)
    masks = [draw.random(draw.integers(1, 300, 2)) < density for _ in range(100)]
    masks = [np.asfortranarray(mask.astype(np.uint8)) for mask in masks]
    covered, area = rle.measure([coco.encode(mask)["counts"] for mask in masks])
    assert covered.tolist() == [mask.size for mask in masks]
    assert area.tolist() == [mask.sum() for mask in masks]


@pytest.mark.parametrize("broken", [b"", b"o", b"\x01\xff", b"f0550000000PP", b"f055"])
def test_what_is_no_encoding_covers_no_image(broken):
    whole = b"f0550000000P4"  # a square in 10 x 20
    covered, area = rle.measure([whole, broken, whole])
    assert covered[[0, 2]].tolist() == [200, 200] and area[[0, 2]].tolist() == [25, 25]
    assert covered[1] != 200


def test_no_masks_measure_as_none():
    assert [part.tolist() for part in rle.measure([])] == [[], []]
