"""Variants that leave a running bank."""

import copy
import json
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from bacl.config import bank_heads
from bacl_platform.plan.job import Job
from bacl_platform.store.disk import write_text
from bacl_platform.train.hooks.scalars import LOG_EVERY
from bacl_platform.train.messages import Stopped, Tell, VariantsFailed
from bacl_platform.train.model import bare_model
from bacl_platform.train.ranks import together


class NoneLeft(Exception):
    """All variants of a job were stopped."""


class LeavingVariants(Hook):
    """Takes variants that failed or were stopped out of a running bank.

    The others go on as if those had never been in it. Which left, and why, is written down before
    the next checkpoint, so that a resumed job leaves them out too.
    """

    def __init__(self, job: Job, path: Path, tell: Tell, stopped: Stopped | None) -> None:
        self.job, self.path, self.tell, self.stopped = job, path, tell, stopped
        self.gone: dict[str, str | None] = {}
        """Names of variants, and how they failed, or None where they were stopped."""
        self.evaluations = 0

    @property
    def remaining(self) -> Job:
        """The job without the variants that left."""
        kept = [name for name in self.job.variants if name not in self.gone]
        config = copy.deepcopy(self.job.config)
        for head in bank_heads(config):
            head["variants"] = {name: head["variants"][name] for name in kept}
        return self.job.model_copy(
            update={
                "variants": {name: self.job.variants[name] for name in kept},
                "variant_keys": {name: self.job.variant_keys[name] for name in kept},
                "config": config,
            }
        )

    def restore(self, runner: Runner) -> None:
        """Take out the variants that had left before the job was interrupted."""
        noted: dict[str, str | None] = together(
            lambda: json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        )
        self._leave(runner, noted)

    def fail(self, runner: Runner, sentences: dict[str, str]) -> None:
        """Take out variants that failed."""
        self._leave(runner, dict(sentences))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        step = runner.iter + 1
        if self.stopped and step % LOG_EVERY == 0 and step < self.job.iterations:
            self._leave(runner, together(self._asked))

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        self.evaluations += 1

    def _asked(self) -> dict[str, str | None]:
        assert self.stopped is not None
        stopped = set(self.stopped(self.evaluations))
        return {name: None for name in self.remaining.variants if name in stopped}

    def _leave(self, runner: Runner, names: dict[str, str | None]) -> None:
        if not names:
            return
        self.gone |= names
        together(lambda: write_text(self.path, json.dumps(self.gone)))
        failed = {name: sentence for name, sentence in names.items() if sentence is not None}
        if failed and is_main_process():
            self.tell(VariantsFailed(self.job.key, failed))
        if len(self.gone) == len(self.job.variants):
            raise NoneLeft
        bare = bare_model(runner.model)
        left = {id(parameter) for parameter in bare.drop(list(names))}
        optimizer = runner.optim_wrapper.optimizer
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in left:
                    optimizer.state.pop(parameter, None)
            group["params"] = [p for p in group["params"] if id(p) not in left]
        for metric in runner.val_evaluator.metrics:
            metric.variants = [name for name in metric.variants if name not in names]
        if is_model_wrapper(runner.model):  # it expects gradients of what has left
            runner.model._remove_autograd_hooks()
            runner.model = runner.wrap_model(runner.cfg.get("model_wrapper_cfg"), bare)
        runner.logger.info("left out from here on: %s", ", ".join(names))
