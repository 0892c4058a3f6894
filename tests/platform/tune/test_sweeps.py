"""Sweeps on a local Ray: fused, proposed, stopped early, killed and run again."""

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch
from mlflow import MlflowClient
from typer.testing import CliRunner

from bacl_platform.cli import main as cli
from bacl_platform.plan.screening import confirmations
from bacl_platform.plan.sweep_plan import Preparation, plan_sweeps
from bacl_platform.plan.trials import SweepFile
from bacl_platform.report import sweep_report
from bacl_platform.store.checkpoints import newest_step

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

HEAD = """
name: {name}
base: tiny.yaml
stage: heads
variant: bacl
"""


@contextmanager
def bacl_sweep(store, *files):
    """`bacl sweep` as a user starts it, killed at the end if it still runs."""
    command = [sys.executable, "-c", "from bacl_platform.cli.main import main; main()", "sweep"]
    process = subprocess.Popen(
        [*command, *map(str, files), "--store", str(store.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()  # the processes of a local Ray die with the driver that started them
        process.wait()


def output_of(store, *files, options=()):
    """Exit code and output of `bacl sweep` in this process, which has all modules already."""
    words = ["sweep", *map(str, files), "--store", str(store.root), *options]
    done = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    return done.exit_code, done.output


@pytest.fixture(autouse=True)
def stage_1(planned, finished, monkeypatch):
    """The representation that all sweeps here start from is in the store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    finished(planned().jobs[0])


def written(tiny, name, rest):
    path = tiny.parent / f"{name}.yaml"
    path.write_text(HEAD.format(name=name) + rest)
    return path


def plan_of(path, store):
    file = SweepFile(path)
    return plan_sweeps([file], [file.trials(store)], Preparation(store), store)[0]


def children(store, sweep):
    """The runs of a sweep's trials, by what varies."""
    client = MlflowClient(f"sqlite:///{store.root}/mlflow.db")
    experiment = client.get_experiment_by_name(sweep)
    runs = client.search_runs([experiment.experiment_id])
    return {run.data.tags["varied"]: run for run in runs if "varied" in run.data.tags}


def test_killed_grid_of_two_sweeps_is_finished_by_the_same_command(tiny, store):
    long = "fixed: {stages.heads.recipe.schedule.iterations: 60}\n"
    one = written(tiny, "alphas", long + "space: {variant.alpha: [0, 0.5, 0.85]}\n")
    two = written(tiny, "terms", long + "space: {variant.weight_term: [both, none]}\n")
    heads = plan_of(one, store).jobs[-1]
    with bacl_sweep(store, one, two) as process:
        deadline = time.monotonic() + 400
        while not any(
            (newest_step(path / "checkpoints") or 0) >= 20
            for path in (store.root / ".work").glob("*")
            if path.is_dir()
        ):
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    code, output = output_of(store, one, two)
    assert code == 0, output
    assert "goes on from step" in output and "features: started" not in output
    assert output.count("heads: done") == 1  # both sweeps in one bank
    runs = children(store, "alphas")
    assert runs.keys() == {"alpha=0", "alpha=0.5", "alpha=0.85"}
    assert len(children(store, "terms")) == 2
    assert all(run.info.status == "FINISHED" for run in runs.values())
    assert runs["alpha=0.5"].data.params["varied.alpha"] == "0.5"
    assert "stage 1" in runs["alpha=0.5"].data.tags["mlflow.note.content"]
    rows = sweep_report.collect(plan_of(one, store), store, False).rows
    assert [row.state for row in rows] == ["done"] * 3
    assert store.complete(plan_of(one, store).jobs[-1].key) and not store.complete(heads.key)
    started = time.monotonic()
    code, output = output_of(store, one, two)
    assert code == 0 and "nothing to do: 5 of 5 trials are in the store" in output
    assert time.monotonic() - started < 60


def test_proposed_trials_run_and_are_remembered(tiny, store):
    path = written(
        tiny,
        "proposed",
        "search: tpe\nsamples: 2\nspace:\n  variant.alpha: {uniform: [0, 1]}\n"
        "  variant.hallucination: [null, {categories: 4}]\n",
    )
    code, output = output_of(store, path)
    assert code == 0, output
    rows = sweep_report.collect(plan_of(path, store), store, False).rows
    assert [row.state for row in rows] == ["done", "done"]
    runs = children(store, "proposed").values()
    assert len(runs) == 2
    client = MlflowClient(f"sqlite:///{store.root}/mlflow.db")
    parent = client.get_run(next(iter(runs)).data.tags["mlflow.parentRunId"])
    note = parent.data.tags["mlflow.note.content"]
    assert all(run.data.params["varied.alpha"] in note for run in runs)
    code, output = output_of(store, path)
    assert code == 0 and "heads: started" not in output, output  # the same proposals, in the store


def test_asha_stops_trials_of_a_running_bank_and_a_failure_is_remembered(tiny, store):
    path = written(
        tiny,
        "halved",
        "fixed:\n  stages.heads.recipe.schedule.iterations: 60\n"
        "  stages.heads.recipe.evaluate_every: 6\n"
        "scheduler: {type: asha, reduction: 2}\nspace: {variant.alpha: [0, 0.25, 0.5, 1]}\n",
    )
    diverging = written(
        tiny,
        "diverging",
        "space: {stages.heads.recipe.schedule.lr: [0.02, 1e30]}\n",
    )
    code, output = output_of(store, path, diverging)
    assert code == 1 and "is not finite" in output, output
    states = [row.state for row in sweep_report.collect(plan_of(path, store), store, False).rows]
    assert states.count("done") >= 1 and states.count("1 stopped") >= 1
    assert len(states) == states.count("done") + states.count("1 stopped")
    code, output = output_of(store, path)
    assert code == 0 and "nothing to do" in output, output
    table = sweep_report.collect(plan_of(diverging, store), store, False)
    assert [row.state for row in table.rows] == ["done", "1 failed"]
    assert "is not finite" in children(store, "diverging")["lr=1e30"].data.tags["bacl.error"]
    code, output = output_of(store, diverging)
    assert code == 0 and "1 failed before: run them again with --retry-failed" in output, output
    code, output = output_of(store, diverging, options=["--retry-failed"])
    assert code == 1 and "is not finite" in output
    assert json.loads((store.root / ".sweeps" / "diverging.failed.json").read_text())


def test_sweep_is_screened_and_its_best_confirmed_and_a_second_run_has_nothing_to_do(tiny, store):
    path = written(
        tiny,
        "screened",
        "screen: {views: 1, negatives: 16, confirm: 2}\nspace: {variant.alpha: [0, 0.5, 1]}\n",
    )
    code, output = output_of(store, path)
    assert code == 0, output
    assert output.index("screen: done") < output.index("heads: started")
    assert output.count("heads: done") == 2 and "features: started" not in output
    screened = plan_of(path, store)
    (confirmed,) = confirmations([screened], Preparation(store), store)
    table = sweep_report.collect(screened, store, False, confirmed)
    assert [row.state for row in table.rows] == ["done"] * 3
    assert sorted(len(row.exact) > 0 for row in table.rows) == [False, True, True]
    client = MlflowClient(f"sqlite:///{store.root}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("screened").experiment_id])
    kinds = [run.data.tags["bacl.features"] for run in runs if "varied" in run.data.tags]
    assert sorted(kinds) == ["exact", "exact", "replay", "replay", "replay"]
    weights = [torch.load(_exported(cell, store))["state_dict"] for cell in screened.cells]
    assert all(any(name.startswith("backbone.") for name in state) for state in weights)
    code, output = output_of(store, path)
    assert code == 0 and "nothing to do: 5 of 5 trials are in the store" in output, output


def _exported(cell, store):
    return store.entry(cell.job.key) / "variants" / cell.trial.variant / "checkpoint.pth"
