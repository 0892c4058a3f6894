"""A trained detector as stage 1, and the stages after it."""

import re

import pyarrow.parquet as pq
import pytest
import torch
from foreign_detectors import banked, of_detectron2
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from typer.testing import CliRunner

from bacl.errors import UsageError
from bacl_platform.analysis.results import collect
from bacl_platform.cli.main import app
from bacl_platform.plan.imports import check_imports
from bacl_platform.plan.show import sharing
from bacl_platform.report.plots.registry import Page, shown
from bacl_platform.store.names import LOG
from bacl_platform.train import worker
from bacl_platform.train.messages import Started

pytestmark = pytest.mark.slow


def imported(path, more=""):
    return (
        f"stages.features={{kind: imported, checkpoint: {path}, "
        f"recipe: {{scales: [[96, 96]], test_scale: [96, 96], proposals: 50, loader_workers: 0}}"
        f"{more}}}"
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


def test_plan_command_shows_the_account_beside_the_jobs(tiny, store, exported):
    command = ["plan", str(tiny), "--store", str(store.root), "--set", imported(exported[1])]
    shown = " ".join(CliRunner().invoke(app, command).output.split())
    assert "features: evaluated once; heads starts from it" in shown
    assert re.search(r"features: \d+ tensors of a checkpoint of mmdet; its 6 categories are", shown)


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


@pytest.fixture
def released(planned, finished, store, tmp_path):
    """A file of BACL's release of a classifier stage, with confusions and statistics of its own."""
    job = planned().jobs[0]
    finished(job)
    path = store.entry(job.key) / "variants" / "features" / "checkpoint.pth"
    state = torch.load(path, weights_only=True)["state_dict"]
    head = "roi_head.bbox_head"
    state[f"{head}.loss_cls.cm_numerator"] = torch.rand(6, 6)
    state[f"{head}.loss_cls.num_gt"] = torch.arange(6.0)
    state[f"{head}.feature_prototype"] = torch.rand(6, 32)
    state[f"{head}.feature_variance"] = torch.rand(6, 32)
    state[f"{head}.feature_used"] = torch.ones(6)
    torch.save({"state_dict": state, "meta": {}, "optimizer": {}}, tmp_path / "epoch_12.pth")
    return tmp_path / "epoch_12.pth"


def test_release_goes_on_from_its_confusions_and_trains(planned, store, released):
    path = imported(released, ", classifier: {method: bacl, hallucination: {categories: 4}}")
    short = "stages.heads.recipe.schedule={iterations: 1, batch: 2, lr: 0.000001, warmup: 0}"
    job, heads = planned(path, short).jobs
    for one in (job, heads):
        assert worker.train(one, store, lambda *_: None, lambda *_: None) is None
    first, second = (
        torch.load(store.entry(one.key) / "checkpoint.pth", weights_only=True)["state_dict"]
        for one in (job, heads)
    )
    head = "roi_head.bbox_head"
    begun = first[f"{head}.variants.features.indicator.tally"]
    assert torch.equal(begun[:, -1], torch.arange(6.0))
    gone_on = second[f"{head}.variants.bacl.indicator.tally"]
    assert (gone_on >= begun).all() and gone_on.sum() > begun.sum()
    assert second[f"{head}.statistics.beta_0_9.seen"].all()
    prototypes = [state[f"{head}.statistics.beta_0_9.prototype"] for state in (first, second)]
    assert (prototypes[0] == prototypes[1]).all(dim=1).any()  # of categories that no image showed


def test_release_is_no_softmax(planned, released):
    with pytest.raises(UsageError, match="of sigmoids with objectness, as the release's is"):
        check_imports(planned(imported(released)).jobs)


def test_features_are_stored_of_it_and_replayed(planned, store, exported):
    _, path = exported
    stored = "stages.stored={kind: features, after: features, views: 1}"
    replay = ["stages.heads.after=stored", "stages.heads.recipe.features=replay"]
    jobs = planned(imported(path), stored, *replay).jobs
    for job in jobs:
        assert worker.train(job, store, lambda *_: None, lambda *_: None) is None
    report = collect(planned(imported(path), stored, *replay, "seeds=[0, 1]"), store, "")
    assert [result.seed for result in report.of("features")] == [0, 1]
    pictures = {picture.file for picture in shown(Page.RESULTS, report)}
    assert "training_heads.png" in pictures and "training_features.png" not in pictures


def test_torchvision_is_refused_for_a_detector_with_other_anchors(planned, tmp_path):
    original = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=7)
    torch.save(original.state_dict(), tmp_path / "theirs.pth")
    stage = imported(tmp_path / "theirs.pth")
    with pytest.raises(UsageError, match="such as torchvision_faster-rcnn_r50_fpn, got another"):
        check_imports(planned(stage, "detector={config: faster-rcnn_r50_fpn_1x_coco}").jobs)
    fitting = planned(stage, "detector={config: torchvision_faster-rcnn_r50_fpn}").jobs
    assert re.search(r"\d+ tensors of a checkpoint of torchvision", check_imports(fitting)[0])


def test_what_detectron2_does_not_say_is_told(planned, tmp_path):
    config = "faster-rcnn_r50-caffe_fpn_1x_coco"
    content = of_detectron2(banked(config, 6, 50))
    del content["model"]["pixel_mean"], content["model"]["pixel_std"]
    torch.save(content, tmp_path / "theirs.pth")
    jobs = planned(imported(tmp_path / "theirs.pth"), f"detector={{config: {config}}}").jobs
    assert check_imports(jobs)[1].startswith(
        "features: images are BGR with a mean of 103.53, 116.28, 123.675 and a deviation of 1, 1, "
        "1, and the backbone's style is caffe, as `detector.config` has it"
    )
