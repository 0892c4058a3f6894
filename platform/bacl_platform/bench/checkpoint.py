"""Stage-2 steps on the embedded set with a checkpoint per epoch, beside the same steps without.

A job trains as a Ray Train worker trains it, in this process, with a local store. Both numbers are
of one run, in which few of its windows of logged steps hold a checkpoint: what that takes is less
than what two runs differ by.
"""

import json
import statistics
import tempfile
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from bacl.datasets.annotations import prepare
from bacl_platform import worker
from bacl_platform.bench.measure import Row, Setting
from bacl_platform.bench.sweep import EXPERIMENT
from bacl_platform.experiment import load
from bacl_platform.plan import make_plan
from bacl_platform.store import SCALARS, Store

EPOCHS = 6


def checkpoint(setting: Setting, size: str = "standard", batch: int = 16) -> list[Row]:
    """Time of a step, a checkpoint per epoch spread over all of them; `repeat` counts epochs.

    size: of the embedded set; batch: images a step. An epoch must have more steps than are logged
    as one.
    """
    epochs = EPOCHS if setting.repeat is None else setting.repeat + 1
    recipe = "stages.classifier.recipe"
    with tempfile.TemporaryDirectory(prefix="bacl-bench-") as folder, redirect_stderr(StringIO()):
        path, store = Path(folder) / "experiment.yaml", Store(Path(folder) / "store")
        path.write_text(EXPERIMENT.format(size=size, steps=1, threads=setting.threads))
        prepared = prepare(load(path).dataset, store.datasets)
        steps = -(-prepared.train.image_total // (batch * worker.LOG_EVERY)) * worker.LOG_EVERY
        chosen = [
            f"{recipe}.schedule={{iterations: {epochs * steps}, batch: {batch}, warmup: 10}}",
            f"{recipe}.checkpoint_every={steps}",
        ]
        jobs = make_plan(load(path, chosen), prepared, store).jobs
        for job in jobs:
            if failure := worker.train(job, store, lambda *_: None, lambda _: None):
                raise RuntimeError(failure)
        lines = (store.entry(jobs[-1].key) / SCALARS).read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "time" in row]
    with_one, without = step_times(rows, steps)
    return [
        Row(
            "checkpoint",
            f"a step of {batch} images, a checkpoint every {steps} steps",
            1000 * with_one,
            "without",
            1000 * without,
            1.03,
        )
    ]


def step_times(rows: list[dict[str, float]], steps: int) -> tuple[float, float]:
    """Seconds of a step with and without its share of a checkpoint, from rows as jobs log them.

    A step's time begins where the one before has been computed, so that a checkpoint after every
    `steps` steps is in the window of logged steps that follows it. Medians over windows.
    """
    window = worker.LOG_EVERY
    follows = [row["time"] for row in rows if row["step"] > steps and row["step"] % steps == window]
    others = [row["time"] for row in rows if row["step"] % steps != window]
    without = statistics.median(others)
    return without + (statistics.median(follows) - without) * window / steps, without
