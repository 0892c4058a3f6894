"""Shards are whole, or are not trusted."""

import errno
import os

import pytest
import torch

from bacl.errors import RunError
from bacl.features import shards
from bacl.features.parts import EACH, Part, parts

PART = Part("train", 1, 100)
CONTENT = {"id": torch.arange(36), "fc2": torch.randn(36, 4)}


@pytest.fixture
def folder(tmp_path):
    """A folder with one shard."""
    shards.write(tmp_path, PART, CONTENT)
    return tmp_path


def test_parts_hold_each_view_and_image_once():
    made = parts(2 * EACH + 1, EACH)
    assert [part.name for part in made] == [
        "train-00000.pt",
        "train-00001.pt",
        "train-00002.pt",
        "val-00000.pt",
    ]
    views = [place for part in made if part.split == "train" for place in part.places]
    assert views == list(range(2 * EACH + 1))
    assert list(made[-1].places) == list(range(EACH))
    assert parts(EACH, 0) == [Part("train", 0, EACH)]


def test_shard_is_read_as_it_was_written(folder):
    assert shards.whole(folder, PART)
    content = shards.read(folder, PART)
    assert content.keys() == CONTENT.keys()
    for name, value in CONTENT.items():
        assert content[name].equal(value)
    assert [name for name, _ in shards.found(folder, "train")] == [PART.name]
    assert list(shards.found(folder, "val")) == []


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def alter(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: truncate(folder / PART.name),
        lambda folder: alter(folder / PART.name),
        lambda folder: (folder / PART.name).unlink(),
        lambda folder: (folder / shards.note(PART.name)).unlink(),
        lambda folder: (folder / shards.note(PART.name)).write_text(""),
        lambda folder: (folder / shards.note(PART.name)).write_text("[]"),
    ],
    ids=["truncated", "altered", "missing", "without a note", "empty note", "another note"],
)
def test_damaged_shard_is_not_whole(folder, damage):
    damage(folder)
    assert not shards.whole(folder, PART)
    shards.write(folder, PART, CONTENT)
    assert shards.whole(folder, PART)


@pytest.mark.parametrize("failing", ["save", "fsync", "digest"])
@pytest.mark.parametrize("before", [True, False])
def test_full_disk_leaves_nothing_half_there(tmp_path, monkeypatch, failing, before):
    if before:
        shards.write(tmp_path, PART, CONTENT)
    names = {path.name for path in tmp_path.iterdir()}

    def full(*args):
        if failing == "save":
            args[1].write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        what = {"save": (torch, "save"), "fsync": (os, "fsync"), "digest": (shards, "sha256")}
        patched.setattr(*what[failing], full)
        shards.write(tmp_path, PART, CONTENT)
    assert {path.name for path in tmp_path.iterdir()} == names
    assert shards.whole(tmp_path, PART) == before


def test_note_that_does_not_fit_leaves_a_shard_that_is_not_trusted(folder, monkeypatch):
    from pathlib import Path

    def full(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(Path, "write_text", full)
        shards.write(folder, PART, CONTENT)
    assert not shards.whole(folder, PART)


def test_what_a_killed_process_was_writing_is_removed(folder, monkeypatch):
    class Killed(BaseException):
        """Stands for the death of the process, which removes nothing."""

    def die(*args):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(torch, "save", die)
        patched.setattr("pathlib.Path.unlink", lambda *args, **options: None)
        shards.write(folder, PART, CONTENT)
    assert len(list(folder.iterdir())) == 3
    shards.clear(folder)
    assert {path.name for path in folder.iterdir()} == {PART.name, shards.note(PART.name)}
    assert shards.whole(folder, PART)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:99]), "a file that is damaged"),
        (lambda path: path.unlink(), "no such"),
        (lambda path: torch.save([1], path), "expected a shard of features, got something else"),
    ],
)
def test_damaged_shard_is_told_by_its_name(folder, damage, told):
    damage(folder / PART.name)
    with pytest.raises(RunError, match=told) as raised:
        shards.read(folder, PART)
    assert str(raised.value).startswith(str(folder / PART.name))
    assert "\n" not in str(raised.value)
