import pytest
import torch

import bacl.register  # noqa: F401  before anything imports mmdet.models


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Sums round otherwise with other numbers of threads, fixtures' as well as tests'."""
    torch.set_num_threads(1)
