"""Plans: which jobs there are, what their keys depend on."""

import pytest

from bacl import result_versions
from bacl.method_settings.paper import Softmax
from bacl_platform.plan.planner import make_plan


def keys(plan):
    return [job.key for job in plan.jobs]


def test_classifier_job_starts_from_the_representation_job_of_its_seed(planned):
    jobs = planned("seeds=[0, 1]").jobs
    assert [job.name for job in jobs] == [
        "features seed 0",
        "heads seed 0",
        "features seed 1",
        "heads seed 1",
    ]
    assert [job.parent for job in jobs] == [None, jobs[0].key, None, jobs[2].key]
    assert len(set(keys(planned("seeds=[0, 1]")))) == 4


def test_same_experiment_has_the_same_keys(planned):
    assert keys(planned()) == keys(planned())


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("stages.heads.variants.bacl.alpha=0.5", [False, True]),
        ("stages.heads.recipe.schedule.lr=0.01", [False, True]),
        ("stages.features.recipe.schedule.lr=0.01", [True, True]),
        ("detector.fc_channels=64", [True, True]),
        ("seeds=[7]", [True, True]),
        ("stages.heads.recipe.proposals_before_nms=40", [False, True]),
        ("stages.heads.recipe.smallest_box=0", [False, True]),
        ("stages.features.recipe.group_aspect_ratio=false", [True, True]),
        ("detector.match_low_quality=false", [True, True]),
        ("stages.heads.recipe.trunk={precision: bfloat16}", [False, True]),
        ("stages.heads.recipe.trunk={compile: true}", [False, True]),
        ("stages.heads.recipe.trunk={precision: float32}", [False, False]),
        ("stages.heads.recipe.trunk={compile: false}", [False, False]),
        ("stages.heads.recipe.checkpoint_every=7", [False, False]),
        ("stages.heads.recipe.loader_workers=1", [False, False]),
        ("stages.features.resources.cpus=2", [False, False]),
        ("stages.features.resources={workers: [1, 1], grow_after: 60}", [False, False]),
        ("baseline=bacl", [False, False]),
        ("name=other", [False, False]),
    ],
)
def test_key_changes_with_what_results_depend_on(planned, override, changed):
    before, after = keys(planned()), keys(planned(override))
    assert [one != other for one, other in zip(before, after, strict=True)] == changed


def test_key_depends_on_the_dataset_and_not_on_where_it_is(planned, prepared, store):
    plan = planned()
    moved = prepared.model_copy(
        update={"train": prepared.train.model_copy(update={"images": "/elsewhere"})}
    )
    other = prepared.model_copy(update={"digest": "0" * 64})
    assert keys(make_plan(plan.experiment, moved, store)) == keys(plan)
    assert not set(keys(make_plan(plan.experiment, other, store))) & set(keys(plan))


def test_key_depends_on_what_weights_are_and_not_on_where_they_lie(planned, tmp_path):
    def keys(name):
        return [job.key for job in planned(f"detector.weights={tmp_path / name}").jobs]

    for name, content in (("a.pth", b"one"), ("b.pth", b"one"), ("c.pth", b"two")):
        (tmp_path / name).write_bytes(content)
    assert keys("a.pth") == keys("b.pth")
    first = keys("a.pth")
    assert not set(first) & set(keys("c.pth"))
    (tmp_path / "a.pth").write_bytes(b"two")
    assert keys("a.pth") == keys("c.pth")


def test_keys_hold_the_result_versions_of_the_parts_that_a_job_uses(planned, monkeypatch):
    def keys(versions):
        monkeypatch.setattr(result_versions, "VERSIONS", versions)
        features, heads = planned().jobs
        return features.key, heads.variant_keys["bacl"], heads.variant_keys["softmax"]

    before = keys({})
    changed = {
        "method.bacl": {1},
        "method.fcbl": {1},
        "hallucination": {1},
        "indicator.confusion_matrix": {1},
        "method.softmax": {2},
        "method.seesaw": set(),
        "detector.mask_rcnn": set(),
        "training": {0, 1, 2},
        "evaluation": {0, 1, 2},
    }
    for part, expected in changed.items():
        after = keys({part: 2})
        assert {n for n, (old, new) in enumerate(zip(before, after)) if old != new} == expected


def test_option_that_a_method_gains_leaves_keys_as_they_are(planned, prepared, store):
    class Gained(Softmax):
        strength: float = 1

    def key(softmax):
        experiment = planned().experiment.model_copy(deep=True)
        experiment.stages["heads"].variants["softmax"] = softmax
        return make_plan(experiment, prepared, store).jobs[1].variant_keys["softmax"]

    before = planned().jobs[1].variant_keys["softmax"]
    assert key(Gained(method="softmax")) == before
    assert key(Gained(method="softmax", strength=2)) != before


def test_variants_are_grouped_by_variants_per_job(planned):
    jobs = planned("stages.heads.variants_per_job=1").jobs
    assert [(job.name, list(job.variants)) for job in jobs] == [
        ("features", ["features"]),
        ("heads 1/2", ["bacl"]),
        ("heads 2/2", ["softmax"]),
    ]
    assert jobs[1].parent == jobs[2].parent == jobs[0].key


def test_variant_in_the_store_is_not_trained_again_with_a_new_one(planned, store, fill):
    features, heads = planned().jobs
    fill([features, heads], {("features", 0): 0.1, ("bacl", 0): 0.3, ("softmax", 0): 0.2})
    more = planned("stages.heads.variants.fcbl={method: fcbl}")
    assert [(job.key in (features.key, heads.key), list(job.variants)) for job in more.jobs] == [
        (True, ["features"]),
        (True, ["bacl", "softmax"]),
        (False, ["fcbl"]),
    ]
    assert [job.name for job in more.missing(store)] == ["heads 2/2"]


def test_variant_is_found_however_it_was_grouped(planned, store, fill):
    plan = planned("stages.heads.variants_per_job=1")
    fill(plan.jobs, {("features", 0): 0.1, ("bacl", 0): 0.3, ("softmax", 0): 0.2})
    together = planned()
    assert together.missing(store) == []
    assert together.digest == plan.digest


def test_damaged_entry_is_not_relied_on(planned, store, fill):
    plan = planned()
    fill(plan.jobs, {("features", 0): 0.1, ("bacl", 0): 0.3, ("softmax", 0): 0.2})
    weights = store.entry(plan.jobs[1].key) / "variants" / "bacl" / "checkpoint.pth"
    weights.write_bytes(weights.read_bytes()[:-1])
    again = planned()
    assert [job.key for job in again.missing(store)] == [plan.jobs[1].key]
