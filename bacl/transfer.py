"""Copies from the CPU that do not hold the CPU up."""

import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Values of the CPU on a device, for which the host does not wait.

    CUDA copies beside the host only from memory that is pinned; PyTorch keeps what was pinned
    until the copy is done, and for the next one.
    """
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
