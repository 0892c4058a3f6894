"""torchvision's own detectors, and what they become here: the same detections."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_detectors import banked, detected, taken
from PIL import Image
from torch import nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn
from torchvision.ops import FrozenBatchNorm2d

from bacl.detector.imports.fitting import Wanted
from bacl.detector.imports.found import Options
from bacl.detector.imports.torchvision import published_categories

PHOTOS = Path(__file__).parents[5] / "shared" / "data" / "coco_photos"
PROPOSALS = 100
COCO = [name for name in published_categories() if name != "N/A"]


def detector(build, categories=91, frozen=None, images=None):
    """A detector of torchvision with random weights that detects many things.

    frozen: eps of its batch norms, where they are frozen. images: what it is shown is like these,
    which its statistics are of.
    """
    torch.manual_seed(0)
    found = build(
        weights=None,
        weights_backbone=None,
        num_classes=categories,
        rpn_pre_nms_top_n_test=PROPOSALS,
        rpn_post_nms_top_n_test=PROPOSALS,
    )
    body = found.backbone.body
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # one batch makes the statistics
    body.train()
    with torch.no_grad():
        shown = images or [image(160, 224, seed) for seed in range(2)]
        body(torch.stack([found.transform.normalize(one.float() / 255) for one in shown]))
        found.rpn.head.cls_logits.weight *= 6
        found.rpn.head.bbox_pred.weight *= 2
        found.roi_heads.box_predictor.cls_score.weight *= 4
        for module in (found.rpn.head.cls_logits, found.roi_heads.box_predictor.cls_score):
            module.bias.normal_(std=0.1)
    if frozen is not None:
        _freeze(body, frozen)
    # in float64, so that what rounding does to 50 layers hides no difference
    return found.eval().double()


def _freeze(module, eps):
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, eps)
            state = child.state_dict()
            state.pop("num_batches_tracked")
            frozen.load_state_dict(state)
            setattr(module, name, frozen)
        else:
            _freeze(child, eps)


def theirs(model, image):
    """What torchvision's own code detects in an image of bytes (3, height, width), as it is."""
    sides = sorted(image.shape[1:])
    model.transform.min_size, model.transform.max_size = (sides[0],), sides[1]
    with torch.no_grad():
        return model([image.double() / 255])[0]


def image(height, width, seed=0):
    return torch.from_numpy(
        np.random.default_rng(seed).integers(0, 256, (3, height, width), np.uint8)
    )


def saved(model, path):
    torch.save({name: value.float() for name, value in model.state_dict().items()}, path)
    return path


def assert_alike(own, other):
    assert len(own) == len(other["boxes"]) > 20
    torch.testing.assert_close(own.labels + 1, other["labels"])
    assert_close(own.scores, other["scores"])
    assert_close(own.bboxes, other["boxes"])


def assert_close(own, other):
    torch.testing.assert_close(own, other, rtol=0, atol=1e-3, check_dtype=False)


@pytest.mark.parametrize(("frozen", "eps"), [(None, None), (0.0, None), (1e-5, 1e-5)])
def test_faster_rcnn_detects_what_torchvision_does(tmp_path, frozen, eps):
    original = detector(fasterrcnn_resnet50_fpn, 8, frozen)
    path = saved(original, tmp_path / "theirs.pth")
    own = banked("torchvision_faster-rcnn_r50_fpn", 7, PROPOSALS)
    account = taken(own, path, Wanted(list("abcdefg"), "detector", 1, options=Options(eps)))
    assert account.source == "torchvision"
    assert not account.left_out and not account.anew
    own.double()
    for seed, size in enumerate([(160, 224), (128, 128)]):  # 160 is no multiple of the last stride
        shown = image(*size, seed)
        assert_alike(detected(own, shown), theirs(original, shown))


def test_mask_rcnn_masks_what_torchvision_does(tmp_path):
    original = detector(maskrcnn_resnet50_fpn, 8)
    own = banked("torchvision_mask-rcnn_r50_fpn", 7, PROPOSALS)
    taken(own, saved(original, tmp_path / "m.pth"), Wanted(list("abcdefg"), "detector", 1))
    own.double()
    shown, seen = image(160, 224), []
    original.roi_heads.mask_predictor.register_forward_hook(lambda *call: seen.append(call[-1]))
    own.roi_head.mask_head.register_forward_hook(lambda *call: seen.append(call[-1]))
    other, found = theirs(original, shown), detected(own, shown)
    assert_alike(found, other)
    # torchvision's masks have the background's first; here, rows are sorted by box
    logits = seen[0][torch.arange(len(found)), other["labels"]]
    ours = torch.cat(seen[1:])
    order = torch.cat([found.bboxes.float(), found.labels[:, None]], dim=1).unique(
        dim=0, return_inverse=True
    )[1]
    ours = ours[order, found.labels]
    assert_close(ours.sigmoid(), logits.sigmoid())


def test_published_columns_are_found_by_name(tmp_path):
    original = detector(fasterrcnn_resnet50_fpn)
    predictor = original.roi_heads.box_predictor
    gaps = [
        label for label, name in enumerate(["background", *published_categories()]) if name == "N/A"
    ]
    with torch.no_grad():
        predictor.cls_score.bias[gaps] = -100  # the published ones have learned that none shows
    path = saved(original, tmp_path / "theirs.pth")
    dataset = COCO[::-1]
    own = banked("torchvision_faster-rcnn_r50_fpn", 80, PROPOSALS)
    account = taken(own, path, Wanted(dataset, "detector", 1))
    assert account.categories == (
        "the dataset's 80 categories are among its 90, by name; 10 more are left out"
    )
    own.double()
    found, other = detected(own, image(160, 224)), theirs(original, image(160, 224))
    names = ["background", *published_categories()]
    assert [dataset[label] for label in found.labels] == [names[label] for label in other["labels"]]
    assert_close(found.scores, other["scores"])
    assert_close(found.bboxes, other["boxes"])


def test_names_of_earlier_releases_are_read_alike(tmp_path):
    state = detector(maskrcnn_resnet50_fpn, 4).float().state_dict()
    old = {}
    for name, value in state.items():
        name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        for part in ("inner_blocks", "layer_blocks"):
            for level in range(4):
                name = name.replace(f"{part}.{level}.0.", f"{part}.{level}.")
        for layer in range(4):
            name = name.replace(f"mask_head.{layer}.0.", f"mask_head.mask_fcn{layer + 1}.")
        old[name] = value
    torch.save(old, tmp_path / "old.pth")
    torch.save(state, tmp_path / "new.pth")
    states = []
    for name in ("old", "new"):
        own = banked("torchvision_mask-rcnn_r50_fpn", 3, PROPOSALS)
        assert not taken(own, tmp_path / f"{name}.pth", Wanted(list("abc"), "detector", 1)).anew
        states.append(own.state_dict())
    torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"needs the photographs in {PHOTOS}")
def test_photographs_show_the_same_detections(tmp_path):
    images = []
    for entry in json.loads((PHOTOS / "val.json").read_text())["images"][:3]:
        photo = Image.open(PHOTOS / "images" / entry["file_name"]).convert("RGB").resize((224, 160))
        images.append(torch.from_numpy(np.asarray(photo).copy()).permute(2, 0, 1))
    original = detector(fasterrcnn_resnet50_fpn, 8, images=images)
    own = banked("torchvision_faster-rcnn_r50_fpn", 7, PROPOSALS)
    taken(own, saved(original, tmp_path / "p.pth"), Wanted(list("abcdefg"), "detector", 1))
    own.double()
    for shown in images:
        assert_alike(detected(own, shown), theirs(original, shown))
