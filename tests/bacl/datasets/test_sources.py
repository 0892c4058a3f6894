"""Named data sets under a root: what is asked for, fetched, noted and trusted."""

import functools
import hashlib
import http.server
import io
import json
import re
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from bacl import settings
from bacl.datasets import provide as providing
from bacl.datasets import sources
from bacl.datasets.prepare import prepare
from bacl.datasets.provide import Request, provide, state
from bacl.datasets.sources import NAMED, Archive, Named, read_record
from bacl.errors import RunError, UsageError

SHA256 = re.compile(r"^[0-9a-f]{64}$")


@pytest.mark.parametrize("name", ["lvis_v0.5", "lvis_v1", "coco_lt"])
def test_catalogue_is_complete(name):
    for archive in NAMED[name].archives:
        assert all(address.endswith(archive.name) for address in archive.addresses)
        assert archive.addresses[0].startswith("https://") or archive.sha256
        assert (archive.size is None) == (archive.sha256 is None)
        assert archive.sha256 is None or SHA256.match(archive.sha256)
        assert bool(archive.files) != bool(archive.folder and archive.count)
    assert settings.Dataset(format=name, root="/data").root == "/data"


def test_mirrors_stand_in_for_the_public_addresses():
    wanted = sources.TRAIN_PHOTOGRAPHS.wanted(["https://a/b/", "http://c"])
    assert wanted.addresses == ["https://a/b/train2017.zip", "http://c/train2017.zip"]


# A small set of the same kinds of archive


def annotations(first, count):
    return {
        "images": [
            {
                "id": i,
                "coco_url": f"http://x/photos/{i}.jpg",
                "width": 8,
                "height": 6,
                "neg_category_ids": [],
                "not_exhaustive_category_ids": [],
            }
            for i in range(first, first + count)
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 4, 4], "area": 16}
            for i in range(first, first + count)
        ],
        "categories": [{"id": 1, "name": "cup"}],
    }


def photo(number: int) -> bytes:
    """An image of 8 x 6, of another number of bytes for each number."""
    content = io.BytesIO()
    Image.new("RGB", (8, 6)).save(content, "PNG")
    return content.getvalue() + b"x" * number


@pytest.fixture
def shelf(tmp_path) -> Path:
    """A folder with the archives."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    with zipfile.ZipFile(folder / "photos.zip", "w") as content:
        for i in range(1, 6):
            content.writestr(f"photos/{i}.jpg", photo(i))
    for name, content in (("train", annotations(1, 3)), ("val", annotations(4, 2))):
        with zipfile.ZipFile(folder / f"{name}.json.zip", "w") as archive:
            archive.writestr(f"inside/{name}.json", json.dumps(content))
    return folder


@pytest.fixture
def small(shelf, monkeypatch) -> Named:
    """The set `lvis_v1`, only small; the digest of `val.json.zip` is not published."""

    def archive(name, published=True, **gives):
        content = (shelf / name).read_bytes()
        size, digest = len(content), hashlib.sha256(content).hexdigest()
        return (
            Archive(name, [f"http://127.0.0.1:9/{name}"], size, digest, **gives)
            if (published)
            else Archive(name, [f"http://127.0.0.1:9/{name}"], None, None, **gives)
        )

    named = Named(
        (
            archive("photos.zip", folder="photos", count=5),
            archive("train.json.zip", files={"annotations/train.json": None}),
            archive("val.json.zip", False, files={"annotations/val.json": None}),
        ),
        (),
        {
            "format": "lvis",
            "train": "annotations/train.json",
            "val": "annotations/val.json",
            "images": ".",
        },
    )
    monkeypatch.setitem(NAMED, "lvis_v1", named)
    return named


def bring(root, shelf, **fields) -> list[str]:
    said: list[str] = []
    provide(Request("lvis_v1", root, offline=shelf, **fields), said.append, lambda *_: None)
    return said


def states(root, **fields) -> dict[str, str]:
    return {item.name: item.text for item in state(Request("lvis_v1", root, **fields))}


def test_experiment_finds_what_was_prepared(small, shelf, tmp_path):
    root = tmp_path / "root"
    bring(root, shelf)
    prepared = prepare(settings.Dataset(format="lvis_v1", root=str(root)), tmp_path / "cache")
    assert (prepared.train.image_total, prepared.val.image_total) == (3, 2)
    assert prepared.evaluation == "lvis"


def test_second_call_finds_everything_there(small, shelf, tmp_path):
    said = bring(tmp_path / "root", shelf)
    digest = hashlib.sha256((shelf / "val.json.zip").read_bytes()).hexdigest()
    assert said == [
        "photos.zip: whole (5 files)",
        "train.json.zip: whole (1 file)",
        f"val.json.zip: no digest is published for it; got SHA-256 {digest}, which is noted and "
        "holds from now on",
        "val.json.zip: whole (1 file)",
    ]
    for path in shelf.iterdir():
        path.unlink()  # nothing is read again
    again = bring(tmp_path / "root", shelf)
    assert again[0] == "photos.zip: there (5 files)"
    assert states(tmp_path / "root")["train.json.zip"] == "there (1 file)"


def test_experiment_before_preparation_is_told_what_to_do(small, tmp_path):
    dataset = settings.Dataset(format="lvis_v1", root=str(tmp_path))
    with pytest.raises(UsageError) as told:
        prepare(dataset, tmp_path / "cache")
    assert str(told.value) == (
        f"{tmp_path}: expected what `bacl data prepare lvis_v1 --root {tmp_path}` brings there, "
        "got nothing whole of photos.zip, train.json.zip, val.json.zip"
    )


def test_interrupted_preparation_is_not_trusted(small, shelf, tmp_path, monkeypatch):
    def killed(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sources, "write_record", killed)  # all unpacked, nothing noted
        with pytest.raises(KeyboardInterrupt):
            bring(tmp_path / "root", shelf)
    (tmp_path / "root/photos/2.jpg").unlink()
    with pytest.raises(UsageError, match=r"got nothing whole of photos\.zip"):
        sources.under(tmp_path / "root", "lvis_v1")
    bring(tmp_path / "root", shelf)
    assert (tmp_path / "root/photos/2.jpg").read_bytes() == photo(2)


def test_spoilt_files_are_brought_again(small, shelf, tmp_path):
    root = tmp_path / "root"
    bring(root, shelf)
    (root / "photos/1.jpg").write_bytes(b"")
    (root / "photos/2.jpg").unlink()
    assert sources.all_spoilt(root, "lvis_v1") == [
        f"{root}: 2 of 5 files of photos.zip are missing or have another size, such as photos/1.jpg"
    ]
    assert states(root)["photos.zip"] == (
        "2 of 5 files are missing or spoilt; to download from http://127.0.0.1:9/photos.zip"
    )
    assert "photos.zip: 2 of 5 files are missing or spoilt: again" in bring(root, shelf)
    assert (root / "photos/1.jpg").read_bytes() == photo(1)
    assert sources.all_spoilt(root, "lvis_v1") == []


def test_wrong_archive_is_refused_and_nothing_is_unpacked(small, shelf, tmp_path):
    content = bytearray((shelf / "photos.zip").read_bytes())
    content[40] ^= 1
    (shelf / "photos.zip").write_bytes(content)
    with pytest.raises(RunError, match=r"photos\.zip: expected SHA-256 [0-9a-f]{64}, got "):
        bring(tmp_path / "root", shelf)
    assert not (tmp_path / "root/photos").exists()


def test_half_downloaded_archive_is_refused(small, shelf, tmp_path):
    (shelf / "photos.zip").write_bytes((shelf / "photos.zip").read_bytes()[:100])
    with pytest.raises(RunError, match=r"photos\.zip: expected [\d,]+ bytes, got 100$"):
        bring(tmp_path / "root", shelf)


def test_unpublished_digest_holds_from_the_first_time_on(small, shelf, tmp_path):
    root = tmp_path / "root"
    bring(root, shelf)
    (root / "annotations/val.json").unlink()
    with zipfile.ZipFile(shelf / "val.json.zip", "w") as archive:
        archive.writestr("val.json", json.dumps(annotations(4, 1)))
    with pytest.raises(RunError, match=r"expected SHA-256 [0-9a-f]+, as at the first download"):
        bring(root, shelf)


def test_archives_that_the_offline_folder_lacks_are_told_together(small, shelf, tmp_path):
    for name in ("photos.zip", "val.json.zip"):
        (shelf / name).unlink()
    with pytest.raises(UsageError) as told:
        bring(tmp_path / "root", shelf)
    assert str(told.value) == (
        f"--offline {shelf}: expected the archives there, got none called photos.zip, val.json.zip"
    )
    assert not (tmp_path / "root/annotations").exists()


def test_photographs_that_are_there_are_taken_as_found(small, shelf, tmp_path):
    root = tmp_path / "root"
    with zipfile.ZipFile(shelf / "photos.zip") as content:
        content.extractall(root)
    assert states(root)["photos.zip"] == "there, unpacked by somebody else"
    (shelf / "photos.zip").unlink()
    said = bring(root, shelf)
    assert said[0].startswith("photos.zip: photos/ taken as found, 5 of 5 files; their contents")
    assert read_record(root, "photos.zip").sha256 is None


def test_photographs_that_are_not_all_there_are_completed(small, shelf, tmp_path):
    root = tmp_path / "root"
    with zipfile.ZipFile(shelf / "photos.zip") as content:
        content.extract("photos/1.jpg", root)
    bring(root, shelf)
    assert len(list((root / "photos").iterdir())) == 5


def test_record_that_is_damaged_counts_as_none(small, shelf, tmp_path):
    root = tmp_path / "root"
    bring(root, shelf)
    sources.record_path(root, "train.json.zip").write_text('{"name": ')
    with pytest.raises(UsageError, match=r"got nothing whole of train\.json\.zip$"):
        sources.under(root, "lvis_v1")


def test_mirror_serves_archives_which_are_removed_once_unpacked(small, shelf, tmp_path):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=shelf)
    handler.func.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    mirror = f"http://127.0.0.1:{server.server_port}"
    root = tmp_path / "root"
    try:
        assert states(root, mirrors=[mirror])["photos.zip"] == (
            f"to download from {mirror}/photos.zip"
        )
        provide(Request("lvis_v1", root, mirrors=[mirror]), lambda _: None, lambda *_: None)
        assert list((root / "archives").iterdir()) == []
        other = tmp_path / "other"
        request = Request("lvis_v1", other, mirrors=[mirror], keep=True)
        provide(request, lambda _: None, lambda *_: None)
        assert len(list((other / "archives").iterdir())) == 3
    finally:
        server.shutdown()
        server.server_close()
    assert read_record(root, "photos.zip").origin == f"{mirror}/photos.zip"


def test_archive_of_a_file_too_few_is_refused(small, shelf, tmp_path, monkeypatch):
    photos, *rest = small.archives
    few = replace(small, archives=(replace(photos, count=6), *rest))
    monkeypatch.setitem(NAMED, "lvis_v1", few)
    with pytest.raises(RunError, match=r"photos\.zip: expected 6 files, got 5"):
        bring(tmp_path / "root", shelf)


def test_one_process_at_a_time(small, shelf, tmp_path):
    root = tmp_path / "root"
    lock = sources.record_path(root, "photos.zip").with_suffix(".lock")
    lock.parent.mkdir(parents=True)
    code = (
        "import sys, filelock\n"
        f"lock = filelock.FileLock({str(lock)!r})\nlock.acquire()\n"
        "print('held', flush=True)\nsys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=r"another process is preparing photos\.zip there"):
            bring(root, shelf)
        other.kill()
    bring(root, shelf)


def test_root_that_cannot_be_written_is_told(small, shelf, tmp_path):
    (tmp_path / "root").write_text("in the way")
    with pytest.raises(RunError, match=r"lvis_v1 could not be prepared: "):
        bring(tmp_path / "root", shelf)


def test_embedded_set_is_laid_down_once(tmp_path, monkeypatch):
    made = []

    def generate(folder, dataset):
        made.append(dataset.seed)
        (folder / "images").mkdir(parents=True)
        for name in ("train.json", "val.json", "images/1.png"):
            (folder / name).write_text("{}")

    monkeypatch.setattr("bacl.datasets.embedded.generate", generate)
    request = Request("embedded", tmp_path, seed=3)
    for _ in range(2):
        provide(request, lambda _: None, lambda *_: None)
    assert made == [3]
    dataset = sources.under(tmp_path, "embedded")
    assert (dataset.format, dataset.train) == ("lvis", str(tmp_path / "embedded/train.json"))
    with pytest.raises(UsageError, match=r"expected the embedded set, seed 4, got .* seed 3: use"):
        provide(replace(request, seed=4), lambda _: None, lambda *_: None)


def test_digest_of_a_plain_file_is_checked_too(tmp_path, monkeypatch):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "index.pt").write_bytes(b"index")
    archive = Archive(
        "index.pt", [], 5, hashlib.sha256(b"index").hexdigest(), files={"annotations/i.pt": 5}
    )
    monkeypatch.setitem(NAMED, "lvis_v1", Named((archive,), (), {}))
    bring(tmp_path / "root", shelf)
    assert (tmp_path / "root/annotations/i.pt").read_bytes() == b"index"
    assert providing.state(Request("lvis_v1", tmp_path / "root"))[0].whole
