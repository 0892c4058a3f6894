"""Trains one job: the only module of the platform that drives mmengine.

Every rank calls `train`. What only rank 0 does (locks, files) goes through `together`, so that
either all ranks go on or all stop with the same sentence.
"""

import contextlib
import copy
import json
import logging
import math
import shutil
import time
import uuid
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import (
    all_reduce,
    broadcast_object_list,
    get_world_size,
    is_main_process,
)
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner, weights_to_cpu
from mmengine.utils import import_modules_from_strings
from torch import nn

from bacl.config import bank_heads, config_text
from bacl.datasets.annotations import Prepared
from bacl.detector.warmstart import load_trunk, read_checkpoint
from bacl.errors import BaclError, RunError
from bacl.export import export_variants
from bacl_platform.plan.job import Job
from bacl_platform.plan.metric_names import owner
from bacl_platform.plan.population import Move, evolve
from bacl_platform.store import prepared_datasets, unfinished
from bacl_platform.store.checkpoints import latest_checkpoint, write_checkpoint
from bacl_platform.store.disk import disk_errors, write_text
from bacl_platform.store.names import CHECKPOINT, CHECKPOINTS, JOB, LOG, MOVES, SCALARS, STOPPED
from bacl_platform.store.store import Store
from bacl_platform.train.hooks.system import System
from bacl_platform.train.retention import Retention
from bacl_platform.train.retries import failure, lasts

LOG_EVERY = 10
"""Steps between logged scalars."""
LOOK_EVERY = 2.0
"""Seconds, about, between looks whether the driver asks to stop."""


class Agreed(RunError):
    """A failure that every rank raises at the same point: stopping is safe, retrying is useless."""


Tell = Callable[[str, str, Any], None]
Report = Callable[[dict[str, Any]], None]
Stopped = Callable[[int], Collection[str]]
Asked = Callable[[], bool]


class Interrupted(Agreed):
    """Training ended at a checkpoint because the driver asked for it."""


def train(
    job: Job,
    store: Store,
    tell: Tell,
    report: Report,
    stopped: Stopped | None = None,
    asked_to_stop: Asked | None = None,
) -> str | None:
    """Train, evaluate and publish a job, from its newest checkpoint if it has one.

    tell: takes the progress of rank 0 as (kind, key, content): `started` with a step, `scalars`
    with rows, `failed` with a sentence for each variant whose loss diverged. report:
    `ray.train.report`, called by all ranks together. stopped: asked now and then, with the number
    of evaluations so far, for the names of variants that need not go on; they leave the bank, and a
    job without any left ends without an entry in the store. asked_to_stop: asked every few seconds
    whether to write a checkpoint and end. Returns the sentence to tell when the job was stopped so,
    or cannot succeed however often it is retried, else None. Anything else that goes wrong is
    raised, and what lasts of one of several ranks: the others wait for it.
    """
    torch.set_num_threads(job.resources.cpus)
    try:
        with contextlib.ExitStack() as held, disk_errors(store.root):
            together(lambda: held.enter_context(store.lock(job.key)))
            if not together(lambda: store.complete(job.key)):
                _train(job, store, tell, report, stopped, asked_to_stop)
    except Exception as error:
        if isinstance(error, Agreed) or (lasts(error) and get_world_size() == 1):
            return failure(job.name, job.key, error)
        raise
    return None


def together(function: Callable[[], Any]) -> Any:
    """Call on rank 0; every rank returns its result or raises its failure (Agreed)."""
    outcome: list[Any] = [None, None]
    if is_main_process():
        try:
            outcome[0] = function()
        except BaclError as error:
            outcome[1] = str(error)
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise Agreed(outcome[1])
    return outcome[0]


def _train(
    job: Job,
    store: Store,
    tell: Tell,
    report: Report,
    stopped: Stopped | None,
    asked_to_stop: Asked | None,
) -> None:
    work = store.work(job.key)
    results = work / "entry"
    together(lambda: _bring(job, store))
    together(lambda: results.mkdir(parents=True, exist_ok=True))
    together(lambda: write_text(work / JOB, _described(job)))
    scalars = Scalars(job, work / SCALARS, tell, report)
    runner = JobRunner.from_cfg(_runner_config(job, work, results))
    logging.getLogger("bacl_platform").handlers = runner.logger.handlers
    stops = Stops(job, work / STOPPED, tell, stopped)
    moves = Moves(job, work / MOVES) if job.population else None
    uploads = unfinished.Uploads(store, job.key)
    retention = Retention(job, work)
    try:
        runner.begin = lambda: _begin(runner, job, store, scalars, stops)
        checkpoints = work / CHECKPOINTS
        runner.register_hook(FiniteLoss(job, checkpoints, stops), priority="VERY_HIGH")
        if moves is not None:  # before what is logged, which tells with which values it was found
            runner.register_hook(moves, priority="NORMAL")
        runner.register_hook(scalars, priority="BELOW_NORMAL")
        runner.register_hook(System(tell, job.key, LOG_EVERY, job.iterations), priority="LOW")
        runner.register_hook(stops, priority="LOW")
        saving = Checkpoints(job, checkpoints, report, retention, uploads, asked_to_stop)
        runner.register_hook(saving, priority="VERY_LOW")
        together(uploads.request)
        with uploads:
            began = time.perf_counter()
            runner.train()
            if scalars.evaluated_at != job.iterations:
                runner.val()
            loop_seconds = time.perf_counter() - began
    except NoneLeft:
        together(lambda: store.drop_work(job.key))
        return
    except Interrupted as stop:
        runner.logger.info("%s", stop)
        raise
    except Exception:
        runner.logger.exception("job %s stopped", job.key)
        raise
    model = _bare(runner.model)
    together(lambda: retention.save_lasting(results / CHECKPOINTS))
    together(lambda: _publish(stops.remaining, store, results, model, loop_seconds))


def _bring(job: Job, store: Store) -> None:
    """Have here what a job needs of a bucket: its dataset, its parent, what it has done before."""
    if store.bucket is None:
        return
    prepared_datasets.pull(store, job.dataset_digest)
    if job.parent is not None and not store.complete(job.parent):
        raise RunError(
            f"job {job.name} ({job.key}): expected its parent {job.parent} in {store.url}, found "
            "none that is whole: run the same command again, which makes it anew"
        )
    unfinished.pull(store, job.key)


class StageConfig(Config):
    """A stage's configuration, which is written down quickly."""

    @property
    def pretty_text(self) -> str:
        return config_text(self.to_dict())


def _runner_config(job: Job, work: Path, results: Path) -> Config:
    config = StageConfig(copy.deepcopy(job.config))
    import_modules_from_strings(**config.custom_imports)
    config.work_dir = str(work / "mmengine")
    # MMEngine names loggers by it and the second: a job that trains twice in one would share a file
    config.experiment_name = f"{job.key}-{uuid.uuid4().hex[:8]}"
    config.log_level = "INFO"
    config.visualizer = {"type": "Visualizer", "vis_backends": []}
    config.default_hooks = {"checkpoint": None}
    config.val_evaluator.folder = str(results / "variants")
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


def _begin(runner: JobRunner, job: Job, store: Store, scalars: "Scalars", stops: "Stops") -> None:
    """Go on from the newest checkpoint, or start from the parent's weights, or from nothing."""
    stops.restore(runner)
    found = together(lambda: latest_checkpoint(store.work(job.key) / CHECKPOINTS))
    step = 0
    if found is not None:
        step, path = found
        _resume(runner, step, path)
    elif job.parent is not None:
        fresh = load_trunk(_bare(runner.model), store.entry(job.parent) / CHECKPOINT)
        runner.logger.info(
            "not in the checkpoint of %s: %s", job.parent, ", ".join(fresh) or "nothing"
        )
    together(lambda: scalars.start(step))


def _resume(runner: JobRunner, step: int, path: Path) -> None:
    """What `Runner.resume` restores that training depends on, read with `weights_only`."""
    content = read_checkpoint(path)
    _bare(runner.model).load_state_dict(content["state_dict"])
    runner.optim_wrapper.load_state_dict(content["optimizer"])
    states = content["param_schedulers"]
    for scheduler, state in zip(runner.param_schedulers, states, strict=True):
        scheduler.load_state_dict(state)
    runner.train_loop._iter = step
    runner.logger.info("going on from step %d: %s", step, path)


class FiniteLoss(Hook):
    """Takes variants whose losses are NaN or infinite on any rank out of the bank.

    Where that leaves none, or another loss is not finite, it stops all ranks.
    """

    def __init__(self, job: Job, checkpoints: Path, stops: "Stops") -> None:
        self.job, self.checkpoints, self.stops = job, checkpoints, stops

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        names, values = _losses(outputs)
        finite = values.isfinite().float()
        all_reduce(finite, "min")
        if finite.all():
            return
        bad = [name for name, good in zip(names, finite.tolist(), strict=True) if not good]
        told: dict[str | None, str] = {}
        for name in bad:
            if name != "loss":
                told.setdefault(owner(name, self.job)[0], self._sentence(runner, name))
        lost = {variant: sentence for variant, sentence in told.items() if variant is not None}
        if None in told or not lost or len(lost) == len(self.stops.remaining.variants):
            raise Agreed(next(iter(told.values()), self._sentence(runner, bad[0])))
        self.stops.fail(runner, lost)

    def _sentence(self, runner: Runner, name: str) -> str:
        found = together(lambda: latest_checkpoint(self.checkpoints))
        good = f"the last good checkpoint is {found[1]}" if found else "there is no checkpoint yet"
        return (
            f"job {self.job.name} ({self.job.key}): {name} is not finite at step "
            f"{runner.iter + 1}: expected finite losses, perhaps with a lower learning rate or a "
            f"longer warm-up; {good}"
        )


class NoneLeft(Exception):
    """All variants of a job were stopped."""


class Stops(Hook):
    """Takes variants that failed or were stopped out of a running bank.

    The others go on as if those had never been in it. Which left, and what there is to tell of it,
    is written down before the next checkpoint, so that a resumed job lacks them too.
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
        """Take out what had left before the job was interrupted."""
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
            self.tell("failed", self.job.key, failed)
        if len(self.gone) == len(self.job.variants):
            raise NoneLeft
        bare = _bare(runner.model)
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


class Moves(Hook):
    """Lets the worst variants of a population go on from the best's state, with other values.

    Moves are written down before training goes on. A checkpoint is older than the evaluation at its
    step: a resumed job makes the moves of that step again, or evaluates first if there are none.
    """

    def __init__(self, job: Job, path: Path) -> None:
        assert job.population is not None
        self.job, self.path, self.population = job, path, job.population
        self.made: list[dict[str, Any]] = []
        """A row for each evaluation: its step, and the moves after it."""
        self.values = dict(self.population.members)

    def before_train(self, runner: Runner) -> None:
        step = runner.iter
        noted = together(
            lambda: json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else []
        )
        self.made = [row for row in noted if row["step"] <= step]
        for member, values in self.values.items():
            self._change(runner, member, values)
        for row in self.made:
            for move in row["moves"]:
                self._make(runner, Move(*move), copying=row["step"] == step)
        evaluates = step and step % runner.train_loop.val_interval == 0
        if evaluates and all(row["step"] < step for row in self.made):
            runner.val_loop.run()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        left = set(_bare(runner.model).banks()[0].keys())
        for member in left:
            fields = self.values[member].items()
            metrics |= {f"{member}/{f}": v for f, v in fields if isinstance(v, int | float)}
        moves = []
        interval = self.population.interval * runner.train_loop.val_interval
        if runner.iter % interval == 0 and runner.iter < self.job.iterations:
            scores = {member: metrics[f"{member}/{self.population.metric}"] for member in left}
            generator = np.random.default_rng([self.job.seed, runner.iter])
            moves = evolve(self.population, scores, self.values, generator)
        self.made.append({"step": runner.iter, "moves": moves})
        together(lambda: write_text(self.path, json.dumps(self.made)))
        for move in moves:
            self._make(runner, move, copying=True)

    def _make(self, runner: Runner, move: Move, copying: bool) -> None:
        if copying:
            _copy_state(runner, move.source, move.member)
            runner.logger.info("%s goes on from %s with %s", *move)
        self._change(runner, move.member, move.values)

    def _change(self, runner: Runner, member: str, values: dict[str, Any]) -> None:
        self.values[member] = values
        for bank in _bare(runner.model).banks():
            if member in bank:
                for field, value in values.items():
                    bank[member].change(field, value)


def _copy_state(runner: Runner, source: str, member: str) -> None:
    """Give a variant another's classifiers, state and momenta, unless one of them has left."""
    momenta = runner.optim_wrapper.optimizer.state
    for bank in _bare(runner.model).banks():
        if not {source, member} <= bank.keys():
            continue
        bank[member].load_state_dict(bank[source].state_dict())
        pairs = zip(bank[member].parameters(), bank[source].parameters(), strict=True)
        for own, other in pairs:
            momenta[own] = copy.deepcopy(momenta[other])


class Scalars(Hook):
    """Writes `scalars.jsonl`, one row per logged step and evaluation, and tells the driver."""

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
        self.tell("started", self.job.key, step)
        self.tell("scalars", self.job.key, kept)

    def _is_final_evaluation(self, row: dict) -> bool:
        return row["step"] == self.job.iterations and "loss" not in row

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        step = runner.iter + 1
        if step % LOG_EVERY and step != self.job.iterations:
            return
        names, values = _losses(outputs)
        all_reduce(values, "mean")
        times = {
            name: runner.message_hub.get_scalar(f"train/{name}").mean(LOG_EVERY)
            for name in ("data_time", "time")
        }
        lr = runner.optim_wrapper.get_lr()["lr"][0]
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
            self.tell("scalars", self.job.key, [row])


class Checkpoints(Hook):
    """Checkpoints of what training depends on: tensors and plain values only.

    They are the store's, not Ray Train's: Ray is told the step without a checkpoint, because the
    newest whose digests hold is what every start looks for itself.
    """

    def __init__(
        self,
        job: Job,
        folder: Path,
        report: Report,
        retention: Retention,
        uploads: unfinished.Uploads,
        asked_to_stop: Asked | None = None,
    ) -> None:
        self.job, self.folder, self.report = job, folder, report
        self.retention, self.uploads = retention, uploads
        self.asked_to_stop = asked_to_stop
        self._looked = (0, 0.0)
        """Step and time of the last look whether the driver asks to stop."""
        self._next_look = 0

    def before_train(self, runner: Runner) -> None:
        self._looked, self._next_look = (runner.iter, time.monotonic()), runner.iter + 1

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        step = runner.iter + 1
        # what is due after this step would be left out: a resumed job starts behind it
        evaluates = step % runner.train_loop.val_interval == 0 or step == self.job.iterations
        asked = not evaluates and self._asked(step)
        if step % self.job.recipe.checkpoint_every and step != self.job.iterations and not asked:
            return

        def save(path: Path) -> None:
            content = {
                "state_dict": weights_to_cpu(_bare(runner.model).state_dict()),
                "optimizer": runner.optim_wrapper.state_dict(),
                "param_schedulers": [s.state_dict() for s in runner.param_schedulers],
                "iter": step,
            }
            _save(content, path)

        together(lambda: write_checkpoint(self.folder, step, save, self.retention.kept))
        together(self.uploads.request)
        self.report({"step": step})
        if asked:
            raise Interrupted(f"job {self.job.name} ({self.job.key}) was stopped at step {step}")

    def _asked(self, step: int) -> bool:
        """Whether the driver asks to stop; looks now and then, all ranks at the same step."""
        if self.asked_to_stop is None or step < self._next_look:
            return False
        asked_to_stop = self.asked_to_stop

        def look() -> tuple[bool, int]:
            (before, then), now = self._looked, time.monotonic()
            pace = max(now - then, 1e-3) / (step - before)
            return asked_to_stop(), step + max(1, round(LOOK_EVERY / pace))

        asked, self._next_look = together(look)
        self._looked = (step, time.monotonic())
        return asked


def _described(job: Job, **facts: float) -> str:
    content = job.model_dump(mode="json", exclude={"config"})
    return json.dumps({**content, "iterations": job.iterations, **facts}, indent=1)


def _publish(job: Job, store: Store, results: Path, model: nn.Module, loop_seconds: float) -> None:
    """Make the job's entry.

    loop_seconds: what mmengine's loops took of the attempt that ended it, for the record.
    """
    state = weights_to_cpu(model.state_dict())
    with disk_errors(results):
        (results / JOB).write_text(_described(job, loop_seconds=loop_seconds), encoding="utf-8")
        write_text(results / "config.py", config_text(job.config))
        meta = {"key": job.key, "stage": job.stage, "seed": job.seed, "step": job.iterations}
        _save({"state_dict": state, "meta": meta}, results / CHECKPOINT)
        prepared = Prepared.load(Path(job.config["val_evaluator"]["dataset_info"]))
        export_variants(job.config, state, prepared.categories, results / "variants")
        for name in (SCALARS, LOG, *([MOVES] if job.population else [])):
            shutil.copyfile(store.work(job.key) / name, results / name)
    store.publish(job.key, results)


def _save(content: dict, path: Path) -> None:
    # through a Python file, because torch's own writer hides a full disk behind a RuntimeError
    with path.open("wb") as file:
        torch.save(content, file)


def _losses(outputs: dict[str, Any]) -> tuple[list[str], torch.Tensor]:
    """Names and values (one float tensor) of a step's losses."""
    losses = {name: value for name, value in outputs.items() if "loss" in name}
    return list(losses), torch.stack([torch.as_tensor(v).detach().float() for v in losses.values()])


def _bare(model: Any) -> Any:
    bare: nn.Module = model.module if is_model_wrapper(model) else model
    return bare
