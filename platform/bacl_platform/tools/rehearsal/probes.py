"""What a run needs besides its jobs: MLflow, and images and a bucket that every node can use."""

import contextlib
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from bacl.datasets.index import Index
from bacl.datasets.prepared import Prepared
from bacl.errors import RunError
from bacl_platform.redaction import redacted
from bacl_platform.run.placement import on_node
from bacl_platform.store.names import REHEARSING
from bacl_platform.store.store import Store
from bacl_platform.tracking.tracking import URI, set_up, sqlite_uri

PATIENCE = 60.0
"""Seconds that each node has to look at its images."""
Sizes = Mapping[str, Mapping[str, int]]
"""Bytes of files by name, for each folder."""


def probe_tracking(name: str, store: Store, inner: Store) -> tuple[float, str | None]:
    """Seconds that a small run in MLflow takes, which is deleted again, and why it cannot be made.

    name: of the experiment. Where MLflow has it, the run is there, else in one that is deleted too.
    Without MLFLOW_TRACKING_URI and as long as the store has no database, one is made in `inner`.
    """
    began = time.perf_counter()
    set_up()
    own = store.root / "mlflow.db"
    uri = os.environ.get(URI) or sqlite_uri(own if own.exists() else inner.root / "mlflow.db")
    try:
        _track(uri, name, None if os.environ.get(URI) else inner.root / "mlartifacts")
    except Exception as error:  # of MLflow, its HTTP client or a client of its artifacts
        reason = " ".join(str(error).split("[SQL:")[0].split()).rstrip(".")
        sentence = f"{redacted(uri)}: expected an MLflow that takes runs, got: {redacted(reason)}"
        return time.perf_counter() - began, sentence[:500]
    return time.perf_counter() - began, None


def _track(uri: str, name: str, artifacts: Path | None) -> None:
    from mlflow import MlflowClient
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    client = MlflowClient(uri)
    known = client.get_experiment_by_name(name)
    made = None
    if known is None or artifacts is not None:  # so that artifacts on this disk go as well
        place = artifacts.as_uri() if artifacts else None
        made = client.create_experiment(f"{REHEARSING}-{uuid.uuid4().hex[:12]}", place)
    try:
        run = client.create_run(made or known.experiment_id, run_name=REHEARSING).info
        try:
            client.log_metric(run.run_id, "AP", 0.5)
            client.log_text(run.run_id, "probe", "probe.txt")
            with contextlib.suppress(NotImplementedError):  # by some kinds of artifact stores
                get_artifact_repository(run.artifact_uri, uri).delete_artifacts("probe.txt")
        finally:
            client.delete_run(run.run_id)
    finally:
        if made is not None:
            client.delete_experiment(made)


def files_of(prepared: Prepared) -> dict[str, dict[str, int]]:
    """The images of both splits with their bytes, as this machine has them, by their folder.

    What is missing has -1 bytes.
    """
    found: dict[str, dict[str, int]] = {}
    for split in (prepared.train, prepared.val):
        names = Index(split.index).files()
        found.setdefault(split.images, {}).update(_bytes(split.images, names))
    return found


def _bytes(folder: str, names: list[str]) -> dict[str, int]:
    known: dict[str, dict[str, int]] = {}
    found = {}
    for name in names:
        place, _, file = str(Path(folder, name)).rpartition("/")
        if place not in known:
            with contextlib.suppress(OSError), os.scandir(place) as entries:
                known[place] = {entry.name: entry.stat().st_size for entry in entries}
        found[name] = known.setdefault(place, {}).get(file, -1)
    return found


def differences(expected: Sizes) -> str | None:
    """How this machine's images differ from another's, in words, if they do."""
    missing, other, total = [], [], 0
    for folder, files in expected.items():
        here = _bytes(folder, list(files))
        total += len(files)
        missing += [f"{folder}/{name}" for name in files if here[name] < 0]
        other += [f"{folder}/{n}" for n in files if 0 <= here[n] != files[n] >= 0]
    found = []
    if missing:
        found.append(f"{len(missing):,} of {total:,} images are missing, such as {missing[0]}")
    if other:
        found.append(f"{len(other):,} have another size, such as {other[0]}")
    return " and ".join(found) or None


def node_problem(expected: Sizes, store: Store) -> str | None:
    """What is wrong with this machine as a node of a run, in words, if anything is."""
    if problem := differences(expected):
        return problem
    try:
        name = f".node-{uuid.uuid4().hex}"
        store.write_note(name, "")
        store.drop_note(name)
    except RunError as error:
        return str(error)
    except OSError as error:
        return f"{store.url}: expected a store that can be written: {error.strerror}"
    return None


def probe_nodes(prepared: Prepared, inner: Store) -> list[str]:
    """What is wrong with the nodes of the Ray that this process is connected to, in sentences."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    nodes = [node for node in ray.nodes() if node["Alive"]]
    mine = ray.get_runtime_context().get_node_id()
    others = [node for node in nodes if node["NodeID"] != mine]
    expected: Sizes = files_of(prepared)
    found = []
    if problem := node_problem(expected, inner):
        found.append(f"this machine: {problem}")
    look = ray.remote(node_problem)
    files = ray.put(expected)
    asked = {n["NodeID"]: look.options(**on_node(n["NodeID"])).remote(files, inner) for n in others}
    for node in others:
        place = node.get("NodeManagerHostname") or node.get("NodeManagerAddress")
        try:
            problem = ray.get(asked[node["NodeID"]], timeout=PATIENCE)
        except GetTimeoutError:
            problem = f"no answer about its images within {PATIENCE:.0f} s"
        except RayError as error:
            problem = str(error).strip().splitlines()[-1]
        if problem:
            found.append(f"node {place}: {problem}")
    return found
