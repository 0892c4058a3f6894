"""How fast it is: training steps and inference beside MMDetection's own, benches, and a profile."""

import gzip
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bacl.settings import Detector
from bacl_platform import bench
from bacl_platform.bench.measure import Row, Setting, quiet
from bacl_platform.bench.rows import inference, throughput
from bacl_platform.bench.training import R50, RECIPE, Training

BENCHES = ("loss", "hallucination", "step", "bank", "postprocess", "loader")
TINY = Detector(
    backbone="tiny",
    neck_channels=16,
    fc_channels=24,
    anchor_scale=6,
    rpn_samples=64,
    roi_samples=32,
)
MOST_TRACE = 10_000_000
"""Bytes of a compressed trace."""


def setting_of(device: str, small: bool) -> tuple[Setting, Detector]:
    """What to measure on, and the detector."""
    if small:
        return Setting(device, repeat=1, image=(64, 96)), TINY
    return bench.setting_of(device, scale=None, repeat=None, threads=1), R50


def fast(device: str, small: bool, folder: Path) -> Iterator[dict[str, Any]]:
    """Rows by what was varied, and the profile of a step with one variant."""
    setting, detector = setting_of(device, small)
    torch.set_num_threads(setting.threads)
    measured: dict[str, Callable[[], list[Row]]] = {
        "float32": partial(throughput.steps, "float32", setting, detector),
        "inference": partial(inference.measure, setting, detector),
        "bfloat16": partial(throughput.steps, "bfloat16", setting, detector),
    }
    yield from rows(measured, small)
    yield {"profile": profiled(setting, detector, folder)}


def benches(device: str, small: bool) -> Iterator[dict[str, Any]]:
    """Rows of the benches that say something about a GPU."""
    setting, _ = setting_of(device, small)
    names = BENCHES[:2] if small else BENCHES
    yield from rows({name: partial(bench.run, name, setting) for name in names}, small)


def rows(measured: dict[str, Callable[[], list[Row]]], small: bool) -> Iterator[dict[str, Any]]:
    """Each measurement's rows, or a sentence in their place where the card has too little memory
    or no compiler. Limits are of whole sizes."""
    for name, measure in measured.items():
        print(f"   {name}", flush=True)
        try:
            with quiet():
                found = [replace(row, limit=None) if small else row for row in measure()]
            yield {name: [row.as_json() for row in found]}
        except torch.OutOfMemoryError as error:
            total = torch.cuda.get_device_properties(0).total_memory / 2**30
            line = str(error).splitlines()[0]
            yield {name: f"left out: the card's {total:.1f} GiB are too little ({line})"}
        except torch._dynamo.exc.TorchDynamoException as error:
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            yield {name: f"left out: torch.compile could not ({line})"}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def profiled(setting: Setting, detector: Detector, folder: Path) -> dict[str, Any]:
    """The operators of a step with one variant that take longest, and where its trace lies."""
    print("   profile", flush=True)
    activities = [ProfilerActivity.CPU]
    if setting.device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with quiet(), throughput.tf32():
        training = Training(1, setting, detector, recipe=RECIPE, images=throughput.IMAGES)
        for _ in range(2):
            training.step()
        with profile(activities=activities) as found:
            training.step()
            if setting.device == "cuda":
                torch.cuda.synchronize()
    folder.mkdir(parents=True, exist_ok=True)
    trace, packed = folder / "trace.json", folder / "trace.json.gz"
    found.export_chrome_trace(str(trace))
    with trace.open("rb") as plain, gzip.open(packed, "wb") as small:
        shutil.copyfileobj(plain, small)
    trace.unlink()
    size = packed.stat().st_size
    if size > MOST_TRACE:
        packed.unlink()
    key = "self_device_time_total" if setting.device == "cuda" else "self_cpu_time_total"
    slowest = sorted(found.key_averages(), key=lambda each: -getattr(each, key))[:25]
    return {
        "trace": packed.name if size <= MOST_TRACE else f"left out: {size} bytes are too many",
        "operators": [
            {"name": each.key, "calls": each.count, "ms": round(getattr(each, key) / 1000, 3)}
            for each in slowest
        ],
    }
