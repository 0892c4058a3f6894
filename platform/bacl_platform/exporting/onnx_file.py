"""Detectors as ONNX files, which onnxruntime runs without torch."""

import json
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bacl.errors import UsageError
from bacl_platform.exporting.suppression import by_onnx
from bacl_platform.exporting.whole import WholeDetector

OPSET = 17
"""ONNX's set of operators that a file asks for if nothing else is said: that of 2022."""
LEAST_OPSET = 16
"""The first whose RoIAlign samples as MMDetection's does."""


def write(
    path: Path,
    model: torch.nn.Module,
    example: NDArray[np.uint8],
    facts: Mapping[str, Any],
    opset: int | None,
) -> None:
    """Write a detector, and `facts` as JSON among the file's metadata.

    example: an image (H, W, 3) in RGB, on which the detector is run once. opset: None is `OPSET`.

    Raises:
        UsageError: an operator of the detector is not in the opset, a part of it has no
            counterpart, or the package onnx is not installed.
    """
    _require("onnx")
    import onnx
    from torch.onnx.errors import OnnxExporterError, UnsupportedOperatorError

    opset = OPSET if opset is None else opset
    if opset < LEAST_OPSET:
        raise UsageError(
            f"opset: expected at least {LEAST_OPSET}, got {opset}, whose operator RoiAlign lacks "
            "the half-pixel coordinates that MMDetection's detectors pool regions by"
        )
    whole = WholeDetector(model, by_onnx).eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # The newer exporter, which torch recommends, cannot follow sizes that depend on what
            # was found.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                whole,
                (torch.from_numpy(example),),
                path,
                input_names=["image"],
                output_names=whole.outputs,
                dynamic_axes={"image": {0: "height", 1: "width"}, **_sizes(whole.outputs)},
                opset_version=opset,
                dynamo=False,
            )
    except UnsupportedOperatorError as error:
        raise UsageError(
            f"opset {opset}: ONNX's operators of that version lack one like "
            f"{_operator(error)}, which this detector needs: expected another opset, or "
            "format torchscript"
        ) from error
    except (OnnxExporterError, RuntimeError, ValueError) as error:
        raise UsageError(f"opset {opset}: torch cannot write it: {_first_line(error)}") from error
    model_file = onnx.load(path)
    onnx.helper.set_model_props(
        model_file, {name: json.dumps(value) for name, value in facts.items()}
    )
    onnx.save(model_file, path)


def _sizes(outputs: Sequence[str]) -> dict[str, dict[int, str]]:
    """Names of the outputs' sizes that differ from image to image."""
    named = {name: {0: "detections"} for name in outputs}
    if "masks" in named:
        named["masks"] |= {1: "height", 2: "width"}
    return named


def _operator(error: Exception) -> str:
    """Which operator an exporter's error is about: `Exporting the operator 'aten::x' to ...`."""
    words = str(error).split("'")
    return words[1] if len(words) > 2 else _first_line(error)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


class OnnxDetector:
    """A detector of such a file, run on the CPU by onnxruntime."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """threads: onnxruntime chooses if None. Raises UsageError without onnxruntime, and for a
        file that it cannot run."""
        _require("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = options.inter_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions have no base of their own
            raise UsageError(
                f"opset: expected one whose operators onnxruntime {onnxruntime.__version__} has, "
                f"such as {OPSET}, got: {_first_line(error)}"
            ) from error

    def __call__(self, image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Boxes, scores, labels, and masks if it has them, of an image (H, W, 3) in RGB."""
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(None, {"image": image}), strict=True))


def _require(package: str) -> None:
    if find_spec(package) is None:
        raise UsageError(
            f"format onnx: expected the package {package}, which is not installed: pip install "
            "'bacl[onnx]'"
        )
