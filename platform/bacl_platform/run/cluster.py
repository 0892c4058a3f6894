"""Which Ray cluster a command runs on, and whether that can be reached: known within half a minute.

Ray itself waits minutes for a cluster that is not there, ignores signals meanwhile, and writes
warnings of its own. So a child process connects first, and this process only after that succeeded.
"""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bacl.errors import RunError, UsageError

PATIENCE = 25.0
"""Seconds in which a cluster must answer."""
PRIVATE = "bacl-ray-"
"""How the names of the folders begin of Rays that a command started for itself alone."""

_ADDRESS = "RAY_ADDRESS"
_AUTH_MODE = "RAY_AUTH_MODE"
_EXPECTED = (
    "expected HOST:PORT of a running Ray cluster's head, such as 10.0.0.1:6379, on one of its "
    "nodes, or `auto` there"
)
_CONNECT = """
import signal, sys
signal.alarm(int(sys.argv[2]))  # should nobody be left to end this process
import ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
ray.shutdown()
"""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster to run on.

    address: HOST:PORT of its head. named: what named it, such as `RAY_ADDRESS=auto`, for sentences.
    here: whether it was found as the one that this machine is a node of.
    """

    address: str
    named: str
    here: bool = False


def chosen(address: str | None) -> Cluster | None:
    """The cluster that `--address` or RAY_ADDRESS names; None for a new Ray on this machine.

    As Ray has it, RAY_ADDRESS says which cluster `auto` is. Raises UsageError for what is no
    address, RunError where `auto` finds no cluster.
    """
    variable = os.environ.get(_ADDRESS)
    named = f"--address {address}"
    if variable and address in (None, "", "auto"):
        address, named = variable, f"{_ADDRESS}={variable}"
    if not address or address == "local":
        return None
    if address == "auto":
        return Cluster(_of_this_machine(named), named, here=True)
    if address.startswith(("http://", "https://")):
        raise UsageError(
            f"{named}: this is the address of a dashboard, which `bacl submit` takes; {_EXPECTED}"
        )
    if address.startswith("ray://"):
        raise UsageError(
            f"{named}: Ray Client (ray://) cannot run jobs of BACL: send them with `bacl submit`, "
            "or run on a node of the cluster, with HOST:PORT of its head"
        )
    _host_and_port(address, named)
    return Cluster(address, named)


def _host_and_port(address: str, named: str) -> tuple[str, int]:
    match = re.fullmatch(
        r"(?:\[(?P<v6>[0-9A-Fa-f:.%]+)\]|(?P<host>[^\s/:\[\]]+)):(?P<port>\d+)", address
    )
    if match is None or not 0 < int(match["port"]) < 2**16:
        raise UsageError(f"{named}: {_EXPECTED}")
    return match["v6"] or match["host"], int(match["port"])


def _of_this_machine(named: str) -> str:
    """The address of the cluster that this machine is a node of, as `ray start` made it one.

    The private Ray of another `bacl run` does not count: it ends with that run, which uses all of
    it.
    """
    found, others = _nodes_here()
    file = Path(os.environ.get("RAY_TMPDIR") or "/tmp", "ray", "ray_current_cluster")
    latest = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
    if latest and (latest in found or not found):  # others' processes may be hidden from us
        return latest
    if not found:
        private = " but those of other runs, which are theirs alone" if others else ""
        raise RunError(
            f"{named}: expected this machine to be a node of a Ray cluster (`ray start`), found "
            f"none{private}; without an address, a run starts a Ray of its own"
        )
    if len(found) > 1:
        raise UsageError(
            f"{named}: expected this machine to be a node of one Ray cluster, found "
            f"{', '.join(sorted(found))}: name one of them"
        )
    return found.pop()


def _nodes_here() -> tuple[set[str], set[str]]:
    """Addresses of the clusters that this machine has nodes of: shared ones, and runs' own."""
    import psutil

    shared: set[str] = set()
    private: set[str] = set()
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] != "raylet":
            continue
        command = " ".join(process.info["cmdline"] or ())
        addresses = re.findall(r"--gcs-address=(\S+)", command)
        (private if f"/{PRIVATE}" in command else shared).update(addresses)
    return shared, private


def reach(cluster: Cluster) -> None:
    """Raise RunError, within PATIENCE and in one sentence, where a cluster cannot be connected to.

    Ctrl-C and SIGTERM interrupt it at any time.
    """
    deadline = time.monotonic() + PATIENCE
    if cluster.here and _AUTH_MODE not in os.environ and _has_token():
        os.environ[_AUTH_MODE] = "token"  # as Ray itself does for `auto`, and for no other address
    place = _host_and_port(cluster.address, cluster.named)
    try:
        with socket.create_connection(place, timeout=PATIENCE / 2):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"{cluster.named}: no answer ({reason}): {_EXPECTED}") from None
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-c", _CONNECT, cluster.address, f"{PATIENCE + 5:.0f}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            # of the attempts that Ray makes, one a second, where it is refused
            env={**os.environ, "RAY_NUM_REDIS_GET_RETRIES": "2"},
            start_new_session=True,  # Ctrl-C is for this process, which ends that one
        )
        try:
            failed = process.wait(timeout=max(deadline - time.monotonic(), 1)) != 0
        except subprocess.TimeoutExpired:
            raise RunError(
                f"{cluster.named}: no answer of a Ray cluster within {PATIENCE:.0f} s: {_EXPECTED}"
            ) from None
        finally:
            process.kill()
            process.wait()
        said.seek(0)
        text = said.read().decode(errors="replace")
    if failed:
        raise RunError(_sentence(text, cluster))


def _sentence(text: str, cluster: Cluster) -> str:
    """The error message for a connection that failed, from what the child wrote on stderr."""
    if re.search("InvalidAuthToken|Unauthenticated|AuthenticationError", text):
        return token_wanted(cluster.named)
    last = re.split(r"^(?=\w+(?:Error|Exception): )", text, flags=re.MULTILINE)[-1]
    reason = " ".join(last.split())[:500].rstrip(".") or "Ray ended without a word"
    if "Failed to connect to Ray cluster" in reason:
        reason = "no answer of a Ray cluster"
    return f"{cluster.named}: {reason}: {_EXPECTED}"


def token_wanted(where: str) -> str:
    """The error message for a cluster that refused the connection without its token."""
    if os.environ.get(_AUTH_MODE, "").lower() != "token":
        got = f"{_AUTH_MODE} is not set: export {_AUTH_MODE}=token"
    elif not _has_token():
        got = "found no token: take it from the cluster's head (`ray get-auth-token`)"
    else:
        got = "got a token that it refuses: take its own from its head (`ray get-auth-token`)"
    return (
        f"{where}: the cluster asks for its token, which Ray switches on where there is one: "
        f"expected {_AUTH_MODE}=token, and the token in ~/.ray/auth_token or RAY_AUTH_TOKEN; {got}"
    )


def _has_token() -> bool:
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return (Path(path) if path else Path.home() / ".ray" / "auth_token").is_file()
