"""The compiled operators that the detectors use, backed by torchvision where mmcv brings none.

A plain install of mmcv has no compiled operators (`mmcv._ext`), and building them takes a compiler
and half an hour. The detectors here need two, NMS and RoIAlign, which torchvision ships compiled
with the same semantics. Letters: N boxes, R regions, B images, C channels, H x W the feature map,
h x w the pooled grid.
"""

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
import torchvision
from torch import Tensor

from bacl.errors import RunError

EXTENSION = "mmcv._ext"
HOW_TO_GET = (
    "build mmcv's operators (a C++ compiler, and the CUDA toolkit for a GPU): pip install "
    "'setuptools>=77' && pip install --force-reinstall --no-deps --no-cache-dir "
    "--no-build-isolation --no-binary onedl-mmcv onedl-mmcv"
)
AVERAGE = 1  # mmcv's number for pool_mode='avg'; 0 is 'max'


def install() -> str:
    """Make `mmcv.ops` importable, with torchvision's operators where mmcv has none of its own.

    Call it before anything imports `mmcv.ops` or `mmdet.models`. Calling it again changes nothing.

    Returns:
        What backs the operators: "torchvision", or "mmcv" where compiled mmcv is installed.
    """
    if isinstance(sys.modules.get(EXTENSION), _TorchvisionOperators):
        return "torchvision"
    if find_spec(EXTENSION) is not None:
        return "mmcv"
    sys.modules[EXTENSION] = _TorchvisionOperators()
    return "torchvision"


class _TorchvisionOperators(ModuleType):
    """Substitute for `mmcv._ext`. Operators that it lacks can be imported, but raise when they are
    called."""

    def __init__(self) -> None:
        super().__init__(EXTENSION, "mmcv's operators, backed by torchvision.")
        # mmcv takes a module with a loader for compiled operators, so this one has none.
        self.__spec__ = ModuleSpec(EXTENSION, loader=None)
        self.nms = nms
        self.roi_align_forward = roi_align_forward
        self.roi_align_backward = roi_align_backward
        # Called by mmdet's environment report, which must work without the operators.
        self.get_compiler_version = lambda: "n/a"
        self.get_compiling_cuda_version = lambda: "n/a"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> Any:
            raise RunError(
                f"mmcv's operator {name!r} is not installed, and torchvision has none like it; "
                f"{HOW_TO_GET}"
            )

        return missing


def _at_least_float32(*tensors: Tensor) -> list[Tensor]:
    """Bring tensors to one dtype: torchvision wants them equal, and has no bfloat16 kernels."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]


def nms(bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        bboxes: (N, 4), x1 y1 x2 y2.
        scores: (N,).
        iou_threshold: boxes that overlap a kept one by more are dropped; 0..1.
        offset: 0 or 1, added to every width and height (1: coordinates name pixels, ends included).

    Returns:
        Indices of the kept boxes, best score first; int64.
    """
    bboxes, scores = _at_least_float32(bboxes, scores)
    if offset:
        # Widths and heights of boxes and of their intersections all grow by the same offset.
        bboxes = bboxes + bboxes.new_tensor([0, 0, offset, offset])
    # mmcv compares in float32. Torchvision compares a float32 overlap with a float64 threshold, and
    # so would drop a box whose overlap *is* a threshold that float32 rounds up, such as 0.3.
    threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    return torchvision.ops.nms(bboxes, scores, threshold)


def _require_average(pool_mode: int) -> None:
    if pool_mode != AVERAGE:
        raise RunError(
            "RoIAlign with pool_mode='max' needs mmcv's own operators, torchvision only averages; "
            f"use pool_mode='avg', or {HOW_TO_GET}"
        )


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Pool regions of a feature map by bilinear sampling (RoIAlign of Mask R-CNN), into `output`.

    Args:
        input: features (B, C, H, W).
        rois: (R, 5), image index and x1 y1 x2 y2 in image coordinates.
        output: (R, C, h, w), written.
        argmax_y, argmax_x: of max pooling; not used.
        aligned_height, aligned_width: h and w.
        spatial_scale: feature coordinates over image coordinates.
        sampling_ratio: samples per bin and axis; 0 takes one per feature cell.
        pool_mode: 1, the average.
        aligned: whether the centre of the first cell is at 0.5.

    Raises:
        RunError: `pool_mode` is not the average.
    """
    _require_average(pool_mode)
    features, regions = _at_least_float32(input, rois)
    output.copy_(
        torch.ops.torchvision.roi_align(
            features,
            regions,
            spatial_scale,
            aligned_height,
            aligned_width,
            sampling_ratio,
            aligned,
        )
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Gradient of `roi_align_forward` with respect to the features, added to `grad_input`.

    Args as there; `grad_output` is (R, C, h, w), `grad_input` (B, C, H, W).

    Raises:
        RunError: `pool_mode` is not the average.
    """
    _require_average(pool_mode)
    gradient, regions = _at_least_float32(grad_output, rois)
    grad_input.add_(
        torch.ops.torchvision._roi_align_backward(
            gradient,
            regions,
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    )
