"""A bank on stored features is the bank, but for what the features leave out."""

import pytest
import torch
from everything import BACL_VARIANT, OWN, detected
from features.conftest import EXACT
from mmdet.registry import DATASETS
from training import build, config_of, train

TRUNK = ("backbone", "neck", "rpn_head", "roi_head.bbox_head.shared_fcs")
VARIANTS = {"bacl": BACL_VARIANT, "softmax": OWN["softmax"], "bce": OWN["bce"]}


def configs(dataset_info, folder, variants=VARIANTS, freeze=TRUNK, **recipe):
    """The stage as it is, and on the features in `folder`."""
    plain = config_of(dataset_info, variants, freeze=freeze, **recipe)
    replayed = config_of(dataset_info, variants, freeze=freeze, replayed=EXACT, **recipe)
    for loader in ("train_dataloader", "val_dataloader"):
        replayed[loader]["dataset"]["folder"] = str(folder)
    return plain, replayed


def trained(config, state, steps=3):
    """Losses of some steps from the weights `state`, and the model after them."""
    told = []
    model = build(config)
    model.load_state_dict(state, strict=False)
    train(config, model, steps, told=told)
    return told, model


@pytest.mark.parametrize("sampler", ["random"])
def test_replay_of_all_regions_trains_as_the_exact_stage_does(dataset_info, exact, sampler):
    folder, state = exact
    (plain, one), (replayed, other) = (
        trained(config, state) for config in configs(dataset_info, folder, sampler=sampler)
    )
    names = ["loss_bbox", "bacl.loss_cls", "softmax.loss_cls", "bce.loss_cls"]
    for step, again in zip(plain, replayed, strict=True):
        assert {name: float(again[name]) for name in names} == pytest.approx(
            {name: float(step[name]) for name in names}, rel=1e-4
        )
    after = other.state_dict()
    for name, value in one.state_dict().items():
        torch.testing.assert_close(after[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_detections_of_stored_proposals_are_the_exact_ones_to_the_bit(dataset_info, exact):
    folder, state = exact
    plain, replayed = configs(dataset_info, folder)
    of_images = build(plain)
    of_images.load_state_dict(state, strict=False)
    of_features = build(replayed)
    of_features.load_state_dict(of_images.state_dict())
    stored = DATASETS.build(replayed["val_dataloader"]["dataset"])
    from bacl.features.stored import collate_images

    found = of_features.eval().test_step(collate_images([stored[0]]))[0].pred_instances
    expected = detected(of_images.eval(), plain)
    assert len(found) > 20
    for name in ("bboxes", "scores", "labels", "variant"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)
