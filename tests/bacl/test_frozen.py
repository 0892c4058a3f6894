"""The frozen trunk of the classifier stage: as at test, and nothing of it is kept for backward."""

from unittest.mock import patch

import pytest
import torch
from mmdet.registry import DATASETS
from saved import saved_storages
from training import backward, batch_of, build, config_of, stream_of

from bacl.detector.bank import BankDetector
from bacl.method_settings.paper import BACL, Hallucination, Softmax
from bacl.settings import FROZEN_TRUNK

VARIANTS = {
    "bacl": BACL(method="bacl", hallucination=Hallucination(categories=3, samples=4)),
    "softmax": Softmax(method="softmax"),
}


def forward(config, model):
    """A function that makes the losses of the first batch."""
    dataset = DATASETS.build(config["train_dataloader"]["dataset"])
    batch = batch_of(dataset, iter(stream_of(config, dataset)), 4)
    shown = model.data_preprocessor(batch, training=True)
    return lambda: model(**shown, mode="loss")


def watch(modules):
    """What the modules return from now on, all of it kept alive."""
    outputs = []

    def keep(_module, _inputs, output):
        outputs.extend(output if isinstance(output, (list, tuple)) else [output])

    for module in modules:
        module.register_forward_hook(keep)
    return outputs


@pytest.mark.parametrize("detector", ["faster_rcnn", "mask_rcnn"])
def test_nothing_of_the_frozen_trunk_is_kept_for_backward(dataset_info, detector):
    config = config_of(dataset_info, VARIANTS, detector=detector)
    model = build(config).train()
    head = model.roi_head.bbox_head
    trunk = [*model.backbone.modules(), *model.neck.modules(), model.roi_head.bbox_roi_extractor]
    inside = watch([*trunk, head.shared_fcs[0]])
    levels = watch([model.neck])
    kept = saved_storages(model, forward(config, model))
    assert len(inside) > 60 and not any(output.requires_grad for output in inside)
    handed_on = {level.untyped_storage().data_ptr() for level in levels}
    outputs = {output.untyped_storage().data_ptr() for output in inside} - handed_on
    assert kept.keys() & handed_on  # which the RPN learns over
    assert not kept.keys() & outputs


def test_frozen_parts_are_in_evaluation_mode_in_a_training_step(dataset_info):
    model = build(config_of(dataset_info, VARIANTS)).train()
    frozen = [model.backbone, model.neck, model.roi_head.bbox_head.shared_fcs]
    assert not any(module.training for part in frozen for module in part.modules())
    assert model.rpn_head.training and model.roi_head.bbox_head.variants.training


def test_classifier_stage_keeps_a_small_part_of_what_the_first_stage_keeps(dataset_info):
    kept = {}
    for freeze in ((), FROZEN_TRUNK):
        config = config_of(dataset_info, VARIANTS, freeze=freeze)
        model = build(config).train()
        kept[freeze] = sum(saved_storages(model, forward(config, model)).values())
    assert 0 < kept[FROZEN_TRUNK] < kept[()] / 4


def test_step_without_gradients_in_the_trunk_equals_the_step_with_them(dataset_info):
    config = config_of(dataset_info, VARIANTS)
    gradients = []
    for trained in (False, True):
        model = build(config).train()
        with patch.object(BankDetector, "_trains_pyramid", return_value=trained) as asked:
            backward(config, model)
        assert asked.called
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert (gradient is None) == name.startswith(("backbone", "neck", "roi_head.bbox_head.sha"))
        assert gradient is None or torch.equal(gradient, gradients[1][name]), name


@pytest.mark.parametrize("freeze", [(), ("backbone",), ("neck",)])
def test_pyramid_that_is_trained_in_part_takes_gradients(dataset_info, freeze):
    config = config_of(dataset_info, {"softmax": VARIANTS["softmax"]}, freeze=freeze)
    model = build(config).train()
    backward(config, model)
    for part in ("backbone", "neck"):
        taken = [p.grad is not None for p in model.get_submodule(part).parameters()]
        assert any(taken) == (part not in freeze)
