"""`bacl rehearse` as a user starts it."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bacl.datasets.plain import plain
from bacl.settings import Dataset
from bacl_platform.cli import main as cli
from bacl_platform.plan.rehearsed import FOLDER

NARROW = "stages.heads.resources.memory=0.4"
"""GiB that Ray sets aside for a worker, which takes more with torch alone."""


def files(store):
    """What a store has besides prepared datasets."""
    paths = (path.relative_to(store.root) for path in store.root.rglob("*") if path.is_file())
    return sorted(str(path) for path in paths if path.parts[0] != ".datasets")


def run(*words):
    return CliRunner().invoke(cli.app, list(map(str, words)), catch_exceptions=False)


@pytest.fixture(autouse=True)
def own_tracking(monkeypatch):
    """MLflow is tried in the test's store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(480)
def test_whole_rehearsal_leaves_figures_that_a_plan_uses(tiny, store, planned):
    words = [tiny, "--store", store.root, "--set", NARROW]
    done = run("rehearse", *words, "--steps", 20, "--json")
    assert done.exit_code == 1, done.output
    found = json.loads(done.stdout)
    assert [stage["stage"] for stage in found["stages"]] == ["features", "heads"]
    for stage in found["stages"]:
        assert stage["rehearsed"] and stage["images_a_second"] > 0 and 0 <= stage["data_wait"] < 1
        assert stage["host_bytes"] > 50e6 and stage["checkpoint_bytes"] > 1e5
        assert stage["seconds_low"][0] <= stage["seconds"][0] <= stage["seconds_high"][0]
    (broken,) = found["breaks"]
    lack = re.fullmatch(
        r"stage heads: a worker takes (\d\.\d\d) GiB, which is (\d\.\d\d) GiB more than the 0\.40 "
        r"GiB that stages\.heads\.resources\.memory sets aside",
        broken["sentence"].split(":", 2)[0] + ":" + broken["sentence"].split(":", 2)[1],
    )
    assert float(lack[1]) - float(lack[2]) == pytest.approx(0.4, abs=0.011)
    memory = re.compile(r"stages\.heads\.resources\.memory=([\d.]+) ")
    (asked,) = [hit[1] for change in broken["changes"] if (hit := memory.match(change))]
    assert float(lack[1]) <= float(asked) < float(lack[1]) + 0.2
    assert found["forecast"]["seconds"] > sum(s["seconds"][0] for s in found["stages"])

    left = files(store)
    assert len(left) == 2 and all(name.startswith(f"{FOLDER}/") for name in left)
    assert store.entries() == [] and not any(store.complete(job.key) for job in planned().jobs)

    plan = run("plan", *words)
    seconds = sum(stage["seconds"][0] for stage in found["stages"])
    assert re.search(rf"about {seconds:.0f} s \(\d+ to \d+\) one job after another", plan.output)
    assert "CPU-hours: from a rehearsal of 20" in plan.output


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_interrupted_rehearsal_leaves_nothing(tiny, store):
    command = [sys.executable, "-c", "from bacl_platform.cli.main import main; main()", "rehearse"]
    process = subprocess.Popen(
        [*command, str(tiny), "--store", str(store.root), "--steps", "3000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 200
        while not list(store.root.glob(".rehearsing/*/.work/*/scalars.jsonl")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode not in (0, None), output
    assert files(store) == [] and not list(store.root.glob(".rehears*")), output


def test_missing_image_is_named(tiny, store, tmp_path):
    (tmp_path / "own").mkdir()
    files = plain(Dataset(format="embedded", size="small"), tmp_path / "own")
    lost = sorted(Path(files.images).rglob("*.*"))[3]
    lost.unlink()
    written = json.dumps(files.model_dump(mode="json", exclude_defaults=True))
    done = run("rehearse", tiny, "--store", store.root, "--set", f"dataset={written}")
    assert done.exit_code == 2, done.output
    assert "1 of" in done.stderr and "are missing" in done.stderr and lost.name in done.stderr


def test_store_that_cannot_be_written_is_a_finding(tiny, store):
    (store.root / ".rehearsing").write_text("")  # a file where a folder has to be
    done = run("rehearse", tiny, "--store", store.root)
    assert done.exit_code == 1 and "expected" in done.output, done.output


def test_nothing_is_rehearsed_of_what_is_there(tiny, store, planned, fill):
    jobs = planned().jobs
    fill(jobs, {("features", 0): 0.1, ("bacl", 0): 0.3, ("softmax", 0): 0.2})
    before = files(store)
    done = run("rehearse", tiny, "--store", store.root)
    assert done.exit_code == 0
    assert "nothing to rehearse: 2 of 2 jobs are in the store" in done.output
    assert files(store) == before


def test_too_few_steps_are_refused(tiny, store):
    done = run("rehearse", tiny, "--store", store.root, "--steps", 5)
    assert done.exit_code == 2 and "20" in done.output
