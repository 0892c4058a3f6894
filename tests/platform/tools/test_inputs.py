"""What words of `bacl predict` mean: images, folders, patterns, videos and addresses."""

import os

import cv2
import numpy as np
import pytest
from PIL import Image

from bacl.errors import UsageError
from bacl_platform.tools.inputs import Input, find_inputs


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Images in folders, beside a video and things that are neither."""
    for name in ("b.jpg", "a.PNG", "in/c.webp", ".hidden/d.jpg", ".e.jpg", "out/f.png"):
        picture(tmp_path / "photos" / name)
    (tmp_path / "photos/notes.txt").write_text("none")
    (tmp_path / "photos/in/g.MP4").write_bytes(b"not opened yet")
    return tmp_path / "photos"


def found(words, out):
    return [(one.name, one.kind) for one in find_inputs([str(word) for word in words], out)]


def test_folder_is_searched_with_all_in_it_but_hidden_and_written_ones(folder):
    assert found([folder], folder / "out") == [
        (f"{folder}/a.PNG", "image"),
        (f"{folder}/b.jpg", "image"),
        (f"{folder}/in/c.webp", "image"),
        (f"{folder}/in/g.MP4", "video"),
    ]


def test_pattern_matches_as_in_a_shell_and_takes_images_alone(folder, tmp_path):
    out = tmp_path / "out"
    assert found([folder / "*"], out) == [
        (f"{folder}/a.PNG", "image"),
        (f"{folder}/b.jpg", "image"),
    ]
    assert found([folder / "**/*.webp"], out) == [(f"{folder}/in/c.webp", "image")]


def test_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    path = picture(tmp_path / "a[1].png")
    assert found([path], tmp_path / "out") == [(str(path), "image")]


def test_words_keep_their_order_and_each_input_is_there_once(folder, tmp_path):
    single = picture(tmp_path / "z.png")
    words = [single, "https://host/b.jpg", folder / "b.jpg", folder, single]
    names = [name for name, _ in found(words, folder / "out")]
    assert names[:3] == [str(single), "https://host/b.jpg", f"{folder}/b.jpg"]
    assert len(names) == len(set(names)) == 6


def test_what_means_nothing_is_told_together(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    words = ["empty", "bad.mp4", "gone.mp4", "bad.jpg", "none/*.jpg", "photos"]
    with pytest.raises(UsageError) as error:
        find_inputs([str(tmp_path / word) for word in words], folder)
    reasons = [
        f"{tmp_path}/empty: expected a folder with images or videos in it, found none",
        f"{tmp_path}/bad.mp4: expected a video that can be decoded, got",
        f"{tmp_path}/gone.mp4: expected a video, got no such file",
        f"{tmp_path}/bad.jpg: expected a readable image, got none of",
        f"{tmp_path}/none/*.jpg: expected a pattern of images or videos, matches none",
        f"--out {folder}: expected another folder than that of the images",
    ]
    lines = str(error.value).splitlines()
    assert len(lines) == len(reasons)
    for line, reason in zip(lines, reasons, strict=True):
        assert line.startswith(reason)


def test_single_video_is_opened_before_anything_runs(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5, (32, 32))
    writer.write(np.zeros((32, 32, 3), dtype=np.uint8))
    writer.release()
    assert found([path], tmp_path / "out") == [(str(path), "video")]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("https://host/a/b%20c.jpg?size=2#x", "b_c"),
        ("https://host/", "image"),
        ("https://host/..%2f..%2fetc%2fpasswd", "passwd"),
    ],
)
def test_picture_of_an_address_has_a_plain_name(name, stem):
    assert Input(name, "address").stem == stem


def test_address_is_asked_with_its_password_and_called_without(tmp_path):
    word = "https://me:pass@host/a.jpg?size=2&token=abc"
    (one,) = find_inputs([word], tmp_path)
    assert (one.name, one.address) == ("https://***@host/a.jpg?size=2&token=***", word)


def test_path_that_is_no_text_is_told(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")
    with pytest.raises(UsageError, match="expected a path that is text in UTF-8"):
        find_inputs([path], tmp_path / "out")
