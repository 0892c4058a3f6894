"""Detectors as TorchScript files, which torch and torchvision run from Python or C++."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bacl_platform.exporting.suppression import scripted
from bacl_platform.exporting.whole import WholeDetector


def write(
    path: Path, model: torch.nn.Module, example: NDArray[np.uint8], facts: Mapping[str, Any]
) -> None:
    """Write a detector, and `facts` as the JSON files of their names inside of it.

    example: an image (H, W, 3) in RGB, on which the detector is run once.
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch thinks of TorchScript, and of every size
        whole = WholeDetector(model, scripted()).eval()
        traced = torch.jit.trace(whole, (torch.from_numpy(example),), check_trace=False)
        inside = {f"{name}.json": json.dumps(value) for name, value in facts.items()}
        torch.jit.save(traced, path, _extra_files=inside)


class TorchScriptDetector:
    """A detector of such a file, on the CPU."""

    def __init__(self, path: Path) -> None:
        import torchvision  # noqa: F401  # brings the operators that the file names

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._model: Any = torch.jit.load(path, map_location="cpu")

    def __call__(self, image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Boxes, scores, labels, and masks if it has them, of an image (H, W, 3) in RGB."""
        with torch.no_grad():
            found = self._model(torch.from_numpy(image))
        names = ("boxes", "scores", "labels", "masks")
        return {name: values.numpy() for name, values in zip(names, found)}
