"""A job on a cluster whose machines are reclaimed and come back."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ray.cluster_utils import Cluster

from bacl_platform.store.store import Store
from bacl_platform.train import worker

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

SLOWLY = """
import time
from pathlib import Path

from mmengine.runner import IterBasedTrainLoop

trained = IterBasedTrainLoop.run_iter
hurry = Path(__file__).with_name("hurry")


def run_iter(self, batch):
    deadline = time.monotonic() + 8
    while time.monotonic() < deadline and not hurry.exists():
        time.sleep(0.1)
    trained(self, batch)


IterBasedTrainLoop.run_iter = run_iter
"""
"""A module that an experiment imports, with which its steps take eight seconds more.

So there is much to gain by more workers even where they start slowly, though steps are few: after
more than fifty, with ranks that sum in another order, a choice between proposals with nearly equal
scores comes out otherwise.
"""

RANGE = [
    "stages.features.recipe.schedule.iterations=40",
    "stages.features.recipe.schedule.batch=4",
    "stages.features.recipe.checkpoint_every=1000",
    "stages.features.resources={workers: [1, 2], grow_after: 10, retries: 0, patience: 10}",
]
NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head with one core; a test adds nodes."""
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    yield cluster
    cluster.shutdown()


class Run:
    """`bacl run` on a cluster, and what it says."""

    def __init__(self, tiny: Path, store: Store, cluster: Cluster, overrides: list[str]) -> None:
        chosen = [part for override in overrides for part in ("--set", override)]
        words = ["run", str(tiny), "--store", str(store.root), "--address", cluster.address]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bacl_platform", *words, *chosen],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={name: v for name, v in os.environ.items() if name != "MLFLOW_TRACKING_URI"},
        )
        self.said = ""
        self._read_to = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.said += line

    def wait_for(self, pattern: str, seconds: float = 400) -> re.Match:
        """The next place at which a pattern is said."""
        deadline = time.monotonic() + seconds
        while (found := re.compile(pattern).search(self.said, self._read_to)) is None:
            assert time.monotonic() < deadline, f"{pattern} was not said:\n{self.said}"
            assert self.process.poll() is None, self.said
            time.sleep(0.1)
        self._read_to = found.end()
        return found


def drain(cluster: Cluster, node, seconds: int) -> None:
    """Tell Ray that a node is reclaimed in some seconds."""
    words = ["--address", cluster.address, "--node-id", node.node_id, "--reason"]
    words += ["DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    ray = Path(sys.executable).with_name("ray")
    command = [ray, "drain-node", *words, "--deadline-remaining-seconds", str(seconds)]
    subprocess.run(command, check=True, timeout=60, capture_output=True)


def test_reclaimed_machine_that_returns_costs_no_step_and_changes_no_weights(
    cluster, tiny, planned, store, tmp_path
):
    text = tiny.read_text(encoding="utf-8")
    tiny.write_text(text[: text.index("  heads:")] + "imports: [slowly]\n", encoding="utf-8")
    tiny.with_name("slowly.py").write_text(SLOWLY, encoding="utf-8")
    (job,) = planned(*RANGE).jobs
    node = cluster.add_node(**NODE)
    run = Run(tiny, store, cluster, RANGE)
    try:
        run.wait_for("features: 2 of 1-2 workers\n")
        time.sleep(6)
        drain(cluster, node, 60)
        why = r"the machine of worker [01] is reclaimed in \d+ s"
        moved = run.wait_for(rf"features: {why}: its workers start again from step (\d+)\n")
        once_more = r"1 of 1-2 workers, after an interruption: (.*)\n"
        lost = run.wait_for(f"goes on from step {moved[1]}\nfeatures: {once_more}")
        assert re.fullmatch(r"0 steps trained again, \d+ s without training", lost[1])
        cluster.remove_node(node, allow_graceful=False)  # the grace is over
        cluster.add_node(**NODE)
        grown = run.wait_for(
            r"features: room for 2 workers instead of 1: its workers start again from step (\d+)\n"
        )
        zero = "2 of 1-2 workers, after an interruption: 0 steps trained again"
        run.wait_for(f"goes on from step {grown[1]}\nfeatures: {zero}")
        holder = (store.root / ".work" / f"{job.key}.holder").read_text(encoding="utf-8")
        os.kill(int(re.search(r"process (\d+)", holder)[1]), signal.SIGTERM)
        ended = run.wait_for(
            r"features: worker 0 was sent SIGTERM: its workers start again from step (\d+)\n"
        )
        tiny.with_name("hurry").touch()
        run.wait_for(f"goes on from step {ended[1]}\nfeatures: {zero}")
        assert int(moved[1]) < int(grown[1]) < int(ended[1]) < 40
        run.process.wait(timeout=400)
    finally:
        run.process.kill()
        run.process.wait()
    assert run.process.returncode == 0, run.said
    assert "features: done, after 3 interruptions: 0 steps trained again" in run.said
    undisturbed = Store(tmp_path / "undisturbed")
    assert worker.train(job, undisturbed, lambda _: None, lambda _: None) is None
    expected, found = (
        torch.load(s.entry(job.key) / "checkpoint.pth", weights_only=True)["state_dict"]
        for s in (undisturbed, store)
    )
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)
