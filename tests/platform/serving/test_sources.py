"""What `bacl serve` takes, and what it says of the rest before Ray is started."""

import shutil
import socket

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from bacl.errors import RunError, UsageError
from bacl_platform.api import ship
from bacl_platform.api.ship import source
from bacl_platform.cli import main as cli
from bacl_platform.serving.application import Settings
from bacl_platform.serving.server import Place, _check_room
from bacl_platform.serving.sources import version


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def client(store, empty_database):
    shutil.copy(empty_database, store.root / "mlflow.db")
    return MlflowClient(f"sqlite:///{store.root}/mlflow.db")


def serve(*words):
    return CliRunner().invoke(cli.app, ["serve", *map(str, words)])


def test_variant_of_a_store_is_found_again_where_it_runs(tiny, planned, publish_untrained, store):
    publish_untrained(planned().jobs[1])
    found = source(tiny, "softmax", store=store)
    with found.files() as (checkpoint, config):
        assert checkpoint.parent == config.parent
        assert checkpoint.parent.name == "softmax" and checkpoint.is_file()
    shutil.rmtree(store.entry(planned().jobs[1].key))
    with pytest.raises(RunError, match=r"^softmax \(job \w{16}\): expected it in the store"):
        found.files().__enter__()


def test_version_is_the_one_that_the_alias_means_at_the_start(client, store, exported_variant):
    client.create_registered_model("birds")
    for name in ("one", "two"):
        folder = store.root / name
        shutil.copytree(exported_variant, folder / "artifacts")
        (folder / "artifacts" / "mark").write_text(name)
        client.create_model_version("birds", str(folder))
    client.set_registered_model_alias("birds", "champion", "1")
    found = version("models:/birds@champion", store)
    client.set_registered_model_alias("birds", "champion", "2")
    with found.files() as (checkpoint, config):
        assert checkpoint.with_name("mark").read_text() == "one"
        assert config.is_file()
    assert not checkpoint.exists()
    assert version("models:/birds@champion", store).number == "2"
    assert version("models:/birds/1", store) == found


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("models:/birds", "expected models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("models:/dogs@champion", "dogs: expected a registered model, .* there is birds"),
        ("models:/birds@winner", r"birds: expected a version \(1\) or an alias \(there is none\)"),
        ("models:/birds/7", r"birds: expected a version \(1\) or an alias .*, got 7"),
    ],
)
def test_versions_that_do_not_exist_are_told(client, store, tmp_path, uri, told):
    client.create_registered_model("birds")
    client.create_model_version("birds", str(tmp_path))
    with pytest.raises(UsageError, match=told):
        version(uri, store)


def test_version_without_a_detector_is_told(client, store, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text("flavors: {}")
    client.create_registered_model("birds")
    client.create_model_version("birds", str(tmp_path / "model"))
    with pytest.raises(UsageError, match=r"^birds, version 1: expected checkpoint\.pth and config"):
        version("models:/birds/1", store).files().__enter__()


def test_bad_requests_end_before_ray_is_started(tiny, tmp_path, exported_variant, store):
    (tmp_path / "empty").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for words, told in [
            ((tiny, "--store", store.root), "variant: expected one of tiny's (features, bacl"),
            ((tmp_path / "empty",), "expected checkpoint.pth and config.py"),
            ((exported_variant, "--variant", "bacl"), "a variant, a seed: expected with an exp"),
            ((exported_variant, "--port", port), f"--port {port}: expected a free port of"),
            ((exported_variant, "--host", "192.0.2.77"), "expected a free port of 192.0.2.77"),
            ((exported_variant, "--host", "no such"), "--host no such: expected an address"),
            ((exported_variant, "--gpus", 1.5), "--gpus 1.5: expected a part of one GPU or"),
        ]:
            done = serve(*words)
            assert done.exit_code == 2, done.output
            assert told in done.stderr and len(done.stderr.splitlines()) == 1


def test_installation_without_the_extra_is_told(exported_variant, monkeypatch):
    monkeypatch.setattr(ship, "_NEEDED", ("uvicorn", "no_such_module"))
    done = serve(exported_variant)
    assert done.exit_code == 2
    assert "without no_such_module: `pip install 'bacl[serve]'`" in done.stderr


@pytest.mark.parametrize(
    ("settings", "fits"),
    [
        (Settings(replicas=4, gpus=0.5), True),
        (Settings(replicas=5, gpus=0.5), False),
        (Settings(replicas=6, gpus=1 / 3), True),
        (Settings(replicas=3, gpus=0.6), False),
        (Settings(replicas=1, gpus=2), True),
        (Settings(replicas=2, gpus=2), False),
        (Settings(replicas=8), True),
        (Settings(replicas=9), False),
        (Settings(replicas=16, cpus=0.5), True),
    ],
)
def test_room_for_all_replicas_is_asked_for(settings, fits):
    resources = {"GPU": 2.0, "CPU": 8.0}
    if fits:
        _check_room(settings, resources)
    else:
        with pytest.raises(RunError, match=r"^--replicas \d .*: expected "):
            _check_room(settings, resources)


def test_only_loopback_is_private():
    assert Place().is_private and Place("::1").is_private
    assert not Place("0.0.0.0").is_private
    assert Place("0.0.0.0", 80).url == "http://127.0.0.1:80"
    assert Place("::1", 80).url == "http://[::1]:80"
