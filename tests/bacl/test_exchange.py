"""Files between ranks, each of which has a root folder of its own, as on a machine of its own."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from ranks import on_ranks

from bacl import exchange
from bacl.errors import RunError

RANKS = 3
SIZES = (0, 1, 100, 101, 250)
"""Bytes of files, around the size of a part."""


def content(rank: int, size: int) -> bytes:
    return bytes((rank + place) % 251 for place in range(size))


def place(folder: Path, apart: list[int]) -> Path:
    """The folder that a rank sees as `<root>/shards`: rank 0's, unless it is on a machine apart."""
    rank = torch.distributed.get_rank()
    root = folder / (f"machine{rank}" if rank in apart else "machine0")
    os.chdir(root)
    return Path("shards")


def machines(folder: Path, apart: list[int]) -> None:
    for name in (0, *apart):
        (folder / f"machine{name}").mkdir()


def collect_all(folder: Path, apart: list[int], full: int | None) -> None:
    """Each rank collects its files; the disk of rank `full` takes no more, and it cannot be read
    where it is not rank 0."""
    exchange.AT_ONCE = 100
    rank = torch.distributed.get_rank()
    shards = place(folder, apart)
    shards.mkdir(exist_ok=True)
    names = [f"{size}.{rank}" for size in SIZES]
    for name, size in zip(names, SIZES, strict=True):
        (shards / name).write_bytes(content(rank, size))
    if rank == full:

        def refuse(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        exchange._append = exchange._read = refuse
    told = ""
    try:
        exchange.collect(shards, names)
    except RunError as error:
        told = str(error)
    (folder / f"told{rank}.json").write_text(json.dumps(told))


def told(folder: Path) -> list[str]:
    return [json.loads((folder / f"told{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.parametrize("apart", [[2], pytest.param([], marks=pytest.mark.slow)])
def test_rank_0_gets_the_files_of_all_ranks_wherever_they_are(tmp_path, apart):
    machines(tmp_path, apart)
    on_ranks(collect_all, RANKS, tmp_path, apart, None)
    assert told(tmp_path) == [""] * RANKS
    for rank in range(RANKS):
        for size in SIZES:
            found = tmp_path / "machine0/shards" / f"{size}.{rank}"
            assert found.read_bytes() == content(rank, size), found
    assert len(os.listdir(tmp_path / "machine0/shards")) == RANKS * len(SIZES)
    for rank in apart:  # nothing came to the others
        assert len(os.listdir(tmp_path / f"machine{rank}/shards")) == len(SIZES)


@pytest.mark.slow
@pytest.mark.parametrize("full", [0, 2])
def test_disk_of_one_rank_ends_all_with_one_sentence(tmp_path, full):
    machines(tmp_path, [1, 2])
    on_ranks(collect_all, RANKS, tmp_path, [1, 2], full)
    sentence, *others = told(tmp_path)
    assert others == [sentence] * 2
    assert f" (rank {full}): shards/" in sentence and "No space left on device" in sentence
    assert sentence.startswith("node ")


def hand_out_one(folder: Path, apart: list[int]) -> None:
    exchange.AT_ONCE = 100
    rank = torch.distributed.get_rank()
    place(folder, apart)
    exchange.hand_out(folder / "machine0/step_5", Path("received/step_5"), rank in apart)


def test_files_of_rank_0_come_to_the_ranks_that_keep_them(tmp_path):
    machines(tmp_path, [2])
    source = tmp_path / "machine0/step_5"
    source.mkdir()
    for size in SIZES:
        (source / f"{size}").write_bytes(content(0, size))
    on_ranks(hand_out_one, RANKS, tmp_path, [2])
    received = tmp_path / "machine2/received/step_5"
    assert {p.name: p.read_bytes() for p in received.iterdir()} == {
        str(size): content(0, size) for size in SIZES
    }
    assert os.listdir(tmp_path / "machine0") == ["step_5"]
