import pytest
from dataset_folder import Folder


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "data")
