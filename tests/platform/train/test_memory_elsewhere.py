"""Memory of a process where there is neither /proc nor control groups, as on macOS."""

import resource
from types import SimpleNamespace

import psutil
import pytest

from bacl_platform.train import memory


@pytest.mark.parametrize(("system", "unit"), [("darwin", 1), ("freebsd14", 1024)])
def test_peak_is_the_systems_where_there_is_no_proc(monkeypatch, tmp_path, system, unit):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "none")
    monkeypatch.setattr(memory.sys, "platform", system)
    usage = SimpleNamespace(ru_maxrss=300 * 2**20 // unit)
    monkeypatch.setattr(resource, "getrusage", lambda who: usage)
    assert memory.resident() == 300


def test_room_is_the_machines_where_there_are_no_groups(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_GROUPS", ((tmp_path / "none", "memory.max", "memory.current"),))
    free = SimpleNamespace(available=5 * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    assert memory.available() == 5 * 2**30


def test_a_process_counts_in_full_where_shared_parts_are_not_told():
    process = SimpleNamespace(memory_full_info=lambda: SimpleNamespace(rss=7, uss=5))
    assert memory.own(process) == 7
