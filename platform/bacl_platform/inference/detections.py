"""What a detector finds in an image: boxes, scores, categories and masks; drawn and written."""

import colorsys
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bacl_platform.inference.images import AnyImage, as_pixels
from bacl_platform.report.drawing import Mark, as_picture, mark

if TYPE_CHECKING:
    from PIL import Image

SHOWN = 0.3
"""Lowest score of what is drawn, where nothing else is asked for."""
_SHORTEST_PICTURE = 640
"""Pixels of the longer side; smaller images are enlarged, so that names can be read."""
_OPACITY = 0.45
"""Opacity of masks over the image."""


@dataclass(frozen=True)
class Detection:
    """One box (x1, y1, x2, y2) in pixels of the image, with its category and score in 0..1.

    category_id is the annotation file's, None where the checkpoint came without its ids.
    mask is COCO's compressed RLE (`size`, `counts`) over the whole image, None of a detector that
    has none.
    """

    label: int
    category: str
    category_id: int | str | None
    score: float
    box: list[float]
    mask: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Its fields; no mask where it has none."""
        return {
            name: value for name, value in vars(self).items() if value is not None or name != "mask"
        }


@dataclass(frozen=True, eq=False)
class Detections:
    """All that was found in one image, best first: a sequence of `Detection`s.

    boxes: (N, 4), x1 y1 x2 y2 in pixels of the image. scores: (N,) in 0..1. labels: (N,), places in
    `categories`. masks: N of COCO's compressed RLEs over the whole image, None of a detector
    without masks. categories, category_ids: names and the annotation file's ids by label; the
    latter None where the checkpoint came without. size: (width, height) of the image. source: the
    image as it was handed over, to be drawn on.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: Sequence[dict[str, Any]] | None
    categories: Sequence[str]
    category_ids: Sequence[int | str] | None
    size: tuple[int, int]
    source: AnyImage | None = None

    @property
    def names(self) -> list[str]:
        """The category's name of each detection."""
        return [self.categories[label] for label in self.labels]

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, place: int) -> Detection:
        label = int(self.labels[place])
        return Detection(
            label,
            self.categories[label],
            self.category_ids[label] if self.category_ids else None,
            self.scores[place].item(),
            self.boxes[place].tolist(),
            None if self.masks is None else self.masks[place],
        )

    def __iter__(self) -> Iterator[Detection]:
        return (self[place] for place in range(len(self)))

    def above(self, score: float) -> "Detections":
        """Those that score at least so much."""
        kept = np.flatnonzero(self.scores >= score)
        return replace(
            self,
            boxes=self.boxes[kept],
            scores=self.scores[kept],
            labels=self.labels[kept],
            masks=None if self.masks is None else [self.masks[place] for place in kept],
        )

    def as_json(self) -> list[dict[str, Any]]:
        """Plain values of each detection."""
        return [one.as_json() for one in self]

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """Entries of a results file as COCO and LVIS have it: boxes as x, y, width, height.

        category_id is the label plus 1 where the checkpoint came without ids.
        """
        found = []
        for one in self:
            x1, y1, x2, y2 = one.box
            entry = {
                "image_id": image_id,
                "category_id": one.label + 1 if one.category_id is None else one.category_id,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": one.score,
            }
            found.append(entry if one.mask is None else {**entry, "segmentation": one.mask})
        return found

    def draw(self, image: AnyImage | None = None) -> "Image.Image":
        """The image with boxes, masks, names and scores; small ones are enlarged by a whole
        factor.

        image: what to draw on, if not the image that was handed over, which a path names and which
        is then read again.
        """
        source = self.source if image is None else image
        if source is None:
            raise ValueError("expected an image to draw on: these detections came without theirs")
        return draw(as_picture(as_pixels(source)), list(self))

    def _repr_png_(self) -> bytes | None:
        """The picture with what scores at least `SHOWN`, for a notebook."""
        if self.source is None:
            return None
        written = io.BytesIO()
        self.above(SHOWN).draw().save(written, "PNG")
        return written.getvalue()

    def __repr__(self) -> str:
        shown = ", ".join(f"{one.category} {one.score:.2f}" for one in list(self)[:5])
        more = ", ..." if len(self) > 5 else ""
        return f"<{len(self)} detections in {self.size[0]}x{self.size[1]}: {shown}{more}>"


def draw(image: "Image.Image", detections: Sequence[Detection]) -> "Image.Image":
    """The image with boxes, masks, names and scores; small ones are enlarged by a whole factor."""
    from PIL import Image

    factor = -(-_SHORTEST_PICTURE // max(image.size))
    picture = image
    if factor > 1:
        size = (image.width * factor, image.height * factor)
        picture = image.resize(size, Image.Resampling.BICUBIC)
    picture = _painted(picture, [one for one in detections if one.mask], factor)
    marks = [
        Mark(
            [value * factor for value in one.box],
            f"{one.category} {one.score:.2f}",
            _colour(one.label),
        )
        for one in sorted(detections, key=lambda one: one.score)  # the surest last: on top
    ]
    return mark(picture, marks)


def _painted(picture: "Image.Image", detections: Sequence[Detection], factor: int) -> "Image.Image":
    """The picture, so many times the image's size, with the masks' pixels in their colours."""
    if not detections:
        return picture
    from PIL import Image
    from pycocotools import mask as coco

    pixels = np.asarray(picture, dtype=np.float32).copy()
    for one in sorted(detections, key=lambda one: one.score):
        inside = np.kron(coco.decode(one.mask), np.ones((factor, factor), dtype=np.uint8)) > 0
        pixels[inside] += _OPACITY * (np.array(_colour(one.label)) - pixels[inside])
    return Image.fromarray(pixels.round().astype(np.uint8))


def _colour(label: int) -> tuple[int, int, int]:
    """Colour of a category's boxes, far from its neighbours'."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)
