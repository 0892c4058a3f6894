"""The store: complete or not trusted, whatever happens in between."""

import contextlib
import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bacl.errors import RunError
from bacl_platform.store.bucket import Bucket
from bacl_platform.store.store import Store, disk_errors, latest_checkpoint, write_checkpoint


def publish(store: Store, key: str = "k1") -> Path:
    folder = store.work(key) / "entry"
    (folder / "variants").mkdir(parents=True)
    (folder / "checkpoint.pth").write_bytes(b"weights")
    (folder / "variants" / "metrics.json").write_text("{}")
    return store.publish(key, folder)


def save(content: bytes):
    return lambda path: path.write_bytes(content)


def test_published_entry_is_complete_and_its_work_is_gone(tmp_path):
    store = Store(tmp_path)
    entry = publish(store)
    assert store.complete("k1")
    assert not store.work("k1").exists()
    files = json.loads((entry / "manifest.json").read_text())["files"]
    assert set(files) == {"checkpoint.pth", "variants/metrics.json"}


def test_entry_without_manifest_is_not_complete(tmp_path):
    store = Store(tmp_path)
    (publish(store) / "manifest.json").unlink()
    assert not store.complete("k1")


@pytest.mark.parametrize("content", [b"weightz", b"weight", b""])
def test_changed_file_is_noticed_even_after_a_check(tmp_path, content):
    store = Store(tmp_path)
    entry = publish(store)
    assert store.complete("k1")
    (entry / "checkpoint.pth").write_bytes(content)
    os.utime(entry / "checkpoint.pth", ns=(1, 1))
    assert not store.complete("k1")
    assert not Store(tmp_path).complete("k1")


def test_unreadable_manifest_is_not_trusted(tmp_path):
    store = Store(tmp_path)
    (publish(store) / "manifest.json").write_text('{"files": {')
    assert not store.complete("k1")


def test_broken_entry_is_replaced(tmp_path):
    store = Store(tmp_path)
    (publish(store) / "checkpoint.pth").unlink()
    publish(store)
    assert store.complete("k1")


def test_newest_two_checkpoints_are_kept(tmp_path):
    for step in (5, 10, 100):
        write_checkpoint(tmp_path, step, save(b"%d" % step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_10", "step_100"]
    assert latest_checkpoint(tmp_path) == (100, tmp_path / "step_100" / "checkpoint.pth")


@pytest.mark.parametrize("damage", ["truncated", "changed", "no manifest", "no file"])
def test_damaged_checkpoint_gives_way_to_the_older_one(tmp_path, caplog, damage):
    for step in (5, 10):
        write_checkpoint(tmp_path, step, save(b"weights"))
    newest = tmp_path / "step_10"
    if damage == "no manifest":
        (newest / "manifest.json").unlink()
    elif damage == "no file":
        (newest / "checkpoint.pth").unlink()
    else:
        (newest / "checkpoint.pth").write_bytes(b"weig" if damage == "truncated" else b"weighty")
    step, _ = latest_checkpoint(tmp_path)
    assert step == 5
    assert "step_10 is not used" in caplog.text


def test_no_checkpoint_is_none(tmp_path):
    assert latest_checkpoint(tmp_path / "nothing") is None


def test_full_disk_is_told_and_leaves_nothing_to_trust(tmp_path):
    write_checkpoint(tmp_path, 5, save(b"weights"))

    def full(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(RunError, match="no space left for"):
        write_checkpoint(tmp_path, 10, full)
    assert [path.name for path in tmp_path.iterdir()] == ["step_5"]


def test_real_full_device_gives_the_sentence(tmp_path):
    def to_full_device(path: Path) -> None:
        import torch

        with open("/dev/full", "wb") as file:
            torch.save({"weights": torch.zeros(100_000)}, file)

    with pytest.raises(RunError, match="no space left for"):
        write_checkpoint(tmp_path, 10, to_full_device)


_HOLD = """
import sys, time
from bacl_platform.store.store import Store
with Store(sys.argv[1]).lock("k1"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of k1."""
    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_second_builder_of_a_key_is_told_who_holds_it(tmp_path, holder):
    with (
        pytest.raises(RunError, match=f"job k1 is being built by process {holder.pid} on "),
        Store(tmp_path).lock("k1", patience=0.2),
    ):
        pass


def test_lock_ends_with_its_process(tmp_path, holder):
    holder.kill()
    with Store(tmp_path).lock("k1", patience=10):
        pass


def test_entry_in_a_bucket_is_complete_wherever_it_is_asked_for(url):
    store = Store(url)
    publish(store)
    shutil.rmtree(store.root)
    other = pickle.loads(pickle.dumps(store))
    assert other.complete("k1")
    assert (other.entry("k1") / "variants" / "metrics.json").read_text() == "{}"
    other.bucket.remove(["k1/manifest.json"])  # as another machine removes it
    assert not Store(url).complete("k1")


@pytest.mark.parametrize("lost", ["manifest.json", "checkpoint.pth"])
def test_entry_that_is_damaged_in_the_bucket_is_not_complete(url, lost):
    store = Store(url)
    publish(store)
    store.bucket.remove([f"k1/{lost}"])
    shutil.rmtree(store.root)
    assert not Store(url).complete("k1")


def test_interrupted_upload_leaves_the_work_and_no_entry(url, monkeypatch):
    store = Store(url)
    upload = Bucket.upload

    def fail(self, path, name):
        if name.endswith("metrics.json"):
            raise RunError("away")
        upload(self, path, name)

    with monkeypatch.context() as patch, pytest.raises(RunError, match="away"):
        patch.setattr(Bucket, "upload", fail)
        publish(store)
    assert not store.complete("k1") and not store.entry("k1").exists()
    store.publish("k1", store.work("k1") / "entry")
    shutil.rmtree(store.root)
    assert store.complete("k1")


def test_lock_in_a_bucket_is_held_against_other_machines(url, tmp_path, monkeypatch):
    here = Store(url)
    monkeypatch.setenv("BACL_CACHE", str(tmp_path / "another machine"))
    there = Store(url)
    with here.lock("k1"):
        assert there.held("k1")
        with (
            pytest.raises(RunError, match=f"k1 is being built by process {os.getpid()} on "),
            there.lock("k1", patience=0.2),
        ):
            pass
    with there.lock("k1", patience=0.2):
        assert here.held("k1")


def test_publishing_without_the_lock_any_more_is_refused(url):
    store = Store(url)
    with store.lock("k1"):
        store._leases["k1"].lost = True
        with pytest.raises(RunError, match="another process builds job k1 by now"):
            publish(store)
    assert not store.complete("k1")


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_notes_are_written_listed_and_dropped(request, tmp_path, place):
    store = Store(request.getfixturevalue("url") if place == "bucket" else tmp_path / "store")
    assert store.note(".sweeps/a.json") is None and store.notes(".sweeps") == []
    store.write_note(".sweeps/a.json", "[]")
    store.write_note(".sweeps/a.json", "[1]")
    assert store.note(".sweeps/a.json") == "[1]" and store.notes(".sweeps") == [".sweeps/a.json"]
    store.drop_note(".sweeps/a.json")
    assert store.notes(".sweeps") == []


@contextlib.contextmanager
def as_nobody():
    """Without root's rights, which no permission holds back."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    "mode, use, expected",
    [
        (0o311, lambda folder: list(folder.iterdir()), "expected a folder that may be read"),
        (
            0o444,
            lambda folder: (folder / "x").read_bytes(),
            "expected a folder that may be entered",
        ),
        (0o555, lambda folder: (folder / "y").write_bytes(b""), "expected a writable place"),
    ],
)
def test_what_may_not_be_read_is_not_told_as_a_place_to_write(mode, use, expected):
    base = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own is for one user alone
    try:
        base.chmod(0o755)
        folder = base / "images"
        folder.mkdir()
        (folder / "x").write_bytes(b"x")
        folder.chmod(mode)
        with as_nobody(), pytest.raises(RunError) as told, disk_errors(Path("store")):
            use(folder)
        assert str(told.value).startswith(f"{folder}") and expected in str(told.value)
    finally:
        (base / "images").chmod(0o755)
        shutil.rmtree(base)


def test_file_that_may_not_be_read_is_told_as_such():
    base = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        base.chmod(0o755)
        (base / "train.json").write_text("{}")
        (base / "train.json").chmod(0o200)
        with as_nobody(), pytest.raises(RunError) as told, disk_errors(Path("store")):
            (base / "train.json").read_text()
        assert str(told.value).startswith(
            f"{base / 'train.json'}: expected a file that may be read"
        )
    finally:
        shutil.rmtree(base)
