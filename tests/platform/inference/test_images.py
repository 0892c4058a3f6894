"""Images that users hand over: files, arrays and pictures become the same pixels."""

import numpy as np
import pytest
from PIL import Image

from bacl.errors import UsageError
from bacl_platform.inference.images import as_pixels

NOISE = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def test_all_forms_give_blue_green_red(tmp_path):
    path = tmp_path / "noise.png"
    Image.fromarray(NOISE).save(path)
    for given in (path, str(path), NOISE, Image.fromarray(NOISE), Image.open(path)):
        assert np.array_equal(as_pixels(given), NOISE[..., ::-1])


def test_picture_is_turned_as_its_exif_says(tmp_path):
    path, exif = tmp_path / "turned.png", Image.Exif()
    exif[274] = 8
    Image.fromarray(NOISE).save(path, exif=exif)
    turned = np.rot90(NOISE)[..., ::-1]
    assert np.array_equal(as_pixels(path), turned)
    assert np.array_equal(as_pixels(Image.open(path)), turned)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (NOISE.astype(float), r"uint8 in RGB, got one \(6, 9, 3\) of float64"),
        (NOISE[..., 0], r"\(height, width, 3\) .* got one \(6, 9\)"),
        (NOISE[:0], "got one"),
        (7, "got int"),
        ("no/such.jpg", "no/such.jpg: expected a readable image, got no such file"),
        (".", "expected an image, got a folder"),
        ("a\udcff.jpg", "expected a path that is text in UTF-8"),
    ],
)
def test_what_is_no_image_is_told(given, reason):
    with pytest.raises(UsageError, match=reason):
        as_pixels(given)
