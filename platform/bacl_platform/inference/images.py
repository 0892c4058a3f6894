"""Images as users hand them over, made what a detector takes."""

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from bacl.errors import UsageError
from bacl_platform.texts import is_text

AnyImage: TypeAlias = str | Path | NDArray[np.uint8] | Image.Image
"""A file, pixels (height, width, 3) in RGB, or a picture of Pillow's."""


def as_pixels(image: AnyImage) -> NDArray[np.uint8]:
    """The image's pixels (height, width, 3) in blue, green, red, turned as its EXIF says.

    Raises UsageError for what is no image, naming the file.
    """
    if isinstance(image, str | Path):
        return _read(Path(image))
    if isinstance(image, Image.Image):
        turned = ImageOps.exif_transpose(image)
        return np.ascontiguousarray(np.asarray(turned.convert("RGB"))[..., ::-1])
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise UsageError(
                "expected an image as an array (height, width, 3) of uint8 in RGB, got one "
                f"{image.shape} of {image.dtype}"
            )
        return np.ascontiguousarray(image[..., ::-1])
    raise UsageError(
        "expected an image as a path, an array or a picture of Pillow's, got "
        f"{type(image).__name__}"
    )


def _read(path: Path) -> NDArray[Any]:
    from bacl.datasets.decoding import ImageUnreadable, read

    if reason := unusable(path):
        raise UsageError(f"{path}: {reason}")
    try:
        return read(path)
    except ImageUnreadable as error:
        raise UsageError(f"{path}: expected a readable image, got {error}") from error


def unusable(path: Path) -> str | None:
    """Why a path cannot be that of an image, before it is opened; None where it can."""
    if not is_text(str(path)):  # OpenCV ends the process on such a path
        return "expected a path that is text in UTF-8"
    if path.is_dir():
        return "expected an image, got a folder: name the images in it"
    return None
