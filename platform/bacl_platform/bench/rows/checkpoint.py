"""Stage-2 steps on the embedded set with a checkpoint per epoch, beside the same steps without.

A job trains as a Ray Train worker trains it, in this process, with a local store. Both numbers are
of one run, whose steps and checkpoints are timed apart: two runs differ by more than a checkpoint
takes.
"""

import json
import statistics
import tempfile
import time
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from bacl.datasets.prepare import prepare
from bacl_platform.bench.embedded import experiment
from bacl_platform.bench.measure import Row, Setting
from bacl_platform.plan.planner import make_plan
from bacl_platform.spec.load import load
from bacl_platform.store.names import SCALARS
from bacl_platform.store.store import Store
from bacl_platform.train import worker
from bacl_platform.train.hooks.scalars import LOG_EVERY
from bacl_platform.train.messages import CHECKPOINT, Message

EPOCHS = 6


def measure(setting: Setting, size: str = "standard", batch: int = 16) -> list[Row]:
    """Time of a step, a checkpoint per epoch spread over all of them; `repeat` counts epochs.

    size: of the embedded set; batch: images a step. An epoch must have more steps than are logged
    as one.
    """
    epochs = EPOCHS if setting.repeat is None else setting.repeat + 1
    recipe = "stages.classifier.recipe"
    with tempfile.TemporaryDirectory(prefix="bacl-bench-") as folder, redirect_stderr(StringIO()):
        path, store = Path(folder) / "experiment.yaml", Store(Path(folder) / "store")
        path.write_text(experiment(size, 1, 1, 4, setting.threads), encoding="utf-8")
        prepared = prepare(load(path).dataset, store.datasets)
        steps = -(-prepared.train.image_total // (batch * LOG_EVERY)) * LOG_EVERY
        chosen = [
            f"{recipe}.schedule={{iterations: {epochs * steps}, batch: {batch}, warmup: 10}}",
            f"{recipe}.checkpoint_every={steps}",
        ]
        jobs = make_plan(load(path, chosen), prepared, store).jobs
        for job in jobs:
            watch = Watch()
            if failure := worker.train(job, store, watch.tell, watch.report):
                raise RuntimeError(failure)
        lines = (store.entry(jobs[-1].key) / SCALARS).read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if "time" in row]
    # a step's time begins where the one before has been computed: a checkpoint is in the next one's
    others = [row["time"] for row in rows if row["step"] % steps != LOG_EVERY]
    step = statistics.median(others)
    return [
        Row(
            "checkpoint",
            f"a step of {batch} images, a checkpoint every {steps} steps",
            1000 * (step + statistics.median(watch.seconds) / steps),
            "without",
            1000 * step,
            1.03,
        )
    ]


class Watch:
    """Times a job's checkpoints by its messages: a step's losses come before, the report of the
    checkpoint after."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def tell(self, message: Message) -> None:
        """Losses are logged; a checkpoint may begin."""
        self._began = time.perf_counter()

    def report(self, metrics: dict[str, Any]) -> None:
        """A checkpoint is whole, or an evaluation over."""
        if CHECKPOINT in metrics:
            self.seconds.append(time.perf_counter() - self._began)
