"""Checkpoints of a job: which are kept, and which can be relied on."""

import errno
import os
from pathlib import Path

import pytest

from bacl.errors import RunError
from bacl_platform.store.checkpoints import latest_checkpoint, write_checkpoint


def save(content: bytes):
    return lambda path: path.write_bytes(content)


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
