"""Plans: which jobs there are, what their keys depend on, what is shown."""

import io
import shutil

import pytest
from rich.console import Console

import bacl
from bacl import result_versions
from bacl.datasets.index import Index, write
from bacl_platform.plan.planner import make_plan, owner, print_plan, sharing
from bacl_platform.store.store import write_checkpoint


def keys(plan):
    return [job.key for job in plan.jobs]


def shown(plan, store) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    print_plan(plan, store, console)
    return console.export_text()


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
        ("stages.heads.recipe.checkpoint_every=7", [False, False]),
        ("stages.heads.recipe.loader_workers=1", [False, False]),
        ("stages.features.resources.cpus=2", [False, False]),
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


def test_plan_tells_how_many_images_train_where_some_do_not(planned, prepared, store, tmp_path):
    read = Index(prepared.train.index)
    assert "images train" not in shown(planned(), store)
    rows = []
    for place in range(len(read)):
        entry = read.image(place)
        image = {"id": place, "width": entry.width, "height": entry.height}
        box = {"id": place, "label": 0, "bbox": [1, 1, 9, 9]}
        rows.append((image, entry.file, [box] if place % 2 else []))
    write(tmp_path / "half.arrow", rows)
    half = prepared.train.model_copy(update={"index": str(tmp_path / "half.arrow")})
    plan = make_plan(planned().experiment, prepared.model_copy(update={"train": half}), store)
    text = " ".join(shown(plan, store).split())
    expected = f"{len(read) // 2} of {len(read)} images train: the others have no annotations"
    assert text.count(expected) == 1  # of both stages


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


def test_edit_of_the_sources_keeps_keys_and_is_told(planned, store, tmp_path, monkeypatch):
    plan = planned()
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "job.json").write_text(plan.jobs[0].model_dump_json())
    store.publish(plan.jobs[0].key, folder)
    assert "other code" not in shown(plan, store)
    copy = tmp_path / "bacl"
    shutil.copytree(bacl.__path__[0], copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(bacl, "__file__", str(copy / "__init__.py"))
    assert planned().jobs[0].code == plan.jobs[0].code
    with (copy / "fcbl.py").open("a") as file:
        file.write("# a comment\n")
    edited = planned()
    assert [job.key for job in edited.jobs] == [job.key for job in plan.jobs]
    told = "features: was made by other code than this, with the same result versions"
    assert told in shown(edited, store).splitlines()


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


def test_sharing_says_what_is_fused_and_why_not(planned):
    apart = (
        "stages.late={kind: classifier, after: features, variants: {fcbl: {method: fcbl}}, "
        "recipe: {schedule: {iterations: 12, batch: 2, lr: 0.5}, proposal_nms: [0.9, 0.8, 0.7]}}"
    )
    lines = list(sharing(planned("stages.heads.variants_per_job=1", apart).experiment))
    assert lines[0] == "heads: 2 trunks because variants_per_job is 1: bacl; softmax"
    assert lines[1] == "late: fcbl alone"
    assert lines[2].startswith(
        "heads and late do not share a trunk: recipe.schedule.milestones is [9] in heads and [] "
        "in late"
    )
    assert "recipe.schedule.lr is 0.02 in heads and 0.5 in late" in lines[2]
    assert "recipe.proposal_nms is null in heads and [0.9, 0.8, 0.7] in late" in lines[2]
    assert lines[3:] == ["features: trained once for each seed; heads and late start from it"]


def test_stages_that_train_whole_detectors_share_one_sentence(planned):
    recipe = "recipe: {schedule: {iterations: 12, batch: 2}}"
    stages = [
        f"stages.{name}={{kind: representation, classifier: {{method: {name}}}, {recipe}}}"
        for name in ("eql", "balms", "seesaw")
    ]
    lines = list(sharing(planned(*stages).experiment))
    assert lines == [
        "heads: bacl + softmax over one trunk",
        "features: trained once for each seed; heads starts from it",
        "eql, balms and seesaw each train the whole detector: a job each",
    ]


def test_shown_plan_names_stages_of_one_recipe_together(planned, store):
    assert "features, heads: 2 images a step" in shown(planned(), store)


def test_shown_plan_tells_states_and_the_scaled_learning_rate(planned, store):
    plan = planned()
    features, heads = plan.jobs
    write_checkpoint(store.work(heads.key) / "checkpoints", 10, lambda p: p.write_bytes(b"w"))
    folder = store.work(features.key) / "entry"
    folder.mkdir(parents=True)
    store.publish(features.key, folder)
    text = shown(plan, store)
    rows = {line.split()[1]: line for line in text.splitlines() if line.startswith("│")}
    assert "in store" in rows["features"]
    assert "unfinished at step 10" in rows["heads"]
    assert features.key in rows["features"]
    assert "0.0025 = 0.02 x 2/16" in text
    assert "sampler random" in text
    assert "1 of 2 jobs are in the store, 1 to run" in text


def test_scalars_have_owners_and_the_machines_are_the_jobs(planned):
    job = planned().jobs[1]
    job = job.model_copy(update={"variants": {**job.variants, "system": job.variants["bacl"]}})
    assert owner("bacl/AP", job) == ("bacl", "AP")
    assert owner("s0.bacl.loss_cls", job) == ("bacl", "s0.loss_cls")
    assert owner("system/AP", job) == ("system", "AP")
    name = "system/rank0/step_seconds"
    assert owner(name, job) == (None, name)
