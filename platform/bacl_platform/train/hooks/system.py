"""Load of each rank's machine while it trains, for MLflow's system metrics."""

import contextlib
from typing import Any

import psutil
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from bacl_platform.plan.metric_names import system_metric
from bacl_platform.train.messages import Measured, Tell


class System(Hook):
    """Sends each rank's machine load and step times to the driver, every few steps.

    Args:
        tell: takes each row as a message.
        key: of the job.
        every: steps between rows.
        last: the step of the last row.
    """

    def __init__(self, tell: Tell, key: str, every: int, last: int) -> None:
        self.tell, self.key, self.every, self.last = tell, key, every, last
        self.process = psutil.Process()
        self._sample()  # CPU use is counted from one sample to the next

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        step = runner.iter + 1
        if step % self.every and step != self.last:
            return
        found = self._sample()
        for name, scalar in (("data_wait_seconds", "data_time"), ("step_seconds", "time")):
            found[name] = runner.message_hub.get_scalar(f"train/{scalar}").mean(self.every)
        rank = get_rank()
        named = {system_metric(rank, name): float(value) for name, value in found.items()}
        row = {"step": step, **named}
        self.tell(Measured(self.key, [row]))

    def _sample(self) -> dict[str, float]:
        memory = psutil.virtual_memory()
        return {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "process_cpu_percentage": self.process.cpu_percent(),
            "system_memory_usage_percentage": memory.percent,
            "process_memory_megabytes": self.process.memory_info().rss / 1e6,
            **(_gpu() if torch.cuda.is_available() else {}),
        }


def _gpu() -> dict[str, float]:
    """Memory and use of the device that this rank trains on."""
    free, total = torch.cuda.mem_get_info()
    found = {
        "gpu_memory_usage_percentage": 100 * (total - free) / total,
        "gpu_memory_usage_megabytes": (total - free) / 1e6,
        "gpu_process_memory_megabytes": torch.cuda.memory_allocated() / 1e6,
        "gpu_process_memory_peak_megabytes": torch.cuda.max_memory_allocated() / 1e6,
    }
    with contextlib.suppress(Exception):  # the driver's library may be absent or forbid it
        found["gpu_utilization_percentage"] = torch.cuda.utilization()
    return found
