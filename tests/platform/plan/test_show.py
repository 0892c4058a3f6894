"""What is shown of a plan."""

import io
import shutil

from rich.console import Console

import bacl
from bacl.datasets.index import Index, write
from bacl_platform.plan.planner import make_plan
from bacl_platform.plan.show import print_plan, sharing
from bacl_platform.store.checkpoints import write_checkpoint


def shown(plan, store) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    print_plan(plan, store, console)
    return console.export_text()


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


def test_sharing_says_what_is_fused_and_why_not(planned):
    apart = (
        "stages.late={kind: classifier, after: features, variants: {fcbl: {method: fcbl}}, "
        "recipe: {schedule: {iterations: 12, batch: 2, lr: 0.5}, proposal_nms: [0.9, 0.8, 0.7]}}"
    )
    lines = list(sharing(planned("stages.heads.variants_per_job=1", apart).experiment))
    assert lines[0] == "heads: 2 trunks because variants_per_job is 1: bacl; softmax"
    assert lines[1] == "late: fcbl alone"
    assert lines[2].startswith("heads and late do not share a trunk: recipe.")
    assert "recipe.schedule.milestones is [9] in heads and [] in late" in lines[2]
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
    rows = {line.split()[0]: line for line in text.splitlines() if "CPU" in line}
    assert "in store" in rows["features"]
    assert "unfinished at step 10" in rows["heads"]
    assert features.key in rows["features"]
    assert "0.0025 = 0.02 x 2/16" in text
    assert "sampler random" in text
    assert "1 of 2 jobs are in the store, 1 to run" in text


def test_forty_variants_with_long_names_stay_whole_at_80_columns(planned, store):
    names = [f"alpha-0_{i:02}-weight-both-hallucination-categories-8" for i in range(40)]
    of_stage = ", ".join(f"{name}: {{method: fcbl}}" for name in names)
    change = (f"stages.heads.variants={{{of_stage}}}", "baseline=null", "seeds=[0, 1]")
    console = Console(width=80, file=io.StringIO())
    print_plan(planned(*change), store, console)
    lines = [line.strip() for line in console.file.getvalue().splitlines()]
    assert "heads seed 0, heads seed 1: 40 variants" in lines
    assert [line for line in lines if line in names] == names  # once, in their order
    assert max(len(line) for line in lines if "CPU" in line) <= 80
    assert f"heads: 40 variants ({names[0]} to {names[-1]}) over one trunk" in lines


def test_short_variants_share_lines(planned, store):
    console = Console(width=80, file=io.StringIO())
    print_plan(planned(), store, console)
    assert ["bacl", "softmax"] in [line.split() for line in console.file.getvalue().splitlines()]


def test_range_of_workers_is_shown(planned, store):
    batch = "stages.features.recipe.schedule.batch=16"
    plan = planned(batch, "stages.features.resources={workers: [2, 8], cpus: 4}")
    assert "2-8 x (4 CPU)" in shown(plan, store)
