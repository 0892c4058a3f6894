"""The MLflow runs of one plan or sweep. Every call here talks to the tracking server, and may fail.

One parent run for each plan, found again by its tag; under it one run for each job and one for each
variant, so that variants compare side by side, with a model of its own. A metric's step is logged
once, however often a job is resumed, a plan is run again or a call is repeated: the server is asked
first what it has.
"""

import contextlib
import csv
import functools
import getpass
import json
import os
import subprocess
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

import bacl
from bacl.metric_names import kind_of
from bacl.settings import Dataset
from bacl_platform.plan.job import Job, digest_of
from bacl_platform.plan.judged import prepared_of
from bacl_platform.plan.metric_names import owner
from bacl_platform.process import command_line
from bacl_platform.redaction import redacted
from bacl_platform.store import unfinished
from bacl_platform.store.manifest import read_manifest
from bacl_platform.store.names import CHECKPOINT, LOG, SCALARS
from bacl_platform.store.store import Store
from bacl_platform.tracking import datasets, views
from bacl_platform.tracking.mlflow_models import Models, Variant
from bacl_platform.tracking.outbox import Event
from bacl_platform.tracking.page import FOLDER, Page, description

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric

_LONGEST_PARAM = 6000
_METRICS_A_CALL = 1000
_PARAMS_A_CALL = 100
_NOTE, _SOURCE = "mlflow.note.content", "mlflow.source.name"
_TABLE = "categories.json"
_WHOLE = "2"
"""Tag of runs that have all that is logged of a finished job today: those of older releases get the
rest when their plan is run again."""
_COUNTS = ("image_count", "instance_count")
"""Its columns of numbers, besides those of metrics; a category may be called 7 or nan,
and ids too long for a float."""

Metrics = list[tuple[str, float, int, int]]
"""Name, value, step, and milliseconds since 1970."""


class Runs:
    """Runs of a tracking server, by job and variant.

    A call that failed may be repeated after `forget`: what it had done before it failed is not done
    twice.

    Args:
        uri: of the tracking server or database.
        name: of the MLflow experiment and of the parent run.
        digest: which the parent run is found again by.
        settings: the parent run's parameters.
        dataset: what the jobs train and are evaluated on.
        trials: of a sweep, the values of its trials in short, by the key of their variant; other
            variants of its jobs are other sweeps' and not tracked here.
        say: takes a sentence for the user, whether or not it was said before.
    """

    def __init__(
        self,
        uri: str,
        name: str,
        digest: str,
        settings: dict[str, Any],
        store: Store,
        dataset: Dataset | None = None,
        trials: dict[str, dict[str, str]] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.uri, self.name, self.digest, self.settings = uri, name, digest, settings
        self.store, self.dataset, self.trials, self._say = store, dataset, trials, say
        self.client: Any = None
        self._open: set[str] = set()
        """Runs that this driver began and has not ended."""
        self._token = uuid.uuid4().hex
        self._inputs: dict[str, list[DatasetInput]] = {}
        """What jobs are trained and evaluated on, by its digest."""
        self._trained_on: set[tuple[str, str]] = set()
        """Runs that have been told so, with the digest."""
        self._lacking: set[str] = set()
        """What the server is too old for."""
        self.forget()

    def forget(self) -> None:
        """Discard what is known of the server, because a call failed and may yet have been carried
        out."""
        self.parent = ""
        self._runs: dict[tuple[str, str], str] = {}
        self._logged: dict[str, dict[str, Metric]] = {}
        """The last value of each metric, of runs that were asked for it."""
        self._params_of: dict[str, set[str]] = {}
        """Names of parameters that a run has."""
        self._unsure: set[str] = set()
        """Runs that may lack parameters."""
        self._finished: set[str] = set()
        """Runs that had everything when they were found."""
        self._over: set[str] = set()
        """Runs that had ended well when they were found, and have not gone on since."""
        self._unsourced: set[str] = set()
        """Runs that do not say what made them."""

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Within, no other driver of the store on this file system calls the server.

        MLflow creates a new database's tables without locking, and a driver that creates a run or
        logs a step has to know whether another driver of the plan did: if one has called since, the
        server is asked again.
        """
        folder = self.store.root / ".tracking"
        folder.mkdir(parents=True, exist_ok=True)
        latest = folder / f"{self.digest}.latest"
        with FileLock(folder / "turn.lock"):
            if not latest.exists() or latest.read_text(encoding="utf-8") != self._token:
                self.forget()
                latest.write_text(self._token, encoding="utf-8")
            yield

    def connect(self) -> None:
        """Find or make the experiment, the parent run and, by their tags, the others."""
        from mlflow import MlflowClient

        if self.client is None:
            self.client = MlflowClient(self.uri)
        if not self.parent:
            self.experiment_id = self._experiment()
            self.models = Models(self.client, self.experiment_id, self.digest)
            self.parent = self._parent_run()
            self._params(self.parent, self.settings)
            self._find_children()

    def tell(self, events: Sequence[Event]) -> None:
        """Carry out events of one kind."""
        first = events[0]
        if first.kind == "log":
            self.log(events)
        elif first.kind == "end":
            self.end(first.content)
        elif first.kind == "report":
            self.report(first.content)
        elif first.job is not None and first.kind == "start":
            self.start(first.job)
        elif first.job is not None and first.kind == "finish":
            self.finish(first.job, cached=first.content, at=first.at)
        elif first.job is not None and first.kind == "fail":
            self.fail(first.job, *first.content)

    def start(self, job: Job) -> None:
        """A job begins to train, or goes on."""
        for run in self._job_runs(job):
            self.client.update_run(run, status="RUNNING")
            self._open.add(run)
            self._over.discard(run)

    def log(self, events: Sequence[Event]) -> None:
        """Metrics by step, as rows of `scalars.jsonl`; steps that were logged before are skipped.

        `<variant>.loss_cls` and `<variant>/AP` belong to the variant's run, the rest to the job's.
        """
        by_run: dict[str, Metrics] = {}
        for event in events:
            assert event.job is not None
            for row in event.content:
                for name, value in row.items():
                    if name == "step":
                        continue
                    variant, metric = owner(name, event.job)
                    if variant is None or variant in self._variants(event.job):
                        by_run.setdefault(self._run(event.job, variant), []).append(
                            (metric, value, row["step"], event.at)
                        )
        for run, metrics in by_run.items():
            self._log_once(run, metrics)

    def finish(self, job: Job, cached: bool, at: int) -> None:
        """A job is in the store: everything it logged, its final metrics, its checkpoints.

        cached: it was there before, so a run that MLflow has all of is left alone.
        """
        if cached and self.finished(job):
            return
        entry = self.store.entry(job.key)
        files = read_manifest(entry)["files"]
        lines = (entry / SCALARS).read_text(encoding="utf-8").splitlines()
        self.log([Event("log", job, [json.loads(line) for line in lines], at)])
        for variant in (None, *self._variants(job)):
            run = self._run(job, variant)
            if cached and run in self._finished:
                continue
            prefix = f"variants/{variant}/" if variant else ""
            if prefix + CHECKPOINT not in files:  # it failed, or a sweep stopped it early
                if run in self._open:
                    self._end(run, "KILLED")
                continue
            tags = {
                "bacl.checkpoint": (entry / prefix / CHECKPOINT).as_uri(),
                "bacl.checkpoint_sha256": files[prefix + CHECKPOINT]["sha256"],
            }
            self._log_inputs(run, job)
            if variant:
                metrics = json.loads((entry / prefix / "metrics.json").read_text(encoding="utf-8"))
                numbers = _numbers(metrics.get("metrics", metrics))
                self._evaluated(run, job, variant, tags, numbers, at)
                for name in ("metrics.json", "categories.csv"):
                    self.client.log_artifact(run, str(entry / prefix / name))
                self._table(run, entry / prefix / "categories.csv")
            if run not in self._over:
                tags["bacl.cached"] = str(cached).lower()
            if run in self._unsourced:
                tags |= _origin()
            self._tag(run, tags | {"bacl.logged": _WHOLE})
            if run not in self._over:
                self._end(run, "FINISHED")

    def fail(self, job: Job, sentence: str, variants: Collection[str] | None = None) -> None:
        """A job, or some variants of one that goes on, ended without a result.

        The job's run gets its log.
        """
        runs = [self._run(job, v) for v in self._variants(job) if v in (variants or ())]
        for run in runs if variants is not None else self._job_runs(job):
            self._tag(run, {"bacl.error": redacted(sentence)})
            self._end(run, "FAILED")
        log = unfinished.read(self.store, job.key, LOG) if variants is None else None
        if log is not None:
            self.client.log_text(self._run(job, None), redacted(log), LOG)

    def report(self, page: Page) -> None:
        """Let the parent run's page show what the plan has come to, unless it does.

        A report that cannot be made is told, and nothing else comes of it.
        """
        state = f"{_WHOLE} {page.state}"
        parent = self.client.get_run(self.parent)
        if parent.data.tags.get("bacl.report") == state:
            return
        try:
            folder, text = page.made()
        except Exception as error:  # of drawing, or of a store or disk: training is not at fault
            self._say(f"no report for MLflow: {' '.join(str(error).split())}")
            return
        self.client.log_artifacts(self.parent, str(folder), FOLDER)
        family = views.family(self.client, parent)
        views.share(self.client, family)
        tags = {"bacl.report": state}
        found = parent.data.tags.get(_NOTE, "")
        if not found or digest_of(found) == parent.data.tags.get("bacl.note"):  # else a user's own
            note = description(family, folder, text)
            tags |= {_NOTE: note, "bacl.note": digest_of(note)}
        self._tag(self.parent, tags)

    def end(self, status: str) -> None:
        """End the parent run and what is still running, as the plan ended."""
        for run in list(self._open):
            self._end(run, status)
        self.client.set_terminated(self.parent, status)

    def finished(self, job: Job) -> bool:
        """Whether MLflow had everything of the job when its runs were found."""
        runs = [self._runs.get((job.key, name)) for name in ("", *self._variants(job))]
        return all(run in self._finished for run in runs)

    @contextlib.contextmanager
    def _newer(self, what: str) -> Iterator[None]:
        """Within, a call that the server is too old for is left out, and that is told once."""
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            if error.error_code not in ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED"):
                raise
            self._lacking.add(what)
            self._say(f"MLflow at {redacted(self.uri)} is too old for {what}: the rest is logged")

    def _log_inputs(self, run: str, job: Job) -> None:
        """Fill the column Dataset, of the parent run as well."""
        digest, what = job.dataset_digest, "data sets"
        if self.dataset is None or what in self._lacking:
            return
        if digest not in self._inputs:
            self._inputs[digest] = []
            with contextlib.suppress(FileNotFoundError):  # a store may have lost it since
                prepared = prepared_of(digest, self.store)
                self._inputs[digest] = datasets.inputs(self.dataset, prepared)
        for one in {run: None, self.parent: None} if self._inputs[digest] else ():
            if (one, digest) not in self._trained_on and what not in self._lacking:
                with self._newer(what):
                    self.client.log_inputs(one, self._inputs[digest])
                    self._trained_on.add((one, digest))

    def _evaluated(
        self,
        run: str,
        job: Job,
        variant: str,
        tags: dict[str, str],
        numbers: dict[str, float],
        at: int,
    ) -> None:
        """Log a variant's final metrics to its run and to its model."""
        metrics = [(name, value, job.iterations, at) for name, value in numbers.items()]
        what = "models of runs"
        if self.dataset is not None and what not in self._lacking:
            own, settings = self._description(job, variant)
            own = {name: value for name, value in own.items() if not name.startswith("mlflow.")}
            last = self._last(run) | {m.key: m for m in self._new(run, metrics)}
            model = Variant(
                run,
                self._name(job, variant, own),
                own | tags,
                dict(_texts(settings)),
                [last[name] for name in numbers],
                job.iterations,
            )
            evaluation = datasets.name_of(self.dataset, "val"), datasets.short(job.dataset_digest)
            with self._newer(what):
                if self.models.log(model, evaluation):
                    self._last(run).update({metric.key: metric for metric in model.metrics})
        self._log_once(run, metrics)

    def _end(self, run: str, status: str) -> None:
        self.client.set_terminated(run, status)
        self._open.discard(run)

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        kind, models = views.KIND
        found = self.client.get_experiment_by_name(self.name)
        if found is None:
            own = not os.environ.get("MLFLOW_TRACKING_URI")
            location = (self.store.root / "mlartifacts" / self.name).as_uri() if own else None
            try:
                return self.client.create_experiment(self.name, location, {kind: models})
            except MlflowException as error:
                found = self.client.get_experiment_by_name(self.name)
                if found is None:  # else another driver made it meanwhile
                    raise error
        known = found.tags.get(kind, "")
        if not known or known.endswith("inferred") or known == "no_inferred_type":
            self.client.set_experiment_tag(found.experiment_id, kind, models)
        return found.experiment_id

    def _parent_run(self) -> str:
        mine = f"tags.`bacl.plan` = '{self.digest}'"
        oldest = ["attributes.start_time ASC"]
        found = self.client.search_runs([self.experiment_id], mine, max_results=1, order_by=oldest)
        if found:
            run = found[0].info.run_id
            self._params_of[run] = set(found[0].data.params)
            self.client.update_run(run, status="RUNNING")
            if _SOURCE not in found[0].data.tags:
                self._tag(run, _origin())
            return run
        return self._create(self.name, {"bacl.plan": self.digest})

    def _find_children(self) -> None:
        mine = f"tags.`mlflow.parentRunId` = '{self.parent}'"
        token: str | None = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id],
                mine,
                page_token=token,
                order_by=["attributes.start_time DESC"],  # of two, the older one stays
            )
            for run in page:
                tags = run.data.tags
                self._runs[tags["bacl.key"], tags.get("bacl.variant", "")] = run.info.run_id
                self._params_of[run.info.run_id] = set(run.data.params)
                self._unsure.add(run.info.run_id)
                if _SOURCE not in tags:
                    self._unsourced.add(run.info.run_id)
                if run.info.status == "FINISHED":
                    self._over.add(run.info.run_id)
                    if tags.get("bacl.logged") == _WHOLE:
                        self._finished.add(run.info.run_id)
            token = page.token
            if not token:
                return

    def _last(self, run: str) -> dict[str, "Metric"]:
        """The last value of each of a run's metrics, with its step and time."""
        from mlflow.entities import Metric

        if run not in self._logged:
            latest = self.client.get_run(run).data.to_proto().metrics
            self._logged[run] = {m.key: Metric(m.key, m.value, m.timestamp, m.step) for m in latest}
        return self._logged[run]

    def _job_runs(self, job: Job) -> list[str]:
        return [self._run(job, variant) for variant in (None, *self._variants(job))]

    def _variants(self, job: Job) -> list[str]:
        """The variants of a job whose runs these are."""
        if self.trials is None:
            return list(job.variants)
        return [name for name, key in job.variant_keys.items() if key in self.trials]

    def _run(self, job: Job, variant: str | None) -> str:
        place = (job.key, variant or "")
        if place in self._runs and self._runs[place] not in self._unsure:
            return self._runs[place]
        tags, settings = self._description(job, variant)
        if place not in self._runs:
            name = self._name(job, variant, tags) if variant else f"job {job.name}"
            self._runs[place] = self._create(name, tags)
        self._params(self._runs[place], settings)
        self._unsure.discard(self._runs[place])
        return self._runs[place]

    def _name(self, job: Job, variant: str, tags: dict[str, str]) -> str:
        """What a variant's run and model are called."""
        kinds = [*(["replayed"] if job.replayed else []), *job.recipe.evaluated_with]
        mark = f" ({', '.join(kinds)})" if kinds else ""
        return f"{tags.get('varied', variant)} seed {job.seed}{mark}"

    def _description(self, job: Job, variant: str | None) -> tuple[dict[str, str], dict[str, Any]]:
        """Tags and parameters of a run."""
        tags = {
            "mlflow.parentRunId": self.parent,
            "bacl.key": job.key,
            "bacl.dataset_digest": job.dataset_digest,
            "bacl.stage": job.stage,
            "bacl.seed": str(job.seed),
        }
        if job.parent:
            tags["bacl.parent_key"] = job.parent
            if parent := self._runs.get((job.parent, "")):
                link = f"#/experiments/{self.experiment_id}/runs/{parent}"
                tags[_NOTE] = f"starts from [stage 1]({link})"
        settings: dict[str, Any] = {
            "seed": job.seed,
            "recipe": job.recipe.model_dump(mode="json"),
        }
        if variant:
            tags["bacl.variant"] = variant
            tags["bacl.features"] = job.features
            if with_ := job.recipe.evaluated_with:
                tags["bacl.evaluated_with"] = ", ".join(with_)
            settings["variant"] = job.variants[variant].model_dump(mode="json")
        else:
            settings["resources"] = job.resources.model_dump(mode="json")
        varied = (self.trials or {}).get(job.variant_keys[variant], {}) if variant else {}
        if varied:
            settings["varied"] = varied
            tags["varied"] = ", ".join(f"{field}={value}" for field, value in varied.items())
        return tags, settings

    def _create(self, name: str, tags: dict[str, str]) -> str:
        tags = tags | _origin()
        run = self.client.create_run(self.experiment_id, run_name=name, tags=tags)
        self._logged[run.info.run_id] = {}
        self._params_of[run.info.run_id] = set()
        self._unsure.add(run.info.run_id)
        self._open.add(run.info.run_id)
        return run.info.run_id

    def _params(self, run: str, settings: dict[str, Any]) -> None:
        from mlflow.entities import Param

        known = self._params_of[run]
        params = [
            Param(name, value)
            for name, value in _texts(settings)
            if name not in known  # a run that was found may lack some, and none may change
        ]
        for start in range(0, len(params), _PARAMS_A_CALL):
            self.client.log_batch(run, params=params[start : start + _PARAMS_A_CALL])
        known |= {param.key for param in params}

    def _tag(self, run: str, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run, tags=[RunTag(k, v) for k, v in tags.items()])

    def _new(self, run: str, metrics: Metrics) -> list["Metric"]:
        """Those of later steps than the run has of them, each step once."""
        from mlflow.entities import Metric

        steps = {name: metric.step for name, metric in self._last(run).items()}
        new = []
        for name, value, step, at in metrics:
            if step > steps.get(name, -1):
                steps[name] = step
                new.append(Metric(name, value, at, step))
        return new

    def _log_once(self, run: str, metrics: Metrics) -> None:
        new = self._new(run, metrics)
        # a call that is still being carried out while it is repeated has the same times, and MLflow
        # stores no metric twice that is equal in all
        for start in range(0, len(new), _METRICS_A_CALL):
            self.client.log_batch(run, metrics=new[start : start + _METRICS_A_CALL])
        self._last(run).update({metric.key: metric for metric in new})

    def _table(self, run: str, path: Path) -> None:
        """Log a CSV file as MLflow's `log_table` does, which would append when it is repeated."""
        with path.open(newline="", encoding="utf-8") as file:
            columns, *rows = csv.reader(file)
        data = [
            [
                _number(cell) if name in _COUNTS or kind_of(name) else cell
                for name, cell in zip(columns, row)
            ]
            for row in rows
        ]
        self.client.log_dict(run, {"columns": columns, "data": data}, _TABLE)
        tables = json.dumps([{"path": _TABLE, "type": "table"}])
        self.client.set_tag(run, "mlflow.loggedArtifacts", tables)


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `a.b.c` to value; lists stay values."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _texts(settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings as parameters, by name."""
    for name, value in flatten(settings).items():
        yield name, redacted(str(value))[:_LONGEST_PARAM]


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: v for name, v in metrics.items() if isinstance(v, int | float)}


def _number(cell: str) -> float | None:
    return float(cell) if cell else None


@functools.cache
def _origin() -> dict[str, str]:
    """Tags that say what made a run: command, user and commit.

    Of the type `JOB` MLflow shows the whole command, of others what follows the last slash.
    """
    tags = {_SOURCE: command_line()[:_LONGEST_PARAM], "mlflow.source.type": "JOB"}
    with contextlib.suppress(KeyError, OSError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    if commit := _git_commit():
        tags["mlflow.source.git.commit"] = commit
    return tags


def _git_commit() -> str | None:
    """The commit of the source tree that runs, if it runs from one."""
    command = ["git", "-C", str(Path(bacl.__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=False, encoding="utf-8"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
