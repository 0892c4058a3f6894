"""Runs on clusters of more than one node: ranks apart, a node lost, a rank that stands still; nodes
that share nothing but a bucket."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.cluster_utils import Cluster

from bacl.datasets.prepare import prepare
from bacl_platform.plan.job import Job
from bacl_platform.plan.planner import make_plan
from bacl_platform.spec.load import load
from bacl_platform.store.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

TWO_RANKS = [
    "stages.features.recipe.schedule.iterations=100",
    "stages.features.recipe.schedule.batch=4",
    "stages.features.recipe.checkpoint_every=10",
    "stages.features.resources={workers: 2, placement: SPREAD, patience: 10}",
]
BOTH_APART = [
    *TWO_RANKS,
    "stages.features.resources.placement=STRICT_SPREAD",
    "stages.heads.recipe.schedule.batch=4",
    "stages.heads.resources={workers: 2, placement: SPREAD}",
]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head with two cores; a test adds nodes."""
    small = {"object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **small})
    yield cluster
    cluster.shutdown()


@pytest.fixture
def add_node(url: str, tmp_path: Path) -> Iterator[Callable[[Cluster, str], Any]]:
    """Adds nodes with one core and a cache of the bucket of their own, below `tmp_path`."""

    def added(cluster: Cluster, name: str) -> Any:
        own = {"BACL_CACHE": str(tmp_path / name)}
        return cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20, env_vars=own)

    return added


def lines_until(process: subprocess.Popen, pattern: str) -> str:
    """What a run says up to the line that a pattern is found in."""
    said = ""
    for line in process.stdout:
        said += line
        if re.search(pattern, line):
            return said
    raise AssertionError(f"{pattern} was not said:\n{said}")


def started(file: Path, store: str, cluster: Cluster, overrides: list[str]) -> subprocess.Popen:
    """`bacl run` on a cluster."""
    chosen = [part for override in overrides for part in ("--set", override)]
    command = [sys.executable, "-m", "bacl_platform", "run", str(file), "--store", store]
    return subprocess.Popen(
        [*command, "--address", cluster.address, *chosen],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={name: v for name, v in os.environ.items() if name != "MLFLOW_TRACKING_URI"},
    )


def ranks_of(raylet: int) -> list[int]:
    """The training processes that a node's raylet has started."""
    children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text(encoding="utf-8").split()
    return [
        int(c) for c in children if b"RayTrainWorker" in Path(f"/proc/{c}/cmdline").read_bytes()
    ]


def raylet_of(node) -> int:
    (info,) = node.all_processes["raylet"]
    return info.process.pid


def test_lost_node_and_halted_rank_do_not_change_the_weights(
    cluster, tiny, planned, store, tmp_path, on_two_ranks
):
    text = tiny.read_text()
    tiny.write_text(text[: text.index("  heads:")])
    other = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    (job,) = planned(*TWO_RANKS).jobs
    process = started(tiny, str(store.root), cluster, TWO_RANKS)
    try:
        lines_until(process, r"step [23]0/100")
        (here,), (there,) = ranks_of(raylet_of(cluster.head_node)), ranks_of(raylet_of(other))
        assert here != there
        cluster.remove_node(other, allow_graceful=False)
        lines_until(process, r"features: goes on from step \d+0\n")
        lines_until(process, r"step \d+/100")
        _, second = ranks_of(raylet_of(cluster.head_node))
        os.kill(second, signal.SIGSTOP)
        lines_until(process, r"features: goes on from step \d+0\n")
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, output
    undisturbed = Store(tmp_path / "undisturbed")
    assert on_two_ranks(job, undisturbed) == [None, None]
    assert_same_weights(job, undisturbed, store)


def assert_same_weights(job: Job, one: Store, other: Store) -> None:
    assert one.complete(job.key) and other.complete(job.key)
    expected, found = (
        torch.load(s.entry(job.key) / "checkpoint.pth", weights_only=True)["state_dict"]
        for s in (one, other)
    )
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_nodes_that_share_only_a_bucket_train_what_one_does_also_after_the_loss_of_one(
    tiny, url, add_node, prepared, tmp_path, on_two_ranks
):
    small = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    own = {"env_vars": {"BACL_CACHE": str(tmp_path / "head")}}
    cluster = Cluster(initialize_head=True, head_node_args={**small, **own})
    process = None
    try:
        lost = add_node(cluster, "lost")
        process = started(tiny, url, cluster, BOTH_APART)
        said = lines_until(process, r"step [23]0/100")
        (there,) = ranks_of(raylet_of(lost))
        cluster.remove_node(lost, allow_graceful=False)
        with suppress(ProcessLookupError):  # as a machine takes all of its processes with it
            os.kill(there, signal.SIGKILL)
        shutil.rmtree(tmp_path / "lost", ignore_errors=True)
        add_node(cluster, "new")
        said += lines_until(process, r"features: goes on from step [1-9]\d*0\n")
        output, _ = process.communicate(timeout=300)
    finally:
        if process is not None:
            process.kill()
        cluster.shutdown()
    assert process.returncode == 0, said + output
    store, undisturbed = Store(url), Store(tmp_path / "undisturbed")
    spec = load(tiny, BOTH_APART)
    jobs = make_plan(spec, prepare(spec.dataset, store.datasets), store).jobs
    assert store.entries() == sorted(job.key for job in jobs)
    assert store.bucket.sizes(".work/") == {}
    for name in ("head", "new"):  # which had the parent of the heads, and keep no work
        (cache,) = (tmp_path / name).iterdir()
        assert (cache / jobs[0].key / "checkpoint.pth").exists()
        assert not (cache / ".work" / jobs[0].key).exists()
    for job in jobs:
        assert on_two_ranks(job, undisturbed) == [None, None]
        assert_same_weights(job, undisturbed, store)
        for variant in job.variants:
            assert metrics(undisturbed, job, variant) == metrics(store, job, variant)


def metrics(store: Store, job: Job, variant: str) -> str:
    return (store.entry(job.key) / "variants" / variant / "metrics.json").read_text()
