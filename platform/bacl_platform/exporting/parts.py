"""Steps of a detector as operations on tensors alone, whatever the image's size, which torch's
exporters can record.

Sizes are tensors as well, because an exporter takes a number for the same in every image. Letters
as in `bacl_platform.exporting.whole`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

_BITS = 2048
"""OpenCV's shares of neighbouring pixels are whole multiples of a 2048th."""


def sides_of(maps: Tensor) -> Tensor:
    """The shape of a tensor as a tensor, of which an exporter records where it comes from."""
    return torch._shape_as_tensor(maps).to(maps.device)


def scaled_sides(sides: Tensor, scale: tuple[int, int]) -> Tensor:
    """Height and width, whole numbers (2,), of an image that is resized to fit into `scale`, as
    mmcv's `rescale_size` rounds them."""
    exact = sides.double()
    factor = torch.minimum(scale[0] / exact.max(), scale[1] / exact.min())
    return (exact * factor + 0.5).long()


def resized(image: Tensor, sides: Tensor, shown: Tensor) -> Tensor:
    """The image (H, W, 3) of uint8 with bilinear interpolation to (h, w, 3), whole numbers as
    int32, to the bit as OpenCV computes it.

    OpenCV computes in whole numbers: its roundings decide over most pixels by 1.
    """
    (left, left_share), (right, right_share) = _neighbours(sides[1], shown[1])
    (above, above_share), (below, below_share) = _neighbours(sides[0], shown[0])
    # Beside the image, rows are repeated, so both are the same row; columns have all the share.
    within = (left < right).int()
    left_share, right_share = _BITS - right_share * within, right_share * within
    pixels = image.int()
    across = pixels.index_select(1, left) * left_share[None, :, None]
    across = across + pixels.index_select(1, right) * right_share[None, :, None]
    across = _cut(across, 16)
    upper = _cut(across.index_select(0, above) * above_share[:, None, None], 65536)
    lower = _cut(across.index_select(0, below) * below_share[:, None, None], 65536)
    return _cut(upper + lower + 2, 4)


def _cut(values: Tensor, divisor: int) -> Tensor:
    """Whole numbers by a divisor, without the rest."""
    return torch.div(values, divisor, rounding_mode="trunc")


def _neighbours(before: Tensor, after: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Along one axis, the places (after,) of each pixel's two neighbours, and their shares in
    2048ths."""
    step = before.double() / after.double()
    centres = (torch.arange(after, device=before.device).double() + 0.5) * step - 0.5  # type: ignore[call-overload]
    first = centres.float().floor()
    share = centres.float() - first
    last = (before - 1).float()
    return [
        (
            torch.minimum((first + number).clamp(min=0), last).long(),
            (own * _BITS).round().int(),
        )
        for number, own in enumerate((1 - share, share))
    ]


def anchors_of(generator: Any, level: int, found: Tensor) -> Tensor:
    """Anchors (h * w * A, 4) of a level whose maps `found` are (1, any, h, w)."""
    height, width = sides_of(found)[2:].unbind()
    x_step, y_step = generator.strides[level]
    x = torch.arange(width, device=found.device).float() * x_step  # type: ignore[call-overload]
    y = torch.arange(height, device=found.device).float() * y_step  # type: ignore[call-overload]
    across = x[None, :, None] + torch.zeros_like(y)[:, None, None]
    down = y[:, None, None] + torch.zeros_like(x)[None, :, None]
    corners = torch.cat([across, down, across, down], dim=2).reshape(-1, 1, 4)
    own = generator.base_anchors[level].to(found)
    return (own[None] + corners).reshape(-1, 4)


def decoded(coder: Any, boxes: Tensor, deltas: Tensor, limits: Tensor) -> Tensor:
    """Boxes (N, 4) moved by deltas (N, 4) as `coder` encodes them, cut at the image's sides, whose
    (w, h, w, h) are `limits`."""
    moves = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    shift, growth = moves[:, :2], moves[:, 2:]
    centres = (boxes[:, :2] + boxes[:, 2:]) * 0.5
    sides = boxes[:, 2:] - boxes[:, :2]
    most = abs(math.log(16 / 1000))
    shift = sides * shift
    if coder.add_ctr_clamp:
        shift = shift.clamp(min=-coder.ctr_clamp, max=coder.ctr_clamp)
        growth = growth.clamp(max=most)
    else:
        growth = growth.clamp(min=-most, max=most)
    centres, halves = centres + shift, sides * growth.exp() * 0.5
    moved = torch.cat([centres - halves, centres + halves], dim=1)
    return torch.minimum(moved.clamp(min=0), limits) if coder.clip_border else moved


def pooled_of(extractor: Any, levels: Sequence[Tensor], regions: Tensor) -> Tensor:
    """Features (N, channels, size, size) of regions (N, 4), each from the level of its size."""
    layers = extractor.roi_layers
    rows = F.pad(regions, (1, 0))  # the image's number, 0, first
    if len(layers) == 1:
        return _aligned(layers[0], levels[0], rows)
    sides = regions[:, 2:] - regions[:, :2]
    scale = (sides[:, 0] * sides[:, 1]).sqrt()
    own = (scale / extractor.finest_scale + 1e-6).log2().floor().clamp(0, len(layers) - 1)
    members = [(own == level).nonzero()[:, 0] for level in range(len(layers))]
    found = [_aligned(layers[n], levels[n], rows[places]) for n, places in enumerate(members)]
    return torch.cat(found)[torch.cat(members).argsort()]


def _aligned(layer: Any, features: Tensor, rows: Tensor) -> Tensor:
    return roi_align(
        features, rows, layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned
    )


def pasted(masks: Tensor, boxes: Tensor, sides: Tensor) -> Tensor:
    """Masks (K, m, m) over their boxes as maps (K, H, W) of the image, by bilinear interpolation
    with nothing beside them.

    It is separable: a product with the shares of the m rows in the H, and of the m columns in the
    W.
    """
    size = masks.size(-1)
    down = _shares(boxes[:, 1], boxes[:, 3], sides[0], size)
    across = _shares(boxes[:, 0], boxes[:, 2], sides[1], size)
    return down @ masks @ across.transpose(1, 2)


def _shares(low: Tensor, high: Tensor, length: Tensor, size: int) -> Tensor:
    """Share (K, length, size) of each of a mask's cells, between low and high (K,), in each pixel
    along an axis."""
    centres = torch.arange(length, device=low.device).float() + 0.5  # type: ignore[call-overload]
    places = (centres[None] - low[:, None]) / (high - low)[:, None] * size - 0.5
    cells = torch.arange(size, device=low.device).float()
    return (1 - (places[:, :, None] - cells).abs()).clamp(min=0)
