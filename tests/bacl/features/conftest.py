"""Features of the small embedded set, exact ones and thinned ones."""

import pytest
import torch
from training import DETECTOR, RECIPE, build

from bacl.config import features_config
from bacl.datasets.prepared import Prepared
from bacl.features import shards
from bacl.features.recording import Recorder
from bacl.settings import Features

EXACT = Features(dtype="float32", negatives=1000, layers=["pooled", "fc1"])
"""What loses nothing: all regions, as they are."""


@pytest.fixture(scope="session")
def record(dataset_info):
    """Makes shards in a folder; returns the detector that they are of."""

    def make(folder, features, wanted=None, seed=0, **recipe):
        recipe = RECIPE.model_copy(update=recipe)
        prepared = Prepared.load(dataset_info)
        config = features_config(DETECTOR, prepared, dataset_info, recipe, features, seed)
        torch.manual_seed(0)
        model = build(config)
        recorder = Recorder(model, config)
        folder.mkdir(exist_ok=True)
        for part, content in recorder.walk(recorder.parts() if wanted is None else wanted):
            shards.write(folder, part, content)
        return model

    return make


@pytest.fixture(scope="session")
def exact(record, tmp_path_factory):
    """Folder of features that lose nothing, and weights of their detector."""
    folder = tmp_path_factory.mktemp("exact")
    return folder, record(folder, EXACT).state_dict()
