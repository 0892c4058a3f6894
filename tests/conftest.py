"""How the suite runs on two cores: modules that start Ray first, each in one of the processes, then
the rest. And what tests of more than one folder ask for."""

import os
from pathlib import Path

import pytest

# Threads of several processes on few cores wait for each other more than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in its own hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a module's tests that start Ray in one of pytest-xdist's processes.

    It begins with the largest groups. Rays wait as much as they compute, so that two at a time are
    faster than one after the other, and what is short fills both processes to the end.
    """
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group(f"ray in {item.path.stem}"))


@pytest.fixture(scope="session")
def dataset_info(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`dataset.json` of the small embedded set."""
    from bacl.datasets.prepare import prepare
    from bacl.settings import Dataset

    cache = tmp_path_factory.mktemp("datasets")
    prepared = prepare(Dataset(format="embedded", size="small"), cache)
    return cache / prepared.digest / "dataset.json"


@pytest.fixture(scope="session")
def device() -> str:
    """What tests marked `gpu` compare with the CPU: CUDA, or what BACL_DEVICE names instead.

    With BACL_DEVICE=cpu they compare the CPU with itself, which tries their own code anywhere.
    On CUDA, float32 is computed in float32 and convolutions the same way every time.
    """
    import torch

    name = os.environ.get("BACL_DEVICE", "cuda")
    if torch.device(name).type == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device; BACL_DEVICE=cpu runs this test on the CPU")
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    return name
