"""Archives, good and bad."""

import stat
import zipfile

import pytest

from bacl import download
from bacl.datasets.unpacking import unpack
from bacl.errors import RunError


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as content:
        content.writestr("photos/", "")
        content.writestr("photos/1.jpg", b"one" * 100)
        content.writestr("photos/2.jpg", b"two" * 200)
        content.writestr("deep/notes.json", b"{}")
        content.writestr("other/3.jpg", b"three")
        content.writestr("__MACOSX/photos/1.jpg", b"fork")
    return path


PLACES = {"photos/": "train", "notes.json": "annotations/notes.json"}


def extract(archive, root, replace=False, places=PLACES):
    root.mkdir(exist_ok=True)
    return unpack(archive, places, root, replace, lambda *_: None)


def tree(root) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_only_what_is_asked_for_is_unpacked(archive, tmp_path):
    root = tmp_path / "root"
    files = extract(archive, root)
    assert files == {"train/1.jpg": 300, "train/2.jpg": 600, "annotations/notes.json": 2}
    assert tree(root) == {
        "train/1.jpg": b"one" * 100,
        "train/2.jpg": b"two" * 200,
        "annotations/notes.json": b"{}",
    }


def test_unpacking_goes_on_after_an_interruption(archive, tmp_path):
    root = tmp_path / "root"
    root.mkdir()

    def stop(_what, done, _total):
        if done > 300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(archive, PLACES, root, False, stop)
    assert list(tree(root)) == ["train/1.jpg"]  # the second is not there, not even a part of it
    before = (root / "train/1.jpg").stat().st_mtime_ns
    assert len(extract(archive, root)) == 3
    assert (root / "train/1.jpg").stat().st_mtime_ns == before


def test_file_with_other_content_is_not_overwritten_unless_it_may_be(archive, tmp_path):
    root = tmp_path / "root"
    (root / "train").mkdir(parents=True)
    (root / "train/1.jpg").write_bytes(b"xne" * 100)
    with pytest.raises(RunError, match=r"1\.jpg: is not what set\.zip holds"):
        extract(archive, root)
    assert (root / "train/1.jpg").read_bytes() == b"xne" * 100
    extract(archive, root, replace=True)
    assert (root / "train/1.jpg").read_bytes() == b"one" * 100


@pytest.mark.parametrize(
    "name", ["../evil.jpg", "photos/../../evil.jpg", "/evil.jpg", "photos\\..\\evil.jpg"]
)
def test_names_that_lead_out_are_refused_before_anything_is_written(archive, tmp_path, name):
    with zipfile.ZipFile(archive, "a") as content:
        content.writestr(zipfile.ZipInfo(name), b"evil")
    with pytest.raises(RunError, match="expected names that stay inside the folder"):
        extract(archive, tmp_path / "root")
    assert tree(tmp_path / "root") == {}


def test_links_are_refused(archive, tmp_path):
    link = zipfile.ZipInfo("photos/link.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "a") as content:
        content.writestr(link, "/etc/passwd")
    with pytest.raises(RunError, match=r"photos/link\.jpg: expected a plain file"):
        extract(archive, tmp_path / "root")


def test_archive_without_what_is_asked_for_is_told(archive, tmp_path):
    with pytest.raises(RunError, match=r"expected val2017/ in the archive, found none"):
        extract(archive, tmp_path / "root", places={"val2017/": "val2017"})
    with pytest.raises(RunError, match=r"expected x\.json in the archive, found none"):
        extract(archive, tmp_path / "root", places={"x.json": "x.json"})


def test_half_an_archive_is_told(archive, tmp_path):
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(
        RunError, match=r"set\.zip: expected a whole zip archive: File is not a zip"
    ):
        extract(archive, tmp_path / "root")


def test_damaged_member_is_told_and_not_kept(archive, tmp_path):
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("photos/1.jpg", b"one" * 100)
    archive.write_bytes(archive.read_bytes().replace(b"oneone", b"oneoxe", 1))
    with pytest.raises(RunError, match=r"set\.zip: expected a whole zip archive: Bad CRC-32"):
        extract(archive, tmp_path / "root", places={"photos/": "train"})
    assert tree(tmp_path / "root") == {}


def test_disk_without_room_is_told_before_unpacking(archive, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 67_109_000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(RunError, match=r"free to unpack set\.zip, got 67 MB"):
        extract(archive, tmp_path / "root")
    assert tree(tmp_path / "root") == {}
