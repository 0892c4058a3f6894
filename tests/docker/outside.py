"""The compose file's services, run outside containers: its commands, on free ports of 127.0.0.1."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"


def variables(path: Path) -> dict[str, str]:
    """The NAME=value lines of an .env file."""
    return dict(line.split("=", 1) for line in path.read_text(encoding="utf-8").splitlines())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Compose:
    """compose.yaml with the secrets of a `.env`: the commands and environments of its services.

    Every port that the file names becomes a free one, and every host name before a port 127.0.0.1.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secrets = variables(folder / ".env")
        file = yaml.safe_load(self._substituted((DOCKER / "compose.yaml").read_text()))
        self.services: dict[str, Any] = file["services"]
        self.networks: dict[str, Any] = file["networks"]
        self.volumes = set(file["volumes"])
        self.ports = {port: free_port() for port in ("5000", "6379", "7070", "8265", "10001")}

    def _substituted(self, text: str) -> str:
        def value(match: re.Match[str]) -> str:
            name, default = match["name"], match["default"]
            return self.secrets[name] if default is None else self.secrets.get(name, default)

        return re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*)|:\?[^}]*)\}", value, text)

    def here(self, text: str, ports: dict[str, int] | None = None) -> str:
        """`text` of the file as it is outside containers."""
        for port, free in {**self.ports, **(ports or {})}.items():
            text = re.sub(rf"\b(?:s3|mlflow|head):{port}\b", f"127.0.0.1:{free}", text)
            text = re.sub(rf"\b{port}\b", str(free), text)
        return text.replace("0.0.0.0", "127.0.0.1")

    def command(self, service: str, ports: dict[str, int] | None = None) -> list[str]:
        return [self.here(word, ports) for word in self.services[service]["command"]]

    def environment(self, service: str) -> dict[str, str]:
        return {
            name: self.here(str(value))
            for name, value in self.services[service]["environment"].items()
        }

    def healthcheck(self, service: str) -> list[str]:
        kind, *command = self.services[service]["healthcheck"]["test"]
        assert kind == "CMD"
        return [self.here(word) for word in command]


def run(
    command: list[str], environment: dict[str, str], timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a command of the file to its end, from where the image's working directory would be."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env=_outside() | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@contextlib.contextmanager
def running(
    command: list[str], environment: dict[str, str], log: Path, user: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server while the block lasts; it and all that it started end after."""
    extra: dict[str, Any] = {"user": user, "group": user_group(user), "extra_groups": []}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT if user is None else log.parent,
            env=_outside() | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **(extra if user else {}),
        )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=5)


def _outside() -> dict[str, str]:
    """This process's environment without what would lead to other servers than the tests'."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "MLFLOW_", "PG", "RAY_"))
    }
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"}


def user_group(user: str | None) -> int | None:
    import pwd

    return pwd.getpwnam(user).pw_gid if user else None


def wait_for(
    check: Callable[[], object], what: str, log: Path, process: subprocess.Popen[bytes]
) -> None:
    """Wait until `check` is true, at most 60 seconds and no longer than the process lives."""
    end = time.monotonic() + 60
    while not check():
        told = f"{what}:\n{log.read_text(encoding='utf-8')[-4000:]}"
        assert process.poll() is None, f"ended before: {told}"
        assert time.monotonic() < end, f"not in a minute: {told}"
        time.sleep(0.2)


def postgres_binary(name: str) -> str:
    """A server program of PostgreSQL; Debian keeps those out of the path."""
    found = [shutil.which(name), *sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))[-1:]]
    for path in found:
        if path:
            return str(path)
    pytest.skip(f"PostgreSQL's {name} is not installed (apt-get install postgresql)")
