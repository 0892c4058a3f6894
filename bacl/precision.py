"""Training in bfloat16, which needs no loss scaling and so works on the CPU and on CUDA, and the
precision in which losses are computed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor, converted to float32 where it is of lower precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """mmengine's optimizer wrapper with autocast to bfloat16 in the forward pass.

    mmengine's own `AmpOptimWrapper` always scales losses and refuses the CPU.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield
