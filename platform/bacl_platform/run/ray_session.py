"""Ray for a run or a server: reached or started, with room for its jobs, and ended."""

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from bacl import extensions
from bacl.errors import RunError
from bacl_platform.console import say
from bacl_platform.plan.job import Job
from bacl_platform.process import handles_signals
from bacl_platform.run import cluster
from bacl_platform.run.modules import check_modules
from bacl_platform.run.placement import lacking
from bacl_platform.volume import Volume, volume

if TYPE_CHECKING:
    from rich.console import Console

_OBJECT_STORE = 128 * 2**20
"""Bytes for Ray's object store: nothing large goes through it."""


@contextmanager
def ray_for(jobs: list[Job], address: str | None, console: "Console") -> Iterator[None]:
    """Ray at `address`, or a new local one with cores for the largest of the jobs; ended after.

    Raises RunError where it cannot be reached, has no room for a job and never will, or has nodes
    that cannot import the jobs' modules.
    """
    cpus = [job.resources.least * job.resources.cpus for job in jobs]
    # without a dashboard Ray gives back the resources of a stopped run late, which only others want
    with ray_with(max(cpus, default=1), address, include_dashboard=len(jobs) > 1) as is_cluster:
        import ray

        if is_cluster:
            check_room(jobs, ray.nodes(), console)
            check_modules(jobs, ray.nodes())
        elif lacks := lacking(jobs, ray.nodes(), "this machine"):
            raise RunError("\n".join(lacks))
        yield


@contextmanager
def ray_with(cpus: int, address: str | None, **options: Any) -> Iterator[bool]:
    """Ray at `address`, or a new local one with so many cores at least; ended after.

    options: of `ray.init`, for a new one. Gives whether it is a cluster's. Raises UsageError for
    what is no address, RunError where no cluster answers there.
    """
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with ExitStack() as ending:
        is_cluster = _start_ray(cpus, address, options, ending)
        if handles_signals():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own would end the driver at once
        yield is_cluster


def _start_ray(cpus: int, address: str | None, options: dict[str, Any], ending: ExitStack) -> bool:
    found = cluster.chosen(address)
    if found is not None:
        cluster.reach(found)  # before Ray is imported, which reads how to ask for access then

    import ray

    verbose = volume() is Volume.VERBOSE
    said = {"log_to_driver": verbose, "logging_level": "INFO" if verbose else "ERROR"}
    if found is not None:
        ray.init(address=found.address, **said, **_modules())
        ending.callback(_end_ray)
        return True
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # one machine's own Ray is not drained before it is reclaimed; a cluster's, which this process
    # may ask for next, is
    ending.enter_context(_default("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0"))
    folder = tempfile.mkdtemp(prefix=cluster.PRIVATE)
    ending.callback(shutil.rmtree, folder, ignore_errors=True)
    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, cpus),
        object_store_memory=_OBJECT_STORE,
        _temp_dir=folder,
        **said,
        **_modules(),
        **options,
    )
    ending.callback(_end_ray)
    return False


@contextmanager
def _default(name: str, value: str) -> Iterator[None]:
    """An environment variable that has a value meanwhile, unless it has one already."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)


def _modules() -> dict[str, Any]:
    """Ray's options by which its processes find the modules that experiments import."""
    if not extensions.FOLDERS:
        return {}
    folders = list(extensions.FOLDERS)

    def find_modules() -> None:  # Ray takes no partial
        extensions.search(folders)

    return {"runtime_env": {"worker_process_setup_hook": find_modules}}


def _end_ray() -> None:
    """End Ray with garbage collection off: Ray ends this process where another thread, such as
    MLflow's sender, collects one of its handles meanwhile."""
    import ray

    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()


def check_room(jobs: Sequence[Job], nodes: Sequence[Mapping[str, Any]], console: "Console") -> None:
    """Raise RunError where a cluster has no room for a job; of one that may grow, only warn.

    nodes: as `ray.nodes()` gives them. Nodes of a group, which an autoscaler may add to, have its
    label.
    """
    lacks = lacking(jobs, nodes, "the cluster")
    if lacks and not any("ray.io/node-group" in (node.get("Labels") or {}) for node in nodes):
        raise RunError("\n".join(lacks))
    for sentence in lacks:
        say(console, f"warning: {sentence} so far: the job waits for more nodes")
