"""Optimizer steps whose gradients are clipped variant by variant, or come from parts of a batch."""

from typing import Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import LOOPS, OPTIM_WRAPPERS
from mmengine.runner import IterBasedTrainLoop
from torch import nn

from bacl.precision import BFloat16OptimWrapper


class _Stepping:
    """MMEngine's wrapper of an optimizer, which clips the gradients of each variant by their own
    norm.

    Those of all else together are clipped by theirs; without `by_variant`, those of all parameters
    by one norm. Groups are known once `initialize_count_status` has been called, as MMEngine's
    Runner does before it trains. Counts there are steps; each is of `accumulative_counts` parts.
    """

    optimizer: torch.optim.Optimizer
    clip_func: Any
    clip_grad_kwargs: dict[str, Any]
    _accumulative_counts: int

    def __init__(self, *args: Any, by_variant: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.by_variant = by_variant
        self._banks: list[nn.ModuleDict] = []
        self._shared: list[nn.Parameter] = []

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        parts = self._accumulative_counts
        super().initialize_count_status(model, init_counts * parts, max_counts * parts)  # type: ignore[misc]
        self._banks = _bare(model).banks() if self.by_variant else []
        of_variants = {id(p) for bank in self._banks for p in bank.parameters()}
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._shared = [p for p in trained if p.requires_grad and id(p) not in of_variants]

    def _clip_grad(self) -> None:
        names = self._banks[0].keys() if self._banks else ()
        of_variants = [[p for bank in self._banks for p in bank[n].parameters()] for n in names]
        for group in (self._shared, *of_variants):
            if given := [p for p in group if p.grad is not None]:
                self.clip_func(given, **self.clip_grad_kwargs)


@OPTIM_WRAPPERS.register_module()
class SteppingOptimWrapper(_Stepping, OptimWrapper):
    """Of training in float32."""


@OPTIM_WRAPPERS.register_module()
class SteppingBFloat16OptimWrapper(_Stepping, BFloat16OptimWrapper):
    """Of training in bfloat16."""


@OPTIM_WRAPPERS.register_module()
class SteppingAmpOptimWrapper(_Stepping, AmpOptimWrapper):
    """Of training in float16, which clips gradients once they are no longer scaled."""


@LOOPS.register_module()
class AccumulatingTrainLoop(IterBasedTrainLoop):
    """MMEngine's loop, each of whose steps passes the detector in `parts`; see `accumulated`."""

    def __init__(self, *args: Any, parts: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parts = parts

    def run_iter(self, data_batch: Any) -> None:
        runner, seen = self.runner, {"batch_idx": self._iter, "data_batch": data_batch}
        runner.call_hook("before_train_iter", **seen)
        outputs = accumulated(runner.model, data_batch, runner.optim_wrapper, self.parts)
        runner.call_hook("after_train_iter", **seen, outputs=outputs)
        self._iter += 1


def accumulated(
    model: Any, batch: dict[str, list[Any]], optim_wrapper: Any, parts: int
) -> dict[str, Any]:
    """Step on a rank's share of a batch that passes a bank's detector in parts; returns the means
    of their losses.

    Part k has the pairs k, k + parts, ... of the share and so, over all ranks, of the batch,
    however many ranks there are. The gradient is the mean of the parts'; state of heads moves after
    the last, by all of them together.
    """
    heads = _bare(model).heads()
    told = []
    for number in range(parts):
        for head in heads:
            head.part = (number, parts)
        told.append(model.train_step(_part(batch, number, parts), optim_wrapper))
    values = {name: [torch.as_tensor(losses[name]) for losses in told] for name in told[0]}
    return {name: torch.stack(found).float().mean(0) for name, found in values.items()}


def _part(batch: dict[str, list[Any]], number: int, parts: int) -> dict[str, list[Any]]:
    """Every `parts`-th pair of images of a batch, from that number on."""
    return {
        name: [item for place, item in enumerate(items) if place // 2 % parts == number]
        for name, items in batch.items()
    }


def _bare(model: Any) -> Any:
    return model.module if is_model_wrapper(model) else model
