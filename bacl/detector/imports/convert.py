"""Writes a checkpoint's tensors and plain values to a file that can be read with `weights_only`.

Usage: python -m bacl.detector.imports.convert FROM TO

A pickle names functions and classes, and reading it calls them. Here only those are called that
make tensors, arrays and plain containers. Every other name stands for an object that does nothing,
and is left out of what is written.
"""

import argparse
import collections
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from bacl.errors import RunError

_ARRAYS = {
    "_reconstruct": np.zeros(0).__reduce__()[0],
    "scalar": np.float32(0).__reduce__()[0],
    "ndarray": np.ndarray,
    "dtype": np.dtype,
}
"""What makes arrays, which numpy has had in several modules."""
_TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")


class _Nothing:
    """Stands for an object that is not read."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, *_: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> "_Nothing":
        return self

    def append(self, _: Any) -> None:
        pass

    extend = add = append


class _Unpickler(pickle.Unpickler):
    """Reads pickles of tensors, arrays and plain values."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in _ARRAYS:
            return _ARRAYS[name]
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("_codecs", "encode"):
            return _encoded
        storage = module == "torch" and name.endswith("Storage")
        if storage or (module == "torch._utils" and name in _TENSORS):
            return super().find_class(module, name)
        return _Nothing


def _encoded(text: str, _: str = "latin1") -> bytes:
    """Bytes of an array as pickles of Python 2's protocol have them."""
    return text.encode("latin1")


def _load(file: Any, **_: Any) -> Any:
    return _Unpickler(file, encoding="latin1").load()


def convert(source: Path, target: Path) -> None:
    """Write what of `source` are tensors, arrays and plain values to `target`.

    Raises RunError where `source` cannot be read.
    """
    reader = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="bacl")
    try:
        try:
            content = torch.load(source, "cpu", pickle_module=reader, weights_only=False)
        except (RuntimeError, pickle.UnpicklingError):  # not of torch, which detectron2's are not
            with source.open("rb") as file:
                content = _load(file)
    except Exception as error:
        raise RunError(
            f"{source}: expected a checkpoint, got what cannot be read: {error}"
        ) from None
    torch.save(_plain(content), target)


def _plain(value: Any) -> Any:
    """A value without what stands for nothing; arrays become tensors."""
    if isinstance(value, Mapping):
        items = {n: _plain(v) for n, v in value.items() if isinstance(n, str | int)}
        return {n: v for n, v in items.items() if not isinstance(v, _Nothing)}
    if isinstance(value, list | tuple):
        return [item for item in map(_plain, value) if not isinstance(item, _Nothing)]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(np.ascontiguousarray(value))
    plain = value is None or isinstance(value, torch.Tensor | str | int | float)
    return value if plain else _Nothing()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bacl.detector.imports.convert", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("source", type=Path, metavar="FROM")
    parser.add_argument("target", type=Path, metavar="TO")
    given = parser.parse_args()
    try:
        convert(given.source, given.target)
    except RunError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
