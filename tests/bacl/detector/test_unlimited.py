"""What detectors hand on beyond their limit per image, against detectors without the limit."""

import math

import pytest
import torch
from mmdet.apis import inference_detector, init_detector
from mmdet.registry import DATASETS
from mmengine.dataset import pseudo_collate
from training import CATEGORIES, build, config_of
from training import train as trained

from bacl.detector.unlimited import hand_on
from bacl.export import export_variants
from bacl.method_settings.paper import BCE, Softmax
from bacl.settings import SeveralViews, SoftNMS

VARIANTS = {"bce": BCE(method="bce"), "softmax": Softmax(method="softmax")}
LIMIT = 4


class Kept:
    """Takes everything, above thresholds of its own."""

    def __init__(self, lowest=-math.inf):
        self.least, self.found, self.connected = lowest, {}, False

    def connect(self):
        self.connected = True

    def lowest(self, variant, like):
        return torch.full((len(CATEGORIES),), self.least)

    def take(self, image, variant, best, rest):
        assert (image, variant) not in self.found
        self.found[image, variant] = rest


def model_of(config, state, limit):
    config["model"]["test_cfg"]["rcnn"]["max_per_img"] = limit
    model = build(config)
    model.load_state_dict({key: state[key] for key in model.state_dict()})
    return model.eval()


def found_in(model, config, place):
    dataset = DATASETS.build(config["val_dataloader"]["dataset"])
    with torch.no_grad():
        return model.val_step(pseudo_collate([dataset[place]]))[0].pred_instances


def as_set(boxes, scores, labels):
    rows = torch.cat([boxes, scores[:, None], labels[:, None]], dim=1)
    return sorted(rows.double().mul(1e3).round().tolist())


def check(model, whole, config, place=1):
    """What a model finds in an image, and hands on, is what one finds without a limit."""
    kept = Kept()
    assert hand_on(model, kept) and kept.connected
    limited = found_in(model, config, place)
    every = found_in(whole, config, place)
    more = 0
    for number in range(len(VARIANTS)):
        best = limited[limited.variant == number]
        boxes, scores, labels = kept.found[place, number]
        assert len(best) <= LIMIT
        more += len(scores)
        own = every[every.variant == number]
        joined = [
            torch.cat(parts)
            for parts in zip((best.bboxes, best.scores, best.labels), (boxes, scores, labels))
        ]
        assert as_set(*joined) == as_set(own.bboxes, own.scores, own.labels)
    assert more > 0


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("faster_rcnn", {}),
        ("cascade_rcnn", {}),
        ("mask_rcnn", {}),
        ("faster_rcnn", {"tta": SeveralViews(scales=[(96, 96), (128, 128)])}),
    ],
)
def test_detectors_hand_on_what_the_limit_leaves_out(dataset_info, kind, options):
    config = config_of(dataset_info, VARIANTS, detector=kind, **options)
    model = build(config)
    trained(config, model, 2)
    state = model.state_dict()
    whole = model_of(config_of(dataset_info, VARIANTS, detector=kind, **options), state, 10_000)
    check(model_of(config, state, LIMIT), whole, config)


def test_exported_variant_hands_on_what_the_bank_does(dataset_info, tmp_path):
    config = config_of(dataset_info, VARIANTS)
    config["model"]["test_cfg"]["rcnn"]["max_per_img"] = LIMIT
    model = build(config)
    trained(config, model, 2)
    bank = Kept()
    assert hand_on(model.eval(), bank)
    found_in(model, config, 0)
    export_variants(config, model.state_dict(), CATEGORIES, tmp_path)
    image = DATASETS.build(config["val_dataloader"]["dataset"]).get_data_info(0)["img_path"]
    for number, name in enumerate(VARIANTS):
        files = [str(tmp_path / name / file) for file in ("config.py", "checkpoint.pth")]
        exported, own = init_detector(*files, device="cpu"), Kept()
        assert hand_on(exported, own)
        inference_detector(exported, image)
        (there,) = own.found.values()
        assert len(there[1]) > 0
        for one, other in zip(there, bank.found[0, number], strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("options", [{"soft_nms": SoftNMS(method="linear")}])
def test_detectors_that_suppress_otherwise_do_not(dataset_info, options):
    model, kept = build(config_of(dataset_info, VARIANTS, **options)), Kept()
    assert not hand_on(model, kept)
    assert not kept.connected and not hand_on(torch.nn.Linear(1, 1), kept)
