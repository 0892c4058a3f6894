"""Boxes and their names, drawn on images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from bacl_platform.texts import shortened

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFont import FreeTypeFont

_GROUPS = ((213, 48, 39), (230, 150, 20), (38, 130, 80), (60, 100, 190))
_MOST_LETTERS = 40
"""Most letters of the text at a box; longer ones are cut in their middle."""


def as_picture(pixels: "NDArray[Any]") -> "Image.Image":
    """What `bacl.datasets.decoding` has read, to draw on."""
    import cv2
    from PIL import Image

    return Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))


def group_colour(number: int) -> tuple[int, int, int]:
    """Colour (RGB) of the boxes of a frequency group; 0 is the group of fewest training images."""
    return _GROUPS[number % len(_GROUPS)]


@dataclass(frozen=True)
class Mark:
    """A box (x1, y1, x2, y2) in pixels of an image, and what stands at it in which colour (RGB)."""

    box: Sequence[float]
    text: str
    colour: tuple[int, int, int]


def mark(image: "Image.Image", marks: Sequence[Mark]) -> "Image.Image":
    """A copy of the image with marks, the last on top."""
    from PIL import ImageDraw

    picture = image.copy()
    longest = max(picture.size)
    line, size = max(3, longest // 300), max(14, longest // 50)
    letters = font(size)
    pen = ImageDraw.Draw(picture)
    for one in marks:
        x1, y1, x2, y2 = one.box
        text = shortened(one.text, _MOST_LETTERS)
        pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=one.colour, width=line)
        _, _, right, bottom = pen.textbbox((0, 0), text, font=letters)
        width, height = right + 6, bottom + 4
        x = max(0, min(x1, picture.width - width))
        y = y1 - height if y1 >= height else y1
        pen.rectangle((x, y, x + width, y + height), fill=one.colour)
        pen.text((x + 3, y + 1), text, fill=_ink(one.colour), font=letters)
    return picture


def font(size: int) -> "FreeTypeFont":
    """The font of pictures, that many pixels high."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")), size
    )


def _ink(colour: tuple[int, int, int]) -> str:
    """What can be read on a colour."""
    red, green, blue = colour
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 127.5 else "white"
