"""Checkpoints of a job, and requests to stop at one or to be started again from it."""

import time
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner, weights_to_cpu

from bacl_platform.plan.job import Job
from bacl_platform.store import unfinished
from bacl_platform.store.checkpoints import write_checkpoint
from bacl_platform.train.attempts import Attempt, Interrupted, Moving
from bacl_platform.train.messages import CHECKPOINT, Asked, Reached, Report
from bacl_platform.train.model import bare_model, save_file
from bacl_platform.train.ranks import together
from bacl_platform.train.retention import Retention

LOOK_EVERY = 2.0
"""Seconds, about, between looks whether the job should end at a checkpoint."""


class Checkpoints(Hook):
    """Checkpoints of what training depends on: tensors and plain values only.

    They are the store's, not Ray Train's: Ray gets a report of the step without a checkpoint,
    because a job that starts looks in the store for the newest one whose digests hold.
    """

    def __init__(
        self,
        job: Job,
        folder: Path,
        report: Report,
        retention: Retention,
        uploads: unfinished.Uploads,
        asked_to_stop: Asked | None = None,
        attempt: Attempt | None = None,
    ) -> None:
        self.job, self.folder, self.report = job, folder, report
        self.retention, self.uploads = retention, uploads
        self.asked_to_stop, self.attempt = asked_to_stop, attempt or Attempt()
        self._looked = (0, 0.0)
        """Step and time of the last look whether the job should end."""
        self._next_look = 0

    def before_train(self, runner: Runner) -> None:
        self._looked, self._next_look = (runner.iter, time.monotonic()), runner.iter + 1

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        step = runner.iter + 1
        # what is due after this step would be left out: a resumed job starts behind it
        evaluates = step % runner.train_loop.val_interval == 0 or step == self.job.iterations
        asked = None if evaluates else self._asked(step)
        due = step % self.job.recipe.checkpoint_every == 0 or step == self.job.iterations
        if not due and asked is None:
            return

        def save(path: Path) -> None:
            content = {
                "state_dict": weights_to_cpu(bare_model(runner.model).state_dict()),
                "optimizer": runner.optim_wrapper.state_dict(),
                "param_schedulers": [s.state_dict() for s in runner.param_schedulers],
                "iter": step,
            }
            runner.call_hook("before_save_checkpoint", checkpoint=content)
            save_file(content, path)

        together(lambda: write_checkpoint(self.folder, step, save, self.retention.kept))
        together(self.uploads.request)
        self.report({CHECKPOINT: step})
        if asked is not None:
            raise asked

    def _asked(self, step: int) -> Interrupted | None:
        """How training should end at this step, if it should; asked every few seconds, by all
        ranks at the same step."""
        if step < self._next_look:
            return None

        def look() -> tuple[bool, str | None, int]:
            (before, then), now = self._looked, time.monotonic()
            pace = max(now - then, 1e-3) / (step - before)
            reached = Reached(step, pace, pace * (self.job.iterations - step))
            stop = self.asked_to_stop is not None and self.asked_to_stop()
            why = self.attempt.asked_to_move(reached)
            return stop, why, step + max(1, round(LOOK_EVERY / pace))

        stop, why, self._next_look = together(look)
        self._looked = (step, time.monotonic())
        name = f"{self.job.name} ({self.job.key})"
        if stop:
            return Interrupted(f"job {name} was stopped at step {step}")
        return None if why is None else Moving(name, step, why)
