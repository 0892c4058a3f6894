"""COCO's compressed run-length encoding of masks: encoding of tensors, and areas of many masks.

N masks, H x W pixels, K runs of a mask.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

if TYPE_CHECKING:
    from torch import Tensor

_CHARACTERS = bytes(range(48, 48 + 64))
"""Characters of the encoding, each of which holds six bits."""
_AT_ONCE = 2_000
"""Masks that `measure` unpacks together, few enough to stay in the processor's cache."""


def encode(masks: "Tensor") -> list[dict[str, Any]]:
    """Encode boolean masks (N, H, W), each as pycocotools' `{"size": [H, W], "counts": bytes}`."""
    columns = masks.transpose(1, 2).contiguous().byte().cpu().numpy()
    rles: list[dict[str, Any]] = coco.encode(columns.transpose(2, 1, 0))
    return rles


def measure(counts: Sequence[bytes]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Pixels that the runs of each mask cover, (N,), and pixels of the mask itself, (N,).

    An invalid encoding, or one with a run of negative length, covers 0 pixels or a number that fits
    no image.
    """
    parts = [_measure(part) for part in _parts(counts)]
    covered, area = zip(*parts, strict=True) if parts else ((), ())
    none = np.zeros(0, dtype=np.int64)
    return np.concatenate([none, *covered]), np.concatenate([none, *area])


def _parts(counts: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(counts), _AT_ONCE):
        yield counts[start : start + _AT_ONCE]


def _measure(counts: Sequence[bytes]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Implementation of `measure` for one group of masks. A character holds six bits: five of a
    number, lowest first, and one that says whether more follow; the fifth bit of the last character
    is the sign. From the fourth run on, the number is the difference of the run's length from that
    of the run two before, so it contributes to every second run that follows.
    """
    covered, area = (np.zeros(len(counts), dtype=np.int64) for _ in range(2))
    ended = np.array([bool(text) and _is_end(text[-1]) for text in counts], dtype=bool)
    ended &= [not text.translate(None, _CHARACTERS) for text in counts]
    texts = [text for text, good in zip(counts, ended, strict=True) if good]
    if not texts:
        return covered, area
    characters = np.frombuffer(b"".join(texts), dtype=np.uint8).astype(np.int64) - 48
    ends = characters & 32 == 0
    text_starts = _starts(np.array([len(text) for text in texts]))
    starts = np.flatnonzero(np.concatenate([[True], ends[:-1]]))
    lengths = np.diff(np.append(starts, len(characters)))
    places = np.arange(len(characters)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((characters & 31) << (5 * places), starts)
    numbers -= np.where(characters[ends] & 16, 1 << (5 * lengths), 0)

    runs = np.add.reduceat(ends.astype(np.int64), text_starts)  # K of each mask
    firsts = _starts(runs)
    run = np.arange(len(numbers)) - np.repeat(firsts, runs)
    counted = (np.repeat(runs, runs) - 1 - run) // 2 + 1
    counted[firsts] = 1
    pixels = numbers * counted
    sound = np.minimum.reduceat(_runs(numbers, run, runs), firsts) >= 0
    covered[ended] = np.where(sound, np.add.reduceat(pixels, firsts), 0)
    area[ended] = np.add.reduceat(pixels * (run % 2), firsts)
    return covered, area


def _runs(numbers: NDArray[Any], run: NDArray[Any], runs: NDArray[Any]) -> NDArray[Any]:
    """Length of each run: the sum of its own number and those of the runs that it is relative to.

    numbers: as written; run: place of each in its mask; runs: K of each mask.
    """
    mask = np.repeat(np.arange(len(runs)), runs)
    chain = np.where(run == 0, 2, run % 2)  # no run is relative to the first one
    order = np.lexsort((run, chain, mask))
    sums = np.cumsum(numbers[order])
    starts = np.flatnonzero(np.diff(3 * mask[order] + chain[order], prepend=-1))
    before = np.repeat(sums[starts] - numbers[order][starts], np.diff(np.append(starts, len(run))))
    lengths = np.empty_like(numbers)
    lengths[order] = sums - before
    return lengths


def _is_end(character: int) -> bool:
    return (character - 48) & 32 == 0


def _starts(lengths: NDArray[Any]) -> NDArray[Any]:
    """Start of each of consecutive stretches with these lengths."""
    return np.cumsum(lengths) - lengths
