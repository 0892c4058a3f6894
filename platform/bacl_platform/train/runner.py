"""mmengine's Runner of a job, which begins where the store's checkpoints say."""

import copy
import logging
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings
from torch import nn

from bacl.config import config_text
from bacl.detector.warmstart import load_trunk, read_checkpoint, share_frozen
from bacl_platform.plan.job import Job
from bacl_platform.store.checkpoints import latest_checkpoint
from bacl_platform.store.names import CHECKPOINT, CHECKPOINTS, LOG, SHARDS
from bacl_platform.store.store import Store
from bacl_platform.store.weights import localise
from bacl_platform.train.attempts import Attempt
from bacl_platform.train.bringing import handed_out
from bacl_platform.train.hooks.leaving import LeavingVariants
from bacl_platform.train.hooks.scalars import Scalars
from bacl_platform.train.model import bare_model
from bacl_platform.train.ranks import Machines, together


class StageConfig(Config):
    """A stage's configuration, which is written down quickly."""

    @property
    def pretty_text(self) -> str:
        return config_text(self.to_dict())


def runner_config(job: Job, store: Store, results: Path) -> Config:
    content = copy.deepcopy(job.config)
    localise(store, content)
    config = StageConfig(content)
    import_modules_from_strings(**config.custom_imports)
    config.work_dir = str(store.work(job.key) / "mmengine")
    # MMEngine names loggers by it and the second: a job that trains twice in one would share a file
    config.experiment_name = f"{job.key}-{uuid.uuid4().hex[:8]}"
    config.log_level = "INFO"
    config.visualizer = {"type": "Visualizer", "vis_backends": []}
    config.default_hooks = {"checkpoint": None}
    config.val_evaluator.folder = str(results / "variants")
    if (features := job.reads_features_of) is not None:
        loaders = ("train_dataloader", "statistics_dataloader", "val_dataloader")
        for loader in (config[name] for name in loaders if name in config):
            if loader.dataset.type.startswith("Stored"):
                loader.dataset.folder = str(store.entry(features) / SHARDS)
                if job.resources.gpus:  # which takes a batch faster than the host puts it together
                    loader.num_workers = job.recipe.loader_workers
                    loader.persistent_workers = job.recipe.loader_workers > 0
                    loader.pin_memory = True
    for name in ("train_dataloader", "statistics_dataloader"):
        if name in config:  # there may be other ranks than were planned with
            config[name].batch_size = job.recipe.schedule.batch // get_world_size()
    if get_world_size() > 1:
        config.launcher = "pytorch"
        # mmengine hands DDP a device id, which DDP refuses for a model on the CPU
        devices = [torch.cuda.current_device()] if job.resources.gpus else None
        config.model_wrapper_cfg = {
            "type": "MMDistributedDataParallel",
            "broadcast_buffers": False,
            "device_ids": devices,
        }
    return config


class JobRunner(Runner):
    """mmengine's runner, started from the store instead of from mmengine's own checkpoints."""

    begin: Callable[[], None]
    _started = False

    def build_logger(self, log_level: int | str = "INFO", **kwargs: Any) -> MMLogger:
        log_file = Path(self.work_dir).parent / LOG
        return super().build_logger(log_level, str(log_file), **kwargs)

    def load_or_resume(self) -> None:
        if not self._started:
            self.begin()
            self._started = True


def begin(
    runner: JobRunner,
    job: Job,
    at: Machines,
    scalars: Scalars,
    stops: LeavingVariants,
    attempt: Attempt,
) -> None:
    """Go on from the newest checkpoint, or start from the parent's weights, or from nothing."""
    store = at.store
    stops.restore(runner)
    found = together(lambda: latest_checkpoint(store.work(job.key) / CHECKPOINTS))
    step = 0
    if found is not None:
        step, path = found
        with handed_out(path.parent, job.key, at) as folder:
            _resume(runner, step, folder / path.name)
    elif job.parent is not None:
        fresh = load_trunk(bare_model(runner.model), store.entry(job.parent) / CHECKPOINT)
        runner.logger.info(
            "not in the checkpoint of %s: %s", job.parent, ", ".join(fresh) or "nothing"
        )
    if job.parent is not None:
        model = bare_model(runner.model)
        share(model, job, store, model.frozen_parts, runner.logger)
    together(lambda: scalars.start(step))
    if (lost := together(lambda: attempt.start(job.key, step, scalars.tell))) is not None:
        runner.logger.info("after an interruption: %s", lost)


def share(
    model: nn.Module, job: Job, store: Store, parts: Iterable[str], logger: logging.Logger
) -> None:
    """Have parts that do not train in memory once for all ranks of a machine, where they are on the
    CPU."""
    if get_world_size() == 1 or job.resources.gpus:
        return
    assert job.parent is not None
    size = share_frozen(model, store.entry(job.parent) / CHECKPOINT, parts)
    logger.info("%.0f MB of frozen weights are in memory once for all ranks here", size / 1e6)


def _resume(runner: JobRunner, step: int, path: Path) -> None:
    """What `Runner.resume` restores that training depends on, read with `weights_only`."""
    content = read_checkpoint(path)
    runner.call_hook("after_load_checkpoint", checkpoint=content)
    bare_model(runner.model).load_state_dict(content["state_dict"])
    runner.optim_wrapper.load_state_dict(content["optimizer"])
    states = content["param_schedulers"]
    for scheduler, state in zip(runner.param_schedulers, states, strict=True):
        scheduler.load_state_dict(state)
    runner.train_loop._iter = step
    runner.logger.info("going on from step %d: %s", step, path)
