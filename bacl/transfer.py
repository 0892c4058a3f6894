"""Copies from the CPU to a device without blocking the CPU."""

import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Copy values from the CPU to a device without waiting for it.

    CUDA copies asynchronously only from pinned memory. PyTorch keeps the pinned memory until the
    copy is done and reuses it for later ones.
    """
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
