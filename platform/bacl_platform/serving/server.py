"""The server: Ray Serve started with the application, and ended with the Ray that was started."""

import contextlib
import logging
import math
import os
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bacl.errors import RunError, UsageError
from bacl_platform.console import remark, say
from bacl_platform.process import sigterm_as_interrupt
from bacl_platform.run.cluster import chosen
from bacl_platform.run.ray_session import ray_with
from bacl_platform.serving.application import NAME, PATH, Settings, application
from bacl_platform.serving.sources import Source
from bacl_platform.volume import Volume, volume

if TYPE_CHECKING:
    from rich.console import Console

LOOPBACK = "127.0.0.1"
PORT = 8000
METRICS_PORT = 8001
TIMEOUT = 60.0
"""Seconds for one request."""
_SENTENCE = re.compile(r"(?:UsageError|RunError): (.+)")


@dataclass(frozen=True)
class Place:
    """Where a server listens.

    metrics_port: of this machine's Ray, for Prometheus. timeout: seconds for one request.
    """

    host: str = LOOPBACK
    port: int = PORT
    metrics_port: int = METRICS_PORT
    timeout: float = TIMEOUT

    @property
    def is_private(self) -> bool:
        """Whether this machine alone reaches it."""
        return self.host in (LOOPBACK, "localhost", "::1")

    @property
    def url(self) -> str:
        """Its address, as this machine reaches it."""
        host = LOOPBACK if self.host == "0.0.0.0" else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def serve(
    source: Source, settings: Settings, place: Place, address: str | None, console: "Console"
) -> None:
    """Serve a detector until Ctrl-C or SIGTERM.

    address: of a Ray cluster; without one a Ray is started on this machine, and ended after. Raises
    UsageError for a port that is taken, RunError for a detector that cannot be loaded, where there
    is no room for the replicas, or where the cluster has a Ray Serve already.
    """
    with (
        sigterm_as_interrupt(),
        contextlib.suppress(KeyboardInterrupt),
        serving(source, settings, place, address, console),
    ):
        threading.Event().wait()
    remark(console, "stopped")


@contextlib.contextmanager
def serving(
    source: Source, settings: Settings, place: Place, address: str | None, console: "Console"
) -> Iterator[None]:
    """A server that answers within; see `serve`."""
    _check_settings(settings)
    if chosen(address) is None:
        _check_port(place.host, place.port, "--port")
        _check_port(LOOPBACK, place.metrics_port, "--metrics-port")
        # with it all of a new Ray, its metrics too, listens on the loopback device alone
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    _check_detector(source)
    if not place.is_private:
        say(
            console,
            f"warning: whoever reaches {place.host}:{place.port} can use this server: it asks for "
            "no password",
        )
    needed = math.ceil(settings.replicas * settings.cpus)
    options = {"include_dashboard": False, "_metrics_export_port": place.metrics_port}
    with contextlib.ExitStack() as ending:
        is_cluster = ending.enter_context(ray_with(needed, address, **options))
        import ray
        from ray import serve as ray_serve

        level = logging.INFO if volume() is Volume.VERBOSE else logging.ERROR
        logging.getLogger("ray.serve").setLevel(level)
        _check_room(settings, ray.cluster_resources())
        if is_cluster and ray_serve.status().proxies:
            raise RunError(
                "the Ray cluster has a Ray Serve already: expected one without, so that the bounds "
                "of this server hold; `serve shutdown` on the cluster ends the other"
            )
        if is_cluster:
            ending.callback(ray_serve.shutdown)
        try:
            ray_serve.start(
                proxy_location="HeadOnly",
                http_options={
                    "host": place.host,
                    "port": place.port,
                    "request_timeout_s": place.timeout,
                },
                logging_config={"log_level": "WARNING", "enable_access_log": False},
            )
            ray_serve.run(application(source, settings), name=NAME, route_prefix="/")
        except (RuntimeError, TimeoutError, ValueError) as error:
            raise RunError(f"{source.title} cannot be served: {_reason(error)}") from error
        say(console, f"{source.title} answers at {place.url}{PATH} (stop with Ctrl-C):")
        say(console, f"  curl --data-binary @photo.jpg {place.url}{PATH}")
        say(
            console,
            f"  curl --data-binary @photo.jpg '{place.url}{PATH}?format=png' -o found.png",
        )
        if not is_cluster:
            say(console, f"metrics for Prometheus: http://{LOOPBACK}:{place.metrics_port}/metrics")
        yield


def _check_settings(settings: Settings) -> None:
    if settings.gpus > 1 and settings.gpus % 1:
        raise UsageError(
            f"--gpus {settings.gpus:g}: expected a part of one GPU or a whole number of them, as "
            "Ray gives them"
        )


def _check_detector(source: Source) -> None:
    """Load it once here: what is wrong with it is said at once, and not by each replica."""
    from bacl_platform.inference.detector import Detector

    with source.files() as (checkpoint, config):
        Detector.load(checkpoint, config, "cpu")


def _check_port(host: str, port: int, option: str) -> None:
    try:
        family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except socket.gaierror as error:
        raise UsageError(
            f"--host {host}: expected an address of this machine: {error.strerror}"
        ) from error
    except OSError as error:
        raise UsageError(
            f"{option} {port}: expected a free port of {host}: {error.strerror}"
        ) from error


def _check_room(settings: Settings, resources: dict[str, Any]) -> None:
    """Raise RunError where Ray cannot place all replicas."""
    gpus, cpus = int(resources.get("GPU", 0)), resources.get("CPU", 0)
    if each := settings.gpus:
        room = gpus * math.floor(1 / each + 1e-6) if each <= 1 else math.floor(gpus / each)
        if room < settings.replicas:
            raise RunError(
                f"--replicas {settings.replicas} --gpus {each:g}: expected GPUs for all, Ray has "
                f"{gpus}, which is room for {room}"
            )
    if settings.replicas * settings.cpus > cpus:
        raise RunError(
            f"--replicas {settings.replicas} --cpus {settings.cpus:g}: expected as many cores, "
            f"Ray has {cpus:g}"
        )


def _reason(error: Exception) -> str:
    """What an error of Ray Serve says, without the traceback of a replica."""
    text = str(error)
    if found := _SENTENCE.findall(text):
        return str(found[-1])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
