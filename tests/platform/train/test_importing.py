"""A trained detector as stage 1, and the stages after it."""

import pyarrow.parquet as pq
import pytest
import torch

from bacl.errors import UsageError
from bacl_platform.analysis.results import collect
from bacl_platform.plan.imports import check_imports
from bacl_platform.plan.show import sharing
from bacl_platform.store.names import LOG
from bacl_platform.train import worker
from bacl_platform.train.messages import Started

pytestmark = pytest.mark.slow


def imported(path, more=""):
    return (
        f"stages.features={{kind: imported, checkpoint: {path}, "
        f"recipe: {{test_scale: [96, 96], loader_workers: 0}}{more}}}"
    )


@pytest.fixture
def exported(planned, finished, store):
    """The representation stage's own detections, and the plain detector that it has exported."""
    job = planned("stages.features.classifier={method: softmax}").jobs[0]
    finished(job)
    folder = store.entry(job.key) / "variants" / "features"
    return pq.read_table(folder / "detections.parquet"), folder / "checkpoint.pth"


def test_imported_detector_detects_what_it_did(planned, store, exported):
    detections, path = exported
    job, heads = planned(imported(path)).jobs
    assert (job.kind, job.iterations, heads.parent) == ("imported", 0, job.key)
    told = []
    assert worker.train(job, store, told.append, lambda *_: None) is None
    assert told[0] == Started(job.key, 0)
    entry = store.entry(job.key)
    assert len(detections) > 100
    assert pq.read_table(entry / "variants" / "features" / "detections.parquet") == detections
    log = (entry / LOG).read_text()
    assert "tensors of a checkpoint of mmdet; its 6 categories are the dataset's" in log
    told.clear()
    assert worker.train(job, store, told.append, lambda *_: None) is None
    assert told == []


def test_classifiers_train_over_it_as_over_a_stage_of_their_own(planned, store, exported, finished):
    _, path = exported
    softmax = "stages.features.classifier={method: softmax}"
    _, heads = planned(softmax, "stages.heads.recipe.schedule={iterations: 2, batch: 2}").jobs
    job, over = planned(
        imported(path), "stages.heads.recipe.schedule={iterations: 2, batch: 2}"
    ).jobs
    for one in (job, over, heads):
        assert worker.train(one, store, lambda *_: None, lambda *_: None) is None
    first, second = (
        torch.load(store.entry(one.key) / "checkpoint.pth", weights_only=True)["state_dict"]
        for one in (heads, over)
    )
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    report = collect(planned(imported(path)), store, "")
    assert report.variants == ["features"]


def test_it_is_evaluated_once_for_all_seeds(planned, tmp_path):
    path = tmp_path / "any.pth"
    torch.save({}, path)
    plan = planned(imported(path), "seeds=[0, 1]")
    assert [job.name for job in plan.jobs] == ["features", "heads seed 0", "heads seed 1"]
    assert {job.parent for job in plan.jobs[1:]} == {plan.jobs[0].key}
    said = "features: evaluated once; heads starts from it"
    assert said in list(sharing(plan.experiment))


def test_key_is_of_the_file_and_of_what_is_taken_of_it(planned, tmp_path):
    one, same, other = (tmp_path / f"{name}.pth" for name in "abc")
    torch.save({"a": 1}, one)
    same.write_bytes(one.read_bytes())
    torch.save({"a": 2}, other)

    def key(path, *overrides):
        return planned(imported(path), *overrides).jobs[0].key

    assert key(one) == key(same) == key(one, "seeds=[3]")
    different = [
        key(one),
        key(other),
        key(one, "stages.features.new_categories=true"),
        key(one, "stages.features.categories=[a, b, c, d, e, f]"),
        key(one, "detector.fc_channels=48"),
        key(one, "dataset.seed=1"),
    ]
    assert len(set(different)) >= 5
    assert planned(imported(one)).jobs[1].key != planned(imported(other)).jobs[1].key


def test_plan_tells_what_is_loaded_and_what_does_not_fit(planned, exported, tmp_path):
    _, path = exported
    lines = check_imports(planned(imported(path)).jobs)
    assert lines[0].startswith("features: ") and "in the same order" in lines[0]
    content = torch.load(path, weights_only=True)
    del content["meta"]
    state = content["state_dict"]
    for part in ("weight", "bias"):
        state[f"roi_head.bbox_head.fc_cls.{part}"] = state[f"roi_head.bbox_head.fc_cls.{part}"][:4]
        state[f"roi_head.bbox_head.fc_reg.{part}"] = state[f"roi_head.bbox_head.fc_reg.{part}"][:12]
    torch.save(content, tmp_path / "three.pth")
    with pytest.raises(
        UsageError, match=r"^stages\.features\.checkpoint: .* got 3 without names: "
    ):
        check_imports(planned(imported(tmp_path / "three.pth")).jobs)
    more = imported(tmp_path / "three.pth", ", new_categories: true")
    lines = check_imports(planned(more).jobs)
    assert lines[-1].startswith("features: begins anew: roi_head.bbox_head.")
    with pytest.raises(UsageError, match=r"stages\.features\.checkpoint: expected a file that can"):
        planned(imported(tmp_path / "absent.pth"))


def test_job_refuses_a_file_that_has_changed_since_it_was_planned(planned, store, exported):
    _, path = exported
    job = planned(imported(path)).jobs[0]
    content = torch.load(path, weights_only=True)
    torch.save({**content, "more": 1}, path)
    failure = worker.train(job, store, lambda *_: None, lambda *_: None)
    assert "got one that has changed" in failure


def test_imported_detector_is_evaluated_as_its_recipe_says(planned, store, exported):
    detections, path = exported
    recipe = "recipe: {tta: {scales: [[96, 96], [64, 64]]}, soft_nms: {}, "
    job = planned(imported(path).replace("recipe: {", recipe)).jobs[0]
    assert worker.train(job, store, lambda *_: None, lambda *_: None) is None
    found = pq.read_table(store.entry(job.key) / "variants" / "features" / "detections.parquet")
    assert found.num_rows > 100 and found != detections
    assert job.recipe.evaluated_with == ["TTA", "soft-NMS"]
