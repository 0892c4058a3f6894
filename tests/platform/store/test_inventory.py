"""What a store holds and what of it can go, in a folder and in a bucket; the commands for it."""

import json
import os

import pytest
from typer.testing import CliRunner

from bacl.errors import RunError
from bacl_platform.cli import main as cli
from bacl_platform.store import drivers, garbage, unfinished
from bacl_platform.store.inventory import inventory, tag, verify
from bacl_platform.store.store import Store

STAGE_1, BACL, SOFTMAX, OTHER = ("1" * 16, "a" * 16, "b" * 16, "c" * 16)


@pytest.fixture(params=["folder", "bucket"])
def full(request, tmp_path) -> Store:
    """A store with stage 1, two jobs on it and an unrelated one."""
    bucket = request.param == "bucket"
    store = Store(request.getfixturevalue("url") if bucket else tmp_path / "store")
    for key, parent in ((STAGE_1, None), (BACL, STAGE_1), (SOFTMAX, STAGE_1), (OTHER, None)):
        publish(store, key, parent)
    return store


def described(key: str, parent: str | None) -> str:
    job = {"name": "heads", "stage": "heads", "seed": 3, "parent": parent, "iterations": 9}
    job |= {"variants": {"bacl": {}}, "variant_keys": {"bacl": f"v-{key}"}}
    return json.dumps({**job, "result_versions": {"training": 1, "method.bacl": 1}})


def publish(store: Store, key: str, parent: str | None, description: str = "") -> None:
    folder = store.work(key) / "entry"
    folder.mkdir(parents=True)
    (folder / "checkpoint.pth").write_bytes(b"weights of " + key.encode())
    (folder / "job.json").write_text(description or described(key, parent))
    store.publish(key, folder)


def begin(store: Store, key: str, parent: str | None) -> None:
    """Work of an interrupted job."""
    store.work(key).mkdir(parents=True)
    (store.work(key) / "job.json").write_text(described(key, parent))
    unfinished.push(store, key)


def damage(store: Store, key: str, content: str) -> None:
    if store.bucket is not None:
        store.bucket.write(f"{key}/checkpoint.pth", content)
    else:
        (store.entry(key) / "checkpoint.pth").write_text(content)


def bacl(store: Store, *arguments: str):
    return CliRunner().invoke(
        cli.app, ["store", *arguments, "--store", store.url], env={"COLUMNS": "200"}
    )


def test_ls_shows_entries_with_what_is_wrong_and_unfinished_jobs(full):
    damage(full, BACL, "weights")
    begin(full, "d" * 16, STAGE_1)
    tag(full, SOFTMAX, "paper")
    shown = bacl(full, "ls")
    assert shown.exit_code == 0, shown.output
    (broken,) = [line for line in shown.output.splitlines() if BACL in line]
    assert "broken" in broken
    (softmax,) = [line for line in shown.output.splitlines() if SOFTMAX in line]
    assert "paper" in softmax and "whole" in softmax and "heads" in softmax and "bacl" in softmax
    assert f"unfinished: heads {'d' * 16}, interrupted, no checkpoint yet of 9" in shown.output
    assert "4 entries" in shown.output


@pytest.mark.parametrize(
    ("versions", "why"),
    [
        ({"training": 0}, "its results are older: training 0, by now 1"),
        (None, "its key is of an older kind"),
    ],
)
def test_entries_that_no_plan_asks_for_are_shown_and_offered(full, versions, why):
    description = {**json.loads(described("d" * 16, None)), "result_versions": versions}
    if versions is None:
        del description["result_versions"]
    publish(full, "d" * 16, None, json.dumps(description))
    (piece,) = garbage.find(full)
    assert (piece.kind, piece.name, piece.why) == ("entry", "d" * 16, why)
    (line,) = [line for line in bacl(full, "ls").output.splitlines() if "d" * 16 in line]
    assert "whole, not used any more" in line
    tag(full, "d" * 16, "paper")
    assert not garbage.find(full)


def test_verify_finds_a_byte_that_changed(full):
    assert bacl(full, "verify").exit_code == 0
    damage(full, BACL, "Weights of " + BACL)
    assert all(entry.problem is None for entry in inventory(full))
    assert dict(verify(full, [BACL, OTHER])) == {
        BACL: "checkpoint.pth is not what was written: its SHA-256 differs",
        OTHER: None,
    }
    found = bacl(full, "verify")
    assert found.exit_code == 1 and "3 of 4 entries" in found.output
    assert bacl(full, "verify", "nothing").exit_code == 2


def test_tag_and_untag_say_what_they_expect(full):
    assert bacl(full, "tag", BACL, "shipped").exit_code == 0
    assert bacl(full, "tag", BACL, "a/b").exit_code == 2
    assert bacl(full, "tag", "nothing", "shipped").exit_code == 2
    wrong = bacl(full, "untag", BACL, "paper")
    assert wrong.exit_code == 2 and "expected one of its tags (shipped)" in wrong.stderr
    assert bacl(full, "untag", BACL, "shipped").exit_code == 0
    assert not any(entry.tags for entry in inventory(full))


def names(pieces: list[garbage.Piece]) -> set[tuple[str, str]]:
    return {(piece.kind, piece.name) for piece in pieces}


def test_gc_takes_what_nothing_kept_needs(full):
    assert garbage.find(full) == []
    assert names(garbage.find(full, {BACL})) == {("entry", SOFTMAX), ("entry", OTHER)}
    tag(full, OTHER, "paper")
    assert names(garbage.find(full, {BACL})) == {("entry", SOFTMAX)}
    assert names(garbage.find(full, {OTHER})) == {
        ("entry", key) for key in (STAGE_1, BACL, SOFTMAX)
    }


def test_gc_leaves_the_ancestors_of_tagged_entries_and_of_unfinished_jobs(full):
    tag(full, BACL, "paper")
    assert names(garbage.find(full, set())) == {("entry", SOFTMAX), ("entry", OTHER)}
    begin(full, "d" * 16, SOFTMAX)
    assert names(garbage.find(full, set())) == {("entry", OTHER)}


def test_gc_takes_broken_entries_partial_checkpoints_leftovers_and_work_of_finished_jobs(full):
    damage(full, BACL, "weights")
    begin(full, SOFTMAX, STAGE_1)
    begin(full, "d" * 16, STAGE_1)
    partial = full.work("d" * 16) / "checkpoints" / ".step_5.partial"
    for folder in (partial, full.root / ".work/.ray/left", full.root / ".work/.tune/left"):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"12345")
    found = garbage.find(full)
    assert names(found) == {
        ("entry", BACL),
        ("work", SOFTMAX),
        ("files", f".work/{'d' * 16}/checkpoints/.step_5.partial"),
        ("files", ".work/.ray/left"),
        ("files", ".work/.tune/left"),
    }
    assert all(piece.bytes > 0 for piece in found)
    assert "would remove" in bacl(full, "gc").output
    assert names(garbage.find(full)) == names(found)
    done = bacl(full, "gc", "--yes")
    assert done.exit_code == 0 and "removed" in done.output
    assert garbage.find(full) == [] and BACL not in full.entries()
    assert unfinished.keys(full) == ["d" * 16] and not partial.exists()


def test_gc_leaves_alone_what_is_being_built_or_belongs_to_a_live_driver(full):
    damage(full, BACL, "weights")
    begin(full, SOFTMAX, STAGE_1)
    (full.root / ".work/.ray/live").mkdir(parents=True)
    with full.lock(BACL), full.lock(SOFTMAX), drivers.driving(full):
        assert garbage.find(full) == []
        found = garbage.find(full, {BACL})
        assert names(found) == {("entry", OTHER)}
        with pytest.raises(RunError, match=f"no run or sweep .* process {os.getpid()} on "):
            garbage.remove(full, found)
    assert OTHER in full.entries()


def test_gc_keeps_what_files_need(tiny, planned, store, fill):
    jobs, others = planned().jobs, planned("stages.features.recipe.schedule.lr=0.01").jobs
    aps = {(name, 0): 0.2 for name in ("features", "bacl", "softmax")}
    fill(jobs, aps)
    fill(others, aps)
    shown = bacl(store, "gc", "--keep", str(tiny))
    assert shown.exit_code == 0, shown.output
    assert all(job.key in shown.output for job in others)
    assert not any(job.key in shown.output for job in jobs)
