"""Suppression that ends early keeps what torchvision keeps of all boxes."""

import numpy as np
import onnxruntime
import pytest
import torch
from torchvision.ops import nms

from bacl_platform.exporting.suppression import blockwise, by_onnx, scripted

TOTAL = 3000
"""More than a block."""


@pytest.fixture
def candidates():
    draw = torch.Generator().manual_seed(0)
    corners = torch.rand(TOTAL, 2, generator=draw) * 100
    boxes = torch.cat([corners, corners + 5 + torch.rand(TOTAL, 2, generator=draw) * 40], dim=1)
    return boxes, torch.rand(TOTAL, generator=draw)


def expected(boxes, scores, most, least):
    counted = (scores > least).nonzero()[:, 0]
    return counted[nms(boxes[counted], scores[counted], 0.5)][:most]


@pytest.mark.parametrize("most, least", [(1, 0.0), (30, 0.0), (TOTAL, 0.0), (50, 0.9), (9, 2.0)])
@pytest.mark.parametrize("form", ["blockwise", "scripted"])
def test_best_survivors_are_torchvisions(candidates, form, most, least):
    suppress = blockwise if form == "blockwise" else scripted()
    found = suppress(*candidates, 0.5, most, least)
    assert torch.equal(found, expected(*candidates, most, least))


@pytest.mark.parametrize("most, least", [(30, 0.0), (TOTAL, 0.0), (50, 0.9), (9, 2.0)])
def test_onnx_keeps_the_same(candidates, tmp_path, most, least):
    class Suppressing(torch.nn.Module):
        def forward(self, boxes, scores):
            return by_onnx(boxes, scores, 0.5, most, least)

    path = tmp_path / "suppression.onnx"
    names = ["boxes", "scores"]
    torch.onnx.export(
        Suppressing(),
        tuple(one[:7] for one in candidates),  # the file is not of one number of boxes
        path,
        input_names=names,
        dynamic_axes={name: {0: "boxes"} for name in names},
        opset_version=17,
        dynamo=False,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {n: one.numpy() for n, one in zip(names, candidates)})
    np.testing.assert_array_equal(found, expected(*candidates, most, least).numpy())
