"""Corrections of finished jobs: entries like any other variant's, without training."""

import json

import pyarrow.parquet as pq
import pytest
import torch

from bacl_platform.analysis.results import collect
from bacl_platform.store.names import LOG
from bacl_platform.train import worker

pytestmark = pytest.mark.slow

CORRECTED = (
    "stages.corrected={kind: corrections, after: %s, variants: {nothing: {of: %s, method: norcal, "
    "gamma: 0}, norcal: {of: %s, method: norcal, gamma: 0.5}%s}}"
)
LOGN = ", logn: {of: %s, method: logn, images: 10}"


def corrected(after, of, more=""):
    return CORRECTED % (after, of, of, more)


def run(jobs, store):
    for job in jobs:
        assert worker.train(job, store, lambda *_: None, lambda *_: None) is None


def detections(job, store, name):
    """In an order that ranks have no part in."""
    found = pq.read_table(store.entry(job.key) / "variants" / name / "detections.parquet")
    return found.sort_by([(name, "ascending") for name in ("image", "label", "score", "x", "y")])


@pytest.fixture
def one_rank(planned, finished, store):
    """The stage before, finished, and the job of its corrections, run on one rank."""
    of_bacl = ", of_bacl: {of: bacl, method: temperature, temperatures: [0.5, 1, 1]}"
    stage = corrected("heads", "softmax", LOGN % "softmax" + of_bacl)
    *before, job = planned(stage).jobs
    for one in before:
        finished(one)
    run([job], store)
    return before, job, stage


def test_entry_has_results_of_every_correction(planned, store, one_rank):
    before, job, stage = one_rank
    assert (job.kind, job.iterations, job.parent) == ("corrections", 0, before[-1].key)
    plain = detections(before[-1], store, "softmax")
    assert detections(job, store, "nothing") == plain and len(plain) > 100
    for name in ("norcal", "logn"):
        assert detections(job, store, name) != plain
    report = collect(planned(stage), store, "")
    assert report.variants[-4:] == ["nothing", "norcal", "logn", "of_bacl"]
    by_name = {result.variant: result.metrics for result in report.results}
    assert by_name["nothing"] == by_name["softmax"]
    assert "statistics of 10 training images" in (store.entry(job.key) / LOG).read_text()
    again = planned(stage).jobs[-1]
    assert again.key == job.key and store.complete(job.key)


def test_correction_added_later_leaves_finished_ones_as_they_are(planned, store, one_rank):
    *_, stage = one_rank
    more = stage.replace(
        "norcal: {of", "other: {of: softmax, method: norcal, gamma: 0.9}, norcal: {of"
    )
    missing = planned(more).missing(store)
    assert [list(job.variants) for job in missing] == [["other"]]
    run(missing, store)
    assert planned(more).missing(store) == []


def test_two_ranks_find_what_one_does(planned, store, one_rank, on_two_ranks):
    _, job, stage = one_rank
    expected = {name: detections(job, store, name) for name in job.variants}
    store.remove(job.key)
    again = planned(stage, "stages.corrected.resources.workers=2").jobs[-1]
    assert again.key == job.key
    assert on_two_ranks(again, store) == [None, None]
    for name in ("nothing", "norcal", "of_bacl"):
        assert detections(again, store, name) == expected[name]
    found, one = detections(again, store, "logn"), expected["logn"]
    for field in ("image", "label"):  # its statistics are summed in another order
        assert found[field] == one[field]


def test_corrections_of_replayed_variants_need_no_images(planned, store):
    stored = "stages.stored={kind: features, after: features, views: 1}"
    replay = ["stages.heads.after=stored", "stages.heads.recipe.features=replay"]
    stage = corrected("heads", "softmax", LOGN % "softmax")
    jobs = planned(stored, *replay, stage).jobs
    features, heads, job = jobs[1:]
    assert job.features_from == features.key and job.features == "replay"
    for path in store.datasets.glob("*/images/*"):  # only the first two stages need them
        assert path.exists()
    run(jobs, store)
    assert detections(job, store, "nothing") == detections(heads, store, "softmax")
    assert detections(job, store, "logn") != detections(job, store, "nothing")
    config = json.loads(job.model_dump_json())["config"]
    assert config["val_dataloader"]["dataset"]["type"] == "StoredProposals"
    assert config["statistics_dataloader"]["dataset"]["type"] == "StoredFeatures"


def test_imported_and_representation_stages_are_corrected(planned, store, finished, tmp_path):
    softmax = "stages.features.classifier={method: softmax}"
    plan = planned(softmax, corrected("features", "features", LOGN % "features"))
    first = plan.jobs[0]
    finished(first)
    job = next(job for job in plan.jobs if job.stage == "corrected")
    run([job], store)
    assert detections(job, store, "nothing") == detections(first, store, "features")
    path = store.entry(first.key) / "variants" / "features" / "checkpoint.pth"
    imported = (
        f"stages.features={{kind: imported, checkpoint: {path}, recipe: {{scales: [[96, 96]], "
        "test_scale: [96, 96], proposals: 50, loader_workers: 0}}"
    )
    stage = corrected("features", "features", LOGN % "features")
    plan = planned(imported, stage, "seeds=[0, 1]")
    taken, *_, job = (one for one in plan.jobs if one.kind != "classifier")
    run([taken, job], store)
    assert detections(job, store, "nothing") == detections(taken, store, "features")
    report = collect(planned(imported, stage, "seeds=[0, 1]"), store, "")
    assert [result.seed for result in report.of("norcal")] == [0, 1]


def test_checkpoint_that_lacks_the_variant_is_told(planned, store, one_rank):
    before, job, _ = one_rank
    store.remove(job.key)
    path = store.entry(before[-1].key) / "checkpoint.pth"
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {k: v for k, v in content["state_dict"].items() if "softmax" not in k}
    torch.save(content, path)
    store.complete = lambda key: key != job.key
    failure = worker.train(job, store, lambda *_: None, lambda *_: None)
    assert "expected the weights of the detector whose scores are corrected" in failure
