"""Peak memory of training steps, measured in a process of its own."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from bacl.settings import Detector
from bacl_platform.bench.measure import Setting, quiet
from bacl_platform.train.memory import resident


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
