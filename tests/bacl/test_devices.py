"""Steps and tests of everything on a device that is not the CPU: no tensor is left on the CPU, and
what comes out is what comes out there."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from batches import COUNTS, batch_of, built, drawn_labels
from everything import CONFIGS, GUIDED, OWN, detected, everything
from field import VARIANTS
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from simulated import DEVICE, here, simulated
from training import (
    CATEGORIES,
    build,
    config_of,
    config_of_features,
    on_features,
    record,
    rewritten,
    train,
)
from waiting import Waits

from bacl.export import export_variants
from bacl.features import shards
from bacl.features.stored import collate_images
from bacl.indicators import INDICATORS
from bacl.method_settings.corrections import CORRECTIONS
from bacl.method_settings.paper import FCBL
from bacl.settings import FROZEN_TRUNK, Features
from bacl.variants import METHODS
from bacl.variants import Softmax as SoftmaxVariant


def trained_and_tested(config, device, start, steps):
    """State after that many steps, and what the detector then finds."""
    model = build(config, start).to(device)
    train(config, model, steps)
    return model.state_dict(), detected(model.eval(), config)


def equal(found, expected):
    """Asserts that detections elsewhere are those on the CPU."""
    assert len(found) == len(expected) > 0
    for field, values in expected.items():
        if field == "masks":
            assert found.masks == values
        else:
            assert found[field].device == DEVICE, field
            torch.testing.assert_close(here(found[field]), values, msg=field)


@pytest.mark.parametrize(
    ("name", "steps", "ranks"),
    [
        ("everything", 3, 1),  # in the third, FASA has two epochs behind it
        ("everything", 3, 2),
        ("cascade_rcnn", 2, 2),
        ("mask_rcnn", 2, 1),
        ("iterative", 2, 1),
        ("resampling", 2, 1),
    ],
)
def test_training_and_test_are_what_they_are_on_the_cpu(dataset_info, tmp_path, name, steps, ranks):
    config = CONFIGS[name](dataset_info, tmp_path)
    start = build(config).state_dict()
    # one rank that believes in another, which has nothing to add
    with (
        patch("bacl.detector.bank.get_world_size", return_value=ranks),
        patch("bacl.detector.bank.all_reduce"),
    ):
        expected, detections = trained_and_tested(config, "cpu", start, steps)
        with simulated():
            state, found = trained_and_tested(config, DEVICE, start, steps)
    assert any(not torch.equal(value, start[key]) for key, value in expected.items())
    for key, value in expected.items():
        assert state[key].device == DEVICE, key
        torch.testing.assert_close(here(state[key]), value, msg=key)
    equal(found, detections)


def test_features_and_their_replay_are_what_they_are_on_the_cpu(dataset_info, tmp_path):
    split = rewritten(dataset_info, tmp_path, lambda place, *row: row if place < 12 else None)
    stored = Features(views=1, negatives=8, layers=["pooled", "fc1"], dtype="float32")
    recording = config_of_features(dataset_info, stored, train_split=split)
    start = build(recording).state_dict()
    record(recording, build(recording, start), tmp_path / "features")
    with simulated():
        record(recording, build(recording, start).to(DEVICE), tmp_path / "elsewhere")
    for name in ("train-00000.pt", "val-00000.pt"):
        found, expected = (shards.read(tmp_path / f, name) for f in ("elsewhere", "features"))
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, msg=key)

    freeze = [*FROZEN_TRUNK, "rpn_head"]
    config = everything(dataset_info, tmp_path, freeze=freeze, train_split=split, replayed=stored)
    on_features(config, tmp_path / "features")
    image = DATASETS.build(config["val_dataloader"]["dataset"])[0]

    def trained_and_tested(device):
        model = build(config).to(device)
        train(config, model, 3)
        with torch.no_grad():
            found = model.eval().test_step(collate_images([image]))[0].pred_instances
        return model.state_dict(), found

    expected, detections = trained_and_tested("cpu")
    with simulated():
        state, found = trained_and_tested(DEVICE)
    for key, value in expected.items():
        torch.testing.assert_close(here(state[key]), value, msg=key)
    equal(found, detections)


def test_every_method_and_indicator_is_among_them():
    methods = {settings.method for settings in (*VARIANTS.values(), *OWN.values())}
    assert methods == METHODS.module_dict.keys() - CORRECTIONS.keys()
    assert {settings.indicator for settings in GUIDED.values()} == set(INDICATORS.module_dict)


def test_exported_detectors_find_what_they_find_on_the_cpu(dataset_info, tmp_path):
    """One of each `loss_cls` of ours, and a variant that reads all layers."""
    names = ("sigmoid", "bce", "forest", "simcal")
    config = everything(dataset_info, tmp_path)
    config["model"]["test_cfg"]["rcnn"]["score_thr"] = 0.0
    export_variants(config, build(config).state_dict(), CATEGORIES, tmp_path)
    for name in names:
        model = MODELS.build(Config.fromfile(tmp_path / name / "config.py").model).eval()
        state = torch.load(tmp_path / name / "checkpoint.pth", weights_only=True)["state_dict"]
        model.load_state_dict(state)
        expected = detected(model, config)
        with simulated():
            equal(detected(model.to(DEVICE), config), expected)


def test_method_that_forgets_its_device_is_found(dataset_info):
    def forgetful(variant, logits, labels):
        return F.cross_entropy(logits, labels, reduction="none") + torch.zeros(len(labels))

    config = config_of(dataset_info, {"softmax": OWN["softmax"]})
    with patch.object(SoftmaxVariant, "loss", forgetful), simulated():
        model = build(config).to(DEVICE)
        with pytest.raises(
            RuntimeError, match=r"aten\.add\.Tensor.* got one of shape .* on the CPU"
        ):
            train(config, model, 1)


@pytest.mark.parametrize("indicator", sorted(INDICATORS.module_dict))
@pytest.mark.parametrize("ranks", [1, 2])
def test_step_of_fcbl_waits_for_no_device(indicator, ranks):
    counts = {"image_counts": COUNTS["images"], "instance_counts": COUNTS["instances"]}
    settings = FCBL(method="fcbl", indicator=indicator).model_dump()
    variant = built({**settings, "category_counts": counts})
    batch = batch_of(drawn_labels(2, 20))
    with simulated():
        variant.to(DEVICE)
        given = {name: getattr(batch, name).to(DEVICE) for name in ("features", "labels", "images")}
        there = replace(batch, **given)
        found = []
        with Waits(found.append):
            logits = variant.logits(there.features)
            variant.terms(logits, there)["cls"][0].backward()
            if ranks == 1:
                variant.update(logits, there)
            else:
                variant.add(variant.increment(logits, there))
            variant.strength()
        assert found == []


REFUSED = {
    "sum": lambda there: there + torch.zeros(3),
    "scalar there": lambda there: there.sum() + torch.zeros(3),
    "choice": lambda there: torch.where(there > 0, there, torch.zeros(3)),
    "stacked number": lambda there: torch.stack([there.sum(), torch.tensor(1.0)]),
    "rows": lambda there: there.index_add(0, torch.tensor([0]), there[:1]),
    "index": lambda there: there[torch.tensor([0])],
    "drawn there": lambda there: torch.rand(3, generator=torch.Generator(), device=there.device),
    "drawn here": lambda there: torch.rand(3, generator=torch.Generator(there.device)),
}
TAKEN = {
    "number": lambda there: there + torch.tensor(1.0),
    "choice of a number": lambda there: torch.where(there > 0, there, 0.0),
    "list": lambda there: there[[0, 1]],
    "moved": lambda there: there + torch.zeros(3).to(there.device),
    "copied": lambda there: there.clone().copy_(torch.zeros(3)),
    "made alike": lambda there: there[:2] + there.new_tensor([1, 2]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_simulated_device_refuses_what_is_on_the_cpu(name):
    with simulated(), pytest.raises(RuntimeError, match=r"expected .* got one"):
        REFUSED[name](torch.ones(3).to(DEVICE))


@pytest.mark.parametrize("name", TAKEN)
def test_simulated_device_takes_numbers_and_what_is_moved(name):
    expected = TAKEN[name](torch.ones(3))
    with simulated():
        found = TAKEN[name](torch.ones(3).to(DEVICE))
    assert found.device == DEVICE
    assert torch.equal(here(found), expected)
