"""Registering: what a version has, and that a failure leaves nothing behind."""

import base64
import importlib.metadata
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model, infer_signature

from bacl.errors import RunError, UsageError
from bacl_platform.api.experiment import Experiment
from bacl_platform.registry import package
from bacl_platform.registry.package import NEEDED, requirements

pytestmark = pytest.mark.slow


@pytest.fixture
def untried(monkeypatch):
    """Leaves the trial out, which takes seconds; gives the folders that were to be tried."""
    tried = []
    monkeypatch.setattr(package, "try_out", tried.append)
    return tried


def models(client):
    return [model.name for model in client.search_registered_models()]


def versions(client, name="birds"):
    return [int(one.version) for one in client.search_model_versions(f"name = '{name}'")]


def logged(client, run):
    """The models of a run that are there."""
    found = client.search_logged_models([run.info.experiment_id])
    return [model for model in found if model.source_run_id == run.info.run_id]


def run_of(client, experiment, variant="bacl"):
    place = client.get_experiment_by_name(experiment.name).experiment_id
    (run,) = client.search_runs([place], f"tags.`bacl.variant` = '{variant}'")
    return run


def test_version_has_all_that_belongs_to_it(experiment, client, store, untried):
    job = experiment.jobs().jobs[1]
    made = experiment.register("bacl", name="birds", alias="champion")
    assert (made.version, made.aliases, made.is_new) == ("1", ["champion"], True)
    assert len(untried) == 1
    version = client.get_model_version_by_alias("birds", "champion")
    run = run_of(client, experiment)
    assert version.run_id == run.info.run_id
    assert version.tags["bacl.key"] == job.key
    assert version.tags["bacl.variant_key"] == job.variant_keys["bacl"]
    assert version.tags["bacl.dataset_digest"] == job.dataset_digest
    checkpoint = experiment.checkpoint("bacl")
    reached = json.loads(checkpoint.with_name("metrics.json").read_text())["metrics"]
    assert f"| AP | {100 * reached['AP']:.2f} |" in version.description
    assert "12 steps" in version.description

    folder = Path(mlflow.artifacts.download_artifacts(version.source))
    assert (folder / "artifacts/checkpoint.pth").read_bytes() == checkpoint.read_bytes()
    assert (folder / "artifacts/config.py").read_text() == checkpoint.with_name(
        "config.py"
    ).read_text()
    names = [row["name"] for row in json.loads((folder / "artifacts/categories.json").read_text())]
    assert names == [category.name for category in experiment.prepared.categories]
    assert (folder / "code/bacl_platform/inference/detector.py").is_file()
    assert not list(folder.rglob("__pycache__"))
    pins = (folder / "requirements.txt").read_text().splitlines()
    assert f"numpy=={importlib.metadata.version('numpy')}" in pins
    assert all("+" not in pin and pin.count("==") == 1 for pin in pins)

    assert str(store.root) not in (folder / "MLmodel").read_text().split("artifact_path")[0]
    own = Model.load(str(folder))
    assert own.run_id == run.info.run_id
    assert own.signature.inputs.input_names() == ["image"]
    assert {param.name for param in own.signature.params} == {"score_threshold"}
    example = json.loads((folder / "input_example.json").read_text())
    sent = base64.b64decode(example["image"][0])
    val = experiment.prepared.val
    assert sent in [path.read_bytes() for path in Path(val.images).rglob("*") if path.is_file()]


def test_run_has_one_model_however_often_it_is_registered(experiment, client, untried):
    run = run_of(client, experiment)
    before = {model.model_id for model in logged(client, run)}
    first = experiment.register("bacl", name="birds")
    again = experiment.register("bacl", name="birds", alias="champion")
    assert first.is_new and not again.is_new
    assert again.version == first.version and again.aliases == ["champion"]
    assert versions(client) == [1]
    other = experiment.register("bacl", name="others")
    assert other.version == "1"
    (model,) = logged(client, run)
    assert not before or before == {model.model_id}
    metrics = {metric.key for metric in model.metrics}
    assert {"AP", "AP50"} <= metrics
    made = json.loads(model.tags["mlflow.modelVersions"])
    assert [one["name"] for one in made] == ["birds", "others"]


def test_code_that_changed_makes_another_version(experiment, client, untried, monkeypatch):
    experiment.register("bacl", name="birds")
    pins = [*requirements(), "another==1.0"]
    monkeypatch.setattr(package, "requirements", lambda: pins)
    assert experiment.register("bacl", name="birds").version == "2"
    first, second = (client.get_model_version("birds", number) for number in ("1", "2"))
    assert first.source != second.source  # what was registered stays as it was
    folder = Path(mlflow.artifacts.download_artifacts(first.source))
    assert "another" not in (folder / "requirements.txt").read_text()


def failing(step):
    def fail(*_, **__):
        raise MlflowException(f"{step} fails")

    return fail


def test_failure_on_the_way_leaves_nothing(experiment, client, untried, monkeypatch):
    run = run_of(client, experiment)
    before = {model.model_id for model in logged(client, run)}
    for step in (
        "log_model_artifacts",
        "finalize_logged_model",
        "create_model_version",
        "update_model_version",
        "set_registered_model_alias",
    ):
        with monkeypatch.context() as broken:
            broken.setattr(MlflowClient, step, failing(step))
            with pytest.raises(RunError, match=f"{step} fails"):
                experiment.register("bacl", name="birds", alias="champion")
        assert models(client) == []
        assert {model.model_id for model in logged(client, run)} == before
    assert experiment.register("bacl", name="birds", alias="champion").version == "1"


def test_failure_leaves_earlier_versions_alone(experiment, client, untried, monkeypatch):
    experiment.register("softmax", name="birds", alias="champion")
    monkeypatch.setattr(MlflowClient, "update_model_version", failing("update"))
    with pytest.raises(RunError, match="update fails"):
        experiment.register("bacl", name="birds")
    assert versions(client) == [1]
    assert client.get_model_version_by_alias("birds", "champion").version == 1


def test_model_that_does_not_answer_is_not_registered(experiment, client, monkeypatch):
    monkeypatch.setattr(package, "_TRIAL", "raise RuntimeError('no answer from here')")
    with pytest.raises(RunError, match=r"tried before .*: RuntimeError: no answer from here$"):
        experiment.register("bacl", name="birds")
    assert models(client) == []


def test_names_that_cannot_be_are_refused_at_once(experiment, client, untried):
    for name in ("a/b", "a:b", "..", " "):
        with pytest.raises(UsageError, match=r"^--name: expected"):
            experiment.register("bacl", name=name)
    for alias in ("latest", "v1", "a b", ""):
        with pytest.raises(UsageError, match=r"^--alias: expected"):
            experiment.register("bacl", name="birds", alias=alias)
    assert untried == [] and models(client) == []


def test_name_with_another_signature_is_refused(experiment, client, untried, tmp_path):
    frame = pd.DataFrame({"x": [1.0]})
    mlflow.pyfunc.save_model(
        tmp_path / "model",
        python_model=lambda model_input: model_input,
        signature=infer_signature(frame, frame),
        pip_requirements=[],
    )
    client.create_registered_model("birds")
    client.create_model_version("birds", str(tmp_path / "model"))
    with pytest.raises(UsageError, match=r"version 1 has another signature: choose another --name"):
        experiment.register("bacl", name="birds")
    assert versions(client) == [1]


def test_name_with_other_categories_is_refused(experiment, client, untried):
    experiment.register("bacl", name="birds")
    client.set_model_version_tag("birds", "1", "bacl.categories", "0" * 16)
    with pytest.raises(UsageError, match=r"version 1 knows others: choose another --name"):
        experiment.register("softmax", name="birds")
    assert versions(client) == [1]


def test_alias_of_another_version_is_left_to_promote(experiment, client, untried):
    experiment.register("softmax", name="birds", alias="champion")
    with pytest.raises(UsageError, match=r"version 1 of birds has it: .*bacl promote birds"):
        experiment.register("bacl", name="birds", alias="champion")
    assert versions(client) == [1]


def test_variant_without_a_job_or_a_run_is_told(experiment, client, store, untried):
    with pytest.raises(UsageError, match=r"variant: expected one of tiny's"):
        experiment.register("fcbl")
    run = run_of(client, experiment)
    client.delete_run(run.info.run_id)
    with pytest.raises(RunError, match=r"MLflow has no run of bacl .*`bacl run FILE` sends"):
        experiment.register("bacl")
    key = experiment.jobs().jobs[1].key
    shutil.rmtree(store.entry(key))
    with pytest.raises(RunError, match=r"is not in the store .*: run `bacl run"):
        Experiment.load(experiment.file, store=store).register("bacl")
    assert models(client) == []


def test_store_without_runs_is_told(experiment, store, untried):
    (store.root / "mlflow.db").unlink()
    with pytest.raises(RunError, match=r"mlflow\.db: expected the runs of this store"):
        experiment.register("bacl")
    assert not (store.root / "mlflow.db").exists()


def test_registry_that_is_not_there_is_told_in_time(experiment, monkeypatch, untried):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{port}")
    began = time.monotonic()
    with pytest.raises(RunError, match=r"^MLflow at http://\*\*\*@127.* cannot be reached") as told:
        experiment.register("bacl")
    assert time.monotonic() - began < 20
    said = str(told.value)
    assert said.endswith("Connection refused") and "secret" not in said and "\n" not in said


@pytest.mark.slow
def test_requirements_cover_what_a_model_imports():
    """What detecting imports is of a pinned distribution or of one that such a one requires."""
    code = (
        "import bacl_platform.registry.pyfunc, bacl_platform.inference.detector, bacl.register, "
        "mmdet.apis, sys\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    owners = importlib.metadata.packages_distributions()
    modules = set(told.stdout.split()) - {"bacl", "bacl_platform"}
    imported = {owners[name][0] for name in modules if name in owners}

    reached, left = set(), [*NEEDED]
    while left:
        name = bare(left.pop())
        if name not in reached:
            reached.add(name)
            left += [need for need in requires(name) if "extra ==" not in need]
    missing = {name for name in imported if bare(name) not in reached}
    # torch, mlflow and fastapi import these where they are there, and do without them
    assert missing <= {"nvidia-ml-py", "psutil", "python-multipart", "setuptools"}


def requires(name):
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def bare(requirement):
    """A requirement's name: `numpy` of `numpy>=1.2; python_version > "3"`."""
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")
