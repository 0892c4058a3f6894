"""Test-time augmentation, and soft suppression, of a bank: alone and fused, by hand, exported."""

import copy

import pytest
import torch
from mmdet.registry import DATASETS
from mmengine.dataset import pseudo_collate
from torch import Tensor
from training import RECIPE, build, config_of, exported_and_own, train

from bacl.detector.postprocess import detect
from bacl.errors import UsageError
from bacl.method_settings.paper import BCE, Softmax
from bacl.settings import SeveralViews, SoftNMS

VARIANTS = {"bce": BCE(method="bce"), "softmax": Softmax(method="softmax")}
TTA = SeveralViews(scales=[(96, 96), (128, 128)])
KINDS = ["faster_rcnn", "cascade_rcnn"]


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def state(dataset_info, kind):
    """Weights after a few steps, so that detections are of several categories."""
    config = config_of(dataset_info, VARIANTS, detector=kind)
    model = build(config)
    train(config, model, 3)
    return model.state_dict()


def found(config, state, place=0):
    """Detections in a validation image, as a stage evaluates it."""
    model = build(config)
    model.load_state_dict({key: state[key] for key in model.state_dict()})
    dataset = DATASETS.build(config["val_dataloader"]["dataset"])
    with torch.no_grad():
        return model.eval().val_step(pseudo_collate([dataset[place]]))[0].pred_instances


def same(one, other):
    assert len(one) == len(other) > 0
    torch.testing.assert_close(one.bboxes, other.bboxes)
    torch.testing.assert_close(one.scores, other.scores)
    assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("options", [{"tta": TTA}, {"soft_nms": SoftNMS(method="gaussian")}])
def test_variant_in_a_bank_detects_as_alone(dataset_info, kind, state, options):
    bank = found(config_of(dataset_info, VARIANTS, detector=kind, **options), state)
    for index, (name, settings) in enumerate(VARIANTS.items()):
        alone = config_of(dataset_info, {name: settings}, detector=kind, **options)
        same(found(alone, state), bank[bank.variant == index])


def test_views_are_detected_in_together(dataset_info, kind, state):
    """The oracle resizes and mirrors pixels, takes what the head decodes of each view, mirrors it
    back, and looks for detections in all of it."""
    config = config_of(dataset_info, VARIANTS, detector=kind, tta=TTA)
    ours = found(config, state)
    regions: list[tuple[Tensor, Tensor]] = []
    for side in (96, 128):
        for flip in (False, True):
            plain = config_of(dataset_info, VARIANTS, detector=kind, test_scale=(side, side))
            model = build(plain, state).eval()
            head = model.heads()[-1]
            taken = []
            decode = head._decode

            def recorded(roi, bbox_pred, meta, rescale, decode=decode, taken=taken):
                taken.append(decode(roi, bbox_pred, meta, rescale))
                return taken[-1]

            def chosen(boxes, logits, *rest, choose=head.chosen, taken=taken):
                taken.append(logits)
                return choose(boxes, logits, *rest)

            head._decode, head.chosen = recorded, chosen
            sample = copy.deepcopy(DATASETS.build(plain["val_dataloader"]["dataset"])[0])
            if flip:
                sample["inputs"] = sample["inputs"].flip(2)
            model.val_step(pseudo_collate([sample]))
            boxes, logits = taken
            if flip:
                width = sample["data_samples"].ori_shape[1]
                boxes = boxes.view(len(boxes), -1, 4)[..., [2, 1, 0, 3]] * torch.tensor(
                    [-1, 1, -1, 1]
                )
                boxes = (boxes + torch.tensor([width, 0, width, 0])).flatten(1)
            regions.append((boxes, logits))
    boxes = torch.cat([boxes for boxes, _ in regions])
    logits = torch.cat([logits for _, logits in regions])
    bank = build(config, state).heads()[-1].bank().values()
    parts = logits.split([variant.columns for variant in bank], dim=1)
    for index, (variant, own) in enumerate(zip(bank, parts, strict=True)):
        expected = detect(boxes, variant.probabilities(own), build(config).test_cfg.rcnn)
        same(ours[ours.variant == index], expected)


def test_views_of_an_image_in_which_nothing_is_proposed_have_no_detections(
    dataset_info, kind, state
):
    config = config_of(dataset_info, VARIANTS, detector=kind, tta=TTA)
    config["model"]["test_cfg"]["rpn"]["min_bbox_size"] = 1e6
    assert len(found(config, state)) == 0


def test_exported_variant_suppresses_softly_and_sees_one_view(dataset_info, kind, tmp_path):
    options = {"soft_nms": SoftNMS(method="linear", min_score=1e-4), "tta": TTA}
    config = config_of(dataset_info, VARIANTS, detector=kind, **options)
    model = build(config)
    train(config, model, 2)
    one = config_of(dataset_info, VARIANTS, detector=kind, soft_nms=options["soft_nms"])
    single = copy.deepcopy(config)
    single["val_dataloader"]["dataset"] = one["val_dataloader"]["dataset"]
    for _, theirs, own in exported_and_own(single, model, tmp_path):
        same(theirs, own)


def test_views_are_refused_where_masks_are_detected(dataset_info):
    with pytest.raises(UsageError, match=r"recipe\.tta: expected nothing with detector\.type mask"):
        config_of(dataset_info, VARIANTS, detector="mask_rcnn", tta=TTA)


def test_options_of_evaluation_change_no_other_configuration(dataset_info):
    plain, given = (
        config_of(dataset_info, VARIANTS, **options)
        for options in ({}, {"tta": TTA, "soft_nms": SoftNMS()})
    )
    changed = {part for part in given if given[part] != plain.get(part)}
    assert changed == {"model", "val_dataloader", "test_pipeline"}
    assert given["model"]["train_cfg"] == plain["model"]["train_cfg"]
    assert RECIPE.tta is RECIPE.soft_nms is None
