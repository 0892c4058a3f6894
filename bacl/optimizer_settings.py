"""Settings of a stage's optimizer in experiment files: plain pydantic models without torch."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from bacl.schema import Settings

Multiplier = Annotated[float, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Multipliers(Settings):
    """Multipliers of learning rate and weight decay for some parameters."""

    lr_mult: Multiplier = 1
    """Factor of the learning rate; 0 keeps the parameters as they are."""
    decay_mult: Multiplier = 1
    """Factor of the weight decay; 0 applies none."""


class Paramwise(Settings):
    """Multipliers by kind and by name of parameters: MMEngine's `paramwise_cfg`.

    A parameter that a name below fits takes that name's multipliers and no others; of several
    names, the longest.
    """

    norm_decay_mult: Multiplier | None = None
    """Multiplier of the weight decay of normalisation layers, weights and biases."""
    bias_decay_mult: Multiplier | None = None
    """Multiplier of the weight decay of other biases."""
    bias_lr_mult: Multiplier | None = None
    """Multiplier of the learning rate of these biases."""
    dwconv_decay_mult: Multiplier | None = None
    """Multiplier of the weight decay of depth-wise convolutions."""
    flat_decay_mult: Multiplier | None = None
    """Multiplier of the weight decay of other parameters with one dimension."""
    custom_keys: dict[str, Multipliers] = {}
    """Multipliers by a part of the parameters' names, such as `backbone` or `fc_cls`."""


class Optimizer(Settings):
    """What all optimizers have; the learning rate is the schedule's."""

    weight_decay: float = Field(ge=0)
    """Weight decay: of SGD, the factor of the weights in their gradient; of AdamW, that by which
    each step shrinks them, times the learning rate."""
    paramwise: Paramwise | None = None
    """Multipliers of learning rate and weight decay for some parameters."""
    layer_decay: float | None = Field(None, gt=0, lt=1)
    """Factor of the learning rate from each stage of the backbone to the one before it, the stem
    included; the last stage and all that stands on it train at the schedule's."""

    def constructor(self) -> dict[str, Any]:
        """What MMEngine's constructor of optimizers takes beside the optimizer's own options."""
        multipliers = self.paramwise.model_dump(exclude_defaults=True) if self.paramwise else {}
        if self.layer_decay is not None:
            multipliers["layer_decay"] = self.layer_decay
        if not multipliers:
            return {}
        return {"constructor": "DetectorOptimWrapperConstructor", "paramwise_cfg": multipliers}

    def torch_options(self) -> dict[str, Any]:
        """Name and options of torch's optimizer, without the learning rate."""
        raise NotImplementedError


class SGD(Optimizer):
    """Stochastic gradient descent."""

    type: Literal["sgd"]
    momentum: Beta = 0.9
    """Share of the former steps' gradients in a step."""
    nesterov: bool = False
    """Whether the momentum is Nesterov's, which looks ahead."""
    weight_decay: float = Field(1e-4, ge=0)
    """Factor of the weights in their gradient."""

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> "SGD":
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: expected a momentum above 0 with it, got 0")
        return self

    def torch_options(self) -> dict[str, Any]:
        decay = {"momentum": self.momentum, "weight_decay": self.weight_decay}
        return {"type": "SGD", **decay, **({"nesterov": True} if self.nesterov else {})}


class AdamW(Optimizer):
    """Adam with decoupled weight decay; it needs a `schedule.lr` of its own."""

    type: Literal["adamw"]
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Shares of the former values in the running means of gradients and of their squares."""
    eps: float = Field(1e-8, gt=0)
    """What is added to the root of the mean square, so that no step is divided by 0."""
    weight_decay: float = Field(0.05, ge=0)
    """Factor by which each step shrinks the weights, times the learning rate."""

    def torch_options(self) -> dict[str, Any]:
        own = {"betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay}
        return {"type": "AdamW", **own}


AnyOptimizer = Annotated[SGD | AdamW, Field(discriminator="type")]
