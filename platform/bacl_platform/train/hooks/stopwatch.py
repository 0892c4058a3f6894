"""When the parts of a job's training and evaluation begin and end."""

import time
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from bacl_platform.train.memory import MemoryWatch

LAPS = "laps"
"""What MMEngine's message hub knows them by."""


@HOOKS.register_module()
class Stopwatch(Hook):
    """Notes times in seconds, and what is in memory before the first step, in the runner's message
    hub.

    steps: of each step, from the end of the one before. waits: what of that was waiting for data.
    images: of each validation batch. A checkpoint is written between `stepped` and `evaluating`.
    """

    priority = "VERY_LOW"  # just before checkpoints, which have the same and are registered later

    def __init__(self) -> None:
        self.laps: dict[str, Any] = {"steps": [], "waits": [], "images": []}
        self._last = 0.0

    def before_run(self, runner: Runner) -> None:
        runner.message_hub.update_info(LAPS, self.laps)

    def before_train(self, runner: Runner) -> None:
        self.laps["host_fixed"] = MemoryWatch().look()
        self._last = self.laps["training"] = time.perf_counter()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.laps["waits"].append(time.perf_counter() - self._last)
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            self.laps["gpu_fixed"] = torch.cuda.memory_allocated()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        now = time.perf_counter()
        self.laps["steps"].append(now - self._last)
        self._last = self.laps["stepped"] = now

    def before_val(self, runner: Runner) -> None:
        runner.message_hub.update_info(LAPS, self.laps)  # of a job that does not train
        self._last = self.laps["evaluating"] = time.perf_counter()

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        now = time.perf_counter()
        self.laps["images"].append(now - self._last)
        self._last = now

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        self.laps["evaluated"] = time.perf_counter()
