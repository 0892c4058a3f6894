"""The store: complete or not trusted, whatever happens in between."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bacl.errors import RunError
from bacl_platform.store.bucket import Bucket
from bacl_platform.store.store import Store


def publish(store: Store, key: str = "k1") -> Path:
    folder = store.work(key) / "entry"
    (folder / "variants").mkdir(parents=True)
    (folder / "checkpoint.pth").write_bytes(b"weights")
    (folder / "variants" / "metrics.json").write_text("{}")
    return store.publish(key, folder)


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


def test_cache_of_a_machine_is_its_own_or_where_it_has_none_as_the_planning_one_s(
    url, tmp_path, monkeypatch
):
    here = Store(url)
    monkeypatch.delenv("BACL_CACHE")
    there = pickle.loads(pickle.dumps(here))
    assert there.root == here.root and there.localised(str(here.root / "a")) == str(here.root / "a")
    monkeypatch.setenv("BACL_CACHE", str(tmp_path / "own"))
    there = pickle.loads(pickle.dumps(there))
    assert there.root == tmp_path / "own" / here.root.name
    assert there.localised(str(here.root / "a")) == str(there.root / "a")
    assert there.localised(f"{here.root}b") == f"{here.root}b"


def test_what_the_bucket_has_of_a_job_s_work_is_published_without_sending_it_again(
    url, monkeypatch
):
    store, sent = Store(url), []
    folder = store.work("k1") / "entry"
    folder.mkdir(parents=True)
    for name in ("made before", "grown since", "new"):
        (folder / name).write_text(name)
    for name, text in {"made before": "made before", "grown since": "grown"}.items():
        store.bucket.write(f".work/k1/entry/{name}", text)
    upload = Bucket.upload
    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "upload", lambda *args: (sent.append(args[2]), upload(*args)))
        store.publish("k1", folder)
    assert sorted(sent) == ["k1/grown since", "k1/manifest.json", "k1/new"]
    shutil.rmtree(store.root)
    assert store.complete("k1")
    assert (store.entry("k1") / "made before").read_text() == "made before"


def test_publishing_without_the_lock_any_more_is_refused(url):
    store = Store(url)
    with store.lock("k1"):
        store._leases["k1"].lost = True
        with pytest.raises(RunError, match="another process has taken over job k1"):
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
