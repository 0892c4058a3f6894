"""A sweep of 24 trials in one bank beside the same trials as jobs of their own.

All run as `bacl sweep` runs them, on a local Ray, as large and long as the main job at full scale.
"""

import io
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bacl_platform.bench.embedded import STEPS, experiment
from bacl_platform.bench.measure import Row, Setting

TRIALS = 24
SINGLES = 2
"""Jobs of one trial that are timed; 24 take twelve times as long."""

SWEEP = """
name: {name}
base: experiment.yaml
variant: bacl
space:
  variant.alpha: {alphas}
{per_job}"""


def measure(setting: Setting) -> list[Row]:
    """Wall time of the fused sweep beside that of single jobs, with stage 1 in the store; and the
    share of a sweep's time that is not spent in mmengine's training and evaluation loops, without
    and with stage 1 in the store."""
    features, heads, size, drawn = STEPS[setting.image]
    with tempfile.TemporaryDirectory(prefix="bacl-bench-") as folder, _own_tracking():
        place = Path(folder)
        text = experiment(size, features, heads, drawn, setting.threads)
        (place / "experiment.yaml").write_text(text, encoding="utf-8")
        whole, all_loops = _run(place, "whole", TRIALS, alone=False, start=0.0)
        fused, loops = _run(place, "fused", TRIALS, alone=False, start=0.1)
        single, _ = _run(place, "single", SINGLES, alone=True, start=0.5)
    return [
        Row(
            "sweep",
            f"{TRIALS} trials in one bank, {heads} steps",
            1000 * fused,
            f"{TRIALS} jobs",
            1000 * single * TRIALS / SINGLES,
            1 / 8,
        ),
        Row(
            "sweep_overhead",
            "outside of the loops",
            1000 * (whole - all_loops),
            "the sweep from an empty store",
            1000 * whole,
            0.15,
        ),
        Row(
            "sweep_overhead_of_bank",
            "outside of the loop",
            1000 * (fused - loops),
            "the sweep with stage 1 in the store",
            1000 * fused,
            None,
        ),
    ]


def _run(place: Path, name: str, trials: int, alone: bool, start: float) -> tuple[float, float]:
    """Seconds that a sweep over `trials` values of alpha from `start` on takes, and how many of
    them its jobs spend in mmengine's loops."""
    from rich.console import Console

    from bacl_platform.plan.sweep_plan import Preparation, plan_sweeps
    from bacl_platform.plan.trials import SweepFile
    from bacl_platform.store.names import JOB
    from bacl_platform.store.store import Store
    from bacl_platform.tune import sweeps

    alphas = [round(start + number / 1000, 4) for number in range(trials)]
    per_job = "variants_per_job: 1\nmax_concurrent: 1\n" if alone else ""
    path = place / f"{name}.yaml"
    path.write_text(SWEEP.format(name=name, alphas=alphas, per_job=per_job), encoding="utf-8")
    began = time.perf_counter()
    store = Store(place / "store")
    file, prepare = SweepFile(path), Preparation(store)
    plans = plan_sweeps([file], [file.trials(store)], prepare, store)
    keys = {job.key for plan in plans for job in plan.missing(store)}
    sweeps.run_sweeps(plans, store, prepare, Console(file=io.StringIO()))
    taken = time.perf_counter() - began
    jobs = [json.loads((store.entry(key) / JOB).read_text(encoding="utf-8")) for key in keys]
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
