"""MMDetection's pipelines get the pixels that `bacl.datasets.decoding` gives."""

import pickle

import cv2
import mmcv.transforms
import numpy as np
import pytest
from mmdet.registry import TRANSFORMS
from mmengine.registry import DefaultScope
from PIL import Image

import bacl.register  # noqa: F401
from bacl.datasets import decoding
from bacl.datasets.loading import ImageError, LoadImageFromFile


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture
def turned(tmp_path, pixels):
    """A WebP that is to be turned by 90 degrees, which mmcv does not."""
    path = tmp_path / "turned.webp"
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels).save(path, lossless=True, exif=exif)
    return str(path)


def build(kind, **options):
    with DefaultScope.overwrite_default_scope("mmdet"):
        return TRANSFORMS.build({"type": kind, **options})


def test_pipelines_of_mmdetection_read_as_all_else_does(turned, pixels):
    step = build("LoadImageFromFile")
    assert type(step) is LoadImageFromFile
    sample = step({"img_path": turned})
    expected = cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE)[..., ::-1]
    assert np.array_equal(sample["img"], expected)
    assert sample["img_shape"] == sample["ori_shape"] == (30, 20)
    stock = mmcv.transforms.LoadImageFromFile()({"img_path": turned})
    assert stock["img_shape"] == (20, 30)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["jpg", "png"])
def test_sample_of_common_images_is_that_of_mmcv(tmp_path, pixels, form, orientation):
    path = str(tmp_path / f"image.{form}")
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    ours, theirs = (
        step({"img_path": path})
        for step in (build("LoadImageFromFile"), mmcv.transforms.LoadImageFromFile())
    )
    assert ours.keys() == theirs.keys()
    assert np.array_equal(ours.pop("img"), theirs.pop("img"))
    assert ours == theirs


def test_options_of_mmcv_do_what_they_do_there(turned):
    for options in ({"color_type": "grayscale"}, {"to_float32": True}):
        ours = build("LoadImageFromFile", **options)({"img_path": turned})["img"]
        theirs = mmcv.transforms.LoadImageFromFile(**options)({"img_path": turned})["img"]
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    plain = build("LoadImageFromFile", backend_args=None)({"img_path": turned})["img"]
    assert np.array_equal(plain, decoding.read(turned))


def test_inferencers_of_mmdetection_read_alike(turned):
    step = build("InferencerLoader")
    assert np.array_equal(step(turned)["img"], decoding.read(turned))


def test_image_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "empty.png"
    path.touch()
    with pytest.raises(ImageError) as told:
        build("LoadImageFromFile")({"img_path": str(path)})
    assert str(told.value) == f"{path}: expected a readable image, got an empty file"


def test_error_survives_pickling():
    assert str(pickle.loads(pickle.dumps(ImageError("a: b")))) == "a: b"
