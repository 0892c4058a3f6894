"""Decoding of image files, the same for training, verification, prediction and pictures.

    decode(file: bytes)    -> (H, W, 3) uint8, blue, green, red
    read(path)             -> the same of a file
    content(path)          -> the bytes of a file
    header(source)         -> format, size and orientation of bytes or of a file, without decoding
    seen_size(source)      -> (width, height) that `decode` gives, from the header

All raise `ImageUnreadable`, whose text completes the sentence "expected a readable image, got ...".

The rule, for every format (`FORMATS`):

- Orientation 1 to 8 of EXIF (JPEG, PNG, WebP, AVIF) or of TIFF's own tag is applied, once.
- Samples of 8 bits are kept as they are. Of 9 to 16 bits the lowest are dropped: as many as the
  largest sample of the image has beyond 8. So an image with 12-bit values in 16 bits is not dark,
  and full 16-bit values become value / 256. A TIFF with samples that are larger, signed or floating
  is refused.
- One-bit, palette and grey images become colour; CMYK is converted by Pillow.
- Alpha is dropped: what is transparent shows the colour that is stored there. An 8-bit TIFF whose
  colours are multiplied by their alpha has them divided.
- Of several frames or pages the first counts.
- A file that ends early is refused, as is one with more than `MOST_PIXELS` pixels or a side of
  more than `LONGEST` pixels: OpenCV's own limits. Pillow's lower one does not apply.

For 8-bit JPEG, PNG, WebP and BMP, the pixels before turning equal those of
`cv2.imdecode(..., IMREAD_COLOR)` to the bit.
"""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, JpegImagePlugin, TiffImagePlugin

Decoder = Callable[[bytes], NDArray[Any] | None]

MOST_PIXELS = 2**30
LONGEST = 2**20
_BY_PILLOW = ("GIF", "AVIF")
"""Formats that not every OpenCV reads."""
_COLOUR = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SAMPLES = {1: "unsigned", 2: "signed", 3: "floating", 4: "unsigned", 5: "complex", 6: "complex"}
"""Sample types by the value of TIFF's SampleFormat; 4 means undefined."""
_WHITE_IS_ZERO, _LAB = 0, 8  # values of its PhotometricInterpretation
_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.flip(pixels, -1),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.flip(cv2.transpose(pixels), -1),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}

Image.init()
FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "AVIF", "PPM")
    if name in Image.OPEN  # AVIF needs Pillow 11.3
)
"""Formats by Pillow's names; PPM includes PBM and PGM."""


class ImageUnreadable(ValueError):
    """An image cannot be decoded; the text says what was found instead, such as "an empty file"."""


class Header(NamedTuple):
    """Facts from an image's header: its format, and its size in pixels as stored.

    orientation: 1 to 8, as EXIF counts them.
    """

    format: str
    width: int
    height: int
    orientation: int

    @property
    def turned(self) -> bool:
        """Whether the orientation exchanges width and height."""
        return self.orientation >= 5

    @property
    def seen(self) -> tuple[int, int]:
        """Width and height after turning."""
        return (self.height, self.width) if self.turned else (self.width, self.height)


def decode(file: bytes, by: Decoder | None = None) -> NDArray[Any]:
    """Pixels of an image file's content, (H, W, 3), uint8, blue, green, red, after turning.

    by: decodes JPEG files in OpenCV's place, without turning; of those for which it returns None,
    OpenCV decides.
    """
    found, details = _look(io.BytesIO(file))
    pixels = None
    if details.pillow:
        pixels = _decode_by_pillow(file, found.format)
    elif by is not None and found.format == "JPEG":
        pixels = by(file)
    if pixels is None:
        pixels = _decode_by_opencv(file, found.format)
    if pixels.dtype == np.uint16:
        spare = max(0, int(pixels.max()).bit_length() - 8)
        pixels >>= spare
        pixels = pixels.astype(np.uint8)
        if details.white_is_zero:  # OpenCV regards it in 8 bits only
            pixels = 255 - pixels
    if found.format != "TIFF":  # which both libraries turn themselves
        pixels = _TURNS[found.orientation](pixels)
    height, width = pixels.shape[:2]
    if pixels.dtype != np.uint8 or (width, height) != found.seen:
        raise ImageUnreadable(_broken(found.format))
    return pixels


def read(path: str | Path, by: Decoder | None = None) -> NDArray[Any]:
    """Pixels of an image file, as `decode` gives them."""
    return decode(content(path), by)


def content(path: str | Path) -> bytes:
    """The bytes of a file, whatever they are."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _no_file(error) from error


def header(source: bytes | str | Path) -> Header:
    """The header of an image, checked against the size limits; pixels are not decoded.

    source: a file's path, or its content. A part of the content will do if it has the header and
    the EXIF data, which WebP and often TIFF have at the end.
    """
    if isinstance(source, bytes):
        return _look(io.BytesIO(source))[0]
    try:
        with open(source, "rb") as file:
            return _look(file)[0]
    except OSError as error:
        raise _no_file(error) from error


def seen_size(source: bytes | str | Path) -> tuple[int, int]:
    """Width and height that `decode` gives, from the `header`."""
    return header(source).seen


class _Details(NamedTuple):
    """Choices for decoding: whether by Pillow, and whether 0 is white in 16 bits."""

    pillow: bool = False
    white_is_zero: bool = False


def _look(file: IO[bytes]) -> tuple[Header, _Details]:
    start = file.read(16)
    if not start:
        raise ImageUnreadable("an empty file")
    kind = _format(start.ljust(16, b"\0"))  # Pillow 10 asks for a second byte without looking
    if kind is None:
        raise ImageUnreadable(f"none of {', '.join(FORMATS)}")
    file.seek(0)
    try:
        found, details = _LOOKS.get(kind, _look_at_other)(file, kind)
    except (ImageUnreadable, MemoryError):
        raise
    except Exception as error:  # Pillow raises whatever broken bytes lead to
        raise ImageUnreadable(_broken(kind)) from error
    if found.width * found.height > MOST_PIXELS or max(found.seen) > LONGEST:
        raise ImageUnreadable(
            f"{found.width} x {found.height} pixels, more than the {MOST_PIXELS:,} in all or "
            f"{LONGEST:,} a side that are read"
        )
    return found, details


def _format(start: bytes) -> str | None:
    if start.startswith(_PNG):
        return "PNG"
    if start.startswith(_TIFF):
        return "TIFF"
    for name in FORMATS:
        accept = Image.OPEN[name][1]
        if accept is not None and accept(start) is True:
            return name
    return None


def _look_at_png(file: IO[bytes], kind: str) -> tuple[Header, _Details]:
    """Go through all chunks, because EXIF data may stand behind the pixels."""
    file.seek(len(_PNG))
    width = height = 0
    exif = b""
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name == b"IHDR":
            width, height = struct.unpack(">II", file.read(8))
            length -= 8
        elif name == b"eXIf":
            exif = file.read(length)
            length = 0
        elif name == b"IEND":
            break
        file.seek(length + 4, io.SEEK_CUR)
    if not width or not height:
        raise ImageUnreadable(_broken(kind))
    return Header(kind, width, height, _orientation(exif)), _Details()


def _look_at_webp(file: IO[bytes], kind: str) -> tuple[Header, _Details]:
    """Go through all chunks; Pillow would allocate memory for the pixels."""
    file.seek(12)
    width = height = 0
    exif = b""
    while len(head := file.read(8)) == 8:
        name, length = struct.unpack("<4sI", head)
        following = file.tell() + length + length % 2
        if name == b"VP8X":
            sides = file.read(10)
            width, height = (int.from_bytes(sides[at : at + 3], "little") + 1 for at in (4, 7))
        elif name == b"VP8 " and not width:
            width, height = (side & 0x3FFF for side in struct.unpack("<6x2H", file.read(10)))
        elif name == b"VP8L" and not width:
            (sizes,) = struct.unpack("<xI", file.read(5))
            width, height = (sizes & 0x3FFF) + 1, (sizes >> 14 & 0x3FFF) + 1
        elif name == b"EXIF":
            exif = file.read(length)
        file.seek(following)
    if not width or not height:
        raise ImageUnreadable(_broken(kind))
    return Header(kind, width, height, _orientation(exif)), _Details()


def _look_at_tiff(file: IO[bytes], kind: str) -> tuple[Header, _Details]:
    """Read the first page's tags; Pillow's image exchanges its width and height by the orientation
    in some versions only."""
    start = file.read(8)
    if start[2:4] in (b"+\0", b"\0+"):
        start += file.read(8)
    tags: Any = TiffImagePlugin.ImageFileDirectory_v2(start)
    file.seek(tags.next)
    if not file.read(2):
        raise ImageUnreadable(_broken(kind))
    file.seek(tags.next)
    tags.load(file)
    base = ExifTags.Base
    bits = int(np.max(tags.get(base.BitsPerSample, 1)))
    samples = _SAMPLES[int(np.max(tags.get(base.SampleFormat, 1)))]
    if bits > 16 or samples != "unsigned":
        raise ImageUnreadable(
            f"a TIFF with {samples} samples of {bits} bits; unsigned ones of up to 16 bits are read"
        )
    found = Header(
        kind,
        int(tags[base.ImageWidth]),
        int(tags[base.ImageLength]),
        _valid(tags.get(base.Orientation)),
    )
    kind_of_colour = tags.get(base.PhotometricInterpretation)
    # Of 8 bits OpenCV multiplies colours by their alpha and turns tiles one by one; Pillow cuts 16
    # bits to 8 and has no way from Lab to RGB.
    return found, _Details(
        pillow=bits <= 8 and kind_of_colour != _LAB, white_is_zero=kind_of_colour == _WHITE_IS_ZERO
    )


def _look_at_other(file: IO[bytes], kind: str) -> tuple[Header, _Details]:
    with _opened(file, kind) as image:
        width, height = image.size
        found = Header(kind, width, height, _orientation(image.info.get("exif", b"")))
        return found, _Details(pillow=kind in _BY_PILLOW or image.mode == "CMYK")


_LOOKS = {"PNG": _look_at_png, "WEBP": _look_at_webp, "TIFF": _look_at_tiff}


class _Tiff(TiffImagePlugin.TiffImageFile):
    """Pillow's TIFF reader without Pillow's limit on the number of pixels."""

    def load_prepare(self) -> None:
        if getattr(self, "_im", None) is None:
            size = getattr(self, "_tile_size", self.size)
            self.im = Image.core.new(self.mode, size)  # type: ignore[attr-defined]
        super().load_prepare()


def _opened(file: IO[bytes], kind: str) -> Image.Image:
    """The image that `Image.open` gives, without its limit on pixels, which is set for the whole
    process."""
    # Pillow's own choice for JPEG looks for further pictures behind the first.
    own = {"JPEG": JpegImagePlugin.JpegImageFile, "TIFF": _Tiff}
    opened: Image.Image = own.get(kind, Image.OPEN[kind][0])(file, "")
    return opened


def _orientation(exif: bytes) -> int:
    if not exif:
        return 1
    tags = Image.Exif()
    try:
        tags.load(exif)
        return _valid(tags.get(ExifTags.Base.Orientation))
    except Exception:  # Pillow raises whatever broken bytes lead to
        return 1


def _valid(orientation: Any) -> int:
    return int(orientation) if orientation in _TURNS else 1


def _decode_by_opencv(file: bytes, kind: str) -> NDArray[Any]:
    try:
        pixels = cv2.imdecode(np.frombuffer(file, dtype=np.uint8), _COLOUR)
    except cv2.error as error:
        raise ImageUnreadable(f"a {kind} that OpenCV refuses: {error.err}") from error
    if pixels is None:
        raise ImageUnreadable(_broken(kind))
    return pixels


def _decode_by_pillow(file: bytes, kind: str) -> NDArray[Any]:
    try:
        with _opened(io.BytesIO(file), kind) as image:
            image.load()
            # Pillow reads colours multiplied by their alpha (RGBa) but cannot convert them to RGB
            # directly.
            whole = image.convert("RGBA") if image.mode == "RGBa" else image
            return cv2.cvtColor(np.asarray(whole.convert("RGB")), cv2.COLOR_RGB2BGR)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises whatever broken bytes lead to
        raise ImageUnreadable(_broken(kind)) from error


def _broken(kind: str) -> str:
    return f"a {kind} that is truncated, damaged or not supported"


def _no_file(error: OSError) -> ImageUnreadable:
    if isinstance(error, FileNotFoundError):
        return ImageUnreadable("no such file")
    if isinstance(error, IsADirectoryError):
        return ImageUnreadable("a folder")
    return ImageUnreadable(f"an error: {error.strerror or error}")
