"""What each rank tells of its machine."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub

from bacl_platform.train.hooks import system


@pytest.fixture
def told():
    return []


@pytest.fixture
def runner(request):
    """One whose steps take as many tenths of a second as they have numbers."""
    hub = MessageHub(request.node.name)
    for step in range(1, 26):
        hub.update_scalar("train/time", step / 10)
        hub.update_scalar("train/data_time", step / 100)
    return SimpleNamespace(iter=0, message_hub=hub)


def test_every_rank_tells_its_load_and_step_times_now_and_then(runner, told, monkeypatch):
    monkeypatch.setattr(system, "get_rank", lambda: 3)
    hook = system.System(told.append, "key", every=10, last=25)
    for runner.iter in range(25):
        hook.after_train_iter(runner, runner.iter)
    assert [message.key for message in told] == ["key"] * 3
    rows = [row for message in told for row in message.rows]
    assert [row.pop("step") for row in rows] == [10, 20, 25]
    for row in rows:
        assert all(name.startswith("system/rank3/") for name in row)
        assert row["system/rank3/step_seconds"] == pytest.approx(2.05)  # the mean of the last ten
        assert row["system/rank3/data_wait_seconds"] == pytest.approx(0.205)
        assert 0 < row["system/rank3/process_memory_megabytes"] < 1e6
        assert 0 < row["system/rank3/system_memory_usage_percentage"] <= 100
        assert row["system/rank3/cpu_utilization_percentage"] >= 0


def test_gpu_is_told_where_there_is_one_even_if_its_use_cannot_be_known(runner, told, monkeypatch):
    def unknown():
        raise RuntimeError("no library")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (30_000_000, 40_000_000))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 2_000_000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5_000_000)
    for utilization in (lambda: 60, unknown):
        monkeypatch.setattr(torch.cuda, "utilization", utilization)
        hook = system.System(lambda message: told.append(message.rows[0]), "key", every=1, last=1)
        hook.after_train_iter(runner, 0)
    known, other = ({k.split("/")[-1]: v for k, v in row.items() if "gpu" in k} for row in told)
    assert known.pop("gpu_utilization_percentage") == 60
    assert (
        known
        == other
        == {
            "gpu_memory_usage_percentage": 25,
            "gpu_memory_usage_megabytes": 10,
            "gpu_process_memory_megabytes": 2,
            "gpu_process_memory_peak_megabytes": 5,
        }
    )
