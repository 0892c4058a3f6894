"""Jobs over machines that share nothing but a bucket: ranks without Ray, each with a cache of its
own."""

import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import Request, urlopen

import pyarrow.parquet as pq
import pytest
import torch
from ranks import on_ranks

from bacl.datasets.prepare import prepare
from bacl.features import shards
from bacl_platform.plan.job import Job
from bacl_platform.plan.planner import make_plan
from bacl_platform.spec.load import load
from bacl_platform.store import prepared_datasets, sample, unfinished
from bacl_platform.store.names import SHARDS
from bacl_platform.store.store import Store
from bacl_platform.train import worker

pytestmark = pytest.mark.slow

BOTH_ON_TWO = [
    "stages.features.recipe.schedule.batch=4",
    "stages.heads.recipe.schedule.batch=4",
    "stages.features.resources.workers=2",
    "stages.heads.resources.workers=2",
]
STORED = "stages.stored={kind: features, after: features, views: 1, resources: {workers: 2}}"
REPLAY = [*BOTH_ON_TWO, STORED, "stages.heads.after=stored", "stages.heads.recipe.features=replay"]


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Makes the environment of a machine by its name."""

    def made(name: str, **more: str) -> dict[str, str]:
        access = {n: v for n, v in os.environ.items() if n.startswith("AWS_")}
        return {**access, "BACL_CACHE": str(tmp_path / "machines" / name), **more}

    return made


@pytest.fixture
def cache(tmp_path: Path) -> Callable[[str], Path]:
    """The folder of the bucket's store on a machine."""

    def found(name: str) -> Path:
        (folder,) = (tmp_path / "machines" / name).iterdir()
        return folder

    return found


@pytest.fixture
def planned_there(tiny: Path, url: str) -> Callable[..., tuple[Store, list[Job]]]:
    """Plans the tiny experiment for a store in a bucket, on a machine that then goes away."""

    def planned(*overrides: str) -> tuple[Store, list[Job]]:
        store = Store(url)
        store.datasets.mkdir(parents=True)
        found = prepare(load(tiny).dataset, store.datasets)
        prepared_datasets.push(store, found.digest)
        jobs = make_plan(load(tiny, list(overrides)), found, store).jobs
        store.root.rename(store.root.with_name("away"))
        return store, jobs

    return planned


def come_back(store: Store) -> None:
    store.root.with_name("away").rename(store.root)


def weights(store: Store, job: Job) -> dict[str, torch.Tensor]:
    assert store.complete(job.key)
    return torch.load(store.entry(job.key) / "checkpoint.pth", weights_only=True)["state_dict"]


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(other[name], value), name


def test_two_machines_train_what_one_does_also_after_a_stop(
    planned_there, undisturbed, on_two_ranks, machine, cache
):
    store, (features, heads) = planned_there(*BOTH_ON_TWO)
    a, b, c = (machine(name) for name in "abc")
    said = f"job features ({features.key}) was stopped at step "
    for told in on_two_ranks(features, store, asked_to_stop=True, machines=(a, b)):
        assert told.startswith(said)
    # what b trains from now on it did not have: rank 0 is on a machine that knows nothing
    assert on_two_ranks(features, store, machines=(c, b)) == [None, None]
    assert on_two_ranks(heads, store, machines=(b, a)) == [None, None]
    come_back(store)
    assert store.entries() == sorted([features.key, heads.key])
    assert store.bucket.sizes(".work/") == {}
    assert (cache("a") / features.key / "checkpoint.pth").exists()  # the parent, once a machine
    for name in "abc":  # a, too, which had the first half of the features' checkpoints
        assert [p.name for p in (cache(name) / ".work").iterdir() if p.is_dir()] == []
    for job in (features, heads):
        assert on_two_ranks(job, undisturbed) == [None, None]
        assert_same(weights(undisturbed, job), weights(store, job))
        for variant in job.variants:
            one, other = (
                place.entry(job.key) / "variants" / variant for place in (undisturbed, store)
            )
            assert (one / "metrics.json").read_text() == (other / "metrics.json").read_text()
            found = (pq.read_table(folder / "detections.parquet") for folder in (one, other))
            assert next(found) == next(found)


def test_features_over_two_machines_go_on_elsewhere_and_are_replayed(
    planned_there, undisturbed, on_two_ranks, machine, cache
):
    store, (features, stored, heads) = planned_there(*REPLAY)
    a, b, c = (machine(name) for name in "abc")
    assert on_two_ranks(features, store, machines=(a, b)) == [None, None]
    said = f"job stored ({stored.key}) was stopped between shards"
    assert on_two_ranks(stored, store, asked_to_stop=True, machines=(a, b)) == [said, said]
    assert unfinished.newest_step(store, stored.key) == 2
    made = {path.name: path.stat().st_mtime_ns for path in cache("b").glob("**/shards/*.pt")}
    assert len(made) == 1
    assert on_two_ranks(stored, store, machines=(c, b)) == [None, None]
    assert on_two_ranks(heads, store, machines=(a, c)) == [None, None]
    come_back(store)
    for job in (features, stored, heads):
        assert on_two_ranks(job, undisturbed) == [None, None]
        assert_same(weights(undisturbed, job), weights(store, job))
    assert store.bucket.sizes(".work/") == {}
    one, other = (place.entry(stored.key) / SHARDS for place in (undisturbed, store))
    assert len(list(one.iterdir())) == len(list(other.iterdir())) == 8
    for split in ("train", "val"):
        pairs = zip(shards.found(one, split), shards.found(other, split), strict=True)
        for (name, expected), (again, found) in pairs:
            assert name == again
            assert_same(expected, found)


def train_on_own_photos(folder: Path, job: Job, store: Store) -> None:
    rank = torch.distributed.get_rank()
    os.environ["LOCAL_RANK"] = str(rank)
    os.chdir(folder / f"machine{rank}")
    socket.gethostname = lambda: f"machine{rank}"
    told = worker.train(job, store, lambda *_: None, lambda *_: None)
    (folder / f"{rank}.json").write_text(json.dumps(told))


def test_machine_with_other_images_ends_the_job_and_the_file_is_named(
    prepared, tiny, store, tmp_path
):
    own = Path(prepared.train.images)
    for name in ("planned", "machine0", "machine1"):
        shutil.copytree(own, tmp_path / name / "photos")
    files = [f"dataset.{split}={own.parent / split}.json" for split in ("train", "val")]
    chosen = ["dataset.format=lvis", f"dataset.images={tmp_path}/planned/photos", *files]
    tiny.write_text(tiny.read_text().replace("{format: embedded, size: small}", "{}"))
    spec = load(tiny, [*chosen, *BOTH_ON_TWO])
    found = prepare(spec.dataset, store.datasets)
    sample.note(store, found.digest)
    job = make_plan(spec, found, store).jobs[0]
    for loader in ("train_dataloader", "val_dataloader"):
        job.config[loader]["dataset"]["images"] = "photos"  # of the folder that a rank is in
    other = next((tmp_path / "machine1/photos").glob("*7.png"))
    other.write_bytes(other.read_bytes() + b"x")
    on_ranks(train_on_own_photos, 2, tmp_path, job, store)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    size = other.stat().st_size
    assert first.startswith(
        f"node machine1 (rank 1): photos/{other.name}: expected {size - 1} bytes, as the file is on"
    )
    assert f"got {size} bytes: let all nodes see the same images" in first
    shutil.copyfile(own / other.name, other)
    on_ranks(train_on_own_photos, 2, tmp_path, job, store)
    assert store.complete(job.key)


class ReadOnly(BaseHTTPRequestHandler):
    """Passes on what reads from an S3 server, and refuses what writes."""

    server: "Forwarding"

    def do_GET(self) -> None:
        request = Request(self.server.target + self.path, method=self.command)
        for name, value in self.headers.items():
            if name.lower() not in ("host", "connection"):
                request.add_header(name, value)
        with urlopen(request) as answer:
            body = answer.read()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Forwarding(ThreadingHTTPServer):
    target: str


@pytest.fixture
def read_only(s3: str) -> Iterator[str]:
    """The address of an S3 server that refuses to write."""
    server = Forwarding(("127.0.0.1", 0), ReadOnly)
    server.target = s3
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_bucket_that_one_machine_cannot_write_ends_the_job_and_names_it(
    planned_there, on_two_ranks, machine, read_only
):
    store, (features, _) = planned_there(*BOTH_ON_TWO)
    b = machine("b", AWS_ENDPOINT_URL=read_only)
    first, second = on_two_ranks(features, store, machines=(machine("a"), b))
    assert first == second
    assert first.startswith(f"node {os.uname().nodename} (rank 1): {store.url}: expected a bucket")
    assert "AccessDenied" in first
