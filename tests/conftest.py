"""How the suite runs on two cores: what starts Ray one after the other, beside the rest."""

import os

import pytest

# Threads of several processes on few cores wait for each other more than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in its own hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests that start Ray in one of pytest-xdist's processes."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
