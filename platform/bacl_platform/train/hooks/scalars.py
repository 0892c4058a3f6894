"""The log of a job's losses and metrics."""

import json
import math
from pathlib import Path
from typing import Any

from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from bacl_platform.plan.job import Job
from bacl_platform.train.messages import Logged, Report, Started, Tell
from bacl_platform.train.model import losses_of

LOG_EVERY = 10
"""Steps between logged scalars."""


class Scalars(Hook):
    """Writes `scalars.jsonl`, one row per logged step and evaluation, and sends them to the
    driver."""

    def __init__(self, job: Job, path: Path, tell: Tell, report: Report) -> None:
        self.job, self.path, self.tell, self.report = job, path, tell, report
        self.evaluated_at: int | None = None

    def start(self, step: int) -> None:
        """Keep what was logged up to the step that training goes on from (rank 0)."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("}")]
        kept = [row for row in rows if row["step"] <= step and not self._is_final_evaluation(row)]
        whole = self.path.with_suffix(".new")
        whole.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        whole.replace(self.path)
        self.tell(Started(self.job.key, step))
        self.tell(Logged(self.job.key, kept))

    def _is_final_evaluation(self, row: dict[str, Any]) -> bool:
        return row["step"] == self.job.iterations and "loss" not in row

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        step = runner.iter + 1
        if step % LOG_EVERY and step != self.job.iterations:
            return
        names, values = losses_of(outputs)
        all_reduce(values, "mean")
        times = {
            name: runner.message_hub.get_scalar(f"train/{name}").mean(LOG_EVERY)
            for name in ("data_time", "time")
        }
        rates = runner.optim_wrapper.get_lr()  # with several groups, `base_lr` is the schedule's
        lr = rates.get("base_lr", rates["lr"])[0]
        self._write(
            {"step": step, "lr": lr, **dict(zip(names, values.tolist(), strict=True)), **times}
        )

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        self.evaluated_at = runner.iter
        self._write({"step": runner.iter, **metrics})
        self.report({"step": runner.iter, **metrics})

    def _write(self, row: dict[str, Any]) -> None:
        row = {name: value for name, value in row.items() if math.isfinite(value)}
        if is_main_process():
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            self.tell(Logged(self.job.key, [row]))
