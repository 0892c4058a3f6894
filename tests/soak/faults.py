"""The faults: each strikes real processes or files of a run, and recovers as the README says.

A fault is a function of the struck run. It returns the driver that should bring the run to its end:
the same one, or that of the same command given again.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster import Cluster, Server, descendants, kill, mlflow_server, s3_server
from driver import Driver, Hangs, Place, last_step, wait_for

from bacl_platform.plan.job import Job
from bacl_platform.store.names import CHECKPOINT
from bacl_platform.store.store import Store

OUTAGE = 60
"""Seconds that servers are away."""
PATIENCE = 150
"""Seconds to wait for a driver to give up before it counts as hanging."""
DISK = 64 * 2**20
"""Bytes of the disk that is filled; a run needs a third."""
BUCKET = "soak"


@dataclass
class Run:
    """A run that a fault strikes."""

    place: Place
    driver: Driver
    job: Job
    """Of stage 2."""
    rng: random.Random
    cluster: Cluster | None = None
    server: Server | None = None
    step: int = 0
    """The last known step when the fault struck."""
    hit: float = 0
    over: float = 0
    """Monotonic seconds when the fault struck, and from when on the run can go on."""

    @property
    def store(self) -> Store:
        """The run's store."""
        return Store(self.place.store)

    def strike(self) -> None:
        """The fault happens now."""
        self.hit = self.over = time.monotonic()
        self.step = last_step(self.driver, self.store, self.job)

    def workers(self) -> list[int]:
        """The processes that train."""
        root = self.cluster.processes() if self.cluster else descendants(self.driver.process.pid)
        return [pid for pid in root if b"TrainWorker" in _command(pid)]

    def worker(self) -> int:
        """One of them, by chance."""
        return self.rng.choice(self.workers())

    def again(self) -> Driver:
        """The same command, given again."""
        return self.place.drive()


def kill_worker(run: Run) -> Driver:
    """SIGKILL a training process; Ray Train starts another."""
    victim = run.worker()
    run.strike()
    kill([victim])
    return run.driver


def kill_driver(run: Run) -> Driver:
    """SIGKILL `bacl run`; the user gives the command again."""
    run.strike()
    run.driver.kill()
    return run.again()


def truncate_checkpoint(run: Run) -> Driver:
    """The newest checkpoint loses its second half as a worker is killed."""
    return _damage(run, lambda path: os.truncate(path, path.stat().st_size // 2))


def corrupt_checkpoint(run: Run) -> Driver:
    """One byte of the newest checkpoint changes as a worker is killed."""

    def flip(path: Path) -> None:
        with path.open("r+b") as file:
            where = run.rng.randrange(path.stat().st_size)
            file.seek(where)
            byte = file.read(1)[0]
            file.seek(where)
            file.write(bytes([byte ^ (1 << run.rng.randrange(8))]))

    return _damage(run, flip)


def _damage(run: Run, change: Callable[[Path], None]) -> Driver:
    victim = run.worker()
    os.kill(victim, signal.SIGSTOP)  # so that no newer checkpoint comes
    run.strike()
    checkpoints = run.store.work(run.job.key) / "checkpoints"
    newest = max(checkpoints.glob("step_*"), key=lambda path: int(path.name[5:]))
    change(newest / CHECKPOINT)
    kill([victim])
    return run.driver


def start_twin(run: Run) -> Driver:
    """The same command is given in a second terminal while the first runs.

    One of them builds. The other waits for it, or says who builds.
    """
    run.strike()
    twin = run.place.drive()
    codes = {driver: driver.wait(2 * PATIENCE) for driver in (run.driver, twin)}
    for driver, code in codes.items():
        if code and "is being built by process" not in driver.output:
            raise Hangs(f"a twin ended with {code}: {driver.output[-300:]}")
    return run.driver if codes[run.driver] == 0 else twin


def pause_rank(run: Run) -> Driver:
    """SIGSTOP one of two ranks: the other waits in a collective until somebody notices."""
    victim = run.worker()
    run.strike()
    os.kill(victim, signal.SIGSTOP)
    try:
        wait_for("a new start of the ranks", lambda: run.driver.starts(run.hit), PATIENCE)
    finally:
        kill([victim])
    return run.driver


def kill_node(run: Run) -> Driver:
    """A node with a rank is lost, and another joins the cluster."""
    assert run.cluster is not None
    victim = run.worker()
    run.strike()
    run.cluster.kill_node_of(victim)
    run.cluster.add_node()
    return run.driver


def kill_head(run: Run) -> Driver:
    """The head is lost: `bacl run` ends; head, nodes and command are started again."""
    assert run.cluster is not None
    run.strike()
    run.cluster.kill_head()
    try:
        run.driver.wait(PATIENCE)
    finally:
        run.cluster.stop()
        run.cluster.start()
    run.over = time.monotonic()
    return run.again()


def kill_tracking(run: Run) -> Driver:
    """The tracking server is away for a minute."""
    assert run.server is not None
    run.strike()
    run.server.kill()
    time.sleep(OUTAGE)
    run.server.start()
    run.over = time.monotonic()
    return run.driver


def pause_artifacts(run: Run) -> Driver:
    """The store's S3 endpoint answers nobody for a minute."""
    assert run.server is not None
    run.strike()
    run.server.pause()
    time.sleep(OUTAGE)
    run.server.resume()
    run.over = time.monotonic()
    return run.driver


def fill_disk(run: Run) -> Driver:
    """The disk of the store is full until `bacl run` has said so; then space is freed."""
    ballast = Path(run.place.store) / "ballast"
    run.strike()
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    code = run.driver.wait(PATIENCE)
    ballast.unlink()
    if code == 0 or "no space left" not in run.driver.output:
        raise Hangs(f"a full disk was not told (exit code {code}): {run.driver.output[-300:]}")
    run.over = time.monotonic()
    return run.again()


@contextlib.contextmanager
def tracked_by_server(place: Place, entry: Path) -> Iterator[Server]:
    """An MLflow server that the run is tracked by."""
    shutil.copytree(entry, Path(place.store) / entry.name)
    server = mlflow_server(place.folder)
    place.environment["MLFLOW_TRACKING_URI"] = server.url
    place.tracking = f"sqlite:///{place.folder}/server.db"
    try:
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def stored_in_s3(place: Place, entry: Path) -> Iterator[Server]:
    """An S3 endpoint that the run's store is in."""
    import boto3

    server = s3_server(place.folder)
    keys = {"AWS_ACCESS_KEY_ID": "soak", "AWS_SECRET_ACCESS_KEY": "soak"}
    os.environ |= keys | {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": server.url}
    place.tracking = f"sqlite:///{place.folder}/tracked.db"
    place.environment["MLFLOW_TRACKING_URI"] = place.tracking
    place.store = f"s3://{BUCKET}/store"
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    for path in sorted(p for p in entry.rglob("*") if p.is_file()):
        client.upload_file(str(path), BUCKET, f"store/{path.relative_to(entry.parent)}")

    def fetch(key: str) -> Path:
        folder = place.folder / "fetched"
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
            for one in page.get("Contents", []):
                path = folder / one["Key"]
                path.parent.mkdir(parents=True, exist_ok=True)
                client.download_file(BUCKET, one["Key"], str(path))
        return folder / "store" / key

    place.entry = fetch
    try:
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def small_disk(place: Place, entry: Path) -> Iterator[None]:
    """A disk of its own for the run's store, in memory; needs the right to mount."""
    store = Path(place.store)
    size = f"size={DISK}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "soak", str(store)], check=True)
    try:
        shutil.copytree(entry, store / entry.name)
        yield None
    finally:
        place.close()
        # lazily: this process has the database of MLflow open
        subprocess.run(["umount", "--lazy", str(store)], check=True)


@contextlib.contextmanager
def as_it_is(place: Place, entry: Path) -> Iterator[None]:
    """A folder on this machine's disk."""
    shutil.copytree(entry, Path(place.store) / entry.name)
    yield None


@dataclass(frozen=True)
class Fault:
    """A fault, and where it can happen."""

    strike: Callable[[Run], Driver]
    around: Callable[[Place, Path], contextlib.AbstractContextManager[Server | None]] = as_it_is
    """Makes what it needs beside the run, with stage 1's entry in the store."""
    ranks: int = 1
    """Two are spread over a cluster's nodes; one trains on a Ray of its driver's."""
    checkpoints: int = 1
    """Intervals between checkpoints that may be lost: one more where the newest is damaged."""


FAULTS = {
    "worker": Fault(kill_worker),
    "driver": Fault(kill_driver),
    "node": Fault(kill_node, ranks=2),
    "head": Fault(kill_head, ranks=2),
    "pause": Fault(pause_rank, ranks=2),
    "tracking": Fault(kill_tracking, around=tracked_by_server),
    "artifacts": Fault(pause_artifacts, around=stored_in_s3),
    "disk": Fault(fill_disk, around=small_disk),
    "truncate": Fault(truncate_checkpoint, checkpoints=2),
    "corrupt": Fault(corrupt_checkpoint, checkpoints=2),
    "twins": Fault(start_twin),
}


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return re.sub(rb"\0", b" ", Path(f"/proc/{pid}/cmdline").read_bytes())
    return b""
