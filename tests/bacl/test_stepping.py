"""Clipped gradients and accumulated steps, against steps that are written out."""

import copy

import pytest
import torch
from everything import CONFIGS
from mmdet.registry import DATASETS
from ranks import on_ranks
from training import (
    assert_alone_is_as_in_the_bank,
    assert_resumed_is_undisturbed,
    backward,
    batch_of,
    build,
    config_of,
    optimize,
    optimize_and_save,
    stream_of,
)

from bacl.method_settings.paper import BACL, FCBL, Hallucination, Softmax
from bacl.settings import Clipping, Schedule
from bacl.stepping import SteppingAmpOptimWrapper, SteppingOptimWrapper

VARIANTS = {
    "bacl": BACL(method="bacl", hallucination=Hallucination(categories=3, samples=4)),
    "fcbl": FCBL(method="fcbl"),
    "softmax": Softmax(method="softmax"),
}
SCHEDULE = Schedule(iterations=6, batch=8, lr=0.02, lr_batch=8, warmup=0)
RECIPES = {
    "clipped": {"clip_grad": Clipping(max_norm=0.05)},
    "in parts": {"accumulate": 2},
    "both, cascade": {
        "detector": "cascade_rcnn",
        "clip_grad": Clipping(max_norm=0.05, norm_type=1),
        "accumulate": 2,
    },
}


def configured(dataset_info, variants=VARIANTS, **recipe):
    return config_of(dataset_info, variants, **{"schedule": SCHEDULE, **recipe})


@pytest.fixture(scope="module", params=RECIPES)
def trained(request, dataset_info):
    """Recipe, configuration of a bank, weights before and after three steps."""
    config = configured(dataset_info, **RECIPES[request.param])
    model = build(config)
    start = copy.deepcopy(model.state_dict())
    optimize(config, model, 3)
    return RECIPES[request.param], config, start, model.state_dict()


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant_in_a_bank_equals_the_variant_alone(dataset_info, trained, variant):
    recipe, _, start, bank = trained
    config = configured(dataset_info, {variant: VARIANTS[variant]}, **recipe)
    assert_alone_is_as_in_the_bank(config, start, bank)


def test_interrupted_and_resumed_equals_undisturbed(trained):
    _, config, start, bank = trained
    assert_resumed_is_undisturbed(config, start, bank)


def test_two_ranks_equal_one(trained, tmp_path):
    _, config, _, bank = trained
    on_ranks(optimize_and_save, 2, tmp_path, config, 3)
    for key, value in torch.load(tmp_path / "0.pth", weights_only=True).items():
        torch.testing.assert_close(value, bank[key], rtol=1e-4, atol=1e-5, msg=key)


def gradients(model, wrapper, parts=1):
    """A copy of the gradients by name, after the wrapper has clipped those of the model."""
    wrapper.initialize_count_status(model, 0, 4)
    wrapper._clip_grad()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["cascade_rcnn", "faster_rcnn"])
def test_gradients_are_clipped_by_the_norm_of_their_own_group(dataset_info, kind):
    """The oracle tells groups by names, and scales each by its norm."""
    config = configured(dataset_info, detector=kind, clip_grad=Clipping(max_norm=0.05))
    model = build(config).train()
    backward(config, model)
    before = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    options = config["optim_wrapper"]
    assert options["by_variant"]
    trained = [p for p in model.parameters() if p.requires_grad]
    wrapper = SteppingOptimWrapper(
        torch.optim.SGD(trained, 0.1), clip_grad=dict(options["clip_grad"]), by_variant=True
    )
    after = gradients(model, wrapper)
    groups = {}
    for name in before:
        owner = name.split(".variants.")[1].split(".")[0] if ".variants." in name else ""
        groups.setdefault(owner, []).append(name)
    assert groups.keys() == {"", *VARIANTS}
    norms = {}
    for owner, names in groups.items():
        norms[owner] = sum(float(before[n].double().square().sum()) for n in names) ** 0.5
        factor = min(1, 0.05 / (norms[owner] + 1e-6))
        for name in names:
            torch.testing.assert_close(after[name], before[name] * factor, msg=name)
    assert sum(norm > 0.05 for norm in norms.values()) >= 2


def test_all_gradients_of_stage_1_are_clipped_by_one_norm(dataset_info):
    config = configured(
        dataset_info,
        {"softmax": VARIANTS["softmax"]},
        freeze=(),
        clip_grad=Clipping(max_norm=0.05),
    )
    assert not config["optim_wrapper"]["by_variant"]
    model = build(config).train()
    backward(config, model)
    trained = list(model.parameters())
    wrapper = SteppingOptimWrapper(torch.optim.SGD(trained, 0.1), clip_grad={"max_norm": 0.05})
    after = gradients(model, wrapper)
    norm = sum(float(grad.double().square().sum()) for grad in after.values()) ** 0.5
    assert norm == pytest.approx(0.05, rel=1e-3)


def test_accumulated_step_is_the_mean_of_its_parts_with_state_from_before_it(dataset_info):
    """The oracle passes the images by pairs, 0 and 2, then 1 and 3, each time with the state of
    before the step."""
    config = configured(dataset_info, accumulate=2, schedule=SCHEDULE)
    ours, theirs = build(config), build(config)
    start = copy.deepcopy(theirs.state_dict())
    optimize(config, ours, 1)

    dataset = DATASETS.build(config["train_dataloader"]["dataset"])
    batch = batch_of(dataset, iter(stream_of(config, dataset)), 8)
    theirs.train()
    for places in ((0, 1, 4, 5), (2, 3, 6, 7)):
        part = {name: [copy.deepcopy(items[p]) for p in places] for name, items in batch.items()}
        theirs.load_state_dict(start)
        losses = theirs(**theirs.data_preprocessor(part, True), mode="loss")
        (theirs.parse_losses(losses)[0] / 2).backward()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.grad is not None:
                decayed = parameter.grad + 1e-4 * parameter
                expected = parameter - 0.02 * decayed
                found = ours.get_parameter(name)
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7, msg=name)


def test_state_of_every_method_moves_by_all_parts_of_a_step_as_by_one(dataset_info, tmp_path):
    """After the first step, before which all have the same weights."""
    schedule = Schedule(iterations=4, batch=8, lr=1e-6, lr_batch=8, warmup=0)
    states = {}
    for parts in (1, 2, 4):
        config = CONFIGS["everything"](dataset_info, tmp_path, schedule=schedule, accumulate=parts)
        config["model"]["roi_head"]["bbox_head"]["variants"]["fasa"]["epoch"] = 8
        model = build(config)
        before = copy.deepcopy(model.state_dict())
        optimize(config, model, 1)
        learnt = {name for name, _ in model.named_parameters()}
        states[parts] = {n: v for n, v in model.state_dict().items() if n not in learnt}
    moved = {name for name, value in states[1].items() if not torch.equal(value, before[name])}
    with_state = {name.split(".")[3] for name in states[1] if ".variants." in name}
    moving = with_state - {"by_image_frequency", "by_instance_frequency"}  # of counts that stay
    assert moving == {name.split(".")[3] for name in moved if ".variants." in name}
    assert {"eqlv2", "gol", "rog"} < moving
    for parts in (2, 4):
        for name, value in states[1].items():
            torch.testing.assert_close(
                states[parts][name], value, rtol=1e-4, atol=1e-6, msg=f"{name} in {parts} parts"
            )


def test_scaled_gradients_are_clipped_as_they_are_without_their_scale(monkeypatch):
    """Float16's wrapper on the CPU, with a scaler that works there."""
    monkeypatch.setattr(
        "mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available", lambda: True
    )
    weight = torch.nn.Linear(4, 1, bias=False)
    before = weight.weight.detach().clone()
    wrapper = SteppingAmpOptimWrapper(
        optimizer=torch.optim.SGD(weight.parameters(), lr=1.0),
        clip_grad={"max_norm": 0.5},
        accumulative_counts=2,
    )
    wrapper.loss_scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    wrapper.initialize_count_status(weight, 0, 4)
    rows = torch.tensor([[3.0, 0, 0, 0], [0, 4.0, 0, 0]])
    for row in rows:  # the mean of both parts' gradients is (1.5, 2, 0, 0), of norm 2.5
        wrapper.update_params(weight(row).sum())
    expected = before - torch.tensor([[0.3, 0.4, 0, 0]])
    torch.testing.assert_close(weight.weight.detach(), expected, rtol=1e-5, atol=1e-6)
