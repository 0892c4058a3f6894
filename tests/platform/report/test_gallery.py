"""The page of images: what the browser is given to draw, in whose coordinates, and its escaping."""

import base64
import re

import cv2
import numpy as np
import pytest

from bacl_platform.report.gallery import LONGEST, Group, Shelf, Thing, page, picture

CATEGORIES = [("cup", 0), ("mug <b>", 1)]


def image(width, height):
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x * 255 / width, y * 255 / height, 255 - x * 255 / width], axis=-1)
    return smooth.astype(np.uint8)


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+\.?\d*", text)]


def attributes(drawn, tag):
    return [
        dict(re.findall(r'([\w-]+)="([^"]*)"', one)) for one in re.findall(f"<{tag} [^>]*", drawn)
    ]


@pytest.mark.parametrize("width", [120, 960])
def test_image_fills_the_picture_and_boxes_lie_on_it(width):
    pixels = image(width, width // 2)
    drawn = picture(pixels, [Thing(0, [12, 24, 48, 60])], 0, CATEGORIES, "").drawn
    assert f'viewBox="0 0 {LONGEST} {LONGEST // 2}"' in drawn
    (shown,) = attributes(drawn, "image")
    assert (shown["width"], shown["height"]) == (str(LONGEST), str(LONGEST // 2))
    encoded = np.frombuffer(base64.b64decode(shown["href"].split(",")[1]), dtype=np.uint8)
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert max(decoded.shape) <= LONGEST  # large ones are made smaller, small ones stay
    expected = cv2.resize(pixels, decoded.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(decoded.astype(int) - expected).mean() < 4
    (box,) = attributes(drawn, "rect")
    scale = LONGEST / width
    assert [float(box[side]) for side in ("x", "y", "width", "height")] == pytest.approx(
        [12 * scale, 24 * scale, 36 * scale, 36 * scale], abs=0.06
    )


def test_outline_of_pixels_and_polygon_of_the_same_place_agree():
    mask = np.zeros((60, 120), dtype=bool)
    mask[20:40, 30:60] = True
    mask[26:32, 40:50] = False  # a hole
    polygon = np.array([[30, 20], [60, 20], [60, 40], [30, 40]])
    paths = []
    for one in (mask, [polygon]):
        drawn = picture(image(120, 60), [Thing(0, [30, 20, 60, 40], one)], 0, CATEGORIES, "").drawn
        (path,) = attributes(drawn, "path")
        assert path["fill-rule"] == "evenodd"
        paths.append([np.reshape(numbers(part), (-1, 2)) for part in path["d"].split("Z")[:-1]])
    (outer, hole), (whole,) = paths
    assert np.allclose(outer.min(0), whole.min(0), atol=1)
    assert np.allclose(outer.max(0), whole.max(0), atol=1)
    assert np.allclose([hole.min(0), hole.max(0)], [[160, 104], [200, 128]], atol=1.5)


def test_own_category_stands_out_and_crowds_are_dashed():
    things = [Thing(0, [0, 0, 9, 9]), Thing(1, [0, 0, 9, 9]), Thing(0, [5, 5, 9, 9], None, "crowd")]
    drawn = picture(image(20, 20), things, 0, CATEGORIES, "").drawn
    kinds = re.findall(r'<g class="([^"]*)"><title>([^<]*)', drawn)
    assert kinds == [  # its own last, on top
        ("other group1", "mug &lt;b&gt;"),
        ("own group0", "cup"),
        ("own ignored group0", "cup (crowd)"),
    ]


@pytest.mark.parametrize("x", [0, 30, 118])
def test_name_stays_inside_the_picture(x):
    drawn = picture(image(120, 60), [Thing(0, [x, 20, 120, 40])], 0, CATEGORIES, "").drawn
    (name,) = attributes(drawn, "text")
    assert 0 < float(name["x"]) <= LONGEST - 10 * len("cup")
    assert float(name["x"]) <= 4 * x + 2


def test_page_shows_texts_as_they_are_and_needs_nothing_else():
    shown = picture(image(20, 20), [], 0, CATEGORIES, "<i>.jpg")
    text = page(
        "a & b",
        ["about </p>"],
        [Group("r", "0-10 images"), Group("c", "11+ images")],
        [Shelf('"mug" <b>', 1, "2 < 3", [shown])],
        ["x.jpg: <broken>"],
        (("category", "n"), [("<s>", "1")]),
    )
    for raw in ("</p></p>", "<i>", "<broken>", "<s>", 'data-name=""mug"'):
        assert raw not in text
    assert 'data-group="1" data-name="&quot;mug&quot; &lt;b&gt;"' in text
    assert "<li>x.jpg: &lt;broken&gt;</li>" in text
    addresses = re.findall(r'(?:src|href)="([^"]{0,12})', text)
    assert addresses and all(one.startswith("data:image/") for one in addresses)
