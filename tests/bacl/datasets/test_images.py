"""Where image files lie, and whether what is in them is known, unchanged and of the right size."""

import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from bacl.datasets import images
from bacl.datasets.content import Content


def quiet(*_) -> None:
    pass


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "cache").mkdir()
    return folder


def draw(path: Path, shade: int = 0, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade,) * 3).save(path, "BMP")


def find(folder: Path, *names: str) -> tuple[list[str], str]:
    content = Content([{"id": n, "file_name": name} for n, name in enumerate(names)], [], [])
    files, missing = images.find(content, Path("train.json"), folder, images.Folders())
    return files, missing.replace(f"{folder}: ", "")


# Names


def test_absolute_names_are_found_inside_and_outside_of_the_folder(folder, tmp_path):
    draw(folder / "a/1.jpg")
    draw(tmp_path / "elsewhere/2.jpg")
    names = [str(folder / "a/1.jpg"), str(tmp_path / "elsewhere/2.jpg")]
    assert find(folder, *names) == (["a/1.jpg", names[1]], "")


@pytest.mark.parametrize(
    ("named", "there", "why"),
    [
        (
            unicodedata.normalize("NFC", "größe.png"),
            unicodedata.normalize("NFD", "größe.png"),
            "one is in Unicode's composed form NFC, the other in NFD",
        ),
        ("my%20photo.png", "my photo.png", "the name in the annotation file is percent-encoded"),
        ("IMG_1.PNG", "img_1.png", "capital letters differ"),
    ],
)
def test_file_that_is_there_under_a_name_that_reads_alike_is_told(folder, named, there, why):
    draw(folder / there)
    files, missing = find(folder, named)
    assert files == [""]
    assert missing.startswith(f"1 of 1 images of train.json are missing: {named} (there is ")
    assert why in missing


def test_backslash_in_a_name_is_told(folder):
    draw(folder / "a/1.png")
    _, missing = find(folder, "a\\1.png")
    assert missing.endswith("a\\1.png (there is '1.png': write / for \\)")


def test_folder_that_cannot_be_read_is_told_as_such(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    content = Content([{"id": 1, "file_name": "1.jpg"}], [], [])
    _, missing = images.find(content, Path("train.json"), folder, images.Folders())
    assert missing == f"{folder}: expected a readable folder of images: Permission denied"


def test_file_that_two_images_share_is_told():
    entries = [{"id": 1}, {"id": "b"}, {"id": 3}]
    assert images.twice(entries, ["1.jpg", "a/../1.jpg", "2.jpg"]) == (
        "1 files are listed as several images, and the boxes of one are background in the others; "
        "merge their entries: 1.jpg (ids 1, 'b')"
    )
    assert images.twice(entries, ["1.jpg", "2.jpg", ""]) == ""


# Contents


def look(folder: Path, *names: str, watch=quiet):
    return images.look(folder, names, images.Folders(), folder.parent / "cache", watch)


def test_look_is_remembered_until_the_file_changes(folder):
    for name in ("1.jpg", "2.jpg"):
        draw(folder / name)
    seen: list[tuple] = []
    first = look(folder, "1.jpg", "2.jpg", watch=lambda *w: seen.append(w))
    assert [(one.width, one.height, one.problem) for one in first] == [(40, 30, "")] * 2
    assert seen == [("reading images", 1, 2), ("reading images", 2, 2)]

    seen.clear()
    assert look(folder, "1.jpg", "2.jpg", watch=lambda *w: seen.append(w)) == first
    assert seen == []

    draw(folder / "2.jpg", shade=9)
    changed = look(folder, "1.jpg", "2.jpg", watch=lambda *w: seen.append(w))
    assert seen == [("reading images", 1, 1)]
    assert changed[0] == first[0] and changed[1].digest != first[1].digest


def test_change_that_keeps_size_and_time_is_noticed(folder):
    draw(folder / "1.jpg")
    (before,) = look(folder, "1.jpg")
    status = os.stat(folder / "1.jpg")
    draw(folder / "1.jpg", shade=9)
    os.utime(folder / "1.jpg", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert os.stat(folder / "1.jpg").st_size == status.st_size
    (after,) = look(folder, "1.jpg")
    assert after.digest != before.digest


def test_memory_that_is_damaged_or_cannot_be_written_costs_only_time(folder):
    draw(folder / "1.jpg")
    first = look(folder, "1.jpg")
    (memory,) = (folder.parent / "cache/images").iterdir()
    memory.write_bytes(b"PAR1 and nothing else")
    assert look(folder, "1.jpg") == first
    memory.unlink()
    memory.parent.rmdir()
    memory.parent.write_text("in the way")
    assert look(folder, "1.jpg") == first


def test_memory_of_another_way_of_reading_is_not_relied_on(folder, monkeypatch):
    draw(folder / "1.jpg")
    look(folder, "1.jpg")
    schema = images._MEMORY.with_metadata({"rule": "another"})
    monkeypatch.setattr(images, "_MEMORY", schema)
    seen: list[tuple] = []
    look(folder, "1.jpg", watch=lambda *w: seen.append(w))
    assert seen


def test_missing_files_are_not_looked_at(folder):
    draw(folder / "1.jpg")
    assert look(folder, "", "1.jpg")[0] is None


def test_files_of_both_splits_are_found_whatever_the_folders_are_called(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    both = images.in_both((["1.jpg", "2.jpg"], folder), (["2.jpg", "", "3.jpg"], tmp_path / "link"))
    assert both == ["2.jpg"]
