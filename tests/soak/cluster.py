"""What a run leans on outside itself: a Ray cluster and servers, as processes of this machine.

All have free ports, the servers on the loopback only, and all can be killed and started again.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from ray.cluster_utils import Cluster as RayCluster

LOOPBACK = "127.0.0.1"
_OBJECT_STORE = 100 * 2**20


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and theirs."""
    found = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in listing.read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def kill(pids: Sequence[int]) -> None:
    """SIGKILL processes, stopped ones too; those that are gone are left alone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Cluster:
    """A head without CPUs for workers, and nodes with one each."""

    def __init__(self, folder: Path, nodes: int = 2) -> None:
        self.folder, self.size, self.port = folder, nodes, free_port()
        self.start()

    @property
    def address(self) -> str:
        """What `--address` takes."""
        return self._ray.address

    def start(self) -> None:
        """Start head and nodes; the head has the same address every time."""
        self._ray = RayCluster(
            initialize_head=True,
            head_node_args={
                "gcs_server_port": self.port,
                "num_cpus": 0,
                "include_dashboard": True,
                "dashboard_port": free_port(),
                "object_store_memory": _OBJECT_STORE,
                "temp_dir": str(self.folder),
            },
        )
        for _ in range(self.size):
            self.add_node()

    def add_node(self) -> None:
        """One node more."""
        self._ray.add_node(num_cpus=1, object_store_memory=_OBJECT_STORE)

    def processes(self) -> list[int]:
        """All of the cluster's."""
        nodes = [*self._ray.worker_nodes, self._ray.head_node]
        return [pid for node in nodes for pid in _processes(node)]

    def kill_node_of(self, pid: int) -> None:
        """Kill the node that a worker runs on, with all its processes, as a power cut would."""
        (node,) = [n for n in self._ray.worker_nodes if pid in _processes(n)]
        self._kill(node)

    def kill_head(self) -> None:
        """Kill the head alone."""
        self._kill(self._ray.head_node)

    def stop(self) -> None:
        """Kill all that is left."""
        for node in [*self._ray.worker_nodes, self._ray.head_node]:
            if node is not None:
                self._kill(node)

    def _kill(self, node) -> None:
        processes = _processes(node)
        kill(processes)
        self._ray.remove_node(node, allow_graceful=False)  # reaps them


def _processes(node) -> list[int]:
    own = [info.process.pid for infos in node.all_processes.values() for info in infos]
    return own + [pid for one in own for pid in descendants(one)]


class Server:
    """A server of its own process group, which answers at `url` when it is up."""

    def __init__(self, command: Sequence[str], health: str, log: Path) -> None:
        self.port = free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self._command = [part.format(port=self.port) for part in command]
        self._health, self._log = health, log
        self.start()

    def start(self) -> None:
        """Start it, where it was before, and wait until it answers."""
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 90
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._command[2]} did not start: see {self._log}")
            time.sleep(0.2)

    def pause(self) -> None:
        """Let it answer nobody; it keeps what it holds in memory."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it answer again."""
        os.killpg(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill it with its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + self._health, timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False


def mlflow_server(folder: Path) -> Server:
    """An MLflow server on SQLite in `folder`."""
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    return Server(
        [*command, "--host", LOOPBACK, "--port", "{port}"], "/health", folder / "mlflow.log"
    )


def s3_server(folder: Path) -> Server:
    """An S3 endpoint that keeps its objects in memory."""
    command = [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", "{port}"]
    return Server(command, "/moto-api/", folder / "moto.log")
