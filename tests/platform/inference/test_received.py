"""Images as strangers send them."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from web import serving

from bacl.datasets.decoding import decode
from bacl.errors import UsageError
from bacl_platform.inference.received import Bounds, check, content_of, pixels_of


def file_of(width: int, height: int, kind: str = "PNG", **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, kind, **options)
    return written.getvalue()


def in_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_pixels_are_those_of_the_file():
    content = file_of(40, 30)
    found = pixels_of(content, Bounds())
    opened = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.array_equal(found, opened[..., ::-1])


def test_size_is_bounded_by_the_header_alone():
    # 50 million pixels, of which this file has none: decoding it would fail otherwise
    small = file_of(4, 4, "BMP")
    sides = b"".join(side.to_bytes(4, "little") for side in (10_000, 5_000))
    large = small[:18] + sides + small[26:]
    with pytest.raises(UsageError, match=r"at most 25,000,000 pixels, got 10000 x 5000"):
        pixels_of(large, Bounds())
    exact = file_of(40, 30)
    assert pixels_of(exact, Bounds(most_pixels=1200)).shape == (30, 40, 3)
    with pytest.raises(UsageError, match=r"at most 1,199 pixels, got 40 x 30"):
        pixels_of(exact, Bounds(most_pixels=1199))


def test_bytes_are_bounded():
    content = file_of(40, 30)
    check(content, Bounds(most_bytes=len(content)))
    with pytest.raises(UsageError, match=rf"at most {len(content) - 1:,} bytes"):
        check(content, Bounds(most_bytes=len(content) - 1))
    with pytest.raises(UsageError, match=r"at most 100 bytes, got base64 of"):
        content_of(in_base64(bytes(300)), Bounds(most_bytes=100))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "an empty file"),
        (b"hello", "none of JPEG"),
        (file_of(200, 150, "JPEG", quality=95)[:-3000], "a JPEG that is truncated"),
        (file_of(200, 150)[:-500], "a PNG that is truncated"),
    ],
)
def test_what_is_no_image_is_told(content, told):
    with pytest.raises(UsageError, match=rf"^expected an image, got {told}"):
        pixels_of(content, Bounds())


def test_base64_with_and_without_decoration_is_read():
    content = file_of(40, 30)
    plain = in_base64(content)
    assert content_of(plain, Bounds()) == content
    assert content_of(f"data:image/png;base64,{plain}", Bounds()) == content
    assert content_of(base64.encodebytes(content).decode(), Bounds()) == content


@pytest.mark.parametrize("text", ["file:///etc/passwd", "/etc/passwd", "*", "naïve", "QUJ"])
def test_text_that_is_no_base64_is_told(text):
    with pytest.raises(UsageError, match=r"expected an image in base64 or its address"):
        content_of(text, Bounds())


def test_addresses_are_fetched_only_from_allowed_hosts():
    content = file_of(40, 30)
    with serving() as server:
        server.files["/a.png"] = content
        url = f"{server.base}/a.png"
        with pytest.raises(UsageError, match=r"fetches none unless"):
            content_of(url, Bounds())
        with pytest.raises(UsageError, match=r"a host that may not be asked"):
            content_of(url, Bounds(url_hosts=["example.org"]))
        assert server.asked == []
        assert content_of(url, Bounds(url_hosts=["127.0.0.1"])) == content
        assert content_of(url, Bounds(url_hosts=None)) == content
        with pytest.raises(UsageError, match=r"more than 100"):
            content_of(url, Bounds(url_hosts=None, most_bytes=100))
        with pytest.raises(UsageError, match=r"at most 100 pixels"):
            content_of(url, Bounds(url_hosts=None, most_pixels=100))


def test_environment_says_the_bounds():
    assert Bounds.of_environment({}) == Bounds(url_hosts=[])
    said = {"BACL_MOST_BYTES": "9", "BACL_MOST_PIXELS": "8", "BACL_URL_HOSTS": "a.org, b:80"}
    assert Bounds.of_environment(said) == Bounds(9, 8, ["a.org", "b:80"])
    assert Bounds.of_environment({"BACL_URL_HOSTS": "*"}).url_hosts is None
    for wrong in ("0", "-1", "many", "1e6"):
        with pytest.raises(UsageError, match=r"BACL_MOST_PIXELS: expected a whole number above 0"):
            Bounds.of_environment({"BACL_MOST_PIXELS": wrong})


def test_image_is_decoded_as_training_decodes_it():
    turned = Image.open(io.BytesIO(file_of(40, 30, "JPEG")))
    exif = Image.Exif()
    exif[0x0112] = 6
    written = io.BytesIO()
    turned.save(written, "JPEG", exif=exif)
    found = pixels_of(written.getvalue(), Bounds())
    assert found.shape == (40, 30, 3)
    assert np.array_equal(found, decode(written.getvalue()))
