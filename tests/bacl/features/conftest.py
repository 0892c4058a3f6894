"""Features of the small embedded set that lose nothing."""

import pytest
from training import build, config_of_features, record

from bacl.settings import Features

EXACT = Features(dtype="float32", negatives=1000, layers=["pooled", "fc1"])
"""What loses nothing: all regions, as they are."""


@pytest.fixture(scope="session")
def exact(dataset_info, tmp_path_factory):
    """Folder of features that lose nothing, and weights of their detector."""
    folder = tmp_path_factory.mktemp("exact")
    config = config_of_features(dataset_info, EXACT)
    model = build(config)
    record(config, model, folder)
    return folder, model.state_dict()
