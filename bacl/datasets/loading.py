"""MMDetection's pipelines read images as all of BACL does."""

from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS

from bacl.datasets.decoding import ImageUnreadable, read
from bacl.errors import RunError


class ImageError(RunError):
    """An image of the dataset cannot be read.

    torch raises an error of a loader worker again with the worker's whole traceback as message;
    the sentence is that text's last line.
    """

    def __str__(self) -> str:
        last = super().__str__().strip().splitlines()[-1]
        return last.removeprefix(f"{__name__}.{type(self).__name__}: ")


@TRANSFORMS.register_module()
class LoadImageFromFile(BaseTransform):
    """Sets `img`, `img_shape` and `ori_shape` of a sample by its `img_path`, as
    `bacl.datasets.decoding` reads it.

    In MMDetection's registry it stands before mmcv's transform of the same name. With another
    name `DetInferencer` would not find it, and would read with mmcv's, which leaves WebP turned
    and deep images dark.

    Raises:
        ImageError: the file is missing or no image.
    """

    def transform(self, results: dict) -> dict:
        path = results["img_path"]
        try:
            pixels = read(path)
        except ImageUnreadable as error:
            raise ImageError(f"{path}: expected a readable image, got {error}") from error
        results["img"] = pixels
        results["img_shape"] = results["ori_shape"] = pixels.shape[:2]
        return results
