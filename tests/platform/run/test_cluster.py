"""Which Ray a command runs on, and how soon one that cannot be reached is told."""

import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from bacl.errors import RunError, UsageError
from bacl_platform.run import cluster
from bacl_platform.run.cluster import Cluster, chosen, reach, token_wanted


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """No address, token or cluster of this machine's own."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(psutil, "process_iter", lambda *_: [])


class Process:
    """A process as psutil shows it."""

    def __init__(self, name, *command):
        self.info = {"name": name, "cmdline": list(command)}


def node(address, folder):
    """Ray's process on a node."""
    worker = f"python default_worker.py --gcs-address={address} --temp-dir={folder}"
    return Process("raylet", "/ray/raylet", f"--raylet_socket_name={folder}/raylet", worker)


def machine_has(monkeypatch, *processes):
    monkeypatch.setattr(psutil, "process_iter", lambda *_: list(processes))


@pytest.mark.parametrize("address", [None, "", "local"])
def test_without_an_address_a_run_has_a_ray_of_its_own(monkeypatch, address):
    assert chosen(address) is None
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert chosen(None) is None


def test_option_goes_before_the_variable_and_auto_asks_it(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert chosen("10.0.0.2:6379") == Cluster("10.0.0.2:6379", "--address 10.0.0.2:6379")
    for address in (None, "auto"):
        assert chosen(address) == Cluster("10.0.0.1:6379", "RAY_ADDRESS=10.0.0.1:6379")
    assert chosen("local") is None


@pytest.mark.parametrize(
    "address, hint",
    [
        ("nonsense", "expected HOST:PORT"),
        ("10.0.0.1", "expected HOST:PORT"),
        ("10.0.0.1:", "expected HOST:PORT"),
        ("10.0.0.1:99999", "expected HOST:PORT"),
        ("10.0.0.1:1/x", "expected HOST:PORT"),
        ("http://127.0.0.1:8265", "the address of a dashboard"),
        ("ray://127.0.0.1:10001", "bacl submit"),
    ],
)
def test_what_is_no_address_of_a_cluster_is_told_with_its_name(monkeypatch, address, hint):
    with pytest.raises(UsageError) as error:
        chosen(address)
    assert str(error.value).startswith(f"--address {address}: ") and hint in str(error.value)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UsageError) as error:
        chosen(None)
    assert str(error.value).startswith(f"RAY_ADDRESS={address}: ") and hint in str(error.value)


def test_auto_is_the_cluster_of_this_machine_and_not_another_runs_own(monkeypatch):
    own, shared = node("10.0.0.1:1111", "/tmp/bacl-ray-x1"), node("10.0.0.1:6379", "/tmp/ray")
    other = Process("python", "bacl", "run", "--gcs-address=10.0.0.9:1")
    machine_has(monkeypatch, own, other, shared, shared)
    assert chosen("auto") == Cluster("10.0.0.1:6379", "--address auto", here=True)
    machine_has(monkeypatch, own, other)
    with pytest.raises(RunError, match="found none but those of other runs"):
        chosen("auto")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(RunError, match=r"^RAY_ADDRESS=auto: "):
        chosen(None)


def test_auto_is_the_newest_of_several_clusters_where_ray_says_which(monkeypatch, tmp_path):
    machine_has(monkeypatch, node("10.0.0.1:6379", "/tmp/a"), node("10.0.0.1:6380", "/tmp/b"))
    with pytest.raises(UsageError, match=r"found 10\.0\.0\.1:6379, 10\.0\.0\.1:6380"):
        chosen("auto")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("10.0.0.1:6380\n")
    assert chosen("auto").address == "10.0.0.1:6380"
    machine_has(monkeypatch, node("10.0.0.1:6379", "/tmp/a"))  # the newest has ended
    assert chosen("auto").address == "10.0.0.1:6379"


@pytest.fixture
def silent():
    """The address of something that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_dead_address_is_told_at_once():
    address = f"127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(RunError) as error:
        reach(Cluster(address, f"RAY_ADDRESS={address}"))
    assert str(error.value).startswith(f"RAY_ADDRESS={address}: no answer (Connection refused): ")
    assert time.monotonic() - began < 5


@pytest.mark.slow
def test_what_does_not_answer_is_given_up_in_time(monkeypatch, silent):
    monkeypatch.setattr(cluster, "PATIENCE", 4.0)
    before = {child.pid for child in psutil.Process().children()}
    began = time.monotonic()
    with pytest.raises(RunError, match="no answer of a Ray cluster within 4 s"):
        reach(Cluster(silent, "--address x"))
    assert time.monotonic() - began < 8
    assert {child.pid for child in psutil.Process().children()} <= before


def connecting(pid):
    """The processes that connect to Ray for another one."""
    children = psutil.Process(pid).children()
    return [child for child in children if "ray.init" in " ".join(child.cmdline())]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_driver_that_connects_obeys_signals(silent, number):
    code = (
        "import signal, sys\n"
        "from bacl_platform.run.cluster import Cluster, reach\n"
        "def stop(*_): sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, stop); signal.signal(signal.SIGINT, stop)\n"
        "print('ready', flush=True)\n"
        f"reach(Cluster({silent!r}, 'x'))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        deadline = time.monotonic() + 20
        while not (started := connecting(process.pid)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (child,) = started
        time.sleep(0.5)  # the driver learns of it a moment after it has begun
        process.send_signal(number)
        assert process.wait(timeout=10) == 130
        assert not psutil.pid_exists(child.pid)
    finally:
        process.kill()
        process.wait()


def test_refusal_names_what_is_missing_of_a_token(monkeypatch):
    assert "export RAY_AUTH_MODE=token" in token_wanted("x")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert "found no token" in token_wanted("x")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 64)
    assert "got a token that it refuses" in token_wanted("x")


@pytest.mark.ray
def test_cluster_that_asks_for_its_token_is_reached_with_it_alone(monkeypatch, tmp_path):
    """The Ray of this test's own child process: as `ray start` makes one where there is a token."""
    monkeypatch.delenv("RAY_TMPDIR")  # too long for sockets
    ready = tmp_path / "address"
    code = f"""
import os, ray, sys
ready = {str(ready)!r}
options = dict(num_cpus=1, include_dashboard=False, object_store_memory=80_000_000)
found = ray.init(address="local", log_to_driver=False, **options)
with open(ready + ".new", "w", encoding="utf-8") as file:
    file.write(found.address_info["gcs_address"])
os.rename(ready + ".new", ready)
sys.stdin.read()
"""
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
    head = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, env=environment)
    try:
        deadline = time.monotonic() + 90
        while not ready.exists():
            assert head.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        found = Cluster(ready.read_text(), "--address here")
        with pytest.raises(RunError, match=r"^--address here: the cluster asks .* is not set"):
            reach(found)
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN", "b" * 64)
        with pytest.raises(RunError, match="got a token that it refuses"):
            reach(found)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)
        reach(found)
    finally:
        head.stdin.close()
        head.wait(timeout=60)
