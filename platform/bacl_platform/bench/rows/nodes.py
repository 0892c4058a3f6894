"""A run on two nodes of one rank each beside the same on one node of two ranks.

Both are Ray clusters on this machine whose nodes have caches of their own, with a store in a bucket
of an S3 server (moto's); a run is `bacl run`, from an empty store, of both stages.
"""

import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bacl.errors import RunError
from bacl_platform.bench.embedded import STEPS, experiment
from bacl_platform.bench.measure import Row, Setting
from bacl_platform.bench.servers import free_port, serving

CORES = {"two nodes": [1, 1], "one node": [2]}
"""Of each node, by the cluster."""
PLACEMENT = {"two nodes": "STRICT_SPREAD", "one node": "STRICT_PACK"}
PATIENCE = 1800.0
"""Seconds that a run may take."""


def measure(setting: Setting) -> list[Row]:
    """Wall time of the whole run, and what of it the jobs' loops of training and evaluation take:
    medians of `repeat` runs in turns, 3 where it is not given, after one that does not count."""
    features, heads, size, drawn = STEPS[setting.image]
    taken: dict[str, list[float]] = {name: [] for name in CORES}
    loops: dict[str, list[float]] = {name: [] for name in CORES}
    with tempfile.TemporaryDirectory(prefix="bacl-bench-") as place, ExitStack() as ending:
        folder = Path(place)
        text = experiment(size, features, heads, drawn, threads=1)
        (folder / "bench.yaml").write_text(text, encoding="utf-8")
        access = ending.enter_context(_bucket(folder))
        # Ray notes there which cluster `auto` is, and another may run on this machine
        ending.enter_context(_variable("RAY_TMPDIR", place))
        for turn in range(1 + (setting.repeat or 3)):  # the first finds nothing in memory
            for name, cores in CORES.items():
                store = f"s3://bench/{name.replace(' ', '-')}-{turn}"
                with _cluster(folder / name / str(turn), cores, access) as address:
                    start = time.perf_counter()
                    _run(folder, name, address, store, access)
                    seconds = time.perf_counter() - start
                if turn:
                    taken[name].append(seconds)
                    loops[name].append(_loop_seconds(store, folder, access))
    what = f"{features} and {heads} steps on two nodes of one rank"
    peer = "one node of two"
    ours, theirs = (statistics.median(taken[name]) for name in CORES)
    our_loops, their_loops = (statistics.median(loops[name]) for name in CORES)
    return [
        Row("nodes", what, ours, peer, theirs, 1.1, unit="s"),
        Row("nodes_loops", "within the loops", our_loops, peer, their_loops, None, unit="s"),
    ]


@contextmanager
def _bucket(folder: Path) -> Iterator[dict[str, str]]:
    """Within, the variables by which boto3 finds a server that has the bucket `bench`."""
    try:
        import boto3
        import moto  # noqa: F401
    except ImportError:
        raise RunError(
            "bench nodes: expected moto, whose S3 server holds the store: pip install 'moto[s3]'"
        ) from None
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "--port", str(port)]
    access = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
    }
    with serving("an S3 server", command, port, folder / "s3.log", os.environ):
        client = boto3.client(
            "s3",
            region_name="us-east-1",
            endpoint_url=access["AWS_ENDPOINT_URL"],
            aws_access_key_id="bench",
            aws_secret_access_key="bench",
        )
        client.create_bucket(Bucket="bench")
        yield access


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """Within, a variable of this process's environment has a value."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


@contextmanager
def _cluster(caches: Path, cores: list[int], access: dict[str, str]) -> Iterator[str]:
    """Within, the address of a Ray cluster of nodes with so many cores each."""
    from ray.cluster_utils import Cluster

    logging.getLogger("ray").setLevel(logging.ERROR)

    def node(number: int) -> dict[str, Any]:
        own = {**access, "BACL_CACHE": str(caches / str(number))}
        store = 100 * 2**20
        return {"num_cpus": cores[number], "object_store_memory": store, "env_vars": own}

    cluster = Cluster(initialize_head=True, head_node_args={**node(0), "include_dashboard": False})
    try:
        for number in range(1, len(cores)):
            cluster.add_node(**node(number))
        yield cluster.address
    finally:
        cluster.shutdown()


def _run(folder: Path, name: str, address: str, store: str, access: dict[str, str]) -> None:
    resources = f"resources={{workers: 2, placement: {PLACEMENT[name]}}}"
    chosen = [f"stages.{stage}.{resources}" for stage in ("representation", "classifier")]
    run = subprocess.run(
        [
            *(sys.executable, "-m", "bacl_platform", "run", str(folder / "bench.yaml")),
            *("--store", store, "--address", address),
            *(word for override in chosen for word in ("--set", override)),
        ],
        env=_environment(folder, access),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=PATIENCE,
    )
    if run.returncode:
        raise RunError(f"bench nodes: expected a run on {name} to end well, it said: {run.stdout}")


def _environment(folder: Path, access: dict[str, str]) -> dict[str, str]:
    known = {name: v for name, v in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return {**known, **access, "BACL_CACHE": str(folder / "driver")}


def _loop_seconds(store: str, folder: Path, access: dict[str, str]) -> float:
    """What the jobs of a store say that their loops took."""
    said = subprocess.run(
        [sys.executable, "-c", _LOOPS, store],
        env=_environment(folder, access),
        stdout=subprocess.PIPE,
        check=True,
        encoding="utf-8",
    )
    return float(json.loads(said.stdout))


_LOOPS = """
import sys
from bacl_platform.store.store import Store
print(sum(job["loop_seconds"] for job in Store(sys.argv[1]).descriptions().values()))
"""
