"""Every method of the field keeps the bank's promises: alone or fused, on any number of ranks,
interrupted or not, exported or not, it is the same variant."""

import pytest
import torch
from field import VARIANTS, grown, in_short_epochs
from ranks import on_ranks
from training import (
    build,
    config_of,
    exported_and_own,
    step_without_boxes_on_rank_1,
    train,
    train_and_save,
)

from bacl.precision import BFloat16OptimWrapper

STEPS = 4


@pytest.fixture(scope="module")
def config(dataset_info, tmp_path_factory):
    variants = {**VARIANTS, "forest": grown(dataset_info, tmp_path_factory.mktemp("trees"))}
    config = in_short_epochs(config_of(dataset_info, variants, sampler="class_aware"))
    config["model"]["test_cfg"]["rcnn"]["score_thr"] = 0.0
    return config


@pytest.fixture(scope="module")
def start(config):
    return build(config).state_dict()


@pytest.fixture(scope="module")
def bank(config, start):
    model = build(config, start)
    train(config, model, STEPS)
    return model.state_dict()


def alone(config, name):
    head = config["model"]["roi_head"]["bbox_head"]
    own = {**head, "variants": {name: head["variants"][name]}}
    roi_head = {**config["model"]["roi_head"], "bbox_head": own}
    return {**config, "model": {**config["model"], "roi_head": roi_head}}


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_in_a_bank_equals_the_variant_alone(config, start, bank, name):
    own = alone(config, name)
    model = build(own)
    model.load_state_dict({key: start[key] for key in model.state_dict()})
    train(own, model, STEPS)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, bank[key], rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", VARIANTS)
def test_training_moves_the_variant(start, bank, name):
    own = [key for key in bank if f".variants.{name}." in key]
    assert own and any(not torch.equal(bank[key], start[key]) for key in own)
    assert all(bank[key].isfinite().all() for key in own)


def test_interrupted_and_resumed_equals_undisturbed(config, start, bank):
    first = build(config, start)
    optimizer = train(config, first, 2)
    second = build(config, first.state_dict())
    train(config, second, STEPS - 2, skip=2, optimizer_state=optimizer.state_dict())
    for key, value in second.state_dict().items():
        assert torch.equal(value, bank[key]), key


@pytest.mark.slow
def test_two_ranks_equal_one(config, start, tmp_path):
    single = build(config)
    train(config, single, 3)
    on_ranks(train_and_save, 2, tmp_path, config)
    two = torch.load(tmp_path / "0.pth", weights_only=True)
    for key, value in two.items():
        torch.testing.assert_close(value, single.state_dict()[key], rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.slow
def test_rank_without_boxes_neither_hangs_nor_differs(config, tmp_path):
    on_ranks(step_without_boxes_on_rank_1, 2, tmp_path, config)
    first, second = (torch.load(tmp_path / f"{r}.pth", weights_only=True) for r in (0, 1))
    for key, value in first.items():
        assert torch.equal(value, second[key]) and value.isfinite().all(), key


@pytest.mark.parametrize(
    "name", sorted(VARIANTS.keys() - {"disalign", "simcal"})
)  # these follow a stage
def test_every_method_trains_the_whole_detector(config, name):
    own = alone(config, name)
    own = {**own, "model": {**own["model"], "freeze": []}}
    model = build(own)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    train(own, model, 2)
    after = model.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    for part in ("backbone.conv1.weight", "roi_head.bbox_head.shared_fcs.0.weight"):
        assert not torch.equal(after[part], before[part])


def test_bfloat16_trains_every_method(config, start):
    model = build(config, start)
    train(config, model, STEPS, wrapper=BFloat16OptimWrapper)
    for key, value in model.state_dict().items():
        assert value.isfinite().all(), key


def test_exported_variants_detect_as_in_the_bank(config, start, tmp_path):
    model = build(config, start)
    train(config, model, 2)
    compared = list(exported_and_own(config, model, tmp_path))
    assert [name for name, _, _ in compared] == list(VARIANTS)
    for name, theirs, mine in compared:
        assert len(mine) == len(theirs) > 0, name
        torch.testing.assert_close(mine.scores, theirs.scores, msg=name)
        assert torch.equal(mine.labels, theirs.labels), name
