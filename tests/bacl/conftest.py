import pytest
import torch

import bacl.register  # noqa: F401  before anything imports mmdet.models
from bacl.datasets.annotations import prepare
from bacl.settings import Dataset


@pytest.fixture(scope="session")
def dataset_info(tmp_path_factory):
    """`dataset.json` of the small embedded set."""
    cache = tmp_path_factory.mktemp("datasets")
    prepared = prepare(Dataset(format="embedded", size="small"), cache)
    return cache / prepared.digest / "dataset.json"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Sums round otherwise with other numbers of threads, fixtures' as well as tests'."""
    torch.set_num_threads(1)
