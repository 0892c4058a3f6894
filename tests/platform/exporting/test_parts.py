"""Steps of a detector on tensors alone, beside OpenCV's, mmcv's and MMDetection's own."""

import cv2
import mmcv
import numpy as np
import pytest
import torch

import bacl.register  # noqa: F401

# isort: split
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules import AnchorGenerator, DeltaXYWHBBoxCoder

from bacl_platform.exporting.parts import (
    anchors_of,
    decoded,
    pasted,
    pooled_of,
    resized,
    scaled_sides,
)

SIZES = [(40, 60), (37, 61), (80, 120), (20, 30), (13, 200), (400, 33), (1, 1), (3, 2), (40, 97)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(40, 60), (53, 17), (1, 9)])
def test_images_are_resized_as_by_opencv(shape, size):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    found = resized(torch.from_numpy(image), torch.tensor(shape), torch.tensor(size))
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("scale", [(640, 640), (1333, 800), (128, 96)])
def test_sides_are_scaled_as_by_mmcv(scale):
    draw = np.random.default_rng(0)
    for height, width in draw.integers(1, 3000, (300, 2)).tolist():
        expected = mmcv.rescale_size((width, height), scale)[::-1]
        found = scaled_sides(torch.tensor([height, width]), scale)
        assert tuple(found.tolist()) == expected


def test_anchors_are_mmdetections():
    generator = AnchorGenerator(strides=[4, 8], ratios=[0.5, 1.0], scales=[6])
    sizes = [(7, 5), (4, 3)]
    for level, expected in enumerate(generator.grid_priors(sizes, device="cpu")):
        torch.testing.assert_close(
            anchors_of(generator, level, torch.zeros(1, 1, *sizes[level])), expected
        )


@pytest.mark.parametrize("options", [{}, {"add_ctr_clamp": True}, {"clip_border": False}])
def test_boxes_are_decoded_as_by_mmdetection(options):
    draw = torch.Generator().manual_seed(0)
    coder = DeltaXYWHBBoxCoder(target_stds=[0.1, 0.1, 0.2, 0.2], **options)
    corners = torch.rand(50, 2, generator=draw) * 80
    boxes = torch.cat([corners, corners + torch.rand(50, 2, generator=draw) * 40], dim=1)
    deltas = torch.randn(50, 4, generator=draw) * 20  # some are beyond every limit
    limits = torch.tensor([100.0, 90.0, 100.0, 90.0])
    expected = coder.decode(boxes, deltas, max_shape=(90, 100))
    torch.testing.assert_close(decoded(coder, boxes, deltas, limits), expected)


@pytest.mark.parametrize("longest", [20, 200, 900])
def test_regions_are_pooled_as_by_mmdetection(longest):
    """With the short ones, no region is on some of the levels."""
    draw = torch.Generator().manual_seed(0)
    extractor = SingleRoIExtractor(
        {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 0}, 3, [4, 8, 16, 32]
    )
    levels = [torch.randn(1, 3, 256 // step, 256 // step, generator=draw) for step in (1, 2, 4, 8)]
    corners = torch.rand(40, 2, generator=draw) * 100
    regions = torch.cat([corners, corners + torch.rand(40, 2, generator=draw) * longest], dim=1)
    rows = torch.nn.functional.pad(regions, (1, 0))
    torch.testing.assert_close(pooled_of(extractor, levels, regions), extractor(levels, rows))


def test_masks_are_pasted_as_by_mmdetection():
    draw = torch.Generator().manual_seed(0)
    masks = torch.rand(6, 28, 28, generator=draw)
    corners = torch.rand(6, 2, generator=draw) * 40 - 5  # some begin beside the image
    boxes = torch.cat([corners, corners + 2 + torch.rand(6, 2, generator=draw) * 30], dim=1)
    expected, _ = _do_paste_mask(masks[:, None], boxes, 50, 60, skip_empty=False)
    found = pasted(masks, boxes, torch.tensor([50, 60]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
