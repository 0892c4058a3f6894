"""Starting a classifier stage from a checkpoint, and refusing what does not fit."""

import pytest
import torch
from training import build, config_of

from bacl.detector.warmstart import load_trunk, read_checkpoint
from bacl.errors import RunError
from bacl.method_settings.paper import BACL, BCE, Hallucination, Softmax

HEAD = "roi_head.bbox_head"


@pytest.fixture(scope="module")
def parent(dataset_info):
    return build(config_of(dataset_info, {"bce": BCE(method="bce")}, freeze=())).state_dict()


@pytest.fixture
def bank(dataset_info):
    variants = {
        "bacl": BACL(method="bacl", hallucination=Hallucination(categories=4)),
        "softmax": Softmax(method="softmax"),
    }
    torch.manual_seed(1)
    model = build(config_of(dataset_info, variants))
    for parameter in model.parameters():
        parameter.data.add_(1)
    return model


def written(state, path):
    torch.save({"state_dict": state, "meta": {}}, path)
    return path


def test_trunk_and_every_classifier_start_from_the_parent(parent, bank, tmp_path):
    fresh = load_trunk(bank, written(parent, tmp_path / "p.pth"))
    assert fresh == []
    state = bank.state_dict()
    for name in ("bacl", "softmax"):
        classifier = state[f"{HEAD}.variants.{name}.fc_cls.weight"]
        assert torch.equal(classifier, parent[f"{HEAD}.variants.bce.fc_cls.weight"])
    assert torch.equal(state["backbone.conv1.weight"], parent["backbone.conv1.weight"])
    assert not state[f"{HEAD}.statistics.beta_0_9.seen"].any()


def test_frozen_part_missing_from_the_checkpoint_is_named(parent, bank, tmp_path):
    cut = {key: value for key, value in parent.items() if not key.startswith("neck.")}
    with pytest.raises(RunError, match="lacks the frozen part neck"):
        load_trunk(bank, written(cut, tmp_path / "p.pth"))


def test_checkpoint_of_another_number_of_categories_is_refused(parent, bank, tmp_path):
    other = dict(parent)
    other[f"{HEAD}.fc_reg.weight"] = torch.zeros(8, 24)
    with pytest.raises(RunError, match="another detector or number of categories"):
        load_trunk(bank, written(other, tmp_path / "p.pth"))


def test_truncated_checkpoint_is_refused_in_a_sentence(parent, tmp_path):
    path = written(parent, tmp_path / "p.pth")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(RunError, match=r"p\.pth: expected a whole checkpoint"):
        read_checkpoint(path)


def test_checkpoint_that_needs_code_is_refused(tmp_path):
    torch.save({"state_dict": {}, "hook": pytest.raises}, tmp_path / "p.pth")
    with pytest.raises(RunError, match="tensors and plain values"):
        read_checkpoint(tmp_path / "p.pth")


def test_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(RunError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "absent.pth")
