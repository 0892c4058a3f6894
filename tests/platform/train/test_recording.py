"""A job that stores features, in this process, and the replays of what it has stored."""

import errno
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

from bacl.datasets.prepare import prepare
from bacl.datasets.prepared import Prepared
from bacl.features import shards
from bacl.features.parts import parts
from bacl_platform.plan.planner import make_plan
from bacl_platform.plan.show import state
from bacl_platform.plan.stored import bytes_of
from bacl_platform.spec.load import load
from bacl_platform.store import prepared_datasets
from bacl_platform.store.failures import print_logs
from bacl_platform.store.garbage import find
from bacl_platform.store.names import LOG, SHARDS
from bacl_platform.store.status import unfinished_jobs
from bacl_platform.store.store import Store
from bacl_platform.train import worker
from bacl_platform.train.messages import Logged, Started

pytestmark = pytest.mark.slow
STORED = "stages.stored={kind: features, after: features, views: 1}"
REPLAY = [STORED, "stages.heads.after=stored", "stages.heads.recipe.features=replay"]
PARTS = [part.name for part in parts(130, 20)]
"""Three shards of views, one of validation images."""


class Killed(BaseException):
    """Stands for the death of the process."""


def quietly(job, store, **options):
    return worker.train(job, store, lambda *_: None, lambda *_: None, **options)


def contents(entry: Path) -> dict:
    """Tensors of an entry's shards by name and shard."""
    return {
        (name, key): value
        for name in PARTS
        for key, value in shards.read(entry / SHARDS, name).items()
    }


def assert_same(one: dict, other: dict, **tolerance) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            other[name], value, **(tolerance or {"rtol": 0, "atol": 0}), msg=str(name)
        )


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.pt")}


@pytest.fixture
def stored(planned, store, finished):
    """The job that stores features, whose parent is finished."""
    features, job, _ = planned(*REPLAY).jobs
    finished(features)
    return job


def test_entry_holds_all_shards_and_what_replays_start_from(stored, store):
    told = []
    assert worker.train(stored, store, told.append, lambda *_: None) is None
    assert told[0] == Started(stored.key, 0)
    assert store.complete(stored.key)
    entry = store.entry(stored.key)
    names = {path.name for path in (entry / SHARDS).iterdir()}
    assert names == {*PARTS, *map(shards.note, PARTS)}
    start, parent = (
        torch.load(store.entry(key) / "checkpoint.pth", weights_only=True)["state_dict"]
        for key in (stored.key, stored.parent)
    )
    assert_same(start, parent)
    described = json.loads((entry / "job.json").read_text())
    assert (described["kind"], described["iterations"]) == ("features", 4)
    assert not store.work(stored.key).exists()
    told.clear()
    assert worker.train(stored, store, told.append, lambda *_: None) is None
    assert told == []


def test_plan_tells_about_how_large_it_will_be(stored, store, finished):
    finished(stored)
    prepared = Prepared.load(store.datasets / stored.dataset_digest / "dataset.json")
    train, val = bytes_of(stored, prepared)
    sizes = {p.name: p.stat().st_size for p in (store.entry(stored.key) / SHARDS).glob("*.pt")}
    assert sizes["val-00000.pt"] == pytest.approx(20 * val, rel=0.4)
    of_views = sum(size for name, size in sizes.items() if name.startswith("train"))
    assert of_views == pytest.approx(130 * train, rel=0.5)


def test_stopped_job_is_finished_with_the_shards_that_lack(stored, store, undisturbed, capsys):
    looks = iter([False, True])
    said = quietly(stored, store, asked_to_stop=lambda: next(looks))
    assert said == f"job stored ({stored.key}) was stopped between shards"
    assert not store.complete(stored.key)
    work = store.work(stored.key) / "entry" / SHARDS
    before = times(work)
    assert sorted(before) == PARTS[:2]
    assert state(stored, store) == "unfinished at shard 2"
    (unfinished,) = unfinished_jobs(store)
    assert (unfinished.step, unfinished.steps) == (2, 4)
    print_logs(store, None, 2, Console(width=200))
    shown = capsys.readouterr().out.splitlines()
    assert shown[-2].endswith(f"rank 0: {PARTS[1]}") and shown[-1].endswith(said)
    told = []
    assert worker.train(stored, store, told.append, lambda *_: None) is None
    assert told[0] == Started(stored.key, 2)
    entry = store.entry(stored.key)
    assert before.items() <= times(entry / SHARDS).items()
    assert quietly(stored, undisturbed) is None
    assert_same(contents(undisturbed.entry(stored.key)), contents(entry))


def test_killed_job_leaves_nothing_half_in_its_entry(stored, store, monkeypatch):
    saved = []

    def save(content, file):
        saved.append(file.name)
        if len(saved) == 2:
            file.write(b"half")
            raise Killed
        real(content, file)

    real = torch.save
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(torch, "save", save)
        patched.setattr(Path, "unlink", lambda *args, **options: None)
        quietly(stored, store)
    work = store.work(stored.key) / "entry" / SHARDS
    assert len(list(work.iterdir())) == 3  # a shard, its note, and half a file
    assert quietly(stored, store) is None
    names = {path.name for path in (store.entry(stored.key) / SHARDS).iterdir()}
    assert names == {*PARTS, *map(shards.note, PARTS)}


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_damaged_shard_alone_is_made_anew(stored, store, finished, monkeypatch, links, damage):
    finished(stored)
    entry = store.entry(stored.key)
    damaged, before = entry / SHARDS / PARTS[1], contents(entry)
    kept = {name: (entry / SHARDS / name).read_bytes() for name in PARTS}
    if damage == "missing":
        damaged.unlink()
    else:
        damaged.write_bytes(damaged.read_bytes()[:-7] + b"garbage")
    assert not store.complete(stored.key)
    if not links:

        def refuse(*_):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)
    untouched = {name: time for name, time in times(entry / SHARDS).items() if name != PARTS[1]}
    told = []
    assert worker.train(stored, store, told.append, lambda *_: None) is None
    assert told[0] == Started(stored.key, 3)
    assert store.complete(stored.key)
    if links:
        assert untouched.items() <= times(entry / SHARDS).items()
    assert all((entry / SHARDS / name).read_bytes() == kept[name] for name in untouched)
    assert_same(before, contents(entry))


def test_full_disk_is_told_and_nothing_half_is_trusted(stored, store, monkeypatch):
    real, saved = torch.save, []

    def full(content, file):
        saved.append(file)
        if len(saved) == 3:
            file.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(content, file)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        said = quietly(stored, store)
    assert said.startswith(f"no space left for {store.root}: free some")
    assert not store.complete(stored.key)
    assert "No space left on device" in (store.work(stored.key) / LOG).read_text()
    work = store.work(stored.key) / "entry" / SHARDS
    assert {p.name for p in work.iterdir()} == {*PARTS[:2], *map(shards.note, PARTS[:2])}
    told = []
    assert worker.train(stored, store, told.append, lambda *_: None) is None
    assert told[0] == Started(stored.key, 2)


def test_shards_that_lie_elsewhere_are_told(stored, store, monkeypatch):
    real = shards.write

    def elsewhere(folder, part, content):
        if part.name != PARTS[2]:
            real(folder, part, content)

    monkeypatch.setattr(shards, "write", elsewhere)
    said = quietly(stored, store)
    assert f"expected all 4 shards of features, 1 lack, such as {PARTS[2]}" in said
    assert not store.complete(stored.key)


@pytest.mark.slow
def test_two_ranks_record_what_one_does(planned, stored, store, undisturbed, on_two_ranks):
    two = planned(*REPLAY, "stages.stored.resources.workers=2").jobs[1]
    assert two.key == stored.key
    said = f"job stored ({stored.key}) was stopped between shards"
    assert on_two_ranks(two, store, asked_to_stop=True) == [said, said]
    work = store.work(stored.key) / "entry" / SHARDS
    assert sorted(times(work)) == PARTS[:2]
    assert on_two_ranks(two, store) == [None, None]
    assert quietly(stored, undisturbed) is None
    assert_same(contents(undisturbed.entry(stored.key)), contents(store.entry(stored.key)))


def weights(entry: Path) -> dict:
    return torch.load(entry / "checkpoint.pth", weights_only=True)["state_dict"]


def test_killed_replay_goes_on_to_the_weights_of_an_undisturbed_one(
    planned, store, undisturbed, finished
):
    features, stored, heads = planned(*REPLAY).jobs
    finished(features), finished(stored)
    assert quietly(heads, undisturbed) is None

    def tell(message):
        if isinstance(message, Logged) and message.rows and message.rows[-1]["step"] == 10:
            raise Killed

    with pytest.raises(Killed):
        worker.train(heads, store, tell, lambda *_: None)
    told = []
    assert worker.train(heads, store, told.append, lambda *_: None) is None
    assert told[0] == Started(heads.key, 5)
    assert_same(weights(undisturbed.entry(heads.key)), weights(store.entry(heads.key)))
    for variant in ("bacl", "softmax"):
        folder = store.entry(heads.key) / "variants" / variant
        assert "AP" in json.loads((folder / "metrics.json").read_text())["metrics"]
    before = weights(store.entry(features.key))
    after = weights(store.entry(heads.key))
    moved = {n for n in before if n in after and not before[n].equal(after[n])}
    assert moved == {f"roi_head.bbox_head.fc_reg.{part}" for part in ("weight", "bias")}


def test_features_of_a_bank_start_replays_from_its_trunk_and_the_first_classifier(
    planned, store, finished
):
    late = (
        "stages.late={kind: classifier, after: stored, variants: {late: {method: bce}}, recipe: "
        "{schedule: {iterations: 4, batch: 2, warmup: 0}, features: replay}}"
    )
    after_heads = "stages.stored={kind: features, after: heads, views: 1, val: false}"
    features, heads, stored, job = planned(after_heads, late).jobs
    for one in (features, heads):
        finished(one)
    assert quietly(stored, store) is None
    first, bank, start = (weights(store.entry(one.key)) for one in (features, heads, stored))
    classifiers = {name for name in first if ".variants." in name}
    assert classifiers == {n for n in start if ".variants." in n or ".statistics." in n}
    assert_same({n: first[n] for n in classifiers}, {n: start[n] for n in classifiers})
    shared = start.keys() - classifiers
    assert shared == {n for n in bank if ".variants." not in n and ".statistics." not in n}
    assert_same({n: bank[n] for n in shared}, {n: start[n] for n in shared})
    assert any(not first[n].equal(bank[n]) for n in shared if n.startswith("rpn_head."))
    assert any(not first[n].equal(bank[n]) for n in shared if ".fc_reg." in n)
    assert quietly(job, store) is None
    end = weights(store.entry(job.key))
    still = {n for n in shared if n in end}
    assert_same({n: bank[n] for n in still}, {n: end[n] for n in still})
    shutil.rmtree(store.entry(stored.key))
    shutil.rmtree(store.entry(features.key))
    assert f"expected the entry {features.key}" in quietly(stored, store)
    assert times(store.work(stored.key) / "entry" / SHARDS) == {}  # told before anything is made


def test_features_that_a_kept_replay_needs_are_kept(planned, store, finished):
    jobs = features, stored, heads = planned(*REPLAY).jobs
    for job in jobs:
        finished(job)
    assert find(store, {heads.key}) == []
    assert [piece.name for piece in find(store, {stored.key})] == [heads.key]
    unneeded = {piece.name for piece in find(store, {features.key})}
    assert unneeded == {stored.key, heads.key}


@pytest.mark.slow
def test_features_in_a_bucket_are_replayed_on_another_machine(tiny, url):
    store = Store(url)
    store.datasets.parent.mkdir(parents=True, exist_ok=True)
    found = prepare(load(tiny).dataset, store.datasets)
    prepared_datasets.push(store, found.digest)
    features, stored, heads = make_plan(load(tiny, REPLAY), found, store).jobs
    for job in (features, stored):
        assert quietly(job, store) is None
    shutil.rmtree(store.root)
    elsewhere = pickle.loads(pickle.dumps(store))
    assert quietly(heads, elsewhere) is None
    assert elsewhere.complete(heads.key)
    assert (elsewhere.entry(stored.key) / SHARDS / PARTS[0]).exists()
    # a shard that is damaged in the bucket is made anew where the others are not
    (elsewhere.entry(stored.key) / SHARDS / PARTS[1]).write_bytes(b"damaged")
    elsewhere.bucket.write(f"{stored.key}/{SHARDS}/{PARTS[1]}", "damaged")
    elsewhere = pickle.loads(pickle.dumps(elsewhere))
    assert not elsewhere.complete(stored.key)
    told = []
    assert worker.train(stored, elsewhere, told.append, lambda *_: None) is None
    assert told[0] == Started(stored.key, 3)
    assert elsewhere.complete(stored.key)
