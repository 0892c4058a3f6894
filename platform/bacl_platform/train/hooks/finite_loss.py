"""Losses that are not finite."""

from pathlib import Path
from typing import Any

from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner

from bacl_platform.plan.job import Job
from bacl_platform.plan.metric_names import owner
from bacl_platform.store.checkpoints import latest_checkpoint
from bacl_platform.train.hooks.leaving import LeavingVariants
from bacl_platform.train.model import losses_of
from bacl_platform.train.ranks import Agreed, together


class FiniteLoss(Hook):
    """Takes variants whose losses are NaN or infinite on any rank out of the bank.

    Where that leaves none, or another loss is not finite, it stops all ranks.
    """

    def __init__(self, job: Job, checkpoints: Path, stops: LeavingVariants) -> None:
        self.job, self.checkpoints, self.stops = job, checkpoints, stops

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        names, values = losses_of(outputs)
        finite = values.isfinite().float()
        all_reduce(finite, "min")
        if finite.all():
            return
        bad = [name for name, good in zip(names, finite.tolist(), strict=True) if not good]
        sentences: dict[str | None, str] = {}
        for name in bad:
            if name != "loss":
                sentences.setdefault(owner(name, self.job)[0], self._sentence(runner, name))
        lost = {variant: text for variant, text in sentences.items() if variant is not None}
        if None in sentences or not lost or len(lost) == len(self.stops.remaining.variants):
            raise Agreed(next(iter(sentences.values()), self._sentence(runner, bad[0])))
        self.stops.fail(runner, lost)

    def _sentence(self, runner: Runner, name: str) -> str:
        found = together(lambda: latest_checkpoint(self.checkpoints))
        good = f"the last good checkpoint is {found[1]}" if found else "there is no checkpoint yet"
        return (
            f"job {self.job.name} ({self.job.key}): {name} is not finite at step "
            f"{runner.iter + 1}: expected finite losses, perhaps with a lower learning rate or a "
            f"longer warm-up; {good}"
        )
