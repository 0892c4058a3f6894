"""PCB's iterative box head: RoI features pass it several times, in training, test and export."""

import pytest
import torch
from ranks import on_ranks
from training import (
    backward,
    build,
    config_of,
    exported_and_own,
    train,
    train_and_save,
)

from bacl.method_settings.adaptive import PCB

PASSES = [0.2, 0.2, 0.6]
MINE = "roi_head.bbox_head.variants.mine"


@pytest.fixture(scope="module", params=["faster_rcnn", "cascade_rcnn"])
def config(dataset_info, request):
    variants = {"mine": PCB(method="pcb", start=0, passes=PASSES)}
    config = config_of(dataset_info, variants, freeze=(), detector=request.param)
    config["model"]["test_cfg"]["rcnn"]["score_thr"] = 0.0
    return config


def stirred(model):
    """With refinements far from the identity, which they start as."""
    for name, parameter in model.named_parameters():
        if ".mine.s" in name:  # shift and scale
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model


def first(head):
    return head[0] if isinstance(head, torch.nn.ModuleList) else head


def test_each_pass_sees_what_the_one_before_has_refined(config):
    head = first(stirred(build(config)).roi_head.bbox_head)
    variant, pooled = head.variants.mine, torch.randn(5, 16, 7, 7)
    with torch.no_grad():
        head.train()
        seen, deltas = head(pooled)
        x, expected = pooled, []
        for number in range(3):
            h = x.flatten(1)
            for fc in head.shared_fcs:
                h = torch.relu(fc(h))
            expected.append(h)
            boxes = head.fc_reg(h)
            if number < 2:
                scale = variant.scale(boxes).view(5, 1, 7, 7)
                shift = variant.shift(variant.fc_cls(h)).view(5, 16, 1, 1)
                x = x * scale + shift
        torch.testing.assert_close(seen, torch.cat(expected, dim=1))
        torch.testing.assert_close(deltas, boxes)
        head.eval()
        logits, _ = head(pooled)
    torch.testing.assert_close(logits.chunk(3, dim=1)[2], variant.fc_cls(expected[2]))


def test_refinements_learn_from_classes_and_boxes(config):
    model = stirred(build(config))
    backward(config, model)
    mine = first(model.roi_head.bbox_head).variants.mine
    for part in (mine.shift, mine.scale):
        assert all(parameter.grad.abs().sum() > 0 for parameter in part.parameters())


@pytest.mark.parametrize("config", ["faster_rcnn"], indirect=True)
def test_two_ranks_equal_one(config, tmp_path):
    single = build(config)
    train(config, single, 3)
    on_ranks(train_and_save, 2, tmp_path, config)
    two = torch.load(tmp_path / "0.pth", weights_only=True)
    for key, value in two.items():
        torch.testing.assert_close(value, single.state_dict()[key], rtol=1e-4, atol=1e-5, msg=key)


def test_interrupted_and_resumed_equals_undisturbed(config):
    start = build(config).state_dict()
    whole = build(config, start)
    train(config, whole, 4)
    begun = build(config, start)
    optimizer = train(config, begun, 2)
    resumed = build(config, begun.state_dict())
    train(config, resumed, 2, skip=2, optimizer_state=optimizer.state_dict())
    for key, value in resumed.state_dict().items():
        assert torch.equal(value, whole.state_dict()[key]), key


def test_exported_detects_as_in_the_bank(config, tmp_path):
    model = stirred(build(config))
    train(config, model, 2)
    ((_, theirs, mine),) = exported_and_own(config, model, tmp_path)
    assert len(mine) == len(theirs) > 0
    torch.testing.assert_close(mine.scores, theirs.scores)
    torch.testing.assert_close(mine.bboxes, theirs.bboxes)
