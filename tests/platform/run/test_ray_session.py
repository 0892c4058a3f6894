"""What a session of Ray leaves behind."""

import os

from bacl_platform.run.ray_session import ray_with

WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"


def test_own_ray_ends_without_settings_that_a_cluster_would_inherit(monkeypatch):
    """With this one left at 0, jobs on a cluster would not learn that a machine is reclaimed."""
    monkeypatch.delenv(WATCHER, raising=False)
    seen = []
    monkeypatch.setattr("ray.init", lambda **_: seen.append(os.environ.get(WATCHER)))
    with ray_with(1, None) as is_cluster:
        assert not is_cluster
    assert seen == ["0"] and WATCHER not in os.environ
    monkeypatch.setenv(WATCHER, "1")
    with ray_with(1, None):
        assert os.environ[WATCHER] == "1"
    assert os.environ[WATCHER] == "1"
