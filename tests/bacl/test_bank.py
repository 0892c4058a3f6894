"""The bank's promises: variants do not touch each other, ranks and interruptions change nothing."""

import pytest
import torch
from training import (
    build,
    config_of,
    on_ranks,
    step_without_boxes_on_rank_1,
    train,
    train_and_save,
)

from bacl.errors import UsageError
from bacl.settings import BACL, BCE, FCBL, Hallucination, Softmax

HALLUCINATION = Hallucination(categories=3, samples=4)
VARIANTS = {
    "bacl": BACL(method="bacl", hallucination=HALLUCINATION),
    "fcbl": FCBL(method="fcbl"),
    "bce": BCE(method="bce"),
    "softmax": Softmax(method="softmax"),
}


def trunk_state(dataset_info, variants):
    """Start of a classifier stage that does not depend on which variants are in the bank."""
    return build(config_of(dataset_info, variants)).state_dict()


@pytest.fixture(scope="module")
def bank(dataset_info):
    model = build(config_of(dataset_info, VARIANTS))
    train(config_of(dataset_info, VARIANTS), model, 3)
    return model.state_dict()


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_in_a_bank_equals_the_variant_alone(dataset_info, bank, name):
    config = config_of(dataset_info, {name: VARIANTS[name]})
    start = trunk_state(dataset_info, VARIANTS)
    alone = build(config)
    alone.load_state_dict({k: start[k] for k in alone.state_dict()})
    train(config, alone, 3)
    for key, value in alone.state_dict().items():
        torch.testing.assert_close(value, bank[key], rtol=1e-5, atol=1e-6, msg=key)


def test_training_moves_classifiers_indicators_and_statistics_but_not_the_frozen_trunk(
    dataset_info, bank
):
    start = trunk_state(dataset_info, VARIANTS)
    moved = {key for key in bank if not torch.equal(bank[key], start[key])}
    for name in VARIANTS:
        assert f"roi_head.bbox_head.variants.{name}.fc_cls.weight" in moved
    assert "roi_head.bbox_head.variants.fcbl.indicator.tally" in moved
    assert "roi_head.bbox_head.statistics.beta_0_9.prototype" in moved
    assert "roi_head.bbox_head.fc_reg.weight" in moved and "rpn_head.rpn_cls.weight" in moved
    assert not any(key.startswith(("backbone.", "neck.")) or "shared_fcs" in key for key in moved)


def test_interrupted_and_resumed_equals_undisturbed(dataset_info, bank):
    config = config_of(dataset_info, VARIANTS)
    first = build(config)
    optimizer = train(config, first, 1)
    second = build(config, first.state_dict())
    train(config, second, 2, skip=1, optimizer_state=optimizer.state_dict())
    for key, value in second.state_dict().items():
        assert torch.equal(value, bank[key]), key


def test_two_ranks_equal_one(dataset_info, bank, tmp_path):
    on_ranks(train_and_save, 2, tmp_path, config_of(dataset_info, VARIANTS))
    two = torch.load(tmp_path / "0.pth", weights_only=True)
    for key, value in two.items():
        torch.testing.assert_close(value, bank[key], rtol=1e-4, atol=1e-5, msg=key)


def test_rank_without_ground_truth_neither_hangs_nor_differs(dataset_info, tmp_path):
    on_ranks(step_without_boxes_on_rank_1, 2, tmp_path, config_of(dataset_info, VARIANTS))
    states = [torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in (0, 1)]
    for key, value in states[0].items():
        assert value.isfinite().all() and torch.equal(value, states[1][key]), key
    assert states[0]["roi_head.bbox_head.statistics.beta_0_9.seen"].any()


def test_freeze_that_names_no_part_is_refused(dataset_info):
    with pytest.raises(UsageError, match=r"no part named neckk"):
        build(config_of(dataset_info, VARIANTS, freeze=["neckk"]))
