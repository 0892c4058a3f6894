"""The store inside a store: empty, usable, and gone at the end, whatever happens."""

import shutil
import tempfile
from pathlib import Path

import pytest

from bacl.errors import RunError
from bacl_platform.store import garbage
from bacl_platform.store.store import Store
from bacl_platform.tools.rehearsal.scratch import give, scratch


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_nothing_is_left_of_it(planned, store, fill):
    job = planned().jobs[0]
    fill([job], {("features", 0): 0.1})
    before = files(store.root)
    with scratch(store) as inner:
        assert inner.entries() == [] and not inner.complete(job.key)
        give(job.key, store, inner)
        assert inner.complete(job.key)
        folder = inner.work("0" * 16)
        folder.mkdir(parents=True)
        (folder / "x").write_text("x")
        inner.publish("0" * 16, folder)
        assert inner.complete("0" * 16)
        assert store.entries() == [job.key]  # the outer store shows nothing of it
    assert files(store.root) == before and store.complete(job.key)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_of_what_failed(store, error):
    with pytest.raises(error), scratch(store) as inner:
        inner.write_note(".sweeps/x", "")
        raise error
    assert not list(store.root.glob(".rehears*"))


def test_two_at_once_do_not_disturb_each_other(store):
    with scratch(store) as one:
        with scratch(store) as other:
            assert one.root != other.root
        assert one.root.is_dir() and not other.root.exists()


def test_place_that_cannot_be_written_is_told(as_nobody):
    base = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        store = Store(base / "store")
        store.root.mkdir()
        base.chmod(0o755)
        store.root.chmod(0o555)
        told = pytest.raises(RunError, match=f"{store.root}.*: expected a writable place")
        with as_nobody(), told, scratch(store):
            pass
    finally:
        store.root.chmod(0o755)
        shutil.rmtree(base)


@pytest.mark.slow
def test_bucket_has_one_too_with_what_it_is_given(url, prepared, datasets, planned, fill):
    outer = Store(url)
    outer.root.mkdir(parents=True)
    folder = outer.work("0" * 16)
    folder.mkdir(parents=True)
    (folder / "x").write_text("x")
    outer.publish("0" * 16, folder)
    before = outer.bucket.sizes("")
    with scratch(outer) as inner:
        give("0" * 16, outer, inner)
        assert inner.complete("0" * 16) and len(outer.bucket.sizes("")) > len(before)
        elsewhere = Store(inner.url)
        shutil.rmtree(elsewhere.root)  # as another machine, which has no cache of it
        assert elsewhere.complete("0" * 16)
    assert outer.bucket.sizes("") == before and not inner.root.exists()
    assert outer.entries() == ["0" * 16]


def test_killed_one_is_garbage(store):
    left = store.root / ".rehearsing" / "abc"
    left.mkdir(parents=True)
    (left / "x").write_text("xyz")
    (piece,) = garbage.find(store)
    assert (piece.name, piece.why, piece.bytes) == (
        ".rehearsing/abc",
        "left by a killed rehearsal",
        3,
    )
    garbage.remove(store, [piece])
    assert not left.exists()
