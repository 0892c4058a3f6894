"""How training reads a frozen trunk: in another precision than the rest, or compiled.

Weights stay as they are, in float32, and so do checkpoints and exports; evaluation reads them as if
nothing was said here.
"""

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bacl.errors import RunError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Trunk:
    """The frozen parts of a detector while training passes them, within `read`.

    Args:
        parts: module paths, in which `*` stands for anything, of what is passed so beside backbone
            and neck, such as the shared FCs of a box head.
        precision: `float32` or `bfloat16`, in which the parts compute whatever the others do; what
            they hand on is then float32. None is the precision of all.
        compile: whether `torch.compile` compiles the backbone, once for images of all sizes. Necks
            are not: pyramids halve sizes that may be odd, which is compiled for each case anew.
    """

    def __init__(
        self, parts: Sequence[str] = (), precision: str | None = None, compile: bool = False
    ) -> None:
        self.parts = parts
        self.dtype = _DTYPES[precision] if precision else None
        self.compile = compile
        self._on = False

    def attach(self, detector: Any) -> None:
        """Pass the parts of a detector as its trunk is, but for the neck, which `pyramid` does."""
        if self.compile:
            detector.backbone.forward = self._compiled(detector.backbone.forward)
        if self.dtype is None:
            return
        taken = ["backbone", "neck"]
        for name, module in detector.named_modules():
            inside = any(name == one or name.startswith(f"{one}.") for one in taken)
            if inside or ".variants." in name:  # which compute as variants do
                continue
            if any(fnmatch.fnmatchcase(name, part) for part in self.parts):
                taken.append(name)
                for one in _called(module):
                    one.forward = self._within(one.forward)

    @contextmanager
    def read(self) -> Iterator[None]:
        """Within, training reads the trunk."""
        before, self._on = self._on, True
        try:
            yield
        finally:
            self._on = before

    def pyramid(self, extract: Callable[[Tensor], Any], images: Tensor) -> tuple[Tensor, ...]:
        """What backbone and neck make of images, by a function of the detector's."""
        return tuple(self._within(extract)(images))

    def _compiled(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The function, compiled where the trunk is read."""
        compiled = torch.compile(forward, dynamic=True)

        def passed(images: Tensor) -> Any:
            if not self._on:
                return forward(images)
            try:
                return compiled(images)
            except torch._dynamo.exc.TorchDynamoException as error:
                reason = " ".join(str(error).split()) or "no message"
                raise RunError(
                    "recipe.trunk.compile: expected a backbone that torch.compile can compile with "
                    f"what this machine has, got {type(error).__name__}: {reason[:200]}: set it to "
                    "false, or install a C++ compiler (for GPUs, Triton as well)"
                ) from error

        return passed

    def _within(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The function, computing in the trunk's precision while that is read."""

        def passed(*inputs: Any, **options: Any) -> Any:
            if not self._on or self.dtype is None:
                return forward(*inputs, **options)
            device = next(one for one in inputs if isinstance(one, Tensor)).device.type
            half = self.dtype != torch.float32
            with torch.autocast(device, self.dtype if half else None, enabled=half):
                found = forward(*inputs, **options)
            return _lifted(found)

        return passed


def _called(module: nn.Module) -> Iterator[nn.Module]:
    """The module, or those in a list of modules, which is never called itself."""
    if isinstance(module, nn.ModuleList):
        for one in module:
            yield from _called(one)
    else:
        yield module


def _lifted(found: Any) -> Any:
    """Tensors of numbers in float32, in tuples and lists as well."""
    if isinstance(found, Tensor):
        return found.float() if found.is_floating_point() else found
    if isinstance(found, tuple | list):
        return type(found)(_lifted(one) for one in found)
    return found
