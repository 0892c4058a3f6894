"""What two ranks of a bank over LVIS sum in a step: rows that any of them touched, beside all."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn

import bacl.register  # noqa: F401  before anything imports mmdet.models
from bacl.detector import bank as bank_module
from bacl.errors import RunError
from bacl_platform.bench.measure import Row, Setting, synchronize
from bacl_platform.bench.training import CATEGORIES, R50

BANKS = (1, 8, 30)
RANKS = 2
IMAGES = 8
"""Of a rank: 16 of a batch."""
SHOWN = 4
"""Categories of an image; a batch of 16 then has some fifty, as LVIS's has."""
HALLUCINATED = 8
"""Categories that a pair of images has made features of, by each variant."""


def measure(
    setting: Setting, banks: tuple[int, ...] = BANKS, categories: int = CATEGORIES
) -> list[Row]:
    """Bytes that a rank hands on, and time, of confusion matrices and of feature statistics, on
    this machine: over nccl where it has a GPU for each rank, else over gloo.

    Raises:
        RunError: a sum is not that of the ranks' numbers.
    """
    repeat = 5 if setting.repeat is None else setting.repeat
    rows = []
    for count in banks:
        with tempfile.TemporaryDirectory() as folder:
            sizes = (count, categories, R50.fc_channels)
            spawn(_measured, (folder, setting.device, sizes, repeat), nprocs=RANKS)
            found = torch.load(Path(folder) / "found.pth", weights_only=True)
        what = f"{count} variants, a batch of {RANKS * IMAGES}"
        mega = [size / 1e6 for size in found["bytes"]]
        rows += [
            Row(f"reduce_{count}", what, mega[0], "all rows", mega[1], 0.1, unit="MB"),
            Row(f"reduce_{count}_time", what, found["ms"][0], "all rows", found["ms"][1], None),
        ]
    return rows


def _measured(
    rank: int, folder: str, device: str, sizes: tuple[int, int, int], repeat: int
) -> None:
    """For a process of its own: what both ways take; rank 0 writes it to the folder."""
    torch.set_num_threads(1)
    cards = torch.cuda.device_count() if device == "cuda" else 0
    if cards:
        torch.cuda.set_device(rank % cards)
    torch.distributed.init_process_group(
        "nccl" if cards >= RANKS else "gloo",  # nccl refuses two ranks on a card
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=RANKS,
    )
    try:
        ours, theirs = (_way(rank, many, device, sizes, repeat) for many in (1, None))
        if rank == 0:
            both = {name: [ours[name], theirs[name]] for name in ours}
            torch.save(both, Path(folder) / "found.pth")
    finally:
        torch.distributed.destroy_process_group()


def _way(
    rank: int, many: int | None, device: str, sizes: tuple[int, int, int], repeat: int
) -> dict[str, float]:
    """Bytes and milliseconds of a step. many: `bank.MANY`; None sums all rows."""
    bank: Any = bank_module
    sent: list[int] = []
    plain = bank.all_reduce
    bank.MANY = many or 10**12

    def counted(flat: Tensor, how: str) -> None:
        sent.append(flat.numel() * flat.element_size())
        plain(flat, how)

    bank.all_reduce = counted
    times = []
    try:
        for _ in range(1 + repeat):
            tallies = _tallies(rank, device, *sizes)
            torch.distributed.barrier()
            synchronize(device)
            start = time.perf_counter()
            sent.clear()
            found = bank.reduce_sum(tallies)
            synchronize(device)
            times.append(1000 * (time.perf_counter() - start))
        _check(found, [_tallies(other, device, *sizes) for other in range(RANKS)])
    finally:
        bank.all_reduce = plain
    return {"bytes": float(sum(sent)), "ms": statistics.median(times[1:])}


def _check(found: list[dict[str, Tensor]], of_ranks: list[list[dict[str, Tensor]]]) -> None:
    """Raise RunError where sums are not those of the ranks' numbers, which are whole."""
    for sums, *each in zip(found, *of_ranks, strict=True):
        for name, value in sums.items():
            if not torch.equal(value, sum((own[name] for own in each), torch.zeros_like(value))):
                raise RunError(f"expected the ranks' sum of {name}, got other numbers")


def _tallies(
    rank: int, device: str, count: int, categories: int, width: int
) -> list[dict[str, Tensor]]:
    """A step's, of a bank of BACL variants: categories are drawn as long-tailed as LVIS's are."""
    draw = np.random.default_rng(rank)
    chance = 1 / np.arange(2, 2 + categories) ** 1.2
    chance /= chance.sum()
    shown = min(SHOWN, categories)
    own = [draw.choice(categories, shown, replace=False, p=chance) for _ in range(IMAGES)]
    seen = np.unique(np.concatenate(own))
    tally: dict[str, Any] = {
        "moments": _matrix(categories, 2 * width + 1, seen, torch.float64),
        "counts": torch.ones(2 + count),
    }
    for number in range(count):
        made = draw.choice(categories, (IMAGES // 2, min(HALLUCINATED, categories)))
        touched = np.union1d(seen, made)
        tally[f"bacl{number}"] = _matrix(categories, categories + 1, touched, torch.float32)
    return [{name: value.to(device) for name, value in tally.items()}]


def _matrix(rows: int, columns: int, touched: Any, dtype: torch.dtype) -> Tensor:
    made = torch.zeros(rows, columns, dtype=dtype)
    made[torch.from_numpy(touched)] = 1
    return made
