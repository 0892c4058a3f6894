"""A sweep of 24 trials in one bank beside the same trials as jobs of their own.

Both run as `bacl sweep` runs them, on a local Ray, with stage 1 in the store beforehand.
"""

import io
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bacl_platform.bench.measure import IMAGES, Row, Setting

TRIALS = 24
SINGLES = 2
"""Jobs of one trial that are timed; 24 take twelve times as long."""
STEPS = {IMAGES["small"]: (60, "small"), IMAGES["full"]: (300, "standard")}
"""Steps of stage 2 and size of the embedded set, by the bench's scale."""

EXPERIMENT = """
name: bench
dataset: {{format: embedded, size: {size}}}
detector:
  backbone: tiny
  neck_channels: 48
  fc_channels: 128
  anchor_scale: 6
  rpn_samples: 128
  roi_samples: 64
  test_proposals: 200
  max_detections: 30
stages:
  representation:
    kind: representation
    recipe: &recipe
      schedule: {{iterations: 20, warmup: 10}}
      scales: [[128, 128]]
      test_scale: [128, 128]
      proposals: 200
      loader_workers: 0
    resources: &cores {{cpus: {threads}}}
  classifier:
    kind: classifier
    after: representation
    variants: {{bacl: {{method: bacl, hallucination: {{categories: 4}}}}}}
    recipe:
      <<: *recipe
      schedule: {{iterations: {steps}, warmup: 10}}
    resources: *cores
"""

SWEEP = """
name: {name}
base: experiment.yaml
variant: bacl
space:
  variant.alpha: {alphas}
{per_job}"""


def sweep(setting: Setting) -> list[Row]:
    """Wall time of the fused sweep, beside the jobs one after another; and its share outside of
    mmengine's loops, which train and evaluate."""
    steps, size = STEPS[setting.image]
    with tempfile.TemporaryDirectory(prefix="bacl-bench-") as folder, _own_tracking():
        place = Path(folder)
        text = EXPERIMENT.format(size=size, steps=steps, threads=setting.threads)
        (place / "experiment.yaml").write_text(text)
        _run(place, "first", 1, alone=False, start=0.0)  # stage 1, and whatever is made once
        fused, loops = _run(place, "fused", TRIALS, alone=False, start=0.1)
        single, _ = _run(place, "single", SINGLES, alone=True, start=0.5)
    return [
        Row(
            "sweep",
            f"{TRIALS} trials in one bank, {steps} steps",
            1000 * fused,
            f"{TRIALS} jobs",
            1000 * single * TRIALS / SINGLES,
            1 / 8,
        ),
        Row(
            "sweep_overhead",
            "outside of the loops",
            1000 * (fused - loops),
            "the whole sweep",
            1000 * fused,
            0.15,
        ),
    ]


def _run(place: Path, name: str, trials: int, alone: bool, start: float) -> tuple[float, float]:
    """Seconds that a sweep over `trials` values of alpha from `start` on takes, and its jobs' loops
    of them."""
    from rich.console import Console

    from bacl_platform import tuning
    from bacl_platform.store import JOB, Store
    from bacl_platform.sweep import Preparation, SweepFile, plan_sweeps

    alphas = [round(start + number / 1000, 4) for number in range(trials)]
    per_job = "variants_per_job: 1\nmax_concurrent: 1\n" if alone else ""
    path = place / f"{name}.yaml"
    path.write_text(SWEEP.format(name=name, alphas=alphas, per_job=per_job))
    began = time.perf_counter()
    store = Store(place / "store")
    file, prepare = SweepFile(path), Preparation(store)
    plans = plan_sweeps([file], [file.trials(store)], prepare, store)
    tuning.run_sweeps(plans, store, prepare, Console(file=io.StringIO()))
    taken = time.perf_counter() - began
    keys = {cell.job.key for plan in plans for cell in plan.cells}
    jobs = [json.loads((store.entry(key) / JOB).read_text()) for key in keys]
    return taken, sum(job["loop_seconds"] for job in jobs)


@contextmanager
def _own_tracking() -> Iterator[None]:
    """Within, MLflow writes to the bench's own store."""
    known = os.environ.pop("MLFLOW_TRACKING_URI", None)
    try:
        yield
    finally:
        if known is not None:
            os.environ["MLFLOW_TRACKING_URI"] = known
