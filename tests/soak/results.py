"""What a run left behind, and how it differs from what an undisturbed one leaves."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from mlflow import MlflowClient

from bacl_platform.plan.job import Job
from bacl_platform.store.manifest import broken
from bacl_platform.store.names import CHECKPOINT, SCALARS

_TIMES = {"time", "data_time"}
_SYSTEM = "system/"
"""What readings of the machine begin with. Their values are a matter of the moment, and those that
were on their way when Ray's head died cannot be taken again."""


@dataclass
class Results:
    """Weights, metrics and logged rows of a job, from its entry and from MLflow."""

    weights: dict[str, torch.Tensor]
    metrics: dict[str, dict[str, float]]
    """Final metrics of each variant."""
    rows: list[dict[str, float]]
    """Of `scalars.jsonl`, without times."""
    tracked: Counter
    """(run, metric, step, value) of all runs; values of times left out."""
    states: Counter
    """(run, status) of all runs."""


def read(entry: Path, job: Job, tracking: str) -> Results:
    """Read a job's entry and the runs of the tracking store; raises ValueError for a broken one."""
    if problem := broken(entry):
        raise ValueError(f"the entry of job {job.name} is lost: {problem}")
    weights = _weights("", entry)
    metrics = {}
    for name in job.variants:
        folder = entry / "variants" / name
        weights |= _weights(f"{name}: ", folder)
        metrics[name] = json.loads((folder / "metrics.json").read_text())["metrics"]
    rows = [json.loads(line) for line in (entry / SCALARS).read_text().splitlines()]
    tracked, states = _tracked(tracking)
    kept = [{k: v for k, v in row.items() if k not in _TIMES} for row in rows]
    return Results(weights, metrics, kept, tracked, states)


def differences(expected: Results, found: Results) -> list[str]:
    """What differs, in words; nothing where the fault left no trace. Equal means every bit."""
    told = []
    if expected.weights.keys() != found.weights.keys():
        told.append("other tensors")
    else:
        other = [n for n, w in expected.weights.items() if not w.equal(found.weights[n])]
        if other:
            gaps = [(expected.weights[n] - found.weights[n]).abs().max().item() for n in other]
            told.append(f"{len(other)} tensors differ, by {max(gaps):.1e} at most: {other[0]}")
    if json.dumps(expected.metrics) != json.dumps(found.metrics):  # as text: NaN equals NaN
        told.append("final metrics differ")
    if json.dumps(expected.rows) != json.dumps(found.rows):
        told.append("logged rows differ")
    lost = expected.tracked - found.tracked
    if lost := Counter({one: n for one, n in lost.items() if not one[1].startswith(_SYSTEM)}):
        told.append(f"{lost.total()} values are not in MLflow: {next(iter(lost))}")
    if more := found.tracked - expected.tracked:
        told.append(f"{more.total()} values too many in MLflow: {next(iter(more))}")
    if expected.states != found.states:
        told.append(f"MLflow runs are {dict(found.states)}")
    return told


def leftovers(work: Path) -> list[str]:
    """Folders of unfinished work that should be gone; locks may stay."""
    ray = list((work / ".ray").glob("*"))
    return [str(path) for path in [*work.glob("[!.]*"), *ray] if path.is_dir()]


def _weights(prefix: str, folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(folder / CHECKPOINT, weights_only=True)["state_dict"]
    return {prefix + name: value for name, value in state.items()}


def _tracked(uri: str) -> tuple[Counter, Counter]:
    client = MlflowClient(uri)
    tracked: Counter = Counter()
    states: Counter = Counter()
    for run in client.search_runs([e.experiment_id for e in client.search_experiments()]):
        name = run.info.run_name
        states[name, run.info.status] += 1
        for metric in run.data.metrics:
            for one in client.get_metric_history(run.info.run_id, metric):
                momentary = metric in _TIMES or metric.startswith(_SYSTEM)
                value = None if momentary else repr(one.value)
                tracked[name, metric, one.step, value] += 1
    return tracked, states
