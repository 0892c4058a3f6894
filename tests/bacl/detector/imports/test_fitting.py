"""What of a checkpoint fits a stage's detector, and what is said where it does not."""

import argparse
import pickle
import re

import numpy as np
import pytest
import torch
from foreign_detectors import taken
from mmengine.logging import HistoryBuffer
from training import build, config_of

from bacl.detector.imports.convert import convert
from bacl.detector.imports.fitting import Wanted
from bacl.errors import RunError
from bacl.method_settings.paper import Softmax

NAMES = list("abcdef")
HEAD = "roi_head.bbox_head"


@pytest.fixture(scope="module")
def config(dataset_info):
    return config_of(dataset_info, {"detector": Softmax(method="softmax")}, freeze=())


@pytest.fixture(scope="module")
def cascade(dataset_info):
    variants = {"detector": Softmax(method="softmax")}
    return config_of(dataset_info, variants, freeze=(), detector="cascade_rcnn")


def plain(config, seed=1):
    """A checkpoint of a plain detector like that of a configuration."""
    torch.manual_seed(seed)
    state = build(config).state_dict()
    found = {name.replace("variants.detector.", ""): value for name, value in state.items()}
    return {name: value + torch.rand_like(value) for name, value in found.items()}


def written(state, path, **more):
    torch.save({"state_dict": state, **more}, path)
    return path


def wanted(categories=NAMES, **options):
    return Wanted(categories, "detector", 1, **options)


def test_every_stage_of_a_cascade_has_its_classifier(cascade, tmp_path):
    state = plain(cascade)
    own = build(cascade)
    account = taken(own, written(state, tmp_path / "c.pth"), wanted())
    assert account.loaded == len(state) and not account.anew
    for stage in range(3):
        found = own.state_dict()[f"{HEAD}.{stage}.variants.detector.fc_cls.weight"]
        assert torch.equal(found, state[f"{HEAD}.{stage}.fc_cls.weight"])


def test_categories_that_only_the_checkpoint_has_are_left_out(config, tmp_path):
    state = plain(config)
    names = ["b", "c", "a", "d", "f", "e", "x", "y"]
    eight = dict(state)
    for part in ("weight", "bias"):
        value, boxes = state[f"{HEAD}.fc_cls.{part}"], state[f"{HEAD}.fc_reg.{part}"].split(4)
        order = [NAMES.index(name) for name in names[:6]]
        spare = torch.full_like(value[:2], 7.0)
        eight[f"{HEAD}.fc_cls.{part}"] = torch.cat([value[order], spare, value[6:]])
        eight[f"{HEAD}.fc_reg.{part}"] = torch.cat([*(boxes[n] for n in order), *boxes[:2]])
    path = written(eight, tmp_path / "e.pth", meta={"CLASSES": names})
    own = build(config)
    account = taken(own, path, wanted())
    assert account.categories.endswith("among its 8, by name; 2 more are left out")
    found = own.state_dict()
    assert torch.equal(
        found[f"{HEAD}.variants.detector.fc_cls.weight"], state[f"{HEAD}.fc_cls.weight"]
    )
    assert torch.equal(found[f"{HEAD}.fc_reg.bias"], state[f"{HEAD}.fc_reg.bias"])


def test_other_categories_are_refused_with_the_first_names_and_counts(config, tmp_path):
    meta = {"dataset_meta": {"classes": ["a", "b", "cat", "d", "e", "f"]}}
    path = written(plain(config), tmp_path / "o.pth", meta=meta)
    said = (
        "expected the dataset's 6 categories, got 6 that lack 1 of them, such as 'c'; the first "
        "that differ are 'cat' there and 'c' here: `new_categories: true` begins anew"
    )
    with pytest.raises(RunError, match=re.escape(said)):
        taken(build(config), path, wanted())
    account = taken(build(config), path, wanted(own_categories=NAMES))
    assert "in the same order" in account.categories


def test_other_number_of_categories_without_names_is_refused(config, tmp_path):
    state = plain(config)
    state[f"{HEAD}.fc_cls.weight"] = torch.zeros(81, 24)
    with pytest.raises(RunError, match="the dataset's 6 categories, got 80 without names: `new_c"):
        taken(build(config), written(state, tmp_path / "n.pth"), wanted())


def test_columns_that_do_not_fit_the_names_are_refused(config, tmp_path):
    path = written(plain(config), tmp_path / "n.pth", meta={"CLASSES": list("abcdefg")})
    said = "a classifier of the 7 categories that it names itself and 1 more.* got 7 columns"
    with pytest.raises(RunError, match=said):
        taken(build(config), path, wanted())


def test_new_categories_begin_anew_over_the_same_trunk(config, tmp_path):
    state = plain(config)
    for part, width in (("weight", (24,)), ("bias", ())):
        state[f"{HEAD}.fc_cls.{part}"] = torch.zeros(81, *width)
        state[f"{HEAD}.fc_reg.{part}"] = torch.zeros(320, *width)
    own = build(config)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    account = taken(own, written(state, tmp_path / "n.pth"), wanted(new_categories=True))
    assert set(account.anew) == {
        f"{HEAD}.{part}.{kind}"
        for part in ("variants.detector.fc_cls", "fc_reg")
        for kind in ("weight", "bias")
    }
    for name, value in own.state_dict().items():
        assert torch.equal(value, before[name] if name in account.anew else state[name]), name


def test_class_agnostic_boxes_are_kept_for_new_categories(cascade, tmp_path):
    account = taken(
        build(cascade), written(plain(cascade), tmp_path / "n.pth"), wanted(new_categories=True)
    )
    assert all(".fc_cls." in name for name in account.anew)


def test_checkpoint_of_another_detector_is_refused(config, cascade, tmp_path):
    state = plain(config)
    narrow = {**state, "neck.fpn_convs.0.conv.weight": torch.zeros(8, 8, 3, 3)}
    with pytest.raises(
        RunError, match=r"neck\.fpn_convs\.0\.conv\.weight has shape \(8, 8, 3, 3\), exp"
    ):
        taken(build(config), written(narrow, tmp_path / "s.pth"), wanted())
    short = {name: value for name, value in state.items() if not name.startswith("neck.fpn")}
    with pytest.raises(RunError, match=r"lacks neck\.fpn_convs\.0.* more: the checkpoint is of an"):
        taken(build(config), written(short, tmp_path / "l.pth"), wanted())
    deep = {**state, "backbone.layer3.9.conv1.weight": torch.zeros(1)}
    with pytest.raises(
        RunError, match=r"has besides backbone\.layer3\.9\.conv1\.weight: the check"
    ):
        taken(build(config), written(deep, tmp_path / "d.pth"), wanted())
    with pytest.raises(RunError, match="of another detector"):
        taken(build(cascade), written(state, tmp_path / "c.pth"), wanted())


def test_parts_that_the_detector_lacks_are_told(config, tmp_path):
    state = {**plain(config), "roi_head.mask_head.conv_logits.bias": torch.zeros(6)}
    account = taken(build(config), written(state, tmp_path / "m.pth"), wanted())
    assert account.left_out == {
        "roi_head.mask_head.conv_logits.bias": "the detector has no such part"
    }
    assert account.lines()[-1] == (
        "left out: roi_head.mask_head.conv_logits.bias: the detector has no such part"
    )


def test_weights_in_half_precision_are_loaded_whole(config, tmp_path):
    state = {name: value.half() for name, value in plain(config).items()}
    own = build(config)
    taken(own, written(state, tmp_path / "h.pth"), wanted())
    assert own.state_dict()["backbone.conv1.weight"].dtype == torch.float32


def test_file_of_no_detector_is_refused(config, tmp_path):
    path = written({"layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "r.pth")
    said = (
        "a two-stage detector of torchvision, detectron2, bacl_release or mmdet, got those of lay"
    )
    with pytest.raises(RunError, match=said):
        taken(build(config), path, wanted())
    with pytest.raises(RunError, match="detector of torchvision, got those of"):
        taken(build(config), written(plain(config), path), wanted(source="torchvision"))


class Evil:
    """What runs code where a pickle is read without care."""

    def __reduce__(self):
        return (pytest.fail, ("code of the file ran",))


def test_checkpoint_with_objects_is_refused_and_can_be_converted(config, tmp_path):
    state = plain(config)
    history = HistoryBuffer(np.ones(3), np.ones(3))
    rest = {
        "message_hub": {"log_scalars": {"loss": history}},
        "args": argparse.Namespace(lr=0.1),
        "evil": Evil(),
        "meta": {"CLASSES": tuple(NAMES), "seed": np.int64(3)},
    }
    path = written(state, tmp_path / "epoch_12.pth", **rest)
    said = (
        r"only code can read: it holds .*; `python -m bacl\.detector\.imports\.convert .*NEW\.pth`"
    )
    with pytest.raises(RunError, match=said):
        taken(build(config), path, wanted())
    convert(path, tmp_path / "plain.pth")
    own = build(config)
    account = taken(own, tmp_path / "plain.pth", wanted())
    assert account.loaded == len(state)
    assert "in the same order" in account.categories
    assert torch.equal(own.state_dict()["backbone.conv1.weight"], state["backbone.conv1.weight"])


def test_pickled_arrays_of_detectron2_are_refused_and_can_be_converted(tmp_path):
    arrays = {"roi_heads.box_predictor.bbox_pred.bias": np.arange(4, dtype=np.float32)}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Zoo", "evil": Evil()}, 2))
    with pytest.raises(RunError, match=r"imports\.convert"):
        taken(torch.nn.Linear(1, 1), path, wanted())
    convert(path, tmp_path / "plain.pth")
    content = torch.load(tmp_path / "plain.pth", weights_only=True)
    assert content.keys() == {"model", "__author__"}
    assert content["model"]["roi_heads.box_predictor.bbox_pred.bias"].tolist() == [0, 1, 2, 3]


def test_file_that_is_no_checkpoint_cannot_be_converted(tmp_path):
    (tmp_path / "a.pth").write_text("words")
    with pytest.raises(RunError, match="expected a checkpoint, got what cannot be read"):
        convert(tmp_path / "a.pth", tmp_path / "b.pth")
