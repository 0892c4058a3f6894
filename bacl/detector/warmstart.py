"""Safe reading of checkpoints, and start of a bank from another stage's checkpoint."""

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bacl.errors import RunError
from bacl.indicators import ConfusionMatrix

if TYPE_CHECKING:
    from bacl.detector.bank import BankDetector

_VARIANT = re.compile(r"^(?P<head>.*)\.variants\.(?P<name>[^.]+)\.(?P<rest>.+)$")


class NeedsCode(RunError):
    """A file holds more than tensors and plain values."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint file, which may hold tensors and plain values only.

    Raises RunError where the file is absent, truncated, or would need code to be read.
    """
    content = read_tensors(path)
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise RunError(f"{path}: expected a checkpoint with a `state_dict`, found none")
    return content


def read_tensors(path: Path, mapped: bool = False) -> Any:
    """Read a file of `torch.save`, which may hold tensors and plain values only.

    mapped: map the file into memory, so that tensors are read when they are used, where its format
    allows that. Raises RunError as `read_checkpoint` does.
    """
    expected = f"{path}: expected a whole checkpoint of tensors and plain values, got"
    try:
        return torch.load(path, "cpu", weights_only=True, mmap=mapped and zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise RunError(f"{path}: no such checkpoint") from None
    except IsADirectoryError:
        raise RunError(f"{expected} a folder") from None
    except PermissionError:
        raise RunError(f"{path}: expected a file that may be read") from None
    except Exception as error:  # of torch's message, only the name of the class concerns this file
        foreign = re.search(r"Unsupported global: GLOBAL (\S+)|Unsupported class (\S+)", str(error))
        if foreign:
            raise NeedsCode(
                f"{expected} one that only code can read: it holds {foreign[1] or foreign[2]}"
            ) from None
        raise RunError(f"{expected} a file that is damaged or something else") from None


def load_trunk(model: "BankDetector", path: Path) -> list[str]:
    """Start `model`, a bank, from the checkpoint of an earlier stage.

    The trunk's weights are taken over. Every variant's `fc_cls` starts from the earlier stage's
    where the shapes fit (docs/architecture.md): from the variant of the same name, or from the only
    one there is. A variant's `copy` of the box head starts likewise, see `bacl.variants.Variant`.
    Indicators and feature statistics start anew, but for those of a checkpoint whose `meta` says
    that it `continues` what another project has trained: from it, confusion matrices and statistics
    go on. Returns the names of the parameters that keep their initial values.

    Raises RunError where the number of categories differs, or a frozen part is not in the
    checkpoint.
    """
    content = read_checkpoint(path)
    parent: dict[str, Tensor] = content["state_dict"]
    own = model.state_dict()
    source = _classifiers(parent)
    goes_on = _going_on(model, parent) if content.get("meta", {}).get("continues") else {}
    given = {name: value for name, value in goes_on.items() if value.shape == own[name].shape}
    for key, value in own.items():
        match = _VARIANT.match(key)
        if match is None:
            found = None if ".statistics." in key else parent.get(key)
        else:
            head, part = match["head"], match["rest"].removeprefix("copy.")
            classifiers = source.get(head, {})
            only = next(iter(classifiers.values())) if len(classifiers) == 1 else {}
            found = classifiers.get(match["name"], only).get(part)
            if part.startswith("shared_fcs."):
                found = parent.get(f"{head}.{part}")
        if found is not None and found.shape == value.shape:
            given[key] = found
        elif found is not None and match is None:
            raise RunError(
                f"{path}: {key} has shape {tuple(found.shape)}, expected {tuple(value.shape)}: "
                "the checkpoint is of another detector or number of categories"
            )
    absent = [
        part
        for part in model.frozen_parts
        if any(key.startswith(f"{part}.") and key not in given for key in own)
    ]
    if absent:
        raise RunError(f"{path}: the checkpoint lacks the frozen part {', '.join(absent)}")
    model.load_state_dict(given, strict=False)
    return [name for name, _ in model.named_parameters() if name not in given]


def share_frozen(model: nn.Module, path: Path, parts: Iterable[str]) -> int:
    """Have the weights of parts that do not train in the pages of the checkpoint that they came
    from, which the processes of a machine that do so have in memory once; returns how many bytes
    these are. The model is on the CPU.

    Weights that are not the file's, or lie otherwise in memory (channels-last), stay as they are.
    Who writes to the others gets pages of their own, and the file stays as it is.
    """
    state: dict[str, Tensor] = read_tensors(path, mapped=True)["state_dict"]
    size = 0
    for part in parts:
        module = model.get_submodule(part)
        for name, own in [*module.named_parameters(), *module.named_buffers()]:
            found = state.get(f"{part}.{name}")
            if found is None or own.dtype != found.dtype or own.stride() != found.stride():
                continue
            if torch.equal(own, found):
                own.data = found
                size += found.nbytes
    return size


def _going_on(model: "BankDetector", parent: dict[str, Tensor]) -> dict[str, Tensor]:
    """The only variant's confusion matrix, for each variant that is led by one, and the statistics
    of features that bank and parent have."""
    found = {n: parent[n] for n in model.state_dict() if ".statistics." in n and n in parent}
    for name, module in model.named_modules():
        match = _VARIANT.match(f"{name}.tally")
        if match and type(module) is ConfusionMatrix:
            of_head = rf"{re.escape(match['head'])}\.variants\.[^.]+\.indicator\.tally"
            tallies = [value for key, value in parent.items() if re.fullmatch(of_head, key)]
            found |= {f"{name}.tally": value for value in tallies[:1]}
    return found


def _classifiers(state: dict[str, Tensor]) -> dict[str, dict[str, dict[str, Tensor]]]:
    """Classifier weights by head, then variant, then name within the variant."""
    found: dict[str, dict[str, dict[str, Tensor]]] = {}
    for key, value in state.items():
        match = _VARIANT.match(key)
        if match is not None and match["rest"].startswith("fc_cls."):
            found.setdefault(match["head"], {}).setdefault(match["name"], {})[match["rest"]] = value
    return found
