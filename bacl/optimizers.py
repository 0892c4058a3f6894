"""Optimizers whose parameters have learning rates and weight decays of their own, and how these
go."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.logging import MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor, OneCycleLR
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, PARAM_SCHEDULERS
from torch import nn

from bacl.errors import UsageError

_STAGE = re.compile(
    r"(?:^|\.)(?:layer(?P<one>\d+)|(?:stages[._]|blocks[._]|norm|downsample_layers[._])(?P<zero>\d+))\."
)
"""Parameters of a backbone's stages, which are numbered from 1 or from 0."""


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DetectorOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's constructor, which also knows `layer_decay`, for backbones of any kind.

    (MMDetection's own constructor of decaying learning rates knows ConvNeXt alone, and no other
    multiplier beside.) Parameters with the same options share a group. A multiplier for names that
    no parameter has is told in the log: other banks of the stage may have such parameters.
    """

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **kwargs: Any) -> None:
        if kwargs.get("prefix"):  # of a part, which MMEngine's own asks for
            super().add_params(params, module, **kwargs)
            return
        names = {id(p): name for name, p in module.named_parameters() if p.requires_grad}
        for key in self.paramwise_cfg.get("custom_keys", {}):
            if not any(key in name for name in names.values()):
                MMLogger.get_current_instance().warning(
                    "optimizer.paramwise.custom_keys: no parameter that trains here has %r in its "
                    "name; names are such as %s",
                    key,
                    ", ".join(list(names.values())[:3]),
                )
        single: list[dict[str, Any]] = []
        with _quiet():
            super().add_params(single, module, **kwargs)
        scales = self._scales(names)
        of_all: Any = {"lr": self.base_lr, "weight_decay": self.base_wd}
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for group in {id(one["params"][0]): one for one in single}.values():  # shared ones once
            (parameter,) = group["params"]
            own = of_all | group
            scaled = own["lr"] * scales[id(parameter)]
            groups.setdefault((scaled, own["weight_decay"]), []).append(parameter)
        params += [
            {"params": shared, "lr": lr, "weight_decay": decay}
            for (lr, decay), shared in groups.items()
        ]

    def _scales(self, names: dict[int, str]) -> dict[int, float]:
        """Factor of each parameter's learning rate, by `layer_decay`."""
        rate = self.paramwise_cfg.get("layer_decay")
        if rate is None:
            return dict.fromkeys(names, 1.0)
        depth = _depths({k: n for k, n in names.items() if n.startswith("backbone.")})
        if depth and not any(depth.values()):
            raise UsageError(
                "optimizer.layer_decay: expected a backbone with stages such as layer1 or stages.0 "
                f"that train, got parameters such as {names[next(iter(depth))]}"
            )
        last = max(depth.values(), default=0)
        return {key: rate ** (last - depth.get(key, last)) for key in names}


def _depths(names: dict[int, str]) -> dict[int, int]:
    """Number of each parameter's stage in the backbone, from 1; 0 for the stem.

    What comes behind all stages, such as MobileNetV2's last convolution, counts to the last.
    """
    found: dict[int, int] = {}
    for key, name in names.items():
        stage = _STAGE.search(name.removeprefix("backbone."))
        if stage is None:
            found[key] = max(found.values(), default=0)
        elif stage["one"]:
            found[key] = int(stage["one"])
        else:  # a ConvNeXt's first down-sampling is its stem
            number = int(stage["zero"])
            stem = "downsample_layers" in stage[0] and number == 0
            found[key] = 0 if stem else number + 1
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without MMEngine's line for each parameter."""
    logger = MMLogger.get_current_instance()
    before = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(before)


@PARAM_SCHEDULERS.register_module()
class GroupedOneCycleLR(OneCycleLR):
    """MMEngine's one cycle, with each group's own learning rate for its largest, and a state of
    plain values.

    MMEngine has no cycle of momentum, which stays as it is.
    """

    def __init__(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        largest = [group["lr"] for group in optimizer.param_groups]
        super().__init__(optimizer, *args, eta_max=largest, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        return {name: v for name, v in super().state_dict().items() if name != "anneal_func"}
