"""A step and a look at two images of any configured detector: with its bank, and with each variant
alone."""

import copy

import bacl.register  # noqa: F401  before anything imports mmdet.models

# isort: split
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from bacl.detector.two_stage import frozen_trunk, model_config
from bacl.method_settings.paper import BACL, BCE, Hallucination
from bacl.settings import Detector, Recipe, Schedule

register_all_modules(init_default_scope=True)
torch.set_num_threads(1)

CATEGORIES = 5
SIDE = 64
NOTHING = "nothing is detected"
RECIPE = Recipe(schedule=Schedule(iterations=1, warmup=0), proposals=50, proposals_before_nms=50)
_MADE = Hallucination(categories=3, samples=2)
VARIANTS = {
    "bce": BCE(method="bce").model_dump(),
    "bacl": BACL(method="bacl", hallucination=_MADE).model_dump(),
}


def configuration(name, test_proposals=30):
    """A bank's detector by the name of its configuration, with few proposals and a small width.

    What is made small alters no kind of part.
    """
    detector = Detector(
        config=name,
        test_proposals=test_proposals,
        max_detections=20,
        rpn_samples=32,
        roi_samples=16,
    )
    model = model_config(detector, RECIPE, CATEGORIES, 0)
    shrink(model)
    heads = model["roi_head"]["bbox_head"]
    for head in heads if isinstance(heads, list) else [heads]:
        head["variants"] = VARIANTS
        if "fc_out_channels" in head:
            head["fc_out_channels"] = 64
    return {"type": "BankDetector", "freeze": frozen_trunk(model), **model}


def shrink(model):
    """Make a residual backbone narrow and not deep, where a neck stands after it."""
    backbone, neck = model["backbone"], model.get("neck")
    neck = neck[0] if isinstance(neck, list) else neck
    if backbone.get("depth", 50) > 50:
        backbone["depth"] = 50
    wide = [256, 512, 1024, 2048]
    if "depth" in backbone and neck and neck.get("in_channels") == wide and "rfp" not in str(neck):
        backbone["base_channels"] = 16
        if backbone.get("norm_cfg", {}).get("type") == "GN":
            backbone["norm_cfg"]["num_groups"] = 8
        neck["in_channels"] = [channels // 4 for channels in wide]


def built(config):
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(copy.deepcopy(config)))
    # without weights of ImageNet's, normalisation in evaluation mode lets numbers grow from block
    # to block: here it takes its statistics from the images once
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = None
            torch.nn.Module.train(module, True)
    with torch.no_grad():
        images = model.data_preprocessor(batch())["inputs"]
        model.extract_feat(images)
    return model


def alone(model, variant):
    """The same detector with one of its variants."""
    one = copy.deepcopy(model)
    one.drop([name for name in VARIANTS if name != variant])
    return one


def batch(masks=True):
    draw = torch.Generator().manual_seed(0)
    samples = []
    for position in range(2):
        corners = torch.randint(0, SIDE // 2, (3, 2), generator=draw).float()
        sizes = torch.randint(12, SIDE // 2, (3, 2), generator=draw)
        boxes = torch.cat([corners, corners + sizes], dim=1)
        truth = InstanceData(bboxes=boxes, labels=torch.arange(3) + position)
        if masks:
            bitmaps = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8).numpy()
            for bitmap, (x, y, right, below) in zip(bitmaps, boxes.int().tolist()):
                bitmap[y:below, x:right] = 1
            truth.masks = BitmapMasks(bitmaps, SIDE, SIDE)
        sample = DetDataSample(
            metainfo={
                "img_shape": (SIDE, SIDE),
                "ori_shape": (SIDE, SIDE),
                "scale_factor": (1.0, 1.0),
                "position": position,
                "img_id": position,
            },
            gt_instances=truth,
            ignored_instances=InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long()),
        )
        samples.append(sample)
    images = [torch.randint(0, 255, (3, SIDE, SIDE), generator=draw).byte() for _ in samples]
    return {"inputs": images, "data_samples": samples}


def step(model):
    """Losses of a step, and the gradients of its variants' parameters."""
    model.train()
    data = model.data_preprocessor(batch(), training=True)
    losses = model(**data, mode="loss")
    total, logged = model.parse_losses(losses)
    model.zero_grad()
    total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: float(value.detach()) for name, value in logged.items()}, gradients


@torch.no_grad()
def look(model):
    """What each variant detects in the images: boxes, scores, labels and masks."""
    model.eval()
    data = model.data_preprocessor(batch(), training=False)
    found = [sample.pred_instances for sample in model(**data, mode="predict")]
    names = list(model.banks()[0])
    return {
        name: [
            (
                image.bboxes[image.variant == number],
                image.scores[image.variant == number],
                image.labels[image.variant == number],
                [m for m, v in zip(image.get("masks", []), image.variant.tolist()) if v == number],
            )
            for image in found
        ]
        for number, name in enumerate(names)
    }


def differences(name):
    """What differs, in words, between a configuration's bank and each of its variants alone."""
    model = built(configuration(name))
    together, gradients = step(copy.deepcopy(model))
    seen = look(model)
    if not all(torch.tensor(value).isfinite() for value in together.values()):
        yield f"losses are not finite: {together}"
    if not sum(len(boxes) for boxes, *_ in seen["bce"]):
        yield NOTHING
    for variant in VARIANTS:
        one = alone(model, variant)
        losses, own = step(copy.deepcopy(one))
        for loss in losses:
            if loss != "loss" and loss in together and losses[loss] != together[loss]:
                yield f"{variant}: {loss} is {losses[loss]} alone and {together[loss]} in the bank"
        for parameter, gradient in own.items():
            if not torch.equal(gradient, gradients[parameter]):
                off = (gradient - gradients[parameter]).abs().max()
                yield f"{variant}: the gradient of {parameter} differs by {off}"
        for image, (mine, bank) in enumerate(zip(look(one)[variant], seen[variant])):
            # to rounding: a bank's columns lie side by side, where sigmoids are computed otherwise
            same = len(mine[1]) == len(bank[1]) and torch.allclose(mine[1], bank[1], atol=1e-6)
            if not same or len(mine[3]) != len(bank[3]):
                yield f"{variant}: detections in image {image} differ"
