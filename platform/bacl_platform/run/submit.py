"""Sends an experiment or sweep to a Ray cluster as a Ray job and follows its log.

What is sent is the YAML files that it is made of, and the sources of BACL if asked for. Data,
store and, unless its sources are sent, BACL must be on the cluster.
"""

import asyncio
import logging
import os
import re
import shlex
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import bacl
import bacl_platform
from bacl.errors import RunError, UsageError
from bacl_platform.console import remark, say
from bacl_platform.plan.trials import SweepFile
from bacl_platform.run.cluster import PATIENCE, token_wanted
from bacl_platform.spec.load import load_unresolved
from bacl_platform.spec.sweep import is_sweep
from bacl_platform.spec.yaml_files import (
    data_paths,
    folders_of,
    is_relative,
    override_field,
    read_yaml,
)
from bacl_platform.volume import Volume, volume

if TYPE_CHECKING:
    from rich.console import Console

LIMIT = 32 * 2**20
"""Bytes that are sent at most; Ray takes 512 MiB, but YAML and sources are never so large."""
STOP_WAIT = 60
"""Seconds that Ray lets a job end after `ray job stop`; a driver waits less for checkpoints."""
RECONNECT = 60.0
"""Seconds in which the cluster must answer again when the stream of the log breaks."""

_ADDRESS = "RAY_API_SERVER_ADDRESS"


@dataclass(frozen=True)
class Package:
    """The working directory of a job, on this machine."""

    folder: Path
    file: str
    """The experiment or sweep in it."""
    files: list[Path]
    """All that is in it, relative to it."""
    variables: list[str]
    """Environment variables that paths of the data name."""


def pack(file: Path, overrides: Sequence[str], folder: Path) -> Package:
    """Copy the files that an experiment or sweep is made of, as they lie to each other: YAML, and
    the modules that it imports from beside them.

    Raises UsageError where they are wrong, or lead to something that only this machine has.
    """
    contents = _contents(file, overrides)
    _refuse_relative_data(contents)
    if is_sweep(file):
        SweepFile(file, overrides)
    else:
        load_unresolved(file, overrides)
    _refuse_relative_data(contents)  # again: now the methods of imported modules are known
    root = os.path.commonpath([path.parent for path in contents])
    files = [path.relative_to(root) for path in contents]
    for path, relative in zip(contents, files, strict=True):
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / relative)
    for module in dict.fromkeys(_modules(contents)):
        relative = module.relative_to(root)
        files.append(relative)
        if module.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(module, folder / relative, ignore=ignored)
        else:
            shutil.copyfile(module, folder / relative)
    texts = [text for raw in contents.values() for text in data_paths(raw).values()]
    variables = {name for text in texts for name in re.findall(r"\$\{?(\w+)\}?", text)}
    return Package(folder, files[0].as_posix(), files, sorted(variables))


def _modules(contents: Mapping[Path, dict[str, Any]]) -> Iterator[Path]:
    """The modules, or their packages, that experiments import from beside them. Others are
    installed, here as on the cluster."""
    for path, raw in contents.items():
        for name in raw.get("imports") or []:
            top = name.split(".")[0]
            for folder in folders_of(path):
                found = [p for p in (folder / top, folder / f"{top}.py") if p.exists()]
                yield from found[:1]


def _refuse_relative_data(contents: Mapping[Path, dict[str, Any]]) -> None:
    for path, raw in contents.items():
        for field, text in data_paths(raw).items():
            if is_relative(text):
                raise UsageError(
                    f"{path}: {field}: expected a path that the cluster has, absolute or from a "
                    f"variable such as $BACL_DATA, got {text!r}, which is not sent"
                )


def _contents(file: Path, overrides: Sequence[str]) -> dict[Path, dict[str, Any]]:
    """The raw content of a file and of those that it names, by absolute path."""
    found: dict[Path, dict[str, Any]] = {}
    todo = [(Path(os.path.abspath(file)), "")]
    while todo:
        path, by = todo.pop()
        if path in found:
            continue
        raw = found[path] = read_yaml(path, by)
        for override in overrides if len(found) == 1 else ():
            override_field(raw, override)
        paper = raw.get("paper")
        named: dict[str, Any] = {"base": raw.get("base")}
        named["paper.file"] = paper.get("file") if isinstance(paper, dict) else None
        for field, value in named.items():
            if value is None:
                continue
            if not isinstance(value, str) or not is_relative(value):
                raise UsageError(
                    f"{path}: {field}: expected a path relative to this file, got {value!r}, which "
                    "the cluster may lack"
                )
            below = Path(os.path.normpath(path.parent / value))
            todo.append((below, f"{by}{path}: {field}: "))
    return found


def sources(folder: Path) -> list[Path]:
    """Copies of BACL's two packages, without what Python has compiled."""
    copies = []
    for package in (bacl, bacl_platform):
        assert package.__file__ is not None
        own = Path(package.__file__).parent
        ignored = shutil.ignore_patterns("__pycache__")
        copies.append(Path(shutil.copytree(own, folder / own.name, ignore=ignored)))
    return copies


def environment(names: Sequence[str]) -> dict[str, str]:
    """Variables to pass: `NAME` with its value here, `NAME=VALUE` with that value."""
    found = {}
    for text in names:
        name, equals, value = text.partition("=")
        if not equals and name not in os.environ:
            raise UsageError(f"--env {name}: expected a variable that is set here, or {name}=VALUE")
        found[name] = value if equals else os.environ[name]
    return found


def submit(
    file: Path,
    store: str,
    console: "Console",
    address: str | None = None,
    overrides: Sequence[str] = (),
    options: Sequence[str] = (),
    env: Sequence[str] = (),
    code: bool = False,
    wait: bool = True,
) -> int:
    """Run a file on a cluster; its exit code, or 0 without `wait`.

    address: of the cluster's dashboard; without it, Ray's environment variables or a cluster on
    this machine. options: further ones of `bacl run` or `bacl sweep`. env: variables to pass, which
    whoever can open the dashboard can read. code: whether to send BACL itself. Ctrl-C only stops
    following the log; the exit code is then 130. Raises UsageError, and RunError where the cluster
    does not answer.
    """
    if not store.startswith("/") and "://" not in store:
        raise UsageError(
            "--store: expected a folder that all nodes of the cluster see, as an absolute path, "
            f"or the address of a bucket, got {store!r}"
        )
    passed = environment(env)
    with tempfile.TemporaryDirectory(prefix="bacl-submit-") as name:
        working_dir = Path(name, "work")
        working_dir.mkdir()
        package = pack(file, overrides, working_dir)
        modules = sources(Path(name, "code")) if code else []
        chosen = [word for override in overrides for word in ("--set", override)]
        words = ["sweep" if is_sweep(file) else "run", package.file, "--address", "auto"]
        program = ["python", "-m", "bacl_platform"] if code else ["bacl"]
        words += {Volume.QUIET: ["--quiet"], Volume.VERBOSE: ["--verbose"]}.get(volume(), [])
        entrypoint = shlex.join([*program, *words, "--store", store, *chosen, *options])
        _announce(package, modules, entrypoint, passed, console)
        runtime_env = {
            "working_dir": str(working_dir),
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT), **passed},
            **({"py_modules": [str(module) for module in modules]} if modules else {}),
        }
        with _errors_in_words(address):
            client = _client(address)
            job = client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env)
    at = f"{job} --address {client.get_address()}"
    say(console, f"job {job}; stop it, with a checkpoint: ray job stop {at}")
    if not wait:
        say(console, f"follow it: ray job logs --follow {at}")
        return 0
    try:
        with _errors_in_words(address):
            return asyncio.run(_follow(client, job, console))
    except KeyboardInterrupt:
        say(console, f"\njob {job} goes on; follow it: ray job logs --follow {at}")
        say(console, f"stop it, with a checkpoint: ray job stop {at}")
        return 130


def _client(address: str | None) -> Any:
    from ray.job_submission import JobSubmissionClient

    for module in ("dashboard_sdk", "job.sdk"):  # we report the same ourselves
        logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.WARNING)
    logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)
    chosen = address or os.environ.get(_ADDRESS) or os.environ.get("RAY_ADDRESS")
    if chosen and chosen not in ("auto", "local"):
        _knock(chosen)
    if not address:
        return JobSubmissionClient()
    before = os.environ.get(_ADDRESS)
    os.environ[_ADDRESS] = address  # because what Ray's variables say goes before an argument
    try:
        return JobSubmissionClient()
    finally:
        os.environ.pop(_ADDRESS)
        if before is not None:
            os.environ[_ADDRESS] = before


def _knock(address: str) -> None:
    """Raise OSError where nothing listens at an address, which Ray would find out much later."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname is None:
        raise ValueError("this is no address")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    socket.create_connection((parts.hostname, port), timeout=PATIENCE).close()


@contextmanager
def _errors_in_words(address: str | None) -> Iterator[None]:
    """Raise what Ray and its HTTP clients raise within as a RunError of one sentence."""
    import aiohttp
    import ray.exceptions
    import requests

    chosen = [f"of {n}={os.environ[n]}" for n in (_ADDRESS, "RAY_ADDRESS") if os.environ.get(n)]
    where = " ".join(["Ray cluster", *([f"at {address}"] if address else chosen[:1])])
    try:
        yield
    except ray.exceptions.AuthenticationError as error:
        raise RunError(token_wanted(where)) from error
    except (
        *(OSError, RuntimeError, ValueError, ray.exceptions.RayError),
        *(requests.RequestException, aiohttp.ClientError),
    ) as error:
        raise RunError(
            f"{where}: {_reason(error)}; expected the "
            "address of its dashboard, such as http://127.0.0.1:8265, in --address"
        ) from error


def _reason(error: Exception) -> str:
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return said.splitlines()[0].rstrip(".")


def _announce(
    package: Package,
    modules: list[Path],
    entrypoint: str,
    passed: dict[str, Any],
    console: "Console",
) -> None:
    sent = {str(file): package.folder / file for file in package.files}
    sent |= {module.name: module for module in modules}
    sizes = {f"{name}{'/' * path.is_dir()}": _size(path) for name, path in sent.items()}
    total = sum(sizes.values())
    remark(console, f"sends {total / 1024:.1f} KiB:")
    for name, size in sizes.items():
        remark(console, f"  {name}  {size / 1024:.1f} KiB")
    if total > LIMIT:
        raise UsageError(
            f"{package.file}: expected at most {LIMIT >> 20} MiB to send, got {total >> 20} MiB"
        )
    if assumed := [f"${name}" for name in package.variables if name not in passed]:
        remark(console, f"assumes that the cluster's nodes have {', '.join(assumed)}")
    if passed:
        say(
            console,
            f"passes {', '.join(passed)}: whoever can open the cluster's dashboard can read them",
        )
    remark(console, f"runs {entrypoint}")


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


async def _follow(client: Any, job: str, console: "Console") -> int:
    """Show a job's log to its end, over broken streams too; its exit code."""
    import aiohttp

    shown, answered = 0, time.monotonic()
    while True:
        at = 0
        try:
            async for text in client.tail_job_logs(job):
                # every stream begins with the log's first line
                console.out(text[max(shown - at, 0) :], end="", highlight=False)
                at += len(text)
                shown, answered = max(shown, at), time.monotonic()
            info = client.get_job_info(job)
            answered = time.monotonic()
            if info.status.is_terminal():
                return _outcome(info, job, console)
        except (OSError, RuntimeError, aiohttp.ClientError) as error:
            if time.monotonic() - answered > RECONNECT:
                raise RunError(
                    f"job {job}: expected an answer of the cluster within {RECONNECT:.0f} s: "
                    f"{error}; once it is back, give the same command again: it goes on from the "
                    "last checkpoints"
                ) from error
        await asyncio.sleep(1)


def _outcome(info: Any, job: str, console: "Console") -> int:
    status = info.status.value
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        say(console, f"job {job} was stopped: the same command goes on from the last checkpoints")
    elif info.driver_exit_code is None:  # it did not begin: what it said is in no log
        say(console, f"job {job} failed: {info.message}")
    return info.driver_exit_code or 1
