"""Makes the entry of a job of kind `features`: shards, and what replays start from.

A shard is whole or not there, so a job that was stopped, or killed, goes on with those that lack;
where the store is a bucket, on any machine.
"""

import contextlib
import itertools
import json
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import bacl.register  # noqa: F401  before anything imports mmdet.models

# isort: split
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.dist import get_dist_info
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings

from bacl.datasets.prepared import Prepared
from bacl.detector.warmstart import load_trunk, read_checkpoint
from bacl.errors import RunError
from bacl.features import shards
from bacl.features.parts import Part
from bacl.features.recording import Recorder
from bacl_platform.plan.job import Job
from bacl_platform.plan.stored import bytes_in_all, lack_of_room
from bacl_platform.store.disk import disk_errors, link, write_text
from bacl_platform.store.names import CHECKPOINT, JOB, LOG, SCALARS, SHARDS
from bacl_platform.store.store import Store
from bacl_platform.store.unfinished import Uploads
from bacl_platform.train.attempts import Attempt, Interrupted
from bacl_platform.train.bringing import bring, leave
from bacl_platform.train.messages import Asked, Checkpointed, Reached, Started, Tell
from bacl_platform.train.model import save_file
from bacl_platform.train.publish import described
from bacl_platform.train.ranks import Machines, together
from bacl_platform.train.runner import share
from bacl_platform.train.shard_copies import ShardCopies

REPORT_EVERY = 15.0
"""Seconds, at least, between reports of progress."""

logger = logging.getLogger(__name__)


def record(
    job: Job, store: Store, tell: Tell, asked_to_stop: Asked | None, attempt: Attempt
) -> None:
    """Make the shards that lack, and publish the entry once all ranks have made theirs."""
    work = store.work(job.key)
    folder = work / "entry" / SHARDS
    at = bring(job, store)
    at.each(lambda: folder.mkdir(parents=True, exist_ok=True))
    at.each(lambda: shards.clear(folder))
    together(lambda: write_text(work / JOB, described(job, workers=get_dist_info()[1])))
    together(lambda: (work / SCALARS).touch())
    with _logged(work / LOG):
        together(lambda: _first(job, store))
        with Uploads(store, job.key) as uploads, ShardCopies(store, job.key) as copies:
            seconds = _record(job, at, folder, copies, uploads, tell, asked_to_stop, attempt)
        together(lambda: _publish(job, store, folder.parent, seconds))
    leave(job, at)


def _record(
    job: Job,
    at: Machines,
    folder: Path,
    copies: ShardCopies,
    uploads: Uploads,
    tell: Tell,
    asked_to_stop: Asked | None,
    attempt: Attempt,
) -> float:
    """Have all shards in rank 0's folder; the seconds that it took."""
    store = at.store
    recorder = Recorder(_detector(job, store), job.config)
    every = recorder.parts()
    here: list[str] = []
    at.each(lambda: here.extend(part.name for part in every if _kept(part, folder, store, job)))
    at.each(lambda: _send(here, copies))
    done = together(lambda: sorted(copies.there() if store.bucket else here))
    missing = [part for part in every if part.name not in done]
    rank, ranks = get_dist_info()
    logger.info("rank %d of %d: %d of %d shards are there", rank, ranks, len(done), len(every))
    if rank == 0:
        tell(Started(job.key, len(done)))
        uploads.request()
        if (lost := attempt.start(job.key, len(done), tell)) is not None:
            logger.info("after an interruption: %s", lost)
    together(lambda: _check_room(job, store, len(missing) / len(every)))
    start = reported = began = time.perf_counter()
    made = recorder.walk(missing[rank::ranks], job.recipe.loader_workers)
    for turn in range(0, len(missing), ranks):  # shard by shard, so that ranks can stop together
        for part, content in itertools.islice(made, 1):
            shards.write(folder, part, content)
            copies.send(part.name)
            logger.info("rank %d: %s", rank, part.name)
        if rank == 0:
            there = min(len(done) + turn + ranks, len(every))
            seconds = (time.perf_counter() - began) / ranks
            began = time.perf_counter()
            with (store.work(job.key) / SCALARS).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": there, "time": seconds}) + "\n")
            if began - reported > REPORT_EVERY:
                reported = began
                tell(Checkpointed(job.key, there))
                uploads.request()
        if asked_to_stop is not None and together(asked_to_stop):
            raise Interrupted(f"job {job.name} ({job.key}) was stopped between shards")
        attempt.check(
            f"{job.name} ({job.key})",
            lambda: Reached(there, seconds, seconds * (len(every) - there)),  # noqa: B023
        )
    at.every(copies.settle)
    together(lambda: copies.bring(every))
    together(lambda: _check(every, folder))
    return time.perf_counter() - start


def _send(names: Sequence[str], copies: ShardCopies) -> None:
    """Have copies of the shards that this machine has and no other has copied."""
    there = copies.there()
    for name in names:
        if name not in there:
            copies.send(name)
    copies.settle()


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Within, what is logged here is in a job's log as well, and what stops it."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s - %(levelname)s - %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.disabled = False  # MLflow's migrations disable all loggers of their process
    try:
        yield
    except Interrupted as stop:
        logger.info("%s", stop)
        raise
    except Exception:
        logger.exception("stopped")
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()


def _check_room(job: Job, store: Store, share: float) -> None:
    """Refuse to begin where the disk has too little room for the share of shards that lack."""
    prepared = Prepared.load(Path(job.config["val_dataloader"]["dataset"]["dataset_info"]))
    if problem := lack_of_room(share * bytes_in_all(job, prepared), store):
        raise RunError(f"job {job.name} ({job.key}): {problem}")


def _kept(part: Part, folder: Path, store: Store, job: Job) -> bool:
    """Whether a shard is whole: one of this job's work, or of its entry, if another part of that
    was damaged."""
    if shards.whole(folder, part):
        return True
    before = store.entry(job.key) / SHARDS
    if not shards.whole(before, part):
        return False
    for name in (part.name, shards.note(part.name)):
        (folder / name).unlink(missing_ok=True)
        link(before / name, folder / name)
    return True


def _check(every: Sequence[Part], folder: Path) -> None:
    """Refuse to publish where shards lack, which ranks on other machines may have put elsewhere."""
    if lacking := [part.name for part in every if not (folder / part.name).exists()]:
        raise RunError(
            f"{folder}: expected all {len(every)} shards of features, {len(lacking)} lack, such as "
            f"{lacking[0]}: workers on several machines need a store that all of them see"
        )


def _detector(job: Job, store: Store) -> Any:
    """The detector that features are of, on this rank's device."""
    assert job.parent is not None
    config = Config(job.config)
    import_modules_from_strings(**config.custom_imports)
    init_default_scope(config.default_scope)
    model = MODELS.build(config.model)
    load_trunk(model, store.entry(job.parent) / CHECKPOINT)
    share(model, job, store, [name for name, _ in model.named_children()], logger)
    device = torch.device("cuda", torch.cuda.current_device()) if job.resources.gpus else "cpu"
    return model.to(device)


def _publish(job: Job, store: Store, results: Path, seconds: float) -> None:
    with disk_errors(results):
        described_as = described(job, loop_seconds=seconds)
        (results / JOB).write_text(described_as, encoding="utf-8")
        meta = {"key": job.key, "stage": job.stage, "seed": job.seed, "step": job.iterations}
        start, continues = _start(job, store)
        meta |= {"continues": True} if continues else {}
        save_file({"state_dict": start, "meta": meta}, results / CHECKPOINT)
        for name in (SCALARS, LOG):
            shutil.copyfile(store.work(job.key) / name, results / name)
    store.publish(job.key, results)


def _first(job: Job, store: Store) -> Path | None:
    """The entry that the parent's own variants started from, where the parent is a bank."""
    assert job.parent is not None
    before = store.descriptions()[job.parent]
    first: str | None = before["parent"]
    if first is None:
        return None
    if not store.complete(first):  # which with a bucket brings it here
        raise RunError(
            f"job {job.name} ({job.key}): expected the entry {first} in {store.url}, which "
            f"{job.parent} started from and whose classifier replays start from, found none that "
            "is whole: run the same command again, which makes it anew"
        )
    return store.entry(first)


def _start(job: Job, store: Store) -> tuple[dict[str, Any], bool]:
    """Weights that replays start from, and whether a method's training goes on with them: the
    parent's, and where that is a bank, with the classifier that its own variants started from."""
    assert job.parent is not None
    content = read_checkpoint(store.entry(job.parent) / CHECKPOINT)
    weights, continues = content["state_dict"], bool(content["meta"].get("continues"))
    before = _first(job, store)
    if before is None:
        return weights, continues
    first = read_checkpoint(before / CHECKPOINT)["state_dict"]
    classifiers = {name: value for name, value in first.items() if ".variants." in name}
    trunk = {name: value for name, value in weights.items() if not _of_bank(name)}
    return {**trunk, **classifiers}, False


def _of_bank(name: str) -> bool:
    return ".variants." in name or ".statistics." in name
