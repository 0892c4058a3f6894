"""Plans of stages that store features, and of those that train on them."""

import io
import json

import pytest
from rich.console import Console

from bacl_platform.plan.cost import cost_lines, step_seconds
from bacl_platform.plan.show import print_plan
from bacl_platform.store.names import JOB, SCALARS

STORED = "stages.stored={kind: features, after: features}"
REPLAY = [STORED, "stages.heads.after=stored", "stages.heads.recipe.features=replay"]
LATE = [
    "stages.stored={kind: features, after: heads, val: false}",
    "stages.late={kind: classifier, after: stored, variants: {late: {method: bce}}, recipe: "
    "{schedule: {iterations: 12, batch: 2}, features: replay}}",
]
"""Features of a bank, and a replay of them."""


@pytest.fixture
def jobs(planned):
    """Jobs by stage, of the tiny experiment with some overrides."""
    return lambda *overrides: {job.stage: job for job in planned(*overrides).jobs}


def test_jobs_come_in_the_order_of_the_data(planned):
    features, stored, heads = planned(*REPLAY).jobs
    assert [job.kind for job in (features, stored, heads)] == [
        "representation",
        "features",
        "classifier",
    ]
    assert [job.parent for job in (features, stored, heads)] == [None, features.key, stored.key]
    assert [job.replayed for job in (features, stored, heads)] == [False, False, True]
    assert stored.variants == {} and stored.iterations == 5 + 1  # of 260 views and 20 images


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("stages.features.recipe.schedule.lr=0.01", {"features", "stored", "heads"}),
        ("seeds=[7]", {"features", "stored", "heads"}),
        ("stages.stored.views=3", {"stored", "heads"}),
        ("stages.stored.negatives=3", {"stored", "heads"}),
        ("stages.stored.dtype=float32", {"stored", "heads"}),
        ("stages.stored.layers=[fc1]", {"stored", "heads"}),
        ("stages.stored.val=false", {"stored", "heads"}),
        ("stages.stored.recipe={scales: [[64, 64]]}", {"stored", "heads"}),
        ("stages.stored.recipe={precision: bfloat16}", {"stored", "heads"}),
        ("stages.stored.recipe={trunk: {precision: bfloat16}}", {"stored", "heads"}),
        ("stages.heads.recipe.schedule.lr=0.01", {"heads"}),
        ("stages.heads.recipe.sampler=repeat_factor", {"heads"}),
        ("stages.heads.variants.bacl.alpha=0.5", {"heads"}),
        ("stages.stored.resources={cpus: 2, workers: 2}", set()),
        ("stages.stored.recipe={loader_workers: 2}", set()),
        ("stages.heads.recipe.loader_workers=2", set()),
        ("stages.heads.variants_per_job=2", set()),
    ],
)
def test_key_changes_with_what_features_depend_on(jobs, override, changed):
    recipe = ["stages.heads.recipe={schedule: {iterations: 4, batch: 2}, features: replay}"]
    before, after = jobs(*REPLAY, *recipe), jobs(*REPLAY, *recipe, override)
    assert {name for name in before if before[name].key != after[name].key} == changed


def test_version_of_features_is_in_the_keys_of_those_that_use_them(jobs, monkeypatch):
    def keys(versions, *overrides):
        monkeypatch.setattr("bacl.result_versions.VERSIONS", versions)
        return {name: job.key for name, job in jobs(*overrides).items()}

    before, after = keys({}, *REPLAY), keys({"features": 2}, *REPLAY)
    assert {name for name in before if before[name] != after[name]} == {"stored", "heads"}
    assert keys({}) == keys({"features": 2})


@pytest.mark.parametrize(
    "override",
    [
        "stages.heads.variants.more={method: fcbl}",
        "stages.heads.variants.bacl.alpha=0.5",
        "stages.heads.variants_per_job=1",
    ],
)
def test_features_of_a_bank_do_not_depend_on_its_variants(jobs, override):
    before, after = jobs(*LATE), jobs(*LATE, override)
    assert before["heads"].key != after["heads"].key
    for stage in ("stored", "late"):
        assert before[stage].key == after[stage].key


def test_features_of_a_bank_depend_on_how_it_trains(jobs):
    before = jobs(*LATE)
    for override in ("stages.heads.recipe.schedule.lr=0.01", "stages.features.recipe.flip=0"):
        after = jobs(*LATE, override)
        assert before["stored"].key != after["stored"].key
        assert before["late"].key != after["late"].key
    direct = jobs(*REPLAY, "stages.stored.val=false")
    assert direct["stored"].key != before["stored"].key


def test_features_come_from_the_job_of_a_stage_that_is_there(planned, fill):
    plan = planned(*LATE, "stages.heads.variants_per_job=1")
    features, first, second, *_ = plan.jobs
    fill([features, second], {("features", 0): 0.1, ("softmax", 0): 0.2})
    again = {job.stage: job for job in planned(*LATE, "stages.heads.variants_per_job=1").jobs}
    assert again["stored"].parent == second.key != first.key
    assert again["stored"].key == plan.jobs[3].key


def test_features_are_stored_again_after_a_replay(jobs):
    again = (
        "stages.again={kind: features, after: heads, views: 1}",
        "stages.late={kind: classifier, after: again, variants: {late: {method: bce}}, recipe: "
        "{schedule: {iterations: 12, batch: 2}, features: replay}}",
    )
    found = jobs(*REPLAY, *again)
    assert list(found) == ["features", "stored", "heads", "again", "late"]
    assert found["late"].config["model"]["freeze"][-2:] == ["rpn_head", REGRESSOR]
    other = jobs(*REPLAY, *again, "stages.heads.variants.bacl.alpha=0.5")
    assert {n for n in found if found[n].key != other[n].key} == {"heads"}
    other = jobs(*REPLAY, *again, "stages.stored.views=3")
    assert {n for n in found if found[n].key == other[n].key} == {"features"}


REGRESSOR = "roi_head.bbox_head.fc_reg"


@pytest.mark.parametrize(
    ("overrides", "stage", "more"),
    [
        ([], "heads", []),
        (REPLAY, "heads", ["rpn_head"]),
        ([*REPLAY, "detector.type=mask_rcnn"], "heads", ["rpn_head", "roi_head.mask_head"]),
        (LATE, "heads", []),
        (LATE, "late", ["rpn_head", REGRESSOR]),
    ],
)
def test_replay_freezes_what_is_stored_as_it_is(jobs, overrides, stage, more):
    trunk = ["backbone", "neck", "roi_head.bbox_head*.shared_fcs"]
    assert jobs(*overrides)[stage].config["model"]["freeze"] == [*trunk, *more]


def test_costs_count_the_images_that_pass_a_trunk(planned, store):
    # stage 1: 24 training images and 20 of validation; 2 views of 130 images and 20 of validation
    lines = list(cost_lines(planned(*REPLAY), store))
    assert lines[0] == ("in all: 3 jobs, which process 284 training and 40 validation images")
    assert lines[1].startswith("stored: about ")
    assert "for each of 260 views of training images" in lines[1]
    assert "for each of 20 validation images" in lines[1]
    assert lines[2:] == [
        "heads: trained on stored features; no image passes the trunk",
        "0 of 3 jobs are in the store, 3 to run",
    ]


def test_costs_count_validation_images_whose_features_are_not_stored(planned, store):
    lines = list(cost_lines(planned(*REPLAY, "stages.stored.val=false"), store))
    # 20 for stage 1; 20 for the bank, or for each of its two variants
    assert lines[:2] == [
        "in all: 3 jobs, which process 284 training and 40 validation images",
        "with a job for every variant: 4 jobs, which process 284 training and 60 validation images",
    ]
    assert lines[-2] == "heads: trained on stored features; validation images pass the trunk"


def test_pace_of_an_exact_stage_tells_nothing_of_a_replay(planned, store):
    exact, replay = planned().jobs[1], planned(*REPLAY).jobs[2]
    folder = store.work(exact.key) / "entry"
    folder.mkdir(parents=True)
    (folder / JOB).write_text(exact.model_dump_json(exclude={"config"}))
    (folder / SCALARS).write_text(json.dumps({"step": 1, "time": 100.0}))
    store.publish(exact.key, folder)
    assert step_seconds(exact, store, store.descriptions()) == 100
    assert step_seconds(replay, store, store.descriptions()) is None


def test_sweep_over_a_replay_plans_all_that_it_starts_from(sweep, plan_sweep_files, tiny):
    text = tiny.read_text()
    stored = "stages:\n  stored: {kind: features, after: features, views: 1}"
    text = text.replace("stages:", stored).replace("after: features\n", "after: stored\n")
    recipe = "recipe: {schedule: {iterations: 12, batch: 2}, features: replay}"
    tiny.write_text(text.replace("    recipe: *recipe\nbase", f"    {recipe}\nbase"))
    (found,) = plan_sweep_files(sweep())
    assert [job.stage for job in found.jobs] == ["features", "stored", "heads"]
    assert len(found.cells) == 6 and {cell.job.key for cell in found.cells} == {found.jobs[2].key}


def test_shown_plan_has_the_shards_and_what_is_stored(planned, store):
    console = Console(width=200, record=True, file=io.StringIO())
    print_plan(planned("seeds=[0, 1]", *REPLAY), store, console)
    text = console.export_text()
    rows = {line.split("  ")[0]: line for line in text.splitlines() if "CPU" in line}
    assert "to run" in rows["stored seed 0"] and " 6 " in rows["stored seed 0"]
    assert "stored: about" in text and "for each of 2 seeds" in text
    assert "heads: bacl + softmax over one trunk" in text
    assert "features: trained once for each seed; stored starts from it" in text
    assert "stored: made once for each seed; heads starts from it" in text
    assert "job of its own" not in text
    assert "heads: trained on stored features; no image passes the trunk" in text
