"""Ranks on machines: who does what once, and what stops all of them."""

import errno
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from ranks import on_ranks

from bacl.errors import RunError
from bacl_platform.store.store import Store
from bacl_platform.train.ranks import Agreed, machines

pytestmark = pytest.mark.slow

PLACES = ["a", "b", "b"]
"""The machine of each rank."""


def look(folder: Path, store: Store, access: dict[str, str]) -> None:
    rank = torch.distributed.get_rank()
    os.environ |= {**access, "BACL_CACHE": str(folder / PLACES[rank])}
    at = machines(pickle.loads(pickle.dumps(store)))
    called: list[str] = []
    at.each(lambda: called.append("each"))
    at.every(lambda: called.append("every"))

    def fail() -> None:
        if rank == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if rank == 2:
            raise RunError("the second to fail")

    said = ""
    try:
        at.every(fail)
    except Agreed as error:
        said = str(error)
    told = {"called": called, "main": at.main, "several": at.several, "said": said}
    (folder / f"{rank}.json").write_text(json.dumps(told))


def found(folder: Path) -> list[dict]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(3)]


def test_first_rank_of_each_machine_does_what_is_done_once_and_all_fail_together(url, tmp_path):
    access = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    on_ranks(look, 3, tmp_path, Store(url), access)
    ranks = found(tmp_path)
    assert [r["called"] for r in ranks] == [["each", "every"], ["each", "every"], ["every"]]
    assert [r["main"] for r in ranks] == [True, False, False]
    assert all(r["several"] for r in ranks)
    (said,) = {r["said"] for r in ranks}
    assert said.startswith(f"node {os.uname().nodename} (rank 1): no space left for {tmp_path}/b/")


def test_store_that_is_a_folder_has_all_ranks_on_one_machine(tmp_path):
    on_ranks(look, 3, tmp_path, Store(tmp_path / "store"), {})
    ranks = found(tmp_path)
    assert [r["called"] for r in ranks] == [["each", "every"], ["every"], ["every"]]
    assert all(r["main"] and not r["several"] for r in ranks)
    (said,) = {r["said"] for r in ranks}
    assert said.startswith(f"no space left for {tmp_path}/store: ")
