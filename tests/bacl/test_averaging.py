"""Moving averages of weights, against the recursion written out."""

from types import SimpleNamespace

import pytest
import torch
from training import build, config_of

from bacl.averaging import AveragedWeights
from bacl.method_settings.paper import BCE, Softmax

VARIANTS = {"bce": BCE(method="bce"), "softmax": Softmax(method="softmax")}


@pytest.fixture
def runner(dataset_info):
    """Stands for MMEngine's, whose detector's weights a test moves."""
    return SimpleNamespace(model=build(config_of(dataset_info, VARIANTS)))


def step(runner, number):
    """Weights as a step makes them."""
    torch.manual_seed(number)
    with torch.no_grad():
        for parameter in runner.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))


def test_averages_are_those_of_the_recursion(runner):
    hook, expected = AveragedWeights(0.1), {}
    learnt = {n: p for n, p in runner.model.named_parameters() if p.requires_grad}
    for number in range(5):
        step(runner, number)
        hook.after_train_iter(runner, number)
        for name, parameter in learnt.items():
            now = parameter.detach().double()
            expected[name] = 0.9 * expected[name] + 0.1 * now if number else now.clone()
    assert hook.averages.keys() == expected.keys()
    assert not any(name.startswith("backbone.") for name in expected)  # it is frozen
    for name, value in expected.items():
        torch.testing.assert_close(hook.averages[name].double(), value, rtol=1e-5, atol=1e-6)


def test_evaluation_sees_averages_and_training_goes_on_from_its_weights(runner):
    hook = AveragedWeights(0.1)
    for number in range(2):
        step(runner, number)
        hook.after_train_iter(runner, number)
    weight = runner.model.get_parameter("rpn_head.rpn_cls.weight")
    trained, average = weight.detach().clone(), hook.averages["rpn_head.rpn_cls.weight"].clone()
    assert not torch.equal(trained, average)
    hook.before_val_epoch(runner)
    assert torch.equal(weight, average)
    hook.after_val_epoch(runner)
    assert torch.equal(weight, trained)


def test_checkpoint_has_averages_and_what_training_goes_on_from(runner):
    hook = AveragedWeights(0.1)
    for number in range(2):
        step(runner, number)
        hook.after_train_iter(runner, number)
    state = {name: value.clone() for name, value in runner.model.state_dict().items()}
    checkpoint = {"state_dict": dict(state)}
    hook.before_save_checkpoint(runner, checkpoint)
    for name, value in checkpoint["state_dict"].items():
        assert torch.equal(value, hook.averages.get(name, state[name])), name
    resumed = AveragedWeights(0.1)
    resumed.after_load_checkpoint(runner, checkpoint)
    assert all(torch.equal(value, state[name]) for name, value in checkpoint["state_dict"].items())
    assert all(torch.equal(resumed.averages[name], v) for name, v in hook.averages.items())


def test_variant_that_left_is_averaged_no_more_and_the_others_are(runner):
    hook = AveragedWeights(0.1)
    step(runner, 0)
    hook.after_train_iter(runner, 0)
    runner.model.drop(["softmax"])
    step(runner, 1)
    hook.after_train_iter(runner, 1)
    assert {n.split(".")[3] for n in hook.averages if ".variants." in n} == {"bce"}
