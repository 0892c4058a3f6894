"""MLflow tracking, by the driver alone: one writer, so SQLite is safe; no job waits for it.

The driver records events; a thread of its own sends them to MLflow, in order, and again where a
server is away, busy or locked. What is not sent yet is on disk: see `outbox`.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from bacl.errors import RunError, UsageError
from bacl.settings import Dataset
from bacl_platform.plan.job import Job, Plan
from bacl_platform.redaction import redacted
from bacl_platform.store.store import Store
from bacl_platform.tracking.mlflow_runs import Runs
from bacl_platform.tracking.outbox import Event, Outbox
from bacl_platform.tracking.page import Page

FIRST_CONTACT = 60
"""Seconds that a run's start waits to hear from MLflow; making a new database takes some."""
PATIENCE = 120
"""Seconds that a run's end waits for a server that is away."""
PATIENCE_OF_THE_STOPPED = 5
"""Seconds that it waits after Ctrl-C."""
GATHERING = 1.0
"""Seconds between calls that log metrics: fewer and larger ones cost server and driver less."""
LONGEST_PAUSE = 10.0
"""Seconds between attempts to reach a server that is away."""
ATTEMPTS = 100
"""Times that one call may fail at a server that answers, in about a quarter of an hour; then the
call itself is taken to be at fault."""
URI = "MLFLOW_TRACKING_URI"


class Tracking:
    """The MLflow runs of one plan or one sweep. Methods record an event and return at once.

    The constructor waits for the first answer. A server that is away then or later costs a warning.

    Args:
        name: of the MLflow experiment and of the parent run.
        digest: which the parent run is found again by.
        settings: the parent run's parameters.
        dataset: what the jobs train and are evaluated on; without it, runs do not say that, and
            have no models.
        trials: of a sweep, the values of its trials in short, by the key of their variant; other
            variants of its jobs are other sweeps' and not tracked here.
        say: takes a sentence for the user.
        patience: seconds that the end waits for a server that is away.

    Raises:
        RunError: the tracking server refuses, or is none.
    """

    def __init__(
        self,
        name: str,
        digest: str,
        settings: dict[str, Any],
        store: Store,
        dataset: Dataset | None = None,
        trials: dict[str, dict[str, str]] | None = None,
        say: Callable[[str], None] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        set_up()
        uri = tracking_uri(store)
        self.where, self.patience, self._say = redacted(uri), patience, say or _print
        self._variable = f"{URI}=" if os.environ.get(URI) else ""
        self.runs = Runs(uri, name, digest, settings, store, dataset, trials, self._say)
        self.outbox = Outbox(store.root / ".tracking", digest)
        self._away = False
        self._refusals: list[str] = []
        """Why the server refused at the first contact."""
        self._said: set[str] = set()
        self._answered = threading.Event()
        self._closing = threading.Event()
        self._success = 0.0
        self.outbox.put(Event("open"))
        self._thread = threading.Thread(target=self._send, name="mlflow", daemon=True)
        self._thread.start()
        self._answered.wait(FIRST_CONTACT)
        if self._refusals:
            self._thread.join()
            self.outbox.release()
            raise RunError(self._refusals[0])

    @classmethod
    def of_plan(cls, plan: Plan, store: Store) -> "Tracking":
        """The runs of an experiment's plan."""
        experiment = plan.experiment
        settings = experiment.model_dump(mode="json")
        return cls(experiment.name, plan.digest, settings, store, experiment.dataset)

    def add_trials(self, trials: dict[str, dict[str, str]]) -> None:
        """More trials of the sweep, as a search proposes them."""
        assert self.runs.trials is not None
        self.runs.trials |= trials

    def start(self, job: Job) -> None:
        """A job begins to train, or goes on."""
        self.outbox.put(Event("start", job))

    def log(self, job: Job, rows: list[dict[str, Any]]) -> None:
        """Metrics by step, as rows of `scalars.jsonl`; steps logged before are skipped."""
        self.outbox.put(Event("log", job, rows))

    def finish(self, job: Job, cached: bool) -> None:
        """A job is in the store; cached: it was before, and MLflow may have it already."""
        self.outbox.put(Event("finish", job, cached))

    def fail(self, job: Job, sentence: str, variants: Collection[str] | None = None) -> None:
        """A job, or some variants of one that goes on, ended without a result."""
        chosen = None if variants is None else list(variants)
        self.outbox.put(Event("fail", job, [sentence, chosen]))

    def report(self, page: Page | None) -> None:
        """What the jobs have come to, if anything, for the parent run's page; made only where
        MLflow lacks it."""
        if page is not None:
            self.outbox.put(Event("report", content=page))

    def __enter__(self) -> "Tracking":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Send the remaining events and the end's status, within the patience.

        What the server does not take is kept for the same command, and does not fail the run.
        """
        stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
        status = "KILLED" if stopped else "FAILED" if kind else "FINISHED"
        if stopped:
            self.patience = min(self.patience, PATIENCE_OF_THE_STOPPED)
        self.outbox.put(Event("end", content=status))
        self.outbox.close()
        self._success = time.monotonic()
        self._closing.set()
        if self._away:
            self._say(
                f"waiting up to {self.patience:.0f} s for MLflow at {self.where}, which is away"
            )
        self._thread.join()
        if left := self.outbox.release():
            self._say(
                f"MLflow at {self.where} has not received everything: {left} messages are kept in "
                "the store, and the same command sends them later"
            )

    def _send(self) -> None:
        while events := self.outbox.oldest():
            if not self._deliver(events):
                return
            if events[0].kind == "log":
                self._closing.wait(GATHERING)

    def _deliver(self, events: list[Event]) -> bool:
        """Send events until MLflow takes them or trying again is useless; returns whether to go on
        with the next."""
        pause, failures = 0.1, 0
        while True:
            connected = False
            try:
                with self.runs.turn():
                    self.runs.connect()
                    connected = True
                    if events[0].kind != "open":
                        self.runs.tell(events)
            except Exception as error:  # of MLflow, its HTTP client or a client of its artifacts
                self.runs.forget()
                failures += connected
                reason = str(error).split("[SQL:")[0]  # what comes after holds all rows
                sentence = redacted(" ".join(reason.split()))[:500]
                if not passes(error) or failures >= ATTEMPTS:
                    if not self._answered.is_set():
                        self._refusals.append(
                            f"{self._variable}{self.where}: expected an MLflow tracking store "
                            f"that takes runs: {sentence.rstrip('.')}"
                        )
                        self._answered.set()
                        return False
                    self._say_once(f"MLflow at {self.where} refused a message: {sentence}")
                    if refuses_us(error):  # what comes next as well; it stays for the same command
                        return False
                    break
                if not connected or failures > 3:
                    self._lost(sentence)
                self._answered.set()
                if self._given_up():
                    return False
                # the end of a run is not slept through, and then does not wait long for its turn
                self._closing.wait(pause)
                if self._closing.is_set():
                    time.sleep(min(pause, 1))
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                if self._away:
                    self._away = False
                    self._say(f"MLflow at {self.where} is back")
                break
        self._success = time.monotonic()
        self.outbox.forget(events)
        self._answered.set()
        return True

    def _lost(self, sentence: str) -> None:
        if not self._away:
            self._away = True
            self._say(
                f"warning: MLflow at {self.where} cannot be reached; the run goes on, and its "
                f"messages are kept and sent later ({sentence})"
            )

    def _given_up(self) -> bool:
        return self._closing.is_set() and time.monotonic() - self._success > self.patience

    def _say_once(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            self._say(sentence)


def _print(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def set_up() -> None:
    """Let MLflow's client report failures at once and to its caller alone."""
    logging.getLogger("mlflow.store").setLevel(logging.CRITICAL)
    # so that one call takes seconds, not minutes: callers repeat it, or tell
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it prints passwords as well


def passes(error: Exception) -> bool:
    """Whether a call that failed so may succeed later: the server is away, busy or locked."""
    import requests
    from mlflow.exceptions import MlflowException, RestException

    if isinstance(error, MlflowException):
        if type(error) not in (MlflowException, RestException):  # an address that is none
            return False
        if "unable to open database file" in str(error.message):
            return False
    elif not isinstance(error, requests.RequestException | ConnectionError | TimeoutError):
        return False
    status = _status(error)
    return status is None or status >= 500 or status == 429


def refuses_us(error: Exception) -> bool:
    """Whether a server refuses this user."""
    return _status(error) in (401, 403)


def _status(error: Exception) -> int | None:
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.get_http_status_code()
    return getattr(getattr(error, "response", None), "status_code", None)


def tracking_uri(store: Store) -> str:
    """Where runs are tracked: MLFLOW_TRACKING_URI, else a SQLite file in the store."""
    store.root.mkdir(parents=True, exist_ok=True)
    return os.environ.get(URI) or sqlite_uri(store.root / "mlflow.db")


def sqlite_uri(path: Path) -> str:
    """The address of an SQLite file as MLflow takes it, whatever characters its path has.

    Raises UsageError where the installed SQLAlchemy has no address for it.
    """
    from sqlalchemy import URL, make_url

    # named with its driver: without, MLflow also makes the folder that the quoted path would name
    uri = URL.create("sqlite+pysqlite", database=str(path)).render_as_string()
    if make_url(uri).database != str(path):  # before 2.1 it quotes nothing
        raise UsageError(
            f"{path}: expected a path without `?` for MLflow's database, unless SQLAlchemy is 2.1 "
            "or newer: choose another --store"
        )
    return uri
