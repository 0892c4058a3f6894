"""MLflow's pages in a browser, at the comparison of a plan's variants."""

import os
import platform
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from bacl.errors import RunError, UsageError
from bacl_platform.console import say
from bacl_platform.redaction import redacted
from bacl_platform.store.store import Store
from bacl_platform.tracking import opening, views
from bacl_platform.tracking.tracking import URI, set_up, tracking_uri
from bacl_platform.tracking.views import Family

if TYPE_CHECKING:
    from rich.console import Console

LOOPBACK = "127.0.0.1"
NAME = "bacl.localhost"
"""What browsers take for this machine, as every name that ends so. On pages whose address has
`localhost` or `127.0.0.1` itself, MLflow opens an AI assistant over a third of the window."""


@dataclass(frozen=True)
class Wanted:
    """A plan or sweep whose runs are to be shown: its name, its digest, and the command that runs
    it."""

    name: str
    digest: str
    command: str


def show(
    store: Store, wanted: Wanted | None, port: int, console: "Console", browse: bool = False
) -> None:
    """Print where the variants of a plan are compared, and be MLflow's server until it is stopped.

    Where MLFLOW_TRACKING_URI names a server, that one's pages are printed, and no server starts.

    Args:
        wanted: what to show; without it, what ran last.
        port: of this machine, to serve on.
        browse: whether to open the first of the pages in a browser.

    Raises:
        UsageError: the port is taken; a free one is named.
        RunError: there are no runs of what is wanted, or the tracking server cannot be asked.
    """
    uri = tracking_uri(store)
    served = uri.startswith(("http://", "https://"))
    if not served and not _is_free(port):
        free = next((p for p in range(port + 1, port + 100) if _is_free(p)), 0)
        raise UsageError(f"port {port} is in use: try `bacl ui --port {free}`")
    base = _without_user(uri) if served else f"http://{_host()}:{port}"
    found = find(store, wanted)
    if found is None:
        where = redacted(uri) if served else f"the store {store.url}"
        if wanted is not None:
            raise RunError(
                f"{where} has no runs of {wanted.name} as it is now: `{wanted.command}` makes them"
            )
        say(console, f"{where} has no runs yet: `bacl run FILE` makes them")
        pages = {"MLflow": "/"}
    else:
        pages = dict(_pages(*found))
    width = max(map(len, pages)) + 1
    for name, page in pages.items():
        say(console, f"{name + ':':{width}} {base}/{page.lstrip('/')}")
    first = f"{base}/{next(iter(pages.values())).lstrip('/')}"
    if browse:
        split = urlsplit(base)
        place = (split.hostname or "", split.port or (443 if split.scheme == "https" else 80))
        opening.start(first, *(place if served else (LOOPBACK, port)))
    if not served:
        say(console, "MLflow answers there in a moment; Ctrl-C stops it")
        serve(uri, port)


def find(store: Store, wanted: Wanted | None) -> tuple[Family, bool] | None:
    """The runs of a plan, and whether the server has taken its view; None where there are none.

    Raises RunError where the tracking server or database cannot be asked.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    uri = tracking_uri(store)
    if not os.environ.get(URI) and not (store.root / "mlflow.db").exists():
        return None
    set_up()
    try:
        client = MlflowClient(uri)
        parent = _parent(client, wanted)
        if parent is None:
            return None
        family = views.family(client, parent)
    except (MlflowException, SQLAlchemyError, OSError) as error:  # requests' are OSErrors
        variable = f"{URI}=" if os.environ.get(URI) else ""
        reason = redacted(" ".join(str(error).split("[SQL:")[0].split()))[:300]
        raise RunError(
            f"{variable}{redacted(uri)}: expected an MLflow server or database that answers: "
            f"{reason.rstrip('.')}"
        ) from error
    try:
        views.share(client, family)
    except (MlflowException, OSError):  # a user who may only read
        return family, False
    return family, True


def _parent(client: Any, wanted: Wanted | None) -> Any:
    """The parent run of what is wanted, or that which began last."""
    if wanted is None:
        experiments = [e.experiment_id for e in client.search_experiments()]
        mine = "tags.`bacl.plan` != ''"
    else:
        experiment = client.get_experiment_by_name(wanted.name)
        experiments = [experiment.experiment_id] if experiment is not None else []
        mine = f"tags.`bacl.plan` = '{wanted.digest}'"
    if not experiments:
        return None
    order = ["attributes.start_time DESC"]
    return next(iter(client.search_runs(experiments, mine, max_results=1, order_by=order)), None)


def _pages(family: Family, shared: bool) -> Iterator[tuple[str, str]]:
    """What is shown, and the address behind the server's; the first one is the one to begin at."""
    yield f"{family.parent.info.run_name} by {family.metric}", views.table(family, shared)
    if shared:
        yield "charts", views.charts(family)
    if (comparison := views.comparison(family)) is not None:
        yield "side by side", comparison
    yield "models", views.models(family.experiment_id)
    yield "run and report", views.run_page(family.experiment_id, family.parent.info.run_id)


def serve(uri: str, port: int) -> NoReturn:
    """Run MLflow's server in this process, on the loopback interface, until it is stopped."""
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # jobs of language models
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # other users see arguments, with passwords
    names = [name for host in (NAME, "localhost", LOOPBACK) for name in (host, f"{host}:*")]
    _allow("MLFLOW_SERVER_ALLOWED_HOSTS", names)
    _allow("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", [f"http://{NAME}:{port}"])
    arguments = ["--host", LOOPBACK, "--port", str(port)]
    mlflow = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    os.execv(sys.executable, [*mlflow, *arguments])


def _allow(variable: str, values: list[str]) -> None:
    """Add values to a list that MLflow takes from the environment."""
    os.environ[variable] = ",".join([*filter(None, [os.environ.get(variable)]), *values])


def _host() -> str:
    """What this machine is called in links. Browsers know `NAME` themselves, but Safari asks the
    system."""
    if platform.system() != "Darwin":
        return NAME
    try:
        socket.getaddrinfo(NAME, None)
    except OSError:
        return LOOPBACK
    return NAME


def _without_user(uri: str) -> str:
    """The address of a server without user, password and a slash at its end."""
    split = urlsplit(uri)
    return split._replace(netloc=split.netloc.rpartition("@")[2]).geturl().rstrip("/")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
