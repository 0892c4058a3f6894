"""Unfinished jobs on their way to a bucket and back; whole jobs with a store in one."""

import json
import pickle
import shutil
import threading
import time
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from bacl.datasets.prepare import prepare
from bacl.errors import RunError
from bacl_platform.plan.planner import make_plan
from bacl_platform.spec.load import load
from bacl_platform.store import prepared_datasets, status, unfinished
from bacl_platform.store.bucket import Bucket
from bacl_platform.store.checkpoints import latest_checkpoint, write_checkpoint
from bacl_platform.store.manifest import read_manifest
from bacl_platform.store.names import MANIFEST, SCALARS
from bacl_platform.store.store import Store
from bacl_platform.train import worker
from bacl_platform.train.messages import Logged, Started

KEY = "0123456789abcdef"


def save(content: bytes):
    return lambda path: path.write_bytes(content)


def worked(store: Store, *steps: int) -> None:
    """Work of a job with checkpoints."""
    for step in steps:
        write_checkpoint(store.work(KEY) / "checkpoints", step, save(b"weights of %d" % step))
    (store.work(KEY) / SCALARS).write_text(f'{{"step": {steps[-1]}, "loss": 1.0}}\n')
    (store.work(KEY) / "job.json").write_text("{}")


def newest(store: Store) -> tuple[int, bytes]:
    step, path = latest_checkpoint(store.work(KEY) / "checkpoints")
    return step, path.read_bytes()


def elsewhere(store: Store) -> Store:
    """The store on a machine that has nothing of it yet, as a Ray task gets it."""
    shutil.rmtree(store.root, ignore_errors=True)
    return pickle.loads(pickle.dumps(store))


def test_work_goes_on_on_another_machine(url):
    store = Store(url)
    worked(store, 5, 10)
    unfinished.push(store, KEY)
    other = elsewhere(store)
    assert unfinished.keys(other) == [KEY] and unfinished.newest_step(other, KEY) == 10
    assert '"step": 10' in unfinished.read(other, KEY, SCALARS)
    unfinished.pull(other, KEY)
    assert newest(other) == (10, b"weights of 10")
    assert '"step": 10' in (other.work(KEY) / SCALARS).read_text()
    other.drop_work(KEY)
    assert unfinished.keys(other) == []


def test_work_of_jobs_that_others_have_finished_is_dropped_and_no_other(url):
    store = Store(url)
    keys = {name: f"{number:016x}" for number, name in enumerate(("done", "held", "open"))}
    for key in keys.values():
        store.work(key).mkdir(parents=True)
    for name in ("done", "held"):
        store.bucket.write(f"{keys[name]}/{MANIFEST}", "{}")
    with store.lock(keys["held"]):
        unfinished.drop_finished(store)
    left = {path.name for path in (store.root / ".work").iterdir() if path.is_dir()}
    assert left == {keys["held"], keys["open"]}


def test_what_is_newer_here_is_not_replaced_by_the_bucket_s(url):
    store = Store(url)
    worked(store, 5)
    unfinished.push(store, KEY)
    worked(store, 10)
    unfinished.pull(store, KEY)
    assert newest(store) == (10, b"weights of 10")
    assert '"step": 10' in (store.work(KEY) / SCALARS).read_text()


def test_bucket_has_the_checkpoints_that_are_kept_here(url):
    store = Store(url)
    for steps in ((5,), (10,), (15, 20)):
        worked(store, *steps)
        unfinished.push(store, KEY)
    names = store.bucket.folders(f".work/{KEY}/checkpoints/")
    assert sorted(names) == ["step_15", "step_20"]


@pytest.mark.parametrize("damage", ["truncated", "changed", "no manifest", "no file"])
def test_older_checkpoint_stands_in_for_one_that_is_damaged_in_the_bucket(url, damage):
    store = Store(url)
    worked(store, 5, 10)
    unfinished.push(store, KEY)
    place = f".work/{KEY}/checkpoints/step_10"
    if damage == "no manifest":
        store.bucket.remove([f"{place}/{MANIFEST}"])
    elif damage == "no file":
        store.bucket.remove([f"{place}/checkpoint.pth"])
    else:
        text = "weights of 1" if damage == "truncated" else "weights of 11"
        store.bucket.write(f"{place}/checkpoint.pth", text)
    other = elsewhere(store)
    unfinished.pull(other, KEY)
    assert newest(other) == (5, b"weights of 5")


def test_upload_under_way_does_not_hold_up_training_and_the_newest_follows(url, monkeypatch):
    store, begun, free = Store(url), threading.Event(), threading.Event()
    upload = Bucket.upload

    def slow(self, path, name):
        begun.set()
        assert free.wait(30)
        upload(self, path, name)

    monkeypatch.setattr(Bucket, "upload", slow)
    with unfinished.Uploads(store, KEY) as uploads:
        worked(store, 5)
        uploads.request()
        assert begun.wait(30)
        for step in (10, 15, 20):  # the first of which takes 5's place while it is read
            worked(store, step)
            began = time.monotonic()
            uploads.request()
            assert time.monotonic() - began < 0.1
        free.set()
    names = store.bucket.folders(f".work/{KEY}/checkpoints/")
    assert sorted(names) == ["step_15", "step_20"]


def test_training_goes_on_while_the_bucket_is_away(url, monkeypatch, caplog):
    store, told = Store(url), threading.Event()

    def away(*_):
        told.set()
        raise RunError("away")

    worked(store, 5)
    with unfinished.Uploads(store, KEY) as uploads:
        with monkeypatch.context() as patch:
            patch.setattr(Bucket, "upload", away)
            uploads.request()
            assert told.wait(10)
        assert newest(store) == (5, b"weights of 5")
        uploads.request()
    assert "training goes on, but not all of it is stored yet: away" in caplog.text
    assert store.bucket.folders(f".work/{KEY}/checkpoints/") == ["step_5"]


@pytest.mark.slow
def test_requests_sit_out_an_outage(url, monkeypatch):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    store = Store(url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    server.stop()
    again = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    threading.Timer(1, again.start).start()
    try:
        worked(store, 5)
        unfinished.push(store, KEY)
    finally:
        again.stop()
    monkeypatch.undo()


@pytest.mark.slow
def test_jobs_in_a_bucket_start_and_go_on_on_other_machines(url, tiny):
    """Stage 1, which keeps checkpoints for good, and stage 2, which is interrupted."""
    recipe = "stages.features.recipe"
    keeping = [f"{recipe}.evaluate_every=5", f"{recipe}.keep_best=true", f"{recipe}.keep_every=10"]
    store = Store(url)
    experiment = load(tiny, keeping)
    features, heads = make_plan(experiment, prepare(experiment.dataset, store.datasets), store).jobs
    prepared_datasets.push(store, features.dataset_digest)
    store = elsewhere(store)
    assert worker.train(features, store, lambda *_: None, lambda _: None) is None
    assert_best_and_tenth_are_kept(store.entry(features.key))

    def die(message):
        if isinstance(message, Logged) and message.rows and message.rows[-1]["step"] == 10:
            raise RuntimeError

    store = elsewhere(store)
    with pytest.raises(RuntimeError):
        worker.train(heads, store, die, lambda _: None)
    store = elsewhere(store)
    (job,) = status.unfinished_jobs(store)
    assert (job.checkpoint, job.running) == (5, False)
    told = []
    assert worker.train(heads, store, told.append, lambda _: None) is None
    assert told[0] == Started(heads.key, 5)
    store = elsewhere(store)
    assert store.complete(features.key) and store.complete(heads.key)
    assert_best_and_tenth_are_kept(store.entry(features.key))
    assert unfinished.keys(store) == []
    assert set(store.variants().values()) == {features.key, heads.key}


def assert_best_and_tenth_are_kept(entry: Path) -> None:
    rows = [json.loads(line) for line in (entry / SCALARS).read_text().splitlines()]
    scores = {row["step"]: row["features/AP"] for row in rows if "features/AP" in row}
    best = max(scores, key=lambda step: (scores[step], -step))
    assert {path.name for path in (entry / "checkpoints").iterdir()} == {"step_10", f"step_{best}"}
    assert "checkpoints/step_10/checkpoint.pth" in read_manifest(entry)["files"]
