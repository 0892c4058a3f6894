"""Runs on clusters of more than one node: ranks apart, a node lost, a rank that stands still."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ray.cluster_utils import Cluster

from bacl_platform.store.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(480)]

TWO_RANKS = [
    "stages.features.recipe.schedule.iterations=100",
    "stages.features.recipe.schedule.batch=4",
    "stages.features.recipe.checkpoint_every=10",
    "stages.features.resources={workers: 2, placement: SPREAD, patience: 10}",
]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head with two cores; a test adds nodes."""
    small = {"object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **small})
    yield cluster
    cluster.shutdown()


def lines_until(process: subprocess.Popen, pattern: str) -> str:
    """What a run says up to the line that a pattern is found in."""
    said = ""
    for line in process.stdout:
        said += line
        if re.search(pattern, line):
            return said
    raise AssertionError(f"{pattern} was not said:\n{said}")


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
    chosen = [part for override in TWO_RANKS for part in ("--set", override)]
    command = [sys.executable, "-m", "bacl_platform", "run", str(tiny), "--store", str(store.root)]
    process = subprocess.Popen(
        [*command, "--address", cluster.address, *chosen],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={name: v for name, v in os.environ.items() if name != "MLFLOW_TRACKING_URI"},
    )
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
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, output
    undisturbed = Store(tmp_path / "undisturbed")
    assert on_two_ranks(job, undisturbed) == [None, None]
    expected, found = (
        torch.load(s.entry(job.key) / "checkpoint.pth", weights_only=True)["state_dict"]
        for s in (undisturbed, store)
    )
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
