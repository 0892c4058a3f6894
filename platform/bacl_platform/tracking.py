"""MLflow tracking, written by the driver alone: one writer, so SQLite is safe.

One parent run for each plan, found again by its tag; under it one run for each job and one for
each variant, so that variants compare side by side. A metric's step is logged once, however often
a job is resumed or a plan is run again.
"""

import functools
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, NoReturn

import bacl
from bacl.errors import RunError, UsageError
from bacl_platform.plan import Job, Plan, owner
from bacl_platform.store import CHECKPOINT, SCALARS, Store, read_manifest

_LONGEST_PARAM = 6000
_METRICS_A_CALL = 1000
_PARAMS_A_CALL = 100


class Tracking:
    """The MLflow runs of one plan, or of one sweep.

    Making one prepares the database and the runs: do it before anything else starts.

    Args:
        name: of the MLflow experiment and of the parent run.
        digest: which the parent run is found again by.
        settings: the parent run's parameters.
        trials: of a sweep, the values of its trials in short, by the key of their variant; other
            variants of its jobs are other sweeps' and not tracked here.
    """

    def __init__(
        self,
        name: str,
        digest: str,
        settings: dict[str, Any],
        store: Store,
        trials: dict[str, dict[str, str]] | None = None,
    ) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        logging.getLogger("mlflow.store").setLevel(logging.WARNING)  # it tells of each new table
        self.name, self.digest, self.settings = name, digest, settings
        self.store, self.trials = store, trials
        self._runs: dict[tuple[str, str], str] = {}
        self._logged: dict[str, dict[str, int]] = {}
        """The last step of each metric, of runs that were asked for it."""
        self._open: set[str] = set()
        """Runs that this driver began and has not ended."""
        self._finished: set[str] = set()
        """Runs that had said all before this driver began."""
        uri = tracking_uri(store)
        try:
            self.client = MlflowClient(uri)
            self.experiment_id = self._experiment(name)
            self.parent = self._parent_run()
            self._find_children()
        except MlflowException as error:
            raise RunError(
                f"expected an MLflow tracking store at {uri}: {error.message}"
            ) from error

    @classmethod
    def of_plan(cls, plan: Plan, store: Store) -> "Tracking":
        """The runs of an experiment's plan."""
        experiment = plan.experiment
        return cls(experiment.name, plan.digest, experiment.model_dump(mode="json"), store)

    def add_trials(self, trials: dict[str, dict[str, str]]) -> None:
        """More trials of the sweep, as a search proposes them."""
        assert self.trials is not None
        self.trials |= trials

    def start(self, job: Job) -> None:
        """A job begins to train, or goes on."""
        for run in self._job_runs(job):
            self.client.update_run(run, status="RUNNING")
            self._open.add(run)

    def log(self, job: Job, rows: list[dict[str, Any]]) -> None:
        """Metrics by step, as rows of `scalars.jsonl`; steps that were logged before are skipped.

        `<variant>.loss_cls` and `<variant>/AP` belong to the variant's run, the rest to the job's.
        """
        by_run: dict[str, list[tuple[str, float, int]]] = {}
        for row in rows:
            for name, value in row.items():
                if name != "step":
                    variant, metric = owner(name, job)
                    if variant is None or variant in self._variants(job):
                        by_run.setdefault(self._run(job, variant), []).append(
                            (metric, value, row["step"])
                        )
        for run, metrics in by_run.items():
            self._log_once(run, metrics)

    def finish(self, job: Job, cached: bool) -> None:
        """A job is in the store: everything it logged, its final metrics, its checkpoints."""
        entry = self.store.entry(job.key)
        files = read_manifest(entry)["files"]
        lines = (entry / SCALARS).read_text().splitlines()
        self.log(job, [json.loads(line) for line in lines])
        for variant in (None, *self._variants(job)):
            run = self._run(job, variant)
            prefix = f"variants/{variant}/" if variant else ""
            if prefix + CHECKPOINT not in files:  # it failed, or a sweep stopped it early
                if run in self._open:
                    self._end(run, "KILLED")
                continue
            self._tag(
                run,
                {
                    "bacl.checkpoint": (entry / prefix / CHECKPOINT).as_uri(),
                    "bacl.checkpoint_sha256": files[prefix + CHECKPOINT]["sha256"],
                    "bacl.cached": str(cached).lower(),
                },
            )
            if variant:
                metrics = json.loads((entry / prefix / "metrics.json").read_text())
                numbers = _numbers(metrics.get("metrics", metrics))
                self._log_once(run, [(name, v, job.iterations) for name, v in numbers.items()])
                for name in ("metrics.json", "categories.csv"):
                    self.client.log_artifact(run, str(entry / prefix / name))
            self._end(run, "FINISHED")

    def fail(self, job: Job, sentence: str, variants: Collection[str] | None = None) -> None:
        """A job, or of one that goes on some variants, ended without a result."""
        runs = [self._run(job, v) for v in self._variants(job) if v in (variants or ())]
        for run in runs if variants is not None else self._job_runs(job):
            self._tag(run, {"bacl.error": sentence})
            self._end(run, "FAILED")

    def __enter__(self) -> "Tracking":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the parent run and what is still running, as the plan ended."""
        stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
        status = "KILLED" if stopped else "FAILED" if kind else "FINISHED"
        for run in list(self._open):
            self._end(run, status)
        self.client.set_terminated(self.parent, status)

    def finished(self, job: Job) -> bool:
        """Whether all that the job has to say is in MLflow already."""
        runs = [self._runs.get((job.key, name)) for name in ("", *self._variants(job))]
        return all(run in self._finished for run in runs)

    def _end(self, run: str, status: str) -> None:
        self.client.set_terminated(run, status)
        self._open.discard(run)

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        own = not os.environ.get("MLFLOW_TRACKING_URI")
        location = (self.store.root / "mlartifacts" / name).as_uri() if own else None
        return self.client.create_experiment(name, artifact_location=location)

    def _parent_run(self) -> str:
        mine = f"tags.`bacl.plan` = '{self.digest}'"
        found = self.client.search_runs([self.experiment_id], mine, max_results=1)
        if found:
            self.client.update_run(found[0].info.run_id, status="RUNNING")
            return found[0].info.run_id
        run = self._create(self.name, {"bacl.plan": self.digest})
        self._params(run, self.settings)
        return run

    def _find_children(self) -> None:
        mine = f"tags.`mlflow.parentRunId` = '{self.parent}'"
        token: str | None = None
        while True:
            page = self.client.search_runs([self.experiment_id], mine, page_token=token)
            for run in page:
                tags = run.data.tags
                self._runs[tags["bacl.key"], tags.get("bacl.variant", "")] = run.info.run_id
                if run.info.status == "FINISHED":
                    self._finished.add(run.info.run_id)
            token = page.token
            if not token:
                return

    def _last_steps(self, run: str) -> dict[str, int]:
        if run not in self._logged:
            self._logged[run] = {
                name: max(m.step for m in self.client.get_metric_history(run, name))
                for name in self.client.get_run(run).data.metrics
            }
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
        if place not in self._runs:
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
                    tags["mlflow.note.content"] = f"starts from [stage 1]({link})"
            settings: dict[str, Any] = {
                "seed": job.seed,
                "recipe": job.recipe.model_dump(mode="json"),
            }
            if variant:
                tags["bacl.variant"] = variant
                settings["variant"] = job.variants[variant].model_dump(mode="json")
            else:
                settings["resources"] = job.resources.model_dump(mode="json")
            varied = (self.trials or {}).get(job.variant_keys[variant], {}) if variant else {}
            if varied:
                settings["varied"] = varied
                tags["varied"] = ", ".join(f"{field}={value}" for field, value in varied.items())
            name = (
                f"{tags.get('varied', variant)} seed {job.seed}" if variant else f"job {job.name}"
            )
            self._runs[place] = run = self._create(name, tags)
            self._params(run, settings)
        return self._runs[place]

    def _create(self, name: str, tags: dict[str, str]) -> str:
        commit = _git_commit()
        if commit:
            tags = tags | {"mlflow.source.git.commit": commit}
        run = self.client.create_run(self.experiment_id, run_name=name, tags=tags)
        self._logged[run.info.run_id] = {}
        self._open.add(run.info.run_id)
        return run.info.run_id

    def _params(self, run: str, settings: dict[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(k, str(v)[:_LONGEST_PARAM]) for k, v in flatten(settings).items()]
        for start in range(0, len(params), _PARAMS_A_CALL):
            self.client.log_batch(run, params=params[start : start + _PARAMS_A_CALL])

    def _tag(self, run: str, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run, tags=[RunTag(k, v) for k, v in tags.items()])

    def _log_once(self, run: str, metrics: list[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now, last = int(time.time() * 1000), self._last_steps(run)
        new = []
        for name, value, step in metrics:
            if step > last.get(name, -1):
                last[name] = step
                new.append(Metric(name, value, now, step))
        for start in range(0, len(new), _METRICS_A_CALL):
            self.client.log_batch(run, metrics=new[start : start + _METRICS_A_CALL])


def tracking_uri(store: Store) -> str:
    """Where runs are tracked: MLFLOW_TRACKING_URI, else a SQLite file in the store."""
    store.root.mkdir(parents=True, exist_ok=True)
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.root / 'mlflow.db'}"


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `a.b.c` to value; lists stay values."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: v for name, v in metrics.items() if isinstance(v, int | float)}


@functools.cache
def _git_commit() -> str | None:
    """The commit of the source tree that runs, if it runs from one."""
    command = ["git", "-C", str(Path(bacl.__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def serve(store: Store, port: int) -> NoReturn:
    """Become MLflow's server, on this machine's loopback, until stopped.

    Raises UsageError where the port is taken, naming a free one, or where another server tracks.
    """
    uri = tracking_uri(store)
    if uri.startswith(("http://", "https://")):
        raise UsageError(
            f"runs are tracked by the server at {uri} (MLFLOW_TRACKING_URI): open it there"
        )
    if not _is_free(port):
        free = next((p for p in range(port + 1, port + 100) if _is_free(p)), 0)
        raise UsageError(f"port {port} is in use: try `bacl ui --port {free}`")
    print(f"http://127.0.0.1:{port} in a moment (stop with Ctrl-C)", flush=True)
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # jobs of language models
    arguments = ["--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port)]
    mlflow = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    os.execv(sys.executable, [*mlflow, *arguments])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
