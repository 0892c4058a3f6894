"""A device besides the CPU, simulated on the CPU, which refuses what CUDA refuses.

A tensor on it claims to be elsewhere and holds its values here, so that what depends on values runs
too: shapes, branches, backward. (PyTorch's own FakeTensorMode has no values, takes no backward
without a CUDA driver, and lets some operators mix devices that CUDA does not.)
"""

from contextlib import contextmanager
from unittest.mock import patch

import torch
from mmengine.structures import instance_data
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")
"""What its tensors claim. Backward runs for no other device but the CPU without a driver."""

aten = torch.ops.aten
MOVES = {aten._to_copy.default, aten.copy_.default}
"""Take tensors from one device to another."""
SCALARS = {aten.fill_, aten.masked_fill, aten.masked_fill_, aten.index_put_, aten.where}
"""Take a number from the CPU as a tensor without dimensions, as all that is done to each element
does."""


class Elsewhere(Tensor):
    """A tensor on DEVICE."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Elsewhere":
        made = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func}: expected tensors of the simulated device within its context")


def here(tensor):
    """The tensor's values on the CPU."""
    return getattr(tensor, "held", tensor)


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        there, here = {}, []

        def value(tensor):
            if isinstance(tensor, Elsewhere):
                there[id(tensor.held)] = tensor
                return tensor.held
            here.append(tensor)
            return tensor

        values = _each(args, value)
        named = {name: _each(argument, value) for name, argument in kwargs.items()}
        if there and func not in MOVES:
            numbers = torch.Tag.pointwise in func.tags or func.overloadpacket in SCALARS
            for tensor in here:
                if tensor.dim() or not numbers:
                    raise RuntimeError(
                        f"{func}: expected all tensors on one device, got one of shape "
                        f"{tuple(tensor.shape)} on the CPU"
                    )
        if (device := kwargs.get("device")) is not None:
            named["device"] = torch.device("cpu")
            elsewhere = torch.device(device) == DEVICE
        else:
            elsewhere = isinstance(args[0], Elsewhere) if func in MOVES else bool(there)
        found = func(*values, **named)
        # what is changed in place stays the tensor that it was
        return _each(found, lambda t: there.get(id(t), Elsewhere(t))) if elsewhere else found


def _each(argument, change):
    """An operator's argument or result with each of its tensors changed."""
    if isinstance(argument, Tensor):
        return change(argument)
    if isinstance(argument, (list, tuple)):
        return type(argument)([_each(part, change) for part in argument])
    return argument


class _Generator(torch.Generator):
    """A generator that draws as the CPU's does, on whatever device it claims to be."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls)
        made.claimed = torch.device(device)
        return made


class _Functions(TorchFunctionMode):
    """What PyTorch does before it gets to operators, in C++ that finds no values elsewhere."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor):
            device = kwargs.get("device")
            made = func(*args, **{**kwargs, "device": None})
            return made if device is None else made.to(device)
        if func is Tensor.new_tensor:
            device = kwargs.get("device") or args[0].device
            return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to(device)
        if func is Tensor.__getitem__ and isinstance(args[0], Elsewhere):
            args = (args[0], _there(args[1]))
        if func is Tensor.tolist:
            return func(args[0].cpu())
        found = func(*args, **kwargs)
        draw = kwargs.get("generator")
        if isinstance(draw, _Generator) and draw.claimed != found.device:
            raise RuntimeError(
                f"{func}: expected a generator on {found.device}, got one on {draw.claimed}"
            )
        return found


def _there(index):
    """An index with a tensor that is elsewhere for each list of numbers: so CUDA gets them, too."""
    if isinstance(index, tuple):
        return tuple(map(_there, index))
    if isinstance(index, (list, range)):
        return torch.tensor(index, dtype=torch.long).to(DEVICE)
    return index


@contextmanager
def simulated():
    """In it, DEVICE is a device, to which modules move as to any other."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with (
            patch("torch.Generator", _Generator),
            # mmengine lists the types of tensors that may be indices, by device
            patch.object(instance_data, "IndexType", instance_data.IndexType | Elsewhere),
            _Operators(),
            _Functions(),
        ):
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
