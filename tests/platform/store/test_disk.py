"""Errors of the disk, each told in a sentence."""

import shutil
import tempfile
from pathlib import Path

import pytest

from bacl.errors import RunError
from bacl_platform.store.disk import disk_errors


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
def test_what_may_not_be_read_is_not_told_as_a_place_to_write(mode, use, expected, as_nobody):
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


def test_file_that_may_not_be_read_is_told_as_such(as_nobody):
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
