"""Detectors of MMDetection's own types find what the variants that they were made of find."""

import copy

import pytest
import torch
from everything import CONFIGS
from mmdet.apis import inference_detector, init_detector
from mmdet.models.roi_heads.bbox_heads import BBoxHead, ConvFCBBoxHead, Shared2FCBBoxHead
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from torch import nn
from training import CATEGORIES, build, train

from bacl.config import bank_heads
from bacl.detector.layers import ConvFCs
from bacl.detector.plain import _plain_head, plain_detector, plain_text
from bacl.errors import UsageError
from bacl.export import export_variants
from bacl.method_settings.registry import METHODS as SETTINGS
from bacl.variants import METHODS, Softmax

REFUSED = {"bags", "disalign", "forest", "gol", "rio", "simcal", "tde"}


@pytest.fixture(scope="module")
def exported(dataset_info, tmp_path_factory):
    """Makes the exported variants of a bank of `everything.CONFIGS` after a step of training, with
    classifiers that are sure of something."""
    made = {}

    def export(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            config = CONFIGS[name](dataset_info, folder)
            torch.manual_seed(0)
            model = build(config)
            train(config, model, 1)
            with torch.no_grad():
                for key, parameter in model.named_parameters():
                    if key.endswith("fc_cls.weight"):
                        parameter.normal_(0, 0.3)
                    if key.endswith("fc_cls.bias"):
                        parameter.normal_(0, 2)
                        parameter[-1] = -4  # background's
            export_variants(config, model.state_dict(), CATEGORIES, folder)
            image = DATASETS.build(config["val_dataloader"]["dataset"]).get_data_info(0)
            made[name] = folder, bank_heads(config)[0]["variants"], image["img_path"]
        return made[name]

    return export


def loaded(folder):
    return init_detector(str(folder / "config.py"), str(folder / "checkpoint.pth"), device="cpu")


def made_plain(detector, settings, folder):
    """The detector as a configuration in MMDetection's types says it, and that configuration."""
    config = detector.cfg.to_dict()
    model, state = plain_detector(config, detector, settings)
    text = plain_text({**config, "custom_imports": None, "model": model})
    (folder / "plain.py").write_text(text, encoding="utf-8")
    plain = init_detector(Config.fromfile(folder / "plain.py"), None, device="cpu")
    plain.load_state_dict(state)  # has all weights and no others
    return plain


def own_types(model):
    """The modules that BACL brings."""
    return {type(part).__name__ for part in model.modules() if "bacl" in type(part).__module__}


def same(one, other):
    assert len(one) == len(other) > 0
    torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=1e-6)
    # equal scores may come in another order
    order, theirs = (
        sorted(range(len(found)), key=lambda place: found.bboxes[place].tolist())
        for found in (one, other)
    )
    torch.testing.assert_close(one.bboxes[order], other.bboxes[theirs])
    assert torch.equal(one.labels[order].sort().values, other.labels[theirs].sort().values)


@pytest.mark.parametrize("bank", ["everything", "cascade_rcnn", "mask_rcnn", "resampling"])
def test_plain_detectors_find_the_same_or_say_why_there_are_none(exported, bank):
    folder, variants, image = exported(bank)
    refused = set()
    for name, settings in variants.items():
        if name.startswith("by_"):  # bacl, which differs in training only
            continue
        detector = loaded(folder / name)
        try:
            plain = made_plain(detector, settings, folder)
        except UsageError as error:
            assert "\n" not in str(error) and str(error).startswith(f"method {name}: expected")
            refused.add(name)
            continue
        assert own_types(plain) == set()
        rcnn = {"score_thr": 1e-4, "max_per_img": 1000}  # all that it can be compared in
        for one in (plain, detector):
            one.roi_head.test_cfg.update(rcnn)
        found, expected = (
            inference_detector(one, image).pred_instances for one in (plain, detector)
        )
        same(found, expected)
        assert ("masks" in found) == ("masks" in expected)
        if "masks" in found:
            assert found.masks.sum() == expected.masks.sum() > 0
    assert refused == (REFUSED if bank == "everything" else set())


def test_every_method_says_how_mmdetection_scores_or_why_it_does_not():
    for name in SETTINGS:
        method = METHODS.get(name)
        assert (method.plain_loss is None) == (name in REFUSED)
        if name in REFUSED:
            assert method.not_plain != Softmax.not_plain


def test_iterative_box_heads_are_refused(exported):
    folder, variants, _ = exported("iterative")
    detector = loaded(folder / "pcb")
    with pytest.raises(UsageError, match=r"method pcb: .*regions pass its box head several times"):
        plain_detector(detector.cfg.to_dict(), detector, variants["pcb"])


def test_methods_that_change_what_they_inherit_are_refused(exported, monkeypatch):
    folder, variants, _ = exported("mask_rcnn")
    detector = loaded(folder / "bacl")
    monkeypatch.setattr(
        type(detector.roi_head.bbox_head.loss_cls),
        "get_activation",
        lambda self, logits: logits.sigmoid().square(),
    )
    with pytest.raises(UsageError, match=r"method bacl: .*its scores differ .* by [1-9]"):
        plain_detector(detector.cfg.to_dict(), detector, variants["bacl"])


def test_classifiers_of_other_kinds_are_refused(exported):
    folder, variants, _ = exported("mask_rcnn")
    detector = copy.deepcopy(loaded(folder / "bacl"))
    detector.roi_head.bbox_head.fc_cls = nn.Sequential(detector.roi_head.bbox_head.fc_cls)
    with pytest.raises(UsageError, match="its classifier is neither linear nor cosine"):
        plain_detector(detector.cfg.to_dict(), detector, variants["bacl"])


def test_parts_that_mmdetection_lacks_are_named(exported):
    folder, variants, _ = exported("mask_rcnn")
    detector = loaded(folder / "bacl")
    config = detector.cfg.to_dict()
    config["model"]["backbone"] = {"type": "ConvNeXt", "size": "tiny"}
    with pytest.raises(UsageError, match=r"ConvNeXt of bacl\.detector\.backbones: expected"):
        plain_detector(config, detector, variants["bacl"])


@pytest.mark.parametrize(
    "counts, expected",
    [
        ({}, Shared2FCBBoxHead),
        ({"num_shared_fcs": 0}, BBoxHead),
        ({"num_shared_convs": 4, "num_shared_fcs": 1}, ConvFCBBoxHead),
        ({"num_shared_fcs": 0, "num_cls_fcs": 1, "num_reg_convs": 2}, ConvFCBBoxHead),
    ],
)
def test_box_heads_have_the_same_layers(counts, expected):
    options = {"in_channels": 4, "num_classes": 3, "fc_out_channels": 5} | (
        {"conv_out_channels": 4} if any("convs" in name for name in counts) else {}
    )
    if not any(counts.values()) and counts:
        del options["fc_out_channels"]
    ours = ConvFCs(**counts, **options)
    plain = MODELS.build(_plain_head({**options, **counts, "type": "TopKBBoxHead"}))
    assert type(plain) is expected
    assert {n: p.shape for n, p in plain.state_dict().items()} == {
        n: p.shape for n, p in ours.state_dict().items()
    }
