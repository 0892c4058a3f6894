"""A trained detector fitted to a bank of one variant: its weights, and an account of them.

C categories of the dataset, K of the checkpoint.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from bacl.detector.imports.found import Found, Options, Pixels
from bacl.detector.imports.reading import read
from bacl.errors import RunError

_HEAD = r"(roi_head\.bbox_head\.(?:\d\.)?)"
_OF_VARIANT = re.compile(rf"{_HEAD}((?:fc_cls|indicator)\..+)")
_WHOLE_VARIANT = re.compile(rf"{_HEAD}fc_cls\.variant\.(.+)")
_STATISTICS = re.compile(rf"{_HEAD}statistics\.(.+)")
_CLASSIFIER = re.compile(rf"{_HEAD}fc_cls\.(?:variant\.fc_cls\.)?weight")
_BATCHES = "num_batches_tracked"
_NO_PART = re.compile(rf"{_BATCHES}$|\.indicator\.|\.statistics\.")
"""Names of state, not of a part of the network."""
_ALIKE = ("backbone.", "neck.", "rpn_head.", "roi_head.bbox_head.")
"""Parts that checkpoint and detector must have alike; others, such as a mask head, may be more."""
_OTHER_DETECTOR = "the checkpoint is of another detector than `detector` says"


@dataclass(frozen=True)
class Wanted:
    """What a stage asks of a checkpoint."""

    categories: Sequence[str]
    """Names of the dataset's categories, in the order of labels."""
    variant: str
    """Name of the bank's variant."""
    background: int
    """Columns of its classifier beside those of the categories."""
    source: str | None = None
    own_categories: Sequence[str] | None = None
    """The checkpoint's categories, where the user says them."""
    new_categories: bool = False
    """Whether what is made for each category begins anew."""
    pixels: Pixels | None = None
    """What the detector normalises images with."""
    options: Options = field(default_factory=Options)


@dataclass(frozen=True)
class Account:
    """What was loaded of a checkpoint, what was not, and why."""

    source: str
    loaded: int
    """Tensors."""
    categories: str
    """How those of checkpoint and dataset were matched, in words."""
    remarks: Sequence[str]
    left_out: Mapping[str, str]
    """Why something of the checkpoint is not in the detector, by name."""
    anew: Mapping[str, str]
    """Why a part of the detector keeps its initial values, by name."""

    def lines(self) -> list[str]:
        """Sentences for a log and a plan."""
        return [
            f"{self.loaded} tensors of a checkpoint of {self.source}; {self.categories}",
            *self.remarks,
            *(f"left out: {line}" for line in _by_reason(self.left_out)),
            *(f"begins anew: {line}" for line in _by_reason(self.anew)),
        ]


def _by_reason(reasons: Mapping[str, str]) -> list[str]:
    """Names with the reason that they share, a line each; of many names, the first ones."""
    names: dict[str, list[str]] = {}
    for name, why in reasons.items():
        names.setdefault(why, []).append(name)
    return [
        f"{', '.join(own[:3])}{f' and {len(own) - 3} more' if len(own) > 3 else ''}: {why}"
        for why, own in names.items()
    ]


def take(
    path: Path, target: Mapping[str, Tensor], wanted: Wanted
) -> tuple[dict[str, Tensor], Account]:
    """The weights of a checkpoint with which a bank begins whose tensors are like `target`'s.

    Raises RunError where the file cannot be read, or is of another detector or other categories.
    """
    source, found = read(path, wanted.source, wanted.options)
    _check_pixels(path, found.pixels, wanted.pixels)
    known = _known(path, found, wanted)
    rows, matched = _rows(path, found, known, wanted)
    fitted, anew = {}, {}
    for name, value in found.state.items():
        own = _in_bank(name, wanted.variant, target)
        if rows is None and _by_category(name, value):
            anew[own] = "the categories are others than the checkpoint's"
        else:
            fitted[own] = value if rows is None else _selected(name, value, rows, known)
    loaded: dict[str, Tensor] = {}
    lacking: list[str] = []
    for name, own_value in target.items():
        given = fitted.pop(name, None)
        if given is not None and given.shape != own_value.shape:
            raise RunError(
                f"{path}: {name} has shape {tuple(given.shape)}, expected "
                f"{tuple(own_value.shape)}: {_OTHER_DETECTOR}"
            )
        if given is not None:
            loaded[name] = given.to(own_value.dtype)
        elif ".statistics." in name or (".variants." in name and ".fc_cls." not in name):
            anew.setdefault(name, "the state of a method's training, which the checkpoint lacks")
        elif not name.endswith(_BATCHES) and name not in anew:  # frozen batch norm counts none
            lacking.append(name)
    spare = [n for n in fitted if n.startswith(_ALIKE) and not _NO_PART.search(n)]
    for names, which in ((lacking, "lacks"), (spare, "has besides")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise RunError(f"{path}: the checkpoint {which} {names[0]}{more}: {_OTHER_DETECTOR}")
    left_out = {**found.left_out, **dict.fromkeys(fitted, "the detector has no such part")}
    anew = {name: why for name, why in anew.items() if name in target}
    return loaded, Account(source, len(loaded), matched, found.remarks, left_out, anew)


def _check_pixels(path: Path, theirs: Pixels | None, ours: Pixels | None) -> None:
    if theirs is None or ours is None:
        return
    for what, own, other in zip(("mean", "deviation"), ours, theirs):
        if any(abs(a - b) > 0.01 for a, b in zip(own, other)):
            raise RunError(
                f"{path}: expected images with a {what} of {_numbers(own)}, as the detector's "
                f"configuration has it, got {_numbers(other)}: detectron2's statistics are "
                "those of configurations called `caffe`"
            )


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _known(path: Path, found: Found, wanted: Wanted) -> int:
    """K, by the columns of the checkpoint's classifier."""
    for name, value in found.state.items():
        if _CLASSIFIER.fullmatch(name):
            return len(value) - wanted.background
    raise RunError(f"{path}: expected the classifier of a box head, found none")


def _rows(path: Path, found: Found, known: int, wanted: Wanted) -> tuple[list[int] | None, str]:
    """Which of the checkpoint's categories each of the dataset's is, and how they were matched, in
    words; None where what is made for each category begins anew."""
    ours, theirs = wanted.categories, wanted.own_categories or found.categories
    if wanted.new_categories:
        return None, f"the dataset's {len(ours)} categories are new to it"
    if theirs is None:
        if known != len(ours):
            raise RunError(_others(path, f"{known} without names", ours))
        return list(range(known)), (
            f"its {known} categories are taken to be the dataset's in the same order, because it "
            "does not name them"
        )
    if len(theirs) != known:
        names = "`categories` names" if wanted.own_categories else "it names itself"
        raise RunError(
            f"{path}: expected a classifier of the {len(theirs)} categories that {names} and "
            f"{wanted.background} more, as `classifier` has, got {known + wanted.background} "
            "columns"
        )
    places = {name: place for place, name in reversed(list(enumerate(theirs)))}
    if lacking := [name for name in ours if name not in places]:
        first = next((n for n, pair in enumerate(zip(ours, theirs)) if len(set(pair)) > 1), None)
        differ = (
            ""
            if first is None
            else (f"; the first that differ are {theirs[first]!r} there and {ours[first]!r} here")
        )
        raise RunError(
            _others(
                path,
                f"{known} that lack {len(lacking)} of them, such as {lacking[0]!r}{differ}",
                ours,
            )
        )
    rows = [places[name] for name in ours]
    if rows == list(range(known)):
        return rows, f"its {known} categories are the dataset's, in the same order"
    spare = f"; {known - len(rows)} more are left out" if known > len(rows) else ""
    return rows, f"the dataset's {len(rows)} categories are among its {known}, by name{spare}"


def _others(path: Path, what: str, ours: Sequence[str]) -> str:
    return (
        f"{path}: expected the dataset's {len(ours)} categories, got {what}: `new_categories: "
        "true` begins anew what is made for each category, and `categories` says the checkpoint's "
        "names in its order where they are the same ones"
    )


def _by_category(name: str, value: Tensor) -> bool:
    """Whether a tensor has rows for each category; with a single category, one cannot tell from
    rows for all."""
    if ".fc_reg." in name:
        return len(value) > 4
    if ".conv_logits." in name:
        return len(value) > 1
    return bool(_OF_VARIANT.fullmatch(name) or _STATISTICS.fullmatch(name))


def _selected(name: str, value: Tensor, rows: Sequence[int], known: int) -> Tensor:
    """A tensor with rows for each category in the dataset's order; what follows them stays."""
    if rows == list(range(known)) or not _by_category(name, value):
        return value
    index = torch.tensor(rows)
    if ".fc_reg." in name:
        return value.unflatten(0, (-1, 4))[index].flatten(0, 1)
    chosen = torch.cat([value[index], value[known:]])
    if name.endswith(".indicator.tally"):
        return torch.cat([chosen[:, index], chosen[:, known:]], dim=1)
    return chosen


def _in_bank(name: str, variant: str, target: Mapping[str, Tensor]) -> str:
    """A bank's name of a tensor with a plain detector's name."""
    if match := _WHOLE_VARIANT.fullmatch(name):
        return f"{match[1]}variants.{variant}.{match[2]}"
    if match := _OF_VARIANT.fullmatch(name):
        return f"{match[1]}variants.{variant}.{match[2]}"
    if match := _STATISTICS.fullmatch(name):
        ends = (f".{match[2]}", f"{match[1]}statistics.")
        kept = (own for own in target if own.endswith(ends[0]) and own.startswith(ends[1]))
        return next(kept, name)
    return name
