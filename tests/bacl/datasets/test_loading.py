"""MMDetection's pipelines get the pixels that `bacl.datasets.decoding` gives."""

import pickle

import cv2
import mmcv.transforms
import numpy as np
import pytest
import torch
import torchvision
from mmdet.registry import TRANSFORMS
from mmengine.registry import DefaultScope
from PIL import Image

import bacl.register  # noqa: F401
from bacl.datasets import decoding, loading
from bacl.datasets.loading import ImageError, LoadImageByNvjpeg, LoadImageFromFile
from bacl.errors import RunError


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


@pytest.fixture
def by_gpu(monkeypatch):
    """The step that decodes on a GPU, with torchvision's decoder of the CPU instead, which gives
    OpenCV's pixels; and the devices that it was asked for."""
    devices = []

    def decode(content, mode, device):
        devices.append(device)
        return torchvision.io.decode_jpeg(content, mode)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(loading, "decode_jpeg", decode)
    return build("LoadImageByNvjpeg"), devices


JPEG = {
    "best": {"quality": 100, "subsampling": 0},
    "usual": {"quality": 75, "subsampling": 2},
    "half": {"quality": 60, "subsampling": 1},
    "worst": {"quality": 3, "subsampling": 2},
    "progressive": {"quality": 80, "progressive": True},
    "restarts": {"quality": 80, "restart_marker_blocks": 2},
}


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", JPEG)
def test_jpeg_goes_to_the_gpu_and_comes_back_as_all_else_reads_it(tmp_path, by_gpu, kind, mode):
    step, devices = by_gpu
    smooth = cv2.resize(np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8), (77, 51))
    for orientation in (1, 6):
        exif = Image.Exif()
        exif[274] = orientation
        path = str(tmp_path / f"{orientation}.jpg")
        Image.fromarray(smooth).convert(mode).save(path, exif=exif, **JPEG[kind])
        found = step({"img_path": path})
        assert np.array_equal(found["img"], decoding.read(path))
        assert found["img"].flags.c_contiguous
        assert found["img_shape"] == (51, 77)[:: 1 if orientation == 1 else -1]
    assert devices == ([] if mode == "CMYK" else ["cuda:1"] * 2)


def test_what_nvjpeg_refuses_is_decoded_on_the_cpu(tmp_path, by_gpu, pixels, monkeypatch):
    step, _ = by_gpu
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels).save(path)

    def refuse(*_):
        raise RuntimeError("nvjpeg: unsupported")

    monkeypatch.setattr(loading, "decode_jpeg", refuse)
    assert np.array_equal(step({"img_path": str(path)})["img"], decoding.read(path))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ImageError, match=r"a\.jpg: expected a readable image, got a JPEG that is"):
        step({"img_path": str(path)})

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loading, "decode_jpeg", full)
    Image.fromarray(pixels).save(path)
    with pytest.raises(torch.OutOfMemoryError):
        step({"img_path": str(path)})


def test_other_formats_do_not_go_to_the_gpu(turned, by_gpu):
    step, devices = by_gpu
    assert np.array_equal(step({"img_path": turned})["img"], decoding.read(turned))
    assert not devices


def test_decoding_on_a_gpu_that_is_not_there_is_told(turned, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    step = pickle.loads(pickle.dumps(build("LoadImageByNvjpeg")))
    assert type(step) is LoadImageByNvjpeg
    sentence = "^recipe.decoder: expected a GPU for nvjpeg, torch finds none: set it to cpu, or run"
    with pytest.raises(RunError, match=sentence):
        step({"img_path": turned})
