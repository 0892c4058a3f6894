"""Transform with which MMDetection's pipelines read images by BACL's decoder."""

from typing import Any

import mmcv.transforms
from mmdet.registry import TRANSFORMS

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
        if vars(self) != _WITHOUT_OPTIONS:
            changed: dict[str, Any] = super().transform(results)
            return changed
        path = results["img_path"]
        try:
            pixels = read(path)
        except ImageUnreadable as error:
            raise ImageError(f"{path}: expected a readable image, got {error}") from error
        results["img"] = pixels
        results["img_shape"] = results["ori_shape"] = pixels.shape[:2]
        return results
