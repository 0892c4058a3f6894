"""Optimizers of recipes: steps by torch's own, groups of parameters, the bank's promises."""

import copy
import math

import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from pydantic import TypeAdapter, ValidationError
from ranks import on_ranks
from torch import nn
from training import (
    assert_alone_is_as_in_the_bank,
    assert_resumed_is_undisturbed,
    batch_of,
    build,
    config_of,
    optimize,
    optimize_and_save,
    stream_of,
)

from bacl.backbones import BACKBONES
from bacl.errors import UsageError
from bacl.method_settings.paper import BACL, Hallucination, Softmax
from bacl.optimizer_settings import AdamW, AnyOptimizer
from bacl.settings import Recipe, Schedule

VARIANTS = {
    "bacl": BACL(method="bacl", hallucination=Hallucination(categories=3, samples=4)),
    "softmax": Softmax(method="softmax"),
}
SCHEDULE = Schedule(iterations=6, batch=4, lr=1e-3, lr_batch=4, warmup=2, milestones=[4])
PARAMWISE = {"norm_decay_mult": 0, "bias_decay_mult": 0, "custom_keys": {"fc_reg": {"lr_mult": 3}}}
OPTIMIZERS = {
    "sgd": {"type": "sgd", "nesterov": True, "paramwise": PARAMWISE},
    "adamw": {"type": "adamw", "betas": (0.8, 0.99), "layer_decay": 0.5, "paramwise": PARAMWISE},
}


def optimizer(name):
    return TypeAdapter(AnyOptimizer).validate_python(OPTIMIZERS[name])


def bank_config(dataset_info, name, variants=VARIANTS, **recipe):
    return config_of(
        dataset_info, variants, **{"schedule": SCHEDULE, "optimizer": optimizer(name), **recipe}
    )


def test_adamw_makes_the_steps_of_torch_s_own(dataset_info):
    """The oracle steps by torch alone, over the same batches; the learning rate is written out."""
    config = bank_config(dataset_info, "adamw", optimizer=AdamW(type="adamw", eps=1e-6))
    ours, theirs = build(config), build(config)
    optimize(config, ours, 4)

    dataset = DATASETS.build(config["train_dataloader"]["dataset"])
    samples = iter(stream_of(config, dataset))
    trained = [p for p in theirs.parameters() if p.requires_grad]
    oracle = torch.optim.AdamW(trained, lr=1.0, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.05)
    theirs.train()
    for lr in (1e-3 * 0.001, 1e-3, 1e-3, 1e-3):  # warm-up of two steps
        oracle.param_groups[0]["lr"] = lr
        data = theirs.data_preprocessor(batch_of(dataset, samples, 4), True)
        oracle.zero_grad()
        theirs.parse_losses(theirs(**data, mode="loss"))[0].backward()
        oracle.step()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-7, msg=name)


def test_plain_sgd_in_words_is_the_schedule_s(dataset_info):
    plain = config_of(dataset_info, VARIANTS)
    said = config_of(
        dataset_info, VARIANTS, optimizer=TypeAdapter(AnyOptimizer).validate_python({"type": "sgd"})
    )
    assert plain == said


@pytest.fixture(scope="module", params=OPTIMIZERS)
def trained(request, dataset_info):
    """Name of an optimizer, the configuration of a bank, weights before and after three steps."""
    config = bank_config(dataset_info, request.param)
    model = build(config)
    start = copy.deepcopy(model.state_dict())
    optimize(config, model, 3)
    return request.param, config, start, model.state_dict()


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant_in_a_bank_equals_the_variant_alone(dataset_info, trained, variant):
    name, _, start, bank = trained
    config = bank_config(dataset_info, name, {variant: VARIANTS[variant]})
    assert_alone_is_as_in_the_bank(config, start, bank)


def test_interrupted_and_resumed_equals_undisturbed(trained):
    _, config, start, bank = trained
    assert_resumed_is_undisturbed(config, start, bank)


def test_two_ranks_equal_one(trained, tmp_path):
    _, config, _, bank = trained
    on_ranks(optimize_and_save, 2, tmp_path, config, 3)
    for key, value in torch.load(tmp_path / "0.pth", weights_only=True).items():
        torch.testing.assert_close(value, bank[key], rtol=1e-3, atol=2e-5, msg=key)


def options_of(model, config):
    """(learning rate, weight decay) of each parameter that trains, by name."""
    wrapper = build_optim_wrapper(model, ConfigDict(config["optim_wrapper"]))
    groups = wrapper.optimizer.param_groups
    found = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(groups) == len(set(found.values()))
    names = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert sum(len(g["params"]) for g in groups) == len(names)
    return {name: found[id(parameter)] for name, parameter in names.items()}


def test_multipliers_are_of_the_parameters_they_name(dataset_info):
    config = config_of(
        dataset_info, VARIANTS, freeze=(), schedule=SCHEDULE, optimizer=optimizer("adamw")
    )
    model = build(config)
    found = options_of(model, config)
    norms = {
        f"{name}.{own}"
        for name, module in model.named_modules()
        for own in ("weight", "bias")
        if isinstance(module, nn.GroupNorm)
    }
    assert norms <= found.keys()
    for name, (lr, decay) in found.items():
        stage = name.removeprefix("backbone.")[:6] if name.startswith("backbone.") else "layer4"
        depth = int(stage[5]) if stage.startswith("layer") else 0
        named = "fc_reg" in name
        assert lr == pytest.approx(1e-3 * 0.5 ** (4 - depth) * (3 if named else 1)), name
        plain = named or not (name in norms or name.endswith(".bias"))
        assert decay == (0.05 if plain else 0), name


STAGES = {
    "resnet50": ({"conv1.weight": 0, "layer1.0.conv1.weight": 1, "layer4.2.conv3.weight": 4}, 4),
    "swin_t": (
        {
            "patch_embed.projection.weight": 0,
            "stages.0.blocks.1.norm1.weight": 1,
            "stages.2.blocks.5.attn.w_msa.qkv.weight": 3,
            "norm3.weight": 4,
        },
        4,
    ),
    "mobilenet_v2": ({"conv1.conv.weight": 0, "layer7.0.linear_conv.conv.weight": 7}, 7),
}


@pytest.mark.parametrize("backbone", STAGES)
def test_layer_decay_knows_the_stages_of_every_backbone(backbone):
    expected, last = STAGES[backbone]
    model = nn.ModuleDict(
        {"backbone": MODELS.build(BACKBONES[backbone].config), "neck": nn.Linear(1, 1)}
    )
    model.requires_grad_(True)
    config = {
        "optimizer": {"type": "SGD", "lr": 1.0, "weight_decay": 0},
        "constructor": "DetectorOptimWrapperConstructor",
        "paramwise_cfg": {"layer_decay": 0.5},
    }
    found = options_of(model, {"optim_wrapper": config})
    assert found["neck.weight"][0] == 1
    for name, stage in expected.items():
        assert found[f"backbone.{name}"][0] == 0.5 ** (last - stage), name


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"type": "sgd", "nesterov": True, "momentum": 0}, "nesterov: expected a momentum above 0"),
        ({"type": "adamw", "momentum": 0.9}, "Extra inputs are not permitted"),
        ({"type": "adamw", "betas": (0.9, 1)}, "less than 1"),
        ({"type": "sgd", "layer_decay": 0}, "greater than 0"),
    ],
)
def test_optimizer_that_makes_no_sense_is_refused(fields, sentence):
    with pytest.raises(ValidationError, match=sentence):
        Recipe(schedule={"iterations": 1}, optimizer=fields)


@pytest.mark.parametrize(
    ("schedule", "kind", "sentence"),
    [
        ({"weight_decay": 0}, "sgd", "schedule.weight_decay: expected it among the fields of"),
        ({}, "adamw", "schedule.lr: is missing, expected a learning rate for optimizer adamw"),
    ],
)
def test_schedule_and_optimizer_do_not_say_the_same(schedule, kind, sentence):
    with pytest.raises(ValidationError, match=sentence):
        Recipe(schedule={"iterations": 1, **schedule}, optimizer={"type": kind})


def learning_rates(config, model):
    """Learning rate of each step and group that a stage takes, by MMEngine's schedulers."""
    wrapper = build_optim_wrapper(model, ConfigDict(config["optim_wrapper"]))
    schedulers = [
        PARAM_SCHEDULERS.build(one, default_args={"optimizer": wrapper})
        for one in config["param_scheduler"]
    ]
    found = []
    for _ in range(config["train_cfg"]["max_iters"]):
        found.append([group["lr"] for group in wrapper.optimizer.param_groups])
        wrapper.step()
        for scheduler in schedulers:
            scheduler.step()
    return found


def scheduled(dataset_info, kind, iterations=40, **schedule):
    lengths = Schedule(iterations=iterations, batch=4, lr=0.1, lr_batch=4, **schedule)
    config = bank_config(dataset_info, "adamw", schedule=lengths, lr_schedule=kind)
    return learning_rates(config, build(config)), config


def test_cosine_falls_as_its_closed_form_in_every_group(dataset_info):
    found, _ = scheduled(dataset_info, "cosine", warmup=5)
    assert {len(rates) for rates in found} == {3}  # fc_reg's three times, with and without decay
    for step, rates in enumerate(found):
        if step < 5:
            expected = 0.1 * (0.001 + 0.999 * step / 4)
        else:
            expected = 0.1 * (1 + math.cos(math.pi * (step - 5) / 35)) / 2
        assert min(rates) == pytest.approx(expected, rel=1e-6, abs=1e-9), step
        assert max(rates) == pytest.approx(3 * min(rates)), step


def test_one_cycle_rises_and_falls_as_torch_s_own_in_every_group(dataset_info):
    found, _ = scheduled(dataset_info, "one_cycle")
    weight = nn.Parameter(torch.zeros(1))
    oracle = torch.optim.SGD([weight], lr=1.0)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        oracle, max_lr=0.1, total_steps=40, cycle_momentum=False
    )
    for step, rates in enumerate(found):
        expected = oracle.param_groups[0]["lr"]
        assert min(rates) == pytest.approx(expected, rel=1e-6), step
        assert max(rates) == pytest.approx(3 * expected), step
        oracle.step()
        cycle.step()


def test_cosine_shorter_than_its_warmup_is_refused(dataset_info):
    with pytest.raises(UsageError, match=r"recipe\.schedule\.warmup: expected fewer than.* 5 iter"):
        scheduled(dataset_info, "cosine", iterations=5, warmup=5)


@pytest.mark.parametrize("kind", ["cosine", "one_cycle"])
def test_learning_rate_resumed_equals_undisturbed(dataset_info, kind):
    config = bank_config(
        dataset_info,
        "adamw",
        lr_schedule=kind,
        schedule=Schedule(iterations=6, batch=4, lr=1e-3, lr_batch=4, warmup=0),
    )
    whole = build(config)
    start = copy.deepcopy(whole.state_dict())
    optimize(config, whole, 4)
    first = build(config, start)
    state = optimize(config, first, 2)
    second = build(config, first.state_dict())
    optimize(config, second, 2, skip=2, state=state)
    for key, value in second.state_dict().items():
        assert torch.equal(value, whole.state_dict()[key]), key
