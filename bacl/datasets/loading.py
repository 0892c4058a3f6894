"""Transforms with which MMDetection's pipelines read images by BACL's decoder."""

from typing import Any

import mmcv.transforms
import torch
from mmdet.registry import TRANSFORMS
from numpy.typing import NDArray
from torchvision.io import ImageReadMode, decode_jpeg

from bacl.datasets.decoding import ImageUnreadable, read
from bacl.errors import RunError


class ImageError(RunError):
    """An image of the dataset cannot be read."""


_WITHOUT_OPTIONS = vars(mmcv.transforms.LoadImageFromFile())


@TRANSFORMS.register_module()
class LoadImageFromFile(mmcv.transforms.LoadImageFromFile):
    """Sets `img`, `img_shape` and `ori_shape` of a sample by its `img_path`, as
    `bacl.datasets.decoding` reads it.

    In MMDetection's registry it takes precedence over mmcv's transform of the same name, which
    ignores the orientation of WebP and makes images of more than 8 bits dark. Under another name
    `DetInferencer` would not find it. Where a configuration asks for something else by mmcv's
    options, such as another `color_type`, it does what mmcv's does; BACL's own give none.

    Raises:
        ImageError: the file is missing or is not an image.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        if any(vars(self)[name] != value for name, value in _WITHOUT_OPTIONS.items()):
            changed: dict[str, Any] = super().transform(results)
            return changed
        path = results["img_path"]
        try:
            pixels = self._read(path)
        except ImageUnreadable as error:
            raise ImageError(f"{path}: expected a readable image, got {error}") from error
        results["img"] = pixels
        results["img_shape"] = results["ori_shape"] = pixels.shape[:2]
        return results

    def _read(self, path: str) -> NDArray[Any]:
        return read(path)


@TRANSFORMS.register_module()
class LoadImageByNvjpeg(LoadImageFromFile):
    """Reads images alike, but JPEG files on a GPU, by nvJPEG; files that it refuses, and others,
    on the CPU.

    The GPU is the process's own when the step is made; loader processes that have it must be
    spawned, because a fork cannot use CUDA.

    Raises:
        RunError: torch finds no GPU (when an image is asked for).
    """

    def __init__(self) -> None:
        super().__init__()
        self._device = torch.cuda.current_device() if torch.cuda.is_available() else None

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        if self._device is None:
            raise RunError(
                "recipe.decoder: expected a GPU for nvjpeg, torch finds none: set it to cpu, or "
                "run where there is one"
            )
        return super().transform(results)

    def _read(self, path: str) -> NDArray[Any]:
        return read(path, self.decode)

    def decode(self, file: bytes) -> NDArray[Any] | None:
        """Pixels of a JPEG file, (H, W, 3), blue, green, red; None where nvJPEG refuses it."""
        content = torch.frombuffer(bytearray(file), dtype=torch.uint8)
        try:
            rgb = decode_jpeg(content, ImageReadMode.RGB, f"cuda:{self._device}")
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            return None
        pixels: NDArray[Any] = rgb.flip(0).permute(1, 2, 0).contiguous().cpu().numpy()
        return pixels
