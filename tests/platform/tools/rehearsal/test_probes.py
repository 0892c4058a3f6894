"""MLflow, images and the store, as they are tried before anything runs."""

from pathlib import Path

import pytest

from bacl.datasets.prepare import prepare
from bacl.settings import Dataset
from bacl_platform.store.store import Store
from bacl_platform.tools.rehearsal.probes import (
    differences,
    files_of,
    node_problem,
    probe_tracking,
)
from bacl_platform.tools.rehearsal.scratch import scratch


@pytest.fixture
def own(tmp_path):
    """A dataset whose images a test may change."""
    return prepare(Dataset(format="embedded", size="small"), tmp_path / "own")


def images(prepared):
    return [f"{folder}/{name}" for folder, files in files_of(prepared).items() for name in files]


def test_same_images_differ_in_nothing(own, store):
    expected = files_of(own)
    assert sum(map(len, expected.values())) == own.train.image_total + own.val.image_total
    assert all(size > 0 for files in expected.values() for size in files.values())
    assert node_problem(expected, store) is None


def test_missing_and_other_images_are_named(own, store):
    expected, paths = files_of(own), images(own)
    Path(paths[3]).unlink()
    Path(paths[5]).write_bytes(Path(paths[5]).read_bytes() + b"x")
    assert node_problem(expected, store) == (
        f"1 of {len(paths)} images are missing, such as {paths[3]} and 1 have another size, such "
        f"as {paths[5]}"
    )
    here = files_of(own)
    assert "1 of" in differences(here) and "another size" not in differences(here)


def test_node_that_cannot_write_is_told(own, store):
    blocked = store.root / "blocked"
    blocked.write_text("")  # a file where a folder has to be
    problem = node_problem(files_of(own), Store(blocked / "inner"))
    assert problem == f"{blocked}/inner: expected a store that can be written: Not a directory"


@pytest.mark.slow
def test_run_in_mlflow_is_deleted_again(store, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with scratch(store) as inner:
        seconds, problem = probe_tracking("tiny", store, inner)
        assert problem is None and seconds > 0
        assert not (store.root / "mlflow.db").exists()
    uri = f"sqlite:///{store.root}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment("tiny", (store.root / "mlartifacts").as_uri())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with scratch(store) as inner:
        assert probe_tracking("tiny", store, inner)[1] is None
    assert client.search_runs([experiment]) == []
    assert [one.name for one in client.search_experiments()] == ["tiny", "Default"]
    assert not [path for path in (store.root / "mlartifacts").rglob("*") if path.is_file()]


@pytest.mark.slow
def test_mlflow_that_does_not_answer_is_told(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:1")
    with scratch(store) as inner:
        _, problem = probe_tracking("tiny", store, inner)
    assert problem.startswith("http://") and "expected an MLflow that takes runs, got" in problem
    assert "secret" not in problem
