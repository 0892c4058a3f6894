"""Start of corrections from the checkpoint that trained what they correct."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from bacl.corrections.corrected import Corrected
from bacl.detector.warmstart import read_checkpoint
from bacl.errors import RunError

if TYPE_CHECKING:
    from bacl.detector.bank import BankDetector

_BASE = re.compile(r"^(?P<bank>.*\.variants)\.(?P<name>[^.]+)\.base\.(?P<rest>.+)$")


def load_corrected(model: "BankDetector", path: Path) -> None:
    """Give a bank of corrections the trunk of a checkpoint, and each of them the trained variant
    that it corrects.

    Raises RunError where the checkpoint lacks any of it, or is of another detector.
    """
    parent = read_checkpoint(path)["state_dict"]
    of = {
        name: variant.of
        for head in model.heads()
        for name, variant in head.bank().items()
        if isinstance(variant, Corrected)
    }
    given, absent = {}, []
    for key, value in model.state_dict().items():
        if match := _BASE.match(key):
            place = f"{match['bank']}.{of[match['name']]}.{match['rest']}"
        elif ".variants." in key:  # statistics, which are still to come
            continue
        else:
            place = key
        found = parent.get(place)
        if found is None or found.shape != value.shape:
            absent.append(place)
        else:
            given[key] = found
    if absent:
        raise RunError(
            f"{path}: expected the weights of the detector whose scores are corrected, found no "
            f"{', '.join(absent[:3])}{' and others' if absent[3:] else ''} of the same shape"
        )
    model.load_state_dict(given, strict=False)
