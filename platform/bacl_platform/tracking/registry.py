"""MLflow's model registry: reached in time, and its errors as sentences."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from bacl.errors import RunError, UsageError
from bacl_platform.redaction import redacted
from bacl_platform.store.store import Store
from bacl_platform.tracking.tracking import tracking_uri

_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""For the first answer; MLflow's own patience is minutes."""
_DATABASE = "mlflow.db"


@contextlib.contextmanager
def registry(store: Store) -> Iterator[Any]:
    """A client of the registry in which models of a store are, MLflow's `MlflowClient`.

    It is that of MLFLOW_REGISTRY_URI or MLFLOW_TRACKING_URI, else the store's own. Raises RunError
    where it cannot be reached, and for errors of MLflow within.
    """
    from mlflow import MlflowClient

    uri = tracking_uri(store)
    if uri.startswith("sqlite") and not os.environ.get("MLFLOW_TRACKING_URI"):
        _check_database(store)
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it prints passwords as well
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    client = MlflowClient(uri, os.environ.get("MLFLOW_REGISTRY_URI") or uri)
    where = redacted(uri)
    with errors(where):
        with _patience():
            client.search_registered_models(max_results=1)
        yield client


def _check_database(store: Store) -> None:
    if not (store.root / _DATABASE).exists():  # MLflow would make one
        raise RunError(
            f"{store.root / _DATABASE}: expected the runs of this store, got no such file: "
            "`bacl run FILE` makes it, and sends what is finished already"
        )


@contextlib.contextmanager
def errors(where: str) -> Iterator[None]:
    """Raise errors of MLflow and its client within as a RunError of one sentence."""
    import requests
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, requests.RequestException, ConnectionError, TimeoutError) as error:
        reason = " ".join(str(error).split("[SQL:")[0].split())  # what comes after holds all rows
        if isinstance(error, MlflowException) and not reason.startswith("API request to"):
            raise RunError(f"MLflow at {where}: {redacted(reason)[:500].rstrip('.')}") from error
        cause = reason.rpartition(": ")[2].partition(" (")[0].strip("\"').")
        raise RunError(
            f"MLflow at {where} cannot be reached: expected a server that answers within "
            f"{_PATIENCE['MLFLOW_HTTP_REQUEST_TIMEOUT']} seconds, got: {redacted(cause)[:200]}"
        ) from error


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    added = {name: value for name, value in _PATIENCE.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def version_of(client: Any, name: str, wanted: str) -> Any:
    """A version of a registered model, by its number or its alias.

    Raises UsageError where there is none.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        known = [model.name for model in client.search_registered_models(max_results=20)]
        raise UsageError(
            f"{name}: expected a registered model, got a name that has none; there "
            + (f"is {', '.join(known)}" if known else "are none yet: `bacl register` makes one")
        ) from error
    try:
        if wanted.isdecimal():
            return client.get_model_version(name, wanted)
        return client.get_model_version_by_alias(name, wanted)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        numbers = sorted(int(one.version) for one in versions(client, name))
        aliases = client.get_registered_model(name).aliases
        told = ", ".join(f"{alias} (version {number})" for alias, number in aliases.items())
        raise UsageError(
            f"{name}: expected a version ({', '.join(map(str, numbers)) or 'there is none'}) or an "
            f"alias ({told or 'there is none'}), got {wanted}"
        ) from error


def versions(client: Any, name: str) -> list[Any]:
    """All versions of a registered model, the newest first."""
    quoted = name.replace("'", "\\'")
    found: list[Any] = []
    token: str | None = None
    while True:
        page = client.search_model_versions(f"name = '{quoted}'", page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda one: -int(one.version))


def holder_of(client: Any, name: str, alias: str) -> Any:
    """The version of a registered model that has an alias; None where none has."""
    number = client.get_registered_model(name).aliases.get(alias)
    return None if number is None else client.get_model_version(name, str(number))
