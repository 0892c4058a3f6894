"""Where the host waits for a device: operators that need values, and copies to and fro."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

NEED_VALUES = {
    "aten::_local_scalar_dense",
    "aten::_unique2",
    "aten::bincount",
    "aten::equal",
    "aten::masked_select",
    "aten::nonzero",
    "aten::repeat_interleave.Tensor",
    "aten::unique_consecutive",
    "aten::unique_dim",
    "torchvision::nms",
}
"""Operators whose result, or its size, the host has to know."""
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_"}


class Waits(TorchDispatchMode):
    """Calls `found` with the name of each operator that makes the host wait for a device.

    In `simulated.simulated()`. It does not see what an operator does within: a wait in a kernel's
    own code, such as of `multinomial` without replacement, is found on a real device alone.
    """

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if _waits(func, args, kwargs):
            self.found(func.name())
        return func(*args, **kwargs)


def _waits(func, args, kwargs):
    schema = func._schema.name
    if schema == "aten::_to_copy":
        device = kwargs.get("device")
        moved = device is not None and torch.device(device).type != args[0].device.type
        return moved and not kwargs.get("non_blocking")
    if schema == "aten::copy_":
        return args[0].device.type != args[1].device.type and not any(args[2:])
    if not (args and isinstance(args[0], torch.Tensor)) or args[0].device.type == "cpu":
        return False
    if schema in INDEXING:
        return any(at is not None and at.dtype == torch.bool for at in args[1])
    return schema in NEED_VALUES or func.name() in NEED_VALUES
