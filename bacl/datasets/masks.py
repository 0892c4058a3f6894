"""Masks of an image's objects that are kept inside of the objects' bounds, to the last bit
MMDetection's.

MMDetection holds a bitmap of the whole image for each object, and resizes, crops, pads and copies
all of them; most of it is 0. Here an object keeps the pixels of its bounds as its file has them,
and the image says which row and column of the file each of its own shows: that is all that resizing
(to the nearest pixel), cropping, padding and flipping change.

N objects, H x W pixels of the image as it is now.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import mmcv
import numpy as np
import torch
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import TRANSFORMS
from mmdet.structures.mask import BitmapMasks
from numpy.typing import NDArray

_NOTHING = -1
"""Row or column that is not in the file, but padding."""


class Part(NamedTuple):
    """Pixels of an object, and where the first of them is; all others of the image are 0."""

    top: int
    left: int
    pixels: NDArray[Any]

    @property
    def place(self) -> tuple[slice, slice]:
        """Rows and columns of an image."""
        height, width = self.pixels.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """x1, y1, x2, y2 around what is not 0; zeros where all is."""
        x, y, width, height = cv2.boundingRect(self.pixels) if self.pixels.size else (0, 0, 0, 0)
        if not width:
            return 0, 0, 0, 0
        left, top = self.left + x, self.top + y
        return left, top, left + width, top + height


class PartMasks(BitmapMasks):
    """`BitmapMasks` of parts of an image; who asks for `masks` gets bitmaps, which are kept from
    then on and may be written to."""

    def __init__(self, masks: Any, height: int, width: int) -> None:
        self._parts: Sequence[Part] | None = None
        super().__init__(masks, height, width)

    @classmethod
    def of(cls, parts: Sequence[Part], rows: NDArray[Any], columns: NDArray[Any]) -> "PartMasks":
        """Masks in an image whose rows (H,) and columns (W,) are those of the parts'; `_NOTHING`
        is none."""
        made = cls.__new__(cls)
        made.height, made.width = len(rows), len(columns)
        made._parts, made._rows, made._columns = parts, rows, columns
        made._masks = None
        return made

    @property
    def masks(self) -> NDArray[Any]:
        """Bitmaps (N, H, W)."""
        if self._parts is not None:
            whole = np.zeros((len(self._parts), self.height, self.width), dtype=np.uint8)
            for mask, part in zip(whole, self.parts(), strict=True):
                mask[part.place] = part.pixels
            self._masks: NDArray[Any] | None = whole
            self._parts = None
        assert self._masks is not None
        return self._masks

    @masks.setter
    def masks(self, bitmaps: NDArray[Any]) -> None:
        self._masks, self._parts = bitmaps, None

    def parts(self) -> list[Part]:
        """Pixels of each object in the image as it is now."""
        if self._parts is None:
            return [Part(0, 0, np.ascontiguousarray(mask)) for mask in self.masks]
        return [self._seen(part) for part in self._parts]

    def _seen(self, part: Part) -> Part:
        (top, rows), (left, columns) = (
            _shown(shown, first, size)
            for shown, first, size in zip(
                (self._rows, self._columns), (part.top, part.left), part.pixels.shape, strict=True
            )
        )
        return Part(top, left, part.pixels.take(rows, axis=0).take(columns, axis=1))

    def _changed(self, rows: NDArray[Any], columns: NDArray[Any]) -> "PartMasks":
        assert self._parts is not None
        return PartMasks.of(self._parts, rows, columns)

    def __len__(self) -> int:
        return len(self.masks if self._parts is None else self._parts)

    def __repr__(self) -> str:
        return f"PartMasks(num_masks={len(self)}, height={self.height}, width={self.width})"

    def __getitem__(self, index: Any) -> BitmapMasks:
        if self._parts is None:
            found: BitmapMasks = super().__getitem__(index)
            return found
        chosen = np.atleast_1d(np.arange(len(self._parts))[index])
        return PartMasks.of([self._parts[n] for n in chosen], self._rows, self._columns)

    def rescale(self, scale: Any, interpolation: str = "nearest") -> BitmapMasks:
        if self._parts is None or interpolation != "nearest":
            found: BitmapMasks = super().rescale(scale, interpolation)
            return found
        width, height = mmcv.rescale_size((self.width, self.height), scale)
        return self._changed(_resized(self._rows, height), _resized(self._columns, width))

    def resize(self, out_shape: tuple[int, int], interpolation: str = "nearest") -> BitmapMasks:
        if self._parts is None or interpolation != "nearest":
            found: BitmapMasks = super().resize(out_shape, interpolation)
            return found
        height, width = out_shape
        return self._changed(_resized(self._rows, height), _resized(self._columns, width))

    def flip(self, flip_direction: str = "horizontal") -> BitmapMasks:
        if self._parts is None:
            found: BitmapMasks = super().flip(flip_direction)
            return found
        rows = self._rows if flip_direction == "horizontal" else self._rows[::-1]
        columns = self._columns if flip_direction == "vertical" else self._columns[::-1]
        return self._changed(rows, columns)

    def pad(self, out_shape: tuple[int, int], pad_val: int = 0) -> BitmapMasks:
        if self._parts is None or pad_val:
            found: BitmapMasks = super().pad(out_shape, pad_val)
            return found
        height, width = out_shape
        return self._changed(_padded(self._rows, height), _padded(self._columns, width))

    def crop(self, bbox: NDArray[Any]) -> BitmapMasks:
        if self._parts is None:
            found: BitmapMasks = super().crop(bbox)
            return found
        left, right = np.clip(bbox[0::2], 0, self.width)
        top, bottom = np.clip(bbox[1::2], 0, self.height)
        height, width = max(bottom - top, 1), max(right - left, 1)
        return self._changed(self._rows[top : top + height], self._columns[left : left + width])

    def get_bboxes(self, dst_type: Any = "hbox") -> Any:
        if self._parts is None:
            return super().get_bboxes(dst_type)
        bounds = np.array([part.bounds for part in self.parts()], dtype=np.float32)
        boxes: Any = BitmapMasks([], self.height, self.width).get_bboxes(dst_type)
        boxes.tensor = torch.from_numpy(bounds.reshape(-1, 4))
        return boxes


def _shown(shown: NDArray[Any], first: int, size: int) -> tuple[int, NDArray[Any]]:
    """Where in an image some rows of its file begin, and which of them follow there, from 0 on.

    shown: for each row of the image, the file's; they rise or fall. first, size: the rows.
    """
    own = shown - first
    inside = np.flatnonzero((own >= 0) & (own < size))
    return (int(inside[0]) if len(inside) else 0), own[inside]


def _resized(shown: NDArray[Any], size: int) -> NDArray[Any]:
    """Rows or columns of an image that was resized to the nearest pixel; which that is, says what
    resizes bitmaps."""
    places = np.arange(len(shown), dtype="<u4").view(np.uint8).reshape(-1, 4)
    nearest = [
        mmcv.imresize(np.ascontiguousarray(byte[None]), (size, 1), interpolation="nearest")[0]
        for byte in places.T
    ]
    chosen = np.ascontiguousarray(np.stack(nearest, axis=1)).view("<u4")[:, 0]
    return shown[chosen]


def _padded(shown: NDArray[Any], size: int) -> NDArray[Any]:
    more = size - len(shown)
    return np.concatenate([shown, np.full(more, _NOTHING, dtype=shown.dtype)])


def placed(parts: Sequence[Part], height: int, width: int) -> PartMasks:
    """Masks of parts of an image as it is now."""
    return PartMasks.of(parts, np.arange(height), np.arange(width))


def parts_of(masks: BitmapMasks) -> list[Part]:
    """Pixels of each object of any masks."""
    if isinstance(masks, PartMasks):
        return masks.parts()
    return [Part(0, 0, mask) for mask in masks.masks]


@TRANSFORMS.register_module()
class LoadAnnotationsInParts(LoadAnnotations):
    """MMDetection's `LoadAnnotations` with masks that are `PartMasks`."""

    def _load_masks(self, results: dict[str, Any]) -> None:
        height, width = results["ori_shape"]
        parts = []
        for mask in self._process_masks(results):
            pixels = self._poly2mask(mask, height, width)
            if pixels.shape != (height, width):
                raise ValueError(
                    f"{results['img_path']}: expected masks of {height} x {width} pixels, got one "
                    f"of {pixels.shape[0]} x {pixels.shape[1]}"
                )
            # pycocotools' bitmaps are in Fortran's order
            top, left, high, wide = cv2.boundingRect(pixels.T)
            inside = pixels[top : top + high, left : left + wide]
            parts.append(Part(top, left, np.ascontiguousarray(inside)))
        results["gt_masks"] = placed(parts, height, width)
