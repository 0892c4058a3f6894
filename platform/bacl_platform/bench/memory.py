"""Peak memory of training steps, measured in a process of its own."""

import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from bacl.settings import Detector
from bacl_platform.bench.measure import Setting, quiet

STATUS = Path("/proc/self/status")


def peak_memory(count: int, setting: Setting, detector: Detector) -> float:
    """Peak MiB of two steps with a bank of `count` variants.

    On CUDA, what torch allocates; on the CPU, resident memory above what imports took.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak, count, setting, detector).result()


def _peak(count: int, setting: Setting, detector: Detector) -> float:
    with quiet():
        import torch

        from bacl_platform.bench.training import Training

        torch.set_num_threads(setting.threads)
        before = resident()
        training = Training(count, setting, detector)
        for _ in range(2):
            training.step()
    if setting.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resident() - before


def resident() -> float:
    """The most MiB that this process has held."""
    if STATUS.exists():  # where there is /proc, a child's ru_maxrss begins with its parent's
        fields = dict(
            line.split(":", 1) for line in STATUS.read_text(encoding="utf-8").splitlines()
        )
        return int(fields["VmHWM"].removesuffix("kB")) / 2**10
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
