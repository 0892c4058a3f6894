"""Exponential moving averages of what a detector learns."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import Tensor, nn


@HOOKS.register_module()
class AveragedWeights(Hook):
    """Averages a = (1 - momentum) a + momentum w of the weights w after each step; the first step's
    weights begin it.

    Detectors are evaluated, exported and handed on with the averages. Only what trains is averaged,
    so a frozen trunk is held once; buffers, such as indicators and running statistics, are as they
    are. A checkpoint's `state_dict` has the averages, and its `trained` the weights that training
    goes on from. (MMEngine's EMAHook copies the whole detector, and knows no variants that leave.)
    """

    priority = "ABOVE_NORMAL"  # so that what copies weights after an evaluation sees those trained

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.averages: dict[str, Tensor] = {}
        """By the names of parameters; empty before the first step."""

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        learnt = _learnt(runner.model)
        if not self.averages:
            self.averages = {name: weight.clone() for name, weight in learnt.items()}
            return
        self.averages = {name: self.averages[name] for name in learnt}  # without those that left
        torch._foreach_lerp_(
            list(self.averages.values()), list(learnt.values()), weight=self.momentum
        )

    def before_val_epoch(self, runner: Any) -> None:
        self.swap(runner)

    def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
        self.swap(runner)

    def swap(self, runner: Any) -> None:
        """Exchange the detector's weights and the averages."""
        learnt = _learnt(runner.model)
        for name, average in self.averages.items():
            if name in learnt:
                before = learnt[name].clone()
                learnt[name].copy_(average)
                average.copy_(before)

    def go_on_from(self, source: str, member: str) -> None:
        """Give a variant another's averages."""
        own, other = f".variants.{member}.", f".variants.{source}."
        for name in self.averages:
            if own in name:
                self.averages[name].copy_(self.averages[name.replace(own, other)])

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        averages = {name: v.cpu() for name, v in self.averages.items() if name in state}
        checkpoint["trained"] = {name: state[name] for name in averages}
        checkpoint["state_dict"] = {**state, **averages}

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        state, learnt = checkpoint["state_dict"], _learnt(runner.model)
        self.averages = {
            name: state[name].to(learnt[name].device) for name in checkpoint["trained"]
        }
        checkpoint["state_dict"] = {**state, **checkpoint["trained"]}


def averaging(runner: Any) -> AveragedWeights | None:
    """The hook that averages weights, where a training has one."""
    return next((hook for hook in runner.hooks if isinstance(hook, AveragedWeights)), None)


def _learnt(model: nn.Module) -> dict[str, Tensor]:
    """Weights that train, by name."""
    bare: Any = model.module if is_model_wrapper(model) else model
    return {name: p.data for name, p in bare.named_parameters() if p.requires_grad}
