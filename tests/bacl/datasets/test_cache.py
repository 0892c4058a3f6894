"""Prepared datasets are known again by what is in them, and nothing half written stays."""

import os
from pathlib import Path

import pytest
from dataset_folder import Folder

from bacl.datasets.prepared import Prepared
from bacl.errors import RunError


def test_second_call_reads_nothing_but_the_result(folder, monkeypatch):
    first = folder.prepare()
    monkeypatch.setattr("bacl.datasets.reading.read", None)
    monkeypatch.setattr("bacl.datasets.images.look", None)
    assert folder.prepare() == first


def test_digest_is_of_contents_not_of_places_and_times(folder, tmp_path):
    digest = folder.prepare().digest
    other = Folder(tmp_path / "elsewhere")
    os.utime(other.images / "1.jpg", (0, 0))
    moved = other.prepare()
    assert moved.digest == digest
    assert moved.train.images == str(other.images)

    for spoil in (
        lambda: (other.images / "2.jpg").replace(other.images / "2.png"),
        lambda: other.val["images"][0]["neg_category_ids"].append(3),
        lambda: other.train["annotations"][0]["bbox"].__setitem__(0, 6),
        lambda: other.train["annotations"][0].__setitem__("segmentation", [[1, 2, 3, 4, 5, 6]]),
        lambda: other.train["annotations"][0].__setitem__("category_id", 9),
    ):
        spoil()
        other.train["images"][1]["file_name"] = (
            "2.png" if (other.images / "2.png").exists() else "2.jpg"
        )
        seen, digest = digest, other.prepare().digest
        assert digest != seen


@pytest.mark.parametrize("keep_times", [False, True])
def test_image_that_is_overwritten_in_place_is_another_dataset(folder, keep_times):
    digest = folder.prepare().digest
    path, before = folder.images / "1.jpg", os.stat(folder.images / "1.jpg")
    folder.photograph("1.jpg", 99)
    assert path.stat().st_size == before.st_size  # so that size alone does not tell it
    if keep_times:  # as tools that turn photographs do
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert folder.prepare().digest != digest
    folder.photograph("1.jpg", 1)
    assert folder.prepare().digest == digest


def test_images_that_vanish_are_noticed_at_the_next_call(folder):
    folder.prepare()
    (folder.images / "4.jpg").unlink()
    assert folder.problems() == ["images: 1 of 2 images of val.json are missing: 4.jpg"]


def test_two_places_with_equal_contents_share_a_cache(folder, tmp_path):
    other = Folder(tmp_path / "elsewhere")
    cache = str(tmp_path / "cache")
    assert folder.prepare(cache).train.images == str(folder.images)
    assert other.prepare(cache).train.images == str(other.images)
    assert folder.prepare(cache).train.images == str(folder.images)


def test_nothing_half_written_stays(folder, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Prepared, "save", full)
        with pytest.raises(RunError, match="No space left on device"):
            folder.prepare()
    assert os.listdir(folder.path / "cache") == ["images"]  # what was seen in them
    folder.prepare()


def test_prepared_dataset_reads_back(folder):
    prepared = folder.prepare()
    path = Path(prepared.train.index).with_name("dataset.json")
    assert Prepared.load(path) == prepared


def test_cache_that_cannot_be_written_is_told(folder):
    (folder.path / "cache").write_text("in the way")
    with pytest.raises(RunError, match="cache: the dataset could not be prepared: File exists"):
        folder.prepare()
