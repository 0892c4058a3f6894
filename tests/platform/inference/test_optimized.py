"""Compiled networks find what the detector finds, in images of any size."""

import types

import numpy as np
import pytest
from torch import nn

from bacl.errors import UsageError
from bacl_platform.inference.detector import Detector
from bacl_platform.inference.optimized import optimize

SIZES = [(64, 96), (96, 64), (96, 96), (40, 90)]


def images():
    draw = np.random.default_rng(0)
    return [draw.integers(0, 255, (*size, 3), dtype=np.uint8) for size in SIZES]


def alike(one, other):
    """Whether detections are the same but for rounding; equal scores may change places."""
    assert len(one) == len(other) > 0
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
    for first, second in zip(
        sorted(one, key=lambda d: (d.label, *np.round(d.box))),
        sorted(other, key=lambda d: (d.label, *np.round(d.box))),
        strict=True,
    ):
        assert first.label == second.label
        np.testing.assert_allclose(first.box, second.box, atol=0.05)


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn", "cascade_rcnn"])
def test_detections_are_the_same_when_compiled(planned, publish_untrained, kind):
    job = planned(f"detector.type={kind}").jobs[1]
    folder = publish_untrained(job) / "variants/softmax"
    plain = Detector.load(folder, device="cpu").predict(images())
    compiled = Detector.load(folder, device="cpu", optimize=True).predict(images())
    for one, other in zip(plain, compiled, strict=True):
        alike(one, other)
        assert (one.masks is None) == (other.masks is None) == (kind != "mask_rcnn")


def test_networks_are_replaced(exported_variant):
    detector = Detector.load(exported_variant, device="cpu", optimize=True)
    head = detector.model.roi_head.bbox_head
    assert not any(type(module) is nn.Linear for module in head.modules())
    called = []
    detector.model.backbone.forward = called.append
    detector.predict(images()[0])
    assert called == []  # the compiled network has its own copy


def test_network_that_depends_on_the_size_is_refused(exported_variant):
    detector = Detector.load(exported_variant, device="cpu").model
    plain = detector.extract_feat

    def extract_feat(self, pixels):
        levels = plain(pixels)
        return [level * 2 for level in levels] if pixels.shape[2] > 300 else levels

    detector.extract_feat = types.MethodType(extract_feat, detector)
    with pytest.raises(UsageError, match="got another result for an image of 224 x 352"):
        optimize(detector)


def test_detector_without_an_rpn_is_refused():
    with pytest.raises(UsageError, match="expected a two-stage detector with an RPN, got Linear"):
        optimize(nn.Linear(2, 2))
