"""Torchvision behind mmcv's operators, against loops written from the definitions."""

import importlib.util
import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from bacl.detector import operators
from bacl.errors import RunError

BACKING = operators.install()

from mmcv.ops import RoIAlign, batched_nms, nms, soft_nms  # noqa: E402
from mmcv.utils.ext_loader import check_ops_exist  # noqa: E402

stands_in = pytest.mark.skipif(BACKING != "torchvision", reason="compiled mmcv is installed")


def greedy_nms(boxes: Tensor, scores: Tensor, threshold: float, offset: int) -> list[int]:
    """Keep the best box left, drop what overlaps it by more than the threshold, repeat."""

    def overlap(a: list[float], b: list[float]) -> float:
        width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
        height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
        area_a = (a[2] - a[0] + offset) * (a[3] - a[1] + offset)
        area_b = (b[2] - b[0] + offset) * (b[3] - b[1] + offset)
        union = area_a + area_b - width * height
        return width * height / union if union else 0.0

    rows = boxes.double().tolist()
    values = scores.double().tolist()
    left = sorted(range(len(rows)), key=lambda i: -values[i])  # stable: ties by index
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if overlap(rows[best], rows[i]) <= threshold]
    return kept


def bilinear(feature: Tensor, y: float, x: float) -> Tensor:
    """Value of one channel (H, W) at (y, x): 0 beyond one cell outside, else clamped into it."""
    height, width = feature.shape
    if y < -1 or y > height or x < -1 or x > width:
        return feature.new_zeros(())
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    return (
        feature[top, left] * (1 - dy) * (1 - dx)
        + feature[top, right] * (1 - dy) * dx
        + feature[bottom, left] * dy * (1 - dx)
        + feature[bottom, right] * dy * dx
    )


def roi_align_by_loops(
    features: Tensor, rois: Tensor, size: tuple[int, int], scale: float, ratio: int, aligned: bool
) -> Tensor:
    """RoIAlign as defined: the mean over a regular grid of bilinear samples in each bin."""
    pooled = []
    for image, *corners in rois.tolist():
        x1, y1, x2, y2 = (corner * scale - (0.5 if aligned else 0.0) for corner in corners)
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        bin_height, bin_width = height / size[0], width / size[1]
        rows = ratio or math.ceil(bin_height)
        columns = ratio or math.ceil(bin_width)
        for channel in features[int(image)]:
            for i in range(size[0]):
                for j in range(size[1]):
                    samples = [
                        bilinear(
                            channel,
                            y1 + bin_height * (i + (v + 0.5) / rows),
                            x1 + bin_width * (j + (u + 0.5) / columns),
                        )
                        for v in range(rows)
                        for u in range(columns)
                    ]
                    total = sum(samples, start=channel.new_zeros(()))
                    pooled.append(total / max(len(samples), 1))
    return torch.stack(pooled).reshape(len(rois), features.shape[1], *size)


def random_boxes(count: int, extent: float, generator: torch.Generator) -> Tensor:
    corners = torch.rand(count, 2, 2, generator=generator) * extent
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.7])
@pytest.mark.parametrize("seed", range(4))
def test_nms_keeps_what_the_greedy_loop_keeps(seed, threshold, offset):
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(120, 40.0, generator)
    scores = torch.rand(120, generator=generator)

    dets, kept = nms(boxes, scores, threshold, offset=offset)

    assert kept.tolist() == greedy_nms(boxes, scores, threshold, offset)
    assert torch.equal(dets, torch.cat([boxes[kept], scores[kept, None]], dim=1))


@pytest.mark.parametrize("offset", [0, 1])
def test_nms_keeps_the_first_of_boxes_with_tied_scores(offset):
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(60, 12.0, generator).round()
    scores = torch.randint(0, 4, (60,), generator=generator) / 4

    kept = nms(boxes, scores, 0.3, offset=offset)[1]

    assert kept.tolist() == greedy_nms(boxes, scores, 0.3, offset)


@pytest.mark.parametrize("tenths", range(1, 10))
def test_nms_keeps_a_box_whose_overlap_is_the_threshold(tenths):
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, tenths]])
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, tenths / 10)[1].tolist() == [0, 1]
    assert nms(boxes, scores, tenths / 10 - 1e-6)[1].tolist() == [0]


def test_nms_offset_counts_the_last_pixel():
    boxes = torch.tensor([[0.0, 0, 9, 9], [5, 0, 14, 9]])  # IoU 36/126, of pixels 50/150
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.3, offset=0)[1].tolist() == [0, 1]
    assert nms(boxes, scores, 0.3, offset=1)[1].tolist() == [0]


@pytest.mark.parametrize("offset", [0, 1])
def test_nms_of_degenerate_boxes_follows_the_loop(offset):
    boxes = torch.tensor(
        [[3.0, 3, 3, 3], [3, 3, 3, 3], [0, 0, 6, 0], [0, 0, 6, 0], [0, 0, 6, 6], [0, 0, 6, 6]]
    )
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])

    kept = nms(boxes, scores, 0.5, offset=offset)[1]

    assert kept.tolist() == greedy_nms(boxes, scores, 0.5, offset)


@pytest.mark.parametrize("offset", [0, 1])
def test_nms_of_no_boxes_keeps_none(offset):
    dets, kept = nms(torch.zeros(0, 4), torch.zeros(0), 0.5, offset=offset)
    assert dets.shape == (0, 5)
    assert kept.shape == (0,) and kept.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_nms_takes_boxes_and_scores_of_other_precision(dtype):
    generator = torch.Generator().manual_seed(1)
    boxes = random_boxes(50, 40.0, generator).to(dtype)
    scores = (torch.randperm(50, generator=generator) / 64).to(dtype)  # exact in eight bits

    expected = greedy_nms(boxes, scores, 0.5, 0)

    assert nms(boxes, scores, 0.5)[1].tolist() == expected
    assert nms(boxes, scores.float(), 0.5)[1].tolist() == expected


def test_nms_takes_strided_boxes():
    generator = torch.Generator().manual_seed(2)
    table = torch.rand(5, 50, generator=generator)
    table[2:4] += table[:2]
    boxes, scores = table[:4].T, table[4]
    assert not boxes.is_contiguous()
    assert nms(boxes, scores, 0.4)[1].tolist() == greedy_nms(boxes, scores, 0.4, 0)


def test_nms_filters_by_score_and_number():
    generator = torch.Generator().manual_seed(3)
    boxes = random_boxes(80, 40.0, generator)
    scores = torch.rand(80, generator=generator)
    chosen = [i for i in greedy_nms(boxes, scores, 0.5, 0) if scores[i] > 0.4][:6]

    kept = nms(boxes, scores, 0.5, score_threshold=0.4, max_num=6)[1]

    assert kept.tolist() == chosen


@pytest.mark.parametrize("split_thr", [10000, 10])
def test_batched_nms_suppresses_within_a_label_only(split_thr):
    generator = torch.Generator().manual_seed(4)
    boxes = random_boxes(60, 30.0, generator)
    scores = torch.rand(60, generator=generator)
    labels = torch.randint(0, 3, (60,), generator=generator)
    expected = []
    for label in range(3):
        members = (labels == label).nonzero()[:, 0]
        expected += members[greedy_nms(boxes[members], scores[members], 0.5, 0)].tolist()
    expected.sort(key=lambda i: -scores[i])

    config = {"type": "nms", "iou_threshold": 0.5, "split_thr": split_thr}
    dets, kept = batched_nms(boxes, scores, labels, config)

    assert kept.tolist() == expected
    assert torch.equal(dets[:, :4], boxes[kept])


def test_multiclass_nms_agrees_with_a_loop_over_categories():
    from mmdet.models.layers import multiclass_nms

    generator = torch.Generator().manual_seed(5)
    boxes = random_boxes(40, 30.0, generator)
    scores = torch.rand(40, 4, generator=generator)  # 3 categories, and the background last
    expected = []
    for label in range(3):
        members = (scores[:, label] > 0.2).nonzero()[:, 0]
        best = members[greedy_nms(boxes[members], scores[members, label], 0.5, 0)]
        expected += [(scores[i, label].item(), label, i) for i in best.tolist()]
    expected = sorted(expected, reverse=True)[:20]

    config = {"type": "nms", "iou_threshold": 0.5}
    dets, labels = multiclass_nms(boxes, scores, 0.2, config, max_num=20)

    assert labels.tolist() == [label for _, label, _ in expected]
    assert torch.equal(dets[:, :4], boxes[[i for _, _, i in expected]])
    assert dets[:, 4].tolist() == [score for score, _, _ in expected]


# Scale of the level (P2 to P6 have 1/4 to 1/64), feature map, extent of the image.
LEVELS = [(1.0, (9, 11), 10.0), (1 / 4, (8, 10), 36.0), (1 / 16, (6, 5), 88.0)]


def regions(extent: float) -> Tensor:
    """Ordinary regions of two images, and every kind that a proposal can degenerate to."""
    generator = torch.Generator().manual_seed(6)
    boxes = random_boxes(4, extent, generator)
    odd = extent * torch.tensor(
        [
            [-0.4, -0.3, 0.5, 0.6],  # half outside, top left
            [0.6, 0.7, 1.5, 1.8],  # half outside, bottom right
            [1.6, 1.6, 2.1, 2.0],  # wholly outside
            [0.0, 0.0, 1.0, 1.0],  # the image
            [0.3, 0.3, 0.3, 0.3],  # a point
            [0.3, 0.2, 0.301, 0.9],  # thinner than a cell
        ]
    )
    boxes = torch.cat([boxes, odd])
    image = torch.arange(len(boxes)) % 2
    return torch.cat([image[:, None], boxes], dim=1)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize(("scale", "shape", "extent"), LEVELS)
def test_roi_align_and_its_gradient_equal_the_loops(scale, shape, extent, ratio, aligned):
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(2, 2, *shape, generator=generator, dtype=torch.float64)
    rois = regions(extent).double()
    weights = torch.randn(len(rois), 2, 3, 2, generator=generator, dtype=torch.float64)
    mine, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()

    pooled = RoIAlign((3, 2), scale, ratio, aligned=aligned)(mine, rois)
    (pooled * weights).sum().backward()
    expected = roi_align_by_loops(theirs, rois, (3, 2), scale, ratio, aligned)
    (expected * weights).sum().backward()

    torch.testing.assert_close(pooled, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 3e-2)]
)
def test_roi_align_of_other_precision_rounds_only_its_result(dtype, tolerance):
    generator = torch.Generator().manual_seed(8)
    features = torch.randn(2, 2, 8, 8, generator=generator).to(dtype).requires_grad_()
    rois = (regions(32.0).round()).to(dtype)  # whole pixels: exact in every one of the types
    reference = features.detach().double().requires_grad_()

    pooled = RoIAlign(2, 0.25, 0)(features, rois)
    pooled.sum().backward()
    expected = RoIAlign(2, 0.25, 0)(reference, rois.double())
    expected.sum().backward()

    assert pooled.dtype == dtype and features.grad.dtype == dtype
    torch.testing.assert_close(pooled.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(
        features.grad.double(), reference.grad, rtol=tolerance, atol=tolerance
    )


def test_roi_align_of_strided_features_and_gradient_equals_contiguous():
    generator = torch.Generator().manual_seed(9)
    features = torch.randn(2, 3, 8, 8, generator=generator)
    weights = torch.randn(10, 3, 2, 2, generator=generator)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        leaf = features.clone(memory_format=layout).requires_grad_()
        pooled = RoIAlign(2, 0.25, 0)(leaf, regions(32.0))
        pooled.backward(weights.clone(memory_format=layout))
        results.append((pooled.detach(), leaf.grad))
    torch.testing.assert_close(results[1][0], results[0][0])
    torch.testing.assert_close(results[1][1], results[0][1])


def test_roi_align_of_no_regions_is_empty_with_a_gradient_of_zero():
    features = torch.randn(1, 3, 8, 8, requires_grad=True)
    pooled = RoIAlign(7, 0.25, 0)(features, torch.zeros(0, 5))
    pooled.sum().backward()
    assert pooled.shape == (0, 3, 7, 7)
    assert features.grad is not None and not features.grad.any()


def test_single_roi_extractor_pools_each_region_from_its_level():
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    generator = torch.Generator().manual_seed(10)
    extractor = SingleRoIExtractor(
        roi_layer={"type": "RoIAlign", "output_size": 2, "sampling_ratio": 0},
        out_channels=2,
        featmap_strides=[4, 8],
        finest_scale=16,
    )
    levels = [
        torch.randn(1, 2, 16, 16, generator=generator, dtype=torch.float64, requires_grad=True),
        torch.randn(1, 2, 8, 8, generator=generator, dtype=torch.float64, requires_grad=True),
    ]
    small, large = [0.0, 3, 5, 15, 19], [0.0, 2, 4, 60, 50]

    pooled = extractor(levels, torch.tensor([small, large], dtype=torch.float64))
    pooled.sum().backward()

    for k, (level, roi, scale) in enumerate(zip(levels, (small, large), (1 / 4, 1 / 8))):
        roi_tensor = torch.tensor([roi], dtype=torch.float64)
        expected = roi_align_by_loops(level.detach(), roi_tensor, (2, 2), scale, 0, True)
        torch.testing.assert_close(pooled[k : k + 1], expected)
        assert level.grad is not None and level.grad.any()


@stands_in
def test_operator_without_a_stand_in_is_named_when_it_is_used():
    with pytest.raises(RunError, match=r"operator 'softnms'.*pip install"):
        soft_nms(torch.rand(3, 4), torch.rand(3), 0.5)


@stands_in
def test_max_pooling_is_refused_by_name():
    with pytest.raises(RunError, match=r"pool_mode='max'.*pip install"):
        RoIAlign(2, pool_mode="max")(torch.rand(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 4, 4]]))


@stands_in
def test_stand_in_does_not_pass_for_compiled_mmcv():
    assert importlib.util.find_spec("mmcv._ext").loader is None
    assert not check_ops_exist()


@stands_in
def test_install_again_changes_nothing():
    before = sys.modules["mmcv._ext"]
    assert operators.install() == "torchvision"
    assert sys.modules["mmcv._ext"] is before


@pytest.mark.slow
def test_compiled_mmcv_is_left_alone(tmp_path):
    package = tmp_path / "mmcv"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "_ext.py").touch()
    script = (
        "import sys; from bacl.detector import operators; "
        "print(operators.install(), operators.install()); "
        "import mmcv._ext; print(operators.install(), hasattr(mmcv._ext, 'nms'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {script}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["mmcv", "mmcv", "mmcv", "False"]


@pytest.mark.gpu
def test_operators_on_the_gpu_equal_those_on_the_cpu(device):
    generator = torch.Generator().manual_seed(11)
    boxes, scores = random_boxes(500, 60.0, generator), torch.rand(500, generator=generator)
    there = nms(boxes.to(device), scores.to(device), 0.5)[1]
    assert there.device.type == device
    assert there.tolist() == nms(boxes, scores, 0.5)[1].tolist()

    features, rois = torch.randn(2, 3, 8, 8, generator=generator), regions(32.0)
    gradients = []
    for place in ("cpu", device):
        leaf = features.to(place, copy=True).requires_grad_()
        pooled = RoIAlign(2, 0.25, 0)(leaf, rois.to(place))
        (pooled**2).sum().backward()
        gradients.append(leaf.grad.cpu())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)
