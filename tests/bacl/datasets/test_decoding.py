"""One rule for every format, against loops and the files' own numbers."""

import io
import os
import pickle
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from bacl.datasets import decoding
from bacl.datasets.decoding import ImageUnreadable, decode, header, read, seen_size

WIDTH, HEIGHT = 23, 14
LOSSLESS = {
    "PNG": {},
    "WEBP": {"lossless": True, "exact": True},
    "TIFF": {},
    "BMP": {},
    "PPM": {},
    "JPEG2000": {"irreversible": False},
}
LOSSY = {"JPEG": {"quality": 90}, "AVIF": {}, "GIF": {}}
ORIENTED = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")


@pytest.fixture
def colours():
    """RGB without symmetry, soft enough for lossy formats."""
    coarse = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (WIDTH, HEIGHT))


def encoded(pixels, form, **how) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    content = io.BytesIO()
    image.save(content, form, **how)
    return content.getvalue()


def oriented(pixels, form, orientation, **how) -> bytes:
    if form == "TIFF":
        return encoded(pixels, form, tiffinfo={274: orientation}, **how)
    exif = Image.Exif()
    exif[274] = orientation
    return encoded(pixels, form, exif=exif, **how)


def chunk(name: bytes, content: bytes) -> bytes:
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def by_opencv(content: bytes):
    return cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR)


def seen_by_exif(stored, orientation):
    """What the EXIF standard says of each stored pixel's place, pixel by pixel."""
    height, width = stored.shape[:2]
    sides = (height, width) if orientation >= 5 else (width, height)
    seen = np.zeros((sides[1], sides[0], *stored.shape[2:]), dtype=stored.dtype)
    for y in range(height):
        for x in range(width):
            right, below = width - 1 - x, height - 1 - y
            u, v = {
                1: (x, y),
                2: (right, y),
                3: (right, below),
                4: (x, below),
                5: (y, x),
                6: (below, x),
                7: (below, right),
                8: (y, right),
            }[orientation]
            seen[v, u] = stored[y, x]
    return seen


# Formats


@pytest.mark.parametrize("form", LOSSLESS)
def test_lossless_formats_give_their_pixels_in_blue_green_red(form, colours):
    pixels = decode(encoded(colours, form, **LOSSLESS[form]))
    assert pixels.dtype == np.uint8 and pixels.flags["C_CONTIGUOUS"]
    assert np.array_equal(pixels, colours[..., ::-1])


@pytest.mark.parametrize("form", LOSSY)
def test_lossy_formats_give_what_pillow_shows(form, colours):
    content = encoded(colours, form, **LOSSY[form])
    shown = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.array_equal(decode(content), shown[..., ::-1])


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        *[("JPEG", mode) for mode in ("L", "RGB")],
        *[("PNG", mode) for mode in ("1", "L", "P", "RGB", "RGBA", "LA")],
        *[("WEBP", mode) for mode in ("L", "P", "RGB", "RGBA")],
        *[("BMP", mode) for mode in ("1", "L", "P", "RGB", "RGBA")],
    ],
)
def test_common_formats_are_to_the_bit_what_opencv_reads(form, mode, colours):
    image = Image.fromarray(colours)
    image = image.quantize(16) if mode == "P" else image.convert(mode)
    if "A" in mode:
        image.putalpha(Image.fromarray(colours[..., 0]))
    content = encoded(image, form)
    assert np.array_equal(decode(content), by_opencv(content))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpeg_of_every_kind_is_to_the_bit_what_opencv_reads(progressive, subsampling, colours):
    content = encoded(colours, "JPEG", progressive=progressive, subsampling=subsampling)
    assert np.array_equal(decode(content), by_opencv(content))


def test_format_is_told_by_content_and_not_by_name(tmp_path, colours):
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(colours, "WEBP", **LOSSLESS["WEBP"]))
    assert header(path).format == "WEBP"
    assert np.array_equal(read(path), colours[..., ::-1])


@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF"])
def test_first_of_several_frames_counts(form, colours):
    frames = [colours, 255 - colours]
    images = [Image.fromarray(frame).quantize(64).convert("RGB") for frame in frames]
    how = {"lossless": True} if form == "WEBP" else {}
    content = encoded(images[0], form, save_all=True, append_images=images[1:], **how)
    assert np.array_equal(decode(content), np.asarray(images[0])[..., ::-1])


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ORIENTED)
def test_orientation_is_applied_once_in_every_format(form, orientation, colours):
    how = {**LOSSLESS, **LOSSY}[form]
    content = oriented(colours, form, orientation, **how)
    expected = seen_by_exif(decode(encoded(colours, form, **how)), orientation)
    assert np.array_equal(decode(content), expected)
    assert seen_size(content) == expected.shape[1::-1]
    if form in ("JPEG", "PNG"):
        assert np.array_equal(decode(content), by_opencv(content))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_orientation_is_applied_once_to_16_bits(form, orientation):
    deep = np.random.default_rng(1).integers(0, 2**16, (HEIGHT, WIDTH), dtype=np.uint16)
    content = oriented(deep, form, orientation)
    assert np.array_equal(decode(content)[..., 0], seen_by_exif(deep >> 8, orientation))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once_where_tiff_has_alpha(orientation, colours):
    content = oriented(np.dstack([colours, colours[..., :1]]), "TIFF", orientation)
    assert np.array_equal(decode(content), seen_by_exif(colours, orientation)[..., ::-1])


def tiled_tiff(pixels, orientation, side=32) -> bytes:
    """RGB in tiles, which neither Pillow nor OpenCV writes."""
    height, width, channels = pixels.shape
    whole = np.pad(pixels, [(0, -height % side), (0, -width % side), (0, 0)])
    corners = [(y, x) for y in range(0, height, side) for x in range(0, width, side)]
    tiles = [whole[y : y + side, x : x + side].tobytes() for y, x in corners]
    size = len(tiles[0])
    tags = [
        *[(256, [width]), (257, [height]), (258, [8 * pixels.itemsize] * channels), (259, [1])],
        *[(262, [2]), (274, [orientation]), (277, [channels]), (322, [side]), (323, [side])],
        *[(324, [8 + size * place for place in range(len(tiles))]), (325, [size] * len(tiles))],
    ]
    directory = 8 + size * len(tiles)
    values_at = directory + 2 + 12 * len(tags) + 4
    entries = values = b""
    for tag, numbers in tags:
        packed = struct.pack(f"<{len(numbers)}{'H' if tag == 258 else 'I'}", *numbers)
        entries += struct.pack("<HHI", tag, 3 if tag == 258 else 4, len(numbers))
        if len(packed) <= 4:
            entries += packed
        else:
            entries += struct.pack("<I", values_at + len(values))
            values += packed
    head = b"II*\0" + struct.pack("<I", directory)
    return head + b"".join(tiles) + struct.pack("<H", len(tags)) + entries + bytes(4) + values


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_orientation_is_applied_once_to_tiles(kind, orientation):
    most = np.iinfo(kind).max
    pixels = np.random.default_rng(6).integers(0, most, (70, 99, 3), dtype=kind, endpoint=True)
    expected = seen_by_exif(pixels // ((most + 1) // 256), orientation)[..., ::-1]
    assert np.array_equal(decode(tiled_tiff(pixels, orientation)), expected)


def test_orientation_behind_the_pixels_of_png_counts(colours):
    exif = Image.Exif()
    exif[274] = 6
    content = encoded(colours, "PNG")
    content = content[:-12] + chunk(b"eXIf", exif.tobytes()[6:]) + content[-12:]
    assert seen_size(content) == (HEIGHT, WIDTH)
    assert np.array_equal(decode(content), seen_by_exif(colours, 6)[..., ::-1])
    assert np.array_equal(decode(content), by_opencv(content))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_of_either_byte_order_counts(form, colours):
    for start, numbers in ((b"II*\0", "<IHHHIHHI"), (b"MM\0*", ">IHHHIHHI")):
        tags = struct.pack(numbers, 8, 1, 274, 3, 1, 6, 0, 0)
        content = encoded(colours, form, exif=b"Exif\0\0" + start + tags)
        assert header(content).orientation == 6
        if form != "WEBP":
            assert np.array_equal(decode(content), by_opencv(content))


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff"])
def test_exif_that_says_nothing_turns_nothing(exif, colours):
    content = encoded(colours, "JPEG", exif=exif)
    assert header(content).orientation == 1
    assert np.array_equal(decode(content), decode(encoded(colours, "JPEG")))


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_orientations_that_there_are_not_turn_nothing(orientation, colours):
    content = oriented(colours, "PNG", orientation)
    assert np.array_equal(decode(content), colours[..., ::-1])


# Depth


@pytest.mark.parametrize("form", ["png", "tiff", "ppm", "jp2"])
@pytest.mark.parametrize("bits", [8, 9, 10, 12, 14, 16])
def test_bits_in_use_beyond_8_are_dropped(form, bits):
    grey = form == "jp2"  # OpenCV writes no deep colour in it
    shape = (HEIGHT, WIDTH) if grey else (HEIGHT, WIDTH, 3)
    deep = np.random.default_rng(2).integers(0, 2**bits, shape, dtype=np.uint16)
    deep[3, 4] = 2**bits - 1
    content = (
        encoded(deep, "JPEG2000", irreversible=False)
        if grey
        else cv2.imencode(f".{form}", deep)[1].tobytes()
    )
    expected = np.repeat(deep[..., None], 3, axis=2) if grey else deep
    assert np.array_equal(decode(content), expected // 2 ** (bits - 8))


@pytest.mark.parametrize("form", ["png", "tiff"])
def test_alpha_has_no_say_in_which_bits_are_in_use(form):
    deep = np.random.default_rng(3).integers(0, 2**12, (HEIGHT, WIDTH, 4), dtype=np.uint16)
    deep[0, 0] = 2**12 - 1
    deep[..., 3] = 2**16 - 1
    content = cv2.imencode(f".{form}", deep)[1].tobytes()
    assert np.array_equal(decode(content), deep[..., :3] >> 4)


def test_tiff_where_0_is_white_is_shown_so_in_8_and_16_bits():
    deep = np.random.default_rng(4).integers(0, 2**16, (HEIGHT, WIDTH), dtype=np.uint16)
    for pixels in (deep, (deep >> 8).astype(np.uint8)):
        content = encoded(pixels, "TIFF")
        tag = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
        assert content.count(tag) == 1
        content = content.replace(tag, struct.pack("<HHIHH", 262, 3, 1, 0, 0))
        assert np.array_equal(decode(content)[..., 0], 255 - (deep >> 8))


def test_black_picture_of_16_bits_stays_black():
    assert not decode(encoded(np.zeros((HEIGHT, WIDTH), dtype=np.uint16), "PNG")).any()


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("float32", "floating samples of 32 bits"),
        ("float64", "floating samples of 64 bits"),
        ("int32", "signed samples of 32 bits"),
        ("int16", "signed samples of 16 bits"),
    ],
)
def test_larger_signed_and_floating_samples_are_refused(kind, told, colours):
    plain = [cv2.IMWRITE_TIFF_COMPRESSION, 1]  # else OpenCV writes floating samples as LogLuv
    content = cv2.imencode(".tiff", colours.astype(kind), plain)[1].tobytes()
    for ask in (decode, seen_size):
        with pytest.raises(ImageUnreadable, match=f"^a TIFF with {told}; unsigned ones of up to"):
            ask(content)


# Colour and alpha


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "JPEG2000"])
def test_transparent_pixels_show_the_colour_that_is_stored(form, colours):
    alpha = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    alpha[:4], alpha[4:8] = 0, 100
    content = encoded(np.dstack([colours, alpha]), form, **LOSSLESS[form])
    assert np.array_equal(decode(content), colours[..., ::-1])


def test_tiff_of_colours_multiplied_by_alpha_shows_the_colours(colours):
    alpha = np.full((HEIGHT, WIDTH, 1), 200, dtype=np.uint8)
    multiplied = (colours.astype(float) * alpha / 255).round().astype(np.uint8)
    content = encoded(np.dstack([multiplied, alpha]), "TIFF")
    tag = struct.pack("<HHIHH", 338, 3, 1, 2, 0)
    assert content.count(tag) == 1
    content = content.replace(tag, struct.pack("<HHIHH", 338, 3, 1, 1, 0))
    assert np.abs(decode(content)[..., ::-1].astype(int) - colours).max() <= 2


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_grey_with_alpha_becomes_grey(form, colours):
    grey = colours[..., 1]
    content = encoded(np.dstack([grey, colours[..., 0]]), form)
    assert np.array_equal(decode(content), np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_palette_with_transparency_shows_its_colours(form, colours):
    image = Image.fromarray(colours).quantize(16)
    content = encoded(image, form, transparency=3)
    assert np.array_equal(decode(content), np.asarray(image.convert("RGB"))[..., ::-1])


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "PPM"])
def test_one_bit_becomes_black_and_white(form, colours):
    image = Image.fromarray(colours).convert("1")
    expected = np.where(np.asarray(image)[..., None], 255, 0).repeat(3, axis=2)
    assert np.array_equal(decode(encoded(image, form)), expected)


def test_cmyk_of_adobe_becomes_what_pillow_shows(colours):
    content = encoded(Image.fromarray(colours).convert("CMYK"), "JPEG", quality=100)
    assert b"Adobe" in content
    shown = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.array_equal(decode(content), shown[..., ::-1])
    assert np.abs(shown.astype(int) - colours).max() < 8  # and that is the picture, not inverted


# What is no image


@pytest.mark.parametrize("form", [*LOSSLESS, *LOSSY])
def test_files_that_end_early_are_refused_in_every_format(form):
    pixels = np.random.default_rng(5).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    content = encoded(pixels, form)
    for share in (0.3, 0.6, 0.95):
        with pytest.raises(
            ImageUnreadable, match=f"^a {form} that is truncated, damaged or not supported$"
        ):
            decode(content[: int(len(content) * share)])


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_without_its_last_bytes_is_refused(progressive):
    pixels = np.random.default_rng(5).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    content = encoded(pixels, "JPEG", progressive=progressive)
    with pytest.raises(ImageUnreadable, match="truncated, damaged or not supported"):
        decode(content[:-2])


def test_damaged_pixels_of_png_are_refused(colours):
    content = bytearray(encoded(colours, "PNG"))
    content[content.index(b"IDAT") + 40] ^= 0xFF
    with pytest.raises(ImageUnreadable, match="a PNG that is truncated, damaged or not supported"):
        decode(bytes(content))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"P", "none of JPEG, PNG, "),
        (b"<html>404</html>", "none of JPEG, PNG, "),
        (b"\x89PNG\r\n\x1a\n", "a PNG that is truncated, damaged or not supported"),
        (b"II*\0", "a TIFF that is truncated, damaged or not supported"),
        (b"II*\0\xff\xff\xff\x7f", "a TIFF that is truncated, damaged or not supported"),
        (b"\xff\xd8\xff\xe0", "a JPEG that is truncated, damaged or not supported"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "a WEBP that is truncated, damaged or not supported"),
    ],
)
def test_what_is_no_image_is_told_by_all_alike(content, reason, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(content)
    for ask, source in ((decode, content), (seen_size, content), (seen_size, path), (read, path)):
        with pytest.raises(ImageUnreadable) as told:
            ask(source)
        assert str(told.value).startswith(reason)


def test_files_that_cannot_be_read_are_told(tmp_path):
    for ask in (read, seen_size):
        with pytest.raises(ImageUnreadable, match=r"^no such file$"):
            ask(tmp_path / "missing.png")
        with pytest.raises(ImageUnreadable, match=r"^a folder$"):
            ask(tmp_path)


def test_error_survives_pickling():
    assert str(pickle.loads(pickle.dumps(ImageUnreadable("a folder")))) == "a folder"


# Sizes


@pytest.mark.parametrize("form", [*LOSSLESS, *LOSSY])
def test_header_gives_format_and_size_of_files_and_bytes(form, tmp_path, colours):
    content = encoded(colours, form)
    (tmp_path / "image").write_bytes(content)
    for source in (content, tmp_path / "image", str(tmp_path / "image")):
        found = header(source)
        assert (found.format, *found.seen) == (form, WIDTH, HEIGHT)


@pytest.mark.parametrize(
    "how", [{"lossless": True}, {}, {"xmp": b"<x/>"}, {"lossless": True, "xmp": b"<x/>"}]
)
@pytest.mark.parametrize("size", [(1, 1), (16, 3), (300, 257), (5000, 2)])
def test_size_of_every_kind_of_webp_is_known(size, how):
    content = encoded(Image.new("RGB", size, "red"), "WEBP", **how)
    assert seen_size(content) == size == decode(content).shape[1::-1]


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_start_of_the_content_is_enough_for_the_size(form):
    pixels = np.random.default_rng(5).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    content = oriented(pixels, form, 6)
    assert seen_size(content[:4096]) == (200, 300)


def blank(width, height) -> bytes:
    """A PNG of one bit a pixel that says it has this size; its pixels are missing."""
    size = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(2**15, 2**15), (2**20, 1)])
def test_largest_images_pass(width, height):
    assert seen_size(blank(width, height)) == (width, height)


@pytest.mark.parametrize(("width", "height"), [(2**15, 2**15 + 1), (1, 2**20 + 1)])
def test_images_beyond_the_limit_are_refused_before_they_are_decoded(width, height):
    for ask in (decode, seen_size):
        with pytest.raises(ImageUnreadable, match=f"^{width} x {height} pixels, more than"):
            ask(blank(width, height))


def test_limit_is_opencvs_own_and_not_pillows(monkeypatch, colours):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    contents = [encoded(colours, form) for form in (*LOSSLESS, *LOSSY)]
    contents.append(encoded(Image.fromarray(colours).convert("RGBA"), "TIFF"))
    contents.append(encoded(Image.fromarray(colours).convert("CMYK"), "JPEG"))
    for content in contents:
        assert seen_size(content) == (WIDTH, HEIGHT)
        assert decode(content).shape == (HEIGHT, WIDTH, 3)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_lower_limit_of_opencvs_variable_is_told(colours):
    program = (
        "import sys; from bacl.datasets.decoding import decode, ImageUnreadable\n"
        "try: decode(sys.stdin.buffer.read())\n"
        "except ImageUnreadable as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=encoded(colours, "PNG"),
        env={**os.environ, "OPENCV_IO_MAX_IMAGE_PIXELS": "100"},
        capture_output=True,
        check=True,
    )
    assert "a PNG that OpenCV refuses: pixels <= CV_IO_MAX_IMAGE_PIXELS" in done.stdout.decode()


def test_module_needs_neither_torch_nor_mmdet():
    program = (
        "import sys, bacl.datasets.decoding; print([m for m in ('torch', 'mmdet', 'mmcv') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"


def test_every_orientation_has_a_turn():
    assert list(decoding._TURNS) == list(range(1, 9))
