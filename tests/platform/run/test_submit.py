"""What is sent to a cluster, and runs there: followed, failed, stopped and gone on with."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from foreign import METHOD, forgotten
from ray.job_submission import JobSubmissionClient
from rich.console import Console

from bacl.errors import RunError, UsageError
from bacl_platform.plan.trials import SweepFile
from bacl_platform.run import submit as submitting
from bacl_platform.spec.load import load
from bacl_platform.store.checkpoints import newest_step
from bacl_platform.store.store import Store

SWEEP = """
name: few
base: ../tiny.yaml
stage: heads
variant: bacl
space: {variant.alpha: [0, 1]}
paper: {file: ../../paper.yaml, table: III}
"""


def test_sweep_is_sent_with_what_it_names_and_nothing_else(tiny, tmp_path):
    root = tmp_path / "root"
    for name, text in {
        "own/base.yaml": tiny.read_text(),
        "own/tiny.yaml": "base: base.yaml\nname: mine\n",
        "own/data.bin": "large",
        "own/sweeps/few.yaml": SWEEP,
        "paper.yaml": "tables: {}\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    sent = tmp_path / "sent"
    package = submitting.pack(root / "own/sweeps/few.yaml", [], sent)
    there = sorted(p.relative_to(sent).as_posix() for p in sent.rglob("*") if p.is_file())
    assert there == ["own/base.yaml", "own/sweeps/few.yaml", "own/tiny.yaml", "paper.yaml"]
    assert package.file == "own/sweeps/few.yaml"
    file = SweepFile(sent / package.file)
    assert file.base["stages"].keys() == {"features", "heads"}
    assert (file.path.parent / file.sweep.paper.file).resolve() == sent / "paper.yaml"


def test_variables_are_left_to_the_cluster(tiny, tmp_path, monkeypatch):
    monkeypatch.delenv("THEIRS", raising=False)
    overrides = ["dataset={format: lvis, train: $THEIRS/t.json, val: /v.json, images: /i}"]
    package = submitting.pack(tiny, overrides, tmp_path / "sent")
    assert package.variables == ["THEIRS"]
    with pytest.raises(UsageError, match="THEIRS to be set"):
        load(tiny, overrides)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("dataset={format: lvis, train: t.json}", r"dataset\.train: .*\$BACL_DATA, got 't.json'"),
        ("detector.weights=w.pth", r"detector\.weights: expected a path that the cluster has"),
        ("base=/far/base.yaml", "base: expected a path relative to this file"),
        ("stages.features.recipe.schedule.lr=no", "lr: expected a number"),
    ],
)
def test_what_the_cluster_cannot_read_is_not_sent(tiny, tmp_path, override, expected):
    with pytest.raises(UsageError, match=expected):
        submitting.pack(tiny, [override], tmp_path / "sent")


def test_store_of_this_machine_alone_is_refused(tiny):
    with pytest.raises(UsageError, match="--store: expected a folder that all nodes"):
        submitting.submit(tiny, "bacl_store", Console())


def test_variables_are_passed_by_name_and_their_values_not_shown(
    tiny, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("SECRET", "s3cr3t")
    assert submitting.environment(["SECRET", "A=b=c"]) == {"SECRET": "s3cr3t", "A": "b=c"}
    with pytest.raises(UsageError, match="--env ABSENT: expected a variable that is set"):
        submitting.environment(["ABSENT"])
    with pytest.raises(RunError, match=r"Ray cluster at http://127\.0\.0\.1:1: .*--address"):
        submitting.submit(
            tiny, "/shared", Console(), "http://127.0.0.1:1", env=["SECRET"], wait=False
        )
    said = capsys.readouterr().out
    assert "passes SECRET" in said and "s3cr3t" not in said
    assert f"tiny.yaml  {tiny.stat().st_size / 1024:.1f} KiB" in said


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "127.0.0.1:1", "ray://127.0.0.1:1", "x"])
def test_address_without_an_answer_is_told_at_once(tiny, monkeypatch, address):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    began = time.monotonic()
    with pytest.raises(RunError) as told:
        submitting.submit(tiny, "/shared", Console(), wait=False)
    named = f"Ray cluster of RAY_ADDRESS={address}: "
    assert str(told.value).startswith(named) and "; expected the address" in str(told.value)
    assert ".;" not in str(told.value)
    assert time.monotonic() - began < 10


def test_more_than_the_limit_is_not_sent(tiny, monkeypatch):
    monkeypatch.setattr(submitting, "LIMIT", 1000)
    with pytest.raises(UsageError, match="expected at most 0 MiB to send"):
        submitting.submit(tiny, "/shared", Console(), code=True)


TOKEN = "0123456789abcdef" * 4
"""What the cluster of these tests asks its clients for."""


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@dataclass
class Head:
    """A cluster of one node, as `ray start --head` makes it."""

    address: str
    environment: dict[str, str]

    def client(self) -> JobSubmissionClient:
        return JobSubmissionClient(self.address, headers={"Authorization": f"Bearer {TOKEN}"})

    def submit(
        self, file: Path, *words: str, python_path: Path | None = None, token: str = TOKEN
    ) -> subprocess.Popen:
        paths = [str(python_path)] if python_path else []
        path = os.pathsep.join([*paths, self.environment.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "bacl_platform", "submit", str(file)]
        return subprocess.Popen(
            [*command, "--address", self.address, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment | {"PYTHONPATH": path, "RAY_AUTH_TOKEN": token},
        )


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    gcs, dashboard, client, agent, rpc = free_ports(5)
    folder = Path("/tmp") / f"bacl-submit-{os.getpid()}"  # sockets' paths may not be long
    environment = {n: v for n, v in os.environ.items() if n != "MLFLOW_TRACKING_URI"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    # the interpreter's folder first, as in an activated environment or an image
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    process = subprocess.Popen(
        [
            *("ray", "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2"),
            *("--node-ip-address=127.0.0.1", f"--port={gcs}", f"--temp-dir={folder}"),
            *(f"--ray-client-server-port={client}", f"--dashboard-port={dashboard}"),
            *(f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={rpc}"),
            f"--object-store-memory={100 * 2**20}",
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    head = Head(f"http://127.0.0.1:{dashboard}", environment)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                head.client()
                break
            except (ConnectionError, RuntimeError):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.5)
        yield head
    finally:
        started = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        for one in psutil.wait_procs(started, timeout=10)[1]:
            one.kill()
        process.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_exit_code_and_error_of_a_failed_job_come_back(head, tiny, store, prepared):
    resources = "stages.features.resources={custom: {nvme: 1}}"
    process = head.submit(tiny, "--store", str(store.root), "--set", resources)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert (
        "error: job features: expected room for 1 workers of 1 CPU, 1 nvme each, "
        "the cluster has it for 0\n"
    ) in output
    assert "Traceback" not in output


@pytest.mark.ray
@pytest.mark.slow
def test_token_that_a_cluster_refuses_is_told(head, tiny):
    process = head.submit(tiny, "--store", "/shared", token="f" * 64)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 1, output
    assert "asks for its token" in output and "got a token that it refuses" in output
    assert "Traceback" not in output


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_stopped_job_leaves_a_checkpoint_that_the_same_command_goes_on_from(
    head, tiny, planned, store, tmp_path
):
    text = tiny.read_text()
    tiny.write_text(text[: text.index("  heads:")])
    overrides = [
        "stages.features.recipe.schedule.iterations=150",
        "stages.features.recipe.checkpoint_every=1000",
    ]
    (job,) = planned(*overrides).jobs
    chosen = [part for override in overrides for part in ("--set", override)]
    words = ["--store", str(store.root), *chosen]
    copies = submitting.sources(tmp_path / "copies")
    with (copies[1] / "__init__.py").open("a") as file:
        file.write("print('from the copy')\n")
    process = head.submit(tiny, *words, "--no-wait", "--code", python_path=tmp_path / "copies")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert re.search(r"sends \d+\.\d KiB", output) and "  bacl_platform/  " in output
    name = re.search(r"job (raysubmit_\w+);", output)[1]
    client = head.client()
    deadline = time.monotonic() + 300
    while '"step": 20,' not in _scalars(store, job):
        assert time.monotonic() < deadline, client.get_job_logs(name)
        time.sleep(0.2)
    client.stop_job(name)
    while not client.get_job_status(name).is_terminal():
        assert time.monotonic() < deadline + 200
        time.sleep(0.2)
    log = client.get_job_logs(name)
    assert "from the copy" in log
    told = re.search(rf"job features \({job.key}\) was stopped at step (\d+)", log)
    assert told, log
    step = int(told[1])
    assert 20 <= step < 150 and newest_step(store.work(job.key) / "checkpoints") == step

    process = head.submit(tiny, *words)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "from the copy" not in output
    assert output.count(f"features: goes on from step {step}\n") == 1
    assert "features: done" in output and store.complete(job.key)


def _scalars(store: Store, job) -> str:
    path = store.work(job.key) / "scalars.jsonl"
    return path.read_text() if path.exists() else ""


def test_modules_beside_the_file_are_sent_and_installed_ones_are_not(tmp_path, tiny):
    folder = tmp_path / "mine"
    (folder / "my_losses").mkdir(parents=True)
    (folder / "my_losses" / "__init__.py").touch()
    (folder / "my_losses" / "smoothed.py").write_text(METHOD)
    (folder / "mine.yaml").write_text("base: ../tiny.yaml\nimports: [my_losses.smoothed, json]\n")
    sent = tmp_path / "sent"
    sent.mkdir()
    with forgotten():
        package = submitting.pack(folder / "mine.yaml", [], sent)
    assert package.file == "mine/mine.yaml"
    assert (sent / "mine" / "my_losses" / "smoothed.py").read_text() == METHOD
    assert [file.as_posix() for file in package.files] == [
        "mine/mine.yaml",
        "tiny.yaml",
        "mine/my_losses",
    ]
