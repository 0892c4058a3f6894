"""Validation splits that judge nothing, little or not all: what reports, comparisons, plans and
sweeps say of them. Nothing may end in a traceback, warn, or show NaN."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from bacl.datasets.prepare import prepare
from bacl.errors import UsageError
from bacl.evaluation import Detections, Evaluator
from bacl_platform.cli import main as cli
from bacl_platform.plan import judged
from bacl_platform.plan.metric_names import measurable
from bacl_platform.plan.planner import make_plan
from bacl_platform.spec.load import load
from bacl_platform.store.names import JOB
from bacl_platform.store.store import Store

pytestmark = pytest.mark.filterwarnings("error")

EXPERIMENT = """
name: own
dataset: {format: FORMAT, train: train.json, val: val.json, images: images}
detector: {backbone: tiny, neck_channels: 16, fc_channels: 32}
stages:
  features:
    kind: representation
    recipe: &recipe
      schedule: {iterations: 4, batch: 2, lr: 0.02, warmup: 2, milestones: []}
      scales: [[96, 96]]
      test_scale: [96, 96]
      loader_workers: 0
  heads:
    kind: classifier
    after: features
    variants: {bacl: {method: bacl, hallucination: null}, softmax: {method: softmax}}
    recipe: *recipe
baseline: softmax
paper: {file: paper.yaml, table: X}
"""
PAPER = """
tables:
  X:
    title: a table
    rows:
      - {variant: softmax, points: {AP: 30.0, AP_r: 10.0}}
"""
SWEEP = """
name: swept
base: own.yaml
stage: heads
variant: bacl
metric: METRIC
space: {variant.alpha: [0.2, 0.5]}
"""
SHOWN = {1: 2, 2: 12}
"""Training images of each category: a rare and a common one."""


class Study:
    """An experiment on a data set of one's own, whose jobs can be published with any detections."""

    def __init__(self, folder, boxes, images=4, categories=2, format_="coco"):
        """boxes: of the validation split, (image, category, x, crowd)."""
        self.folder, self.store = folder, Store(folder / "store")
        (folder / "images").mkdir()
        train = [(1 + k, c, 5, 0) for c in range(1, categories + 1) for k in range(SHOWN[c])]
        self._write("train", 12, train, categories, format_)
        self._write("val", images, boxes, categories, format_)
        self.file = folder / "own.yaml"
        self.file.write_text(EXPERIMENT.replace("FORMAT", format_))
        (folder / "paper.yaml").write_text(PAPER)

    def _write(self, name, images, boxes, categories, format_):
        content = {
            "images": [
                {"id": k, "file_name": f"{name}{k}.png", "width": 96, "height": 72}
                | ({"neg_category_ids": [], "not_exhaustive_category_ids": []})
                for k in range(1, images + 1)
            ],
            "annotations": [
                {"id": k, "image_id": image, "category_id": c, "bbox": [x, 9, 20, 20], "area": 400}
                | {"segmentation": [[x, 9, x + 20, 9, x + 20, 29, x, 29]]}
                | ({"iscrowd": crowd} if format_ == "coco" else {})
                for k, (image, c, x, crowd) in enumerate(boxes, start=1)
            ],
            "categories": [{"id": c, "name": f"c{c}"} for c in range(1, categories + 1)],
        }
        (self.folder / f"{name}.json").write_text(json.dumps(content))
        for image in content["images"]:
            Image.new("RGB", (96, 72), "grey").save(self.folder / "images" / image["file_name"])

    def plan(self, *overrides):
        experiment = load(self.file, list(overrides))
        self.prepared = prepare(experiment.dataset, self.store.datasets)
        return make_plan(experiment, self.prepared, self.store)

    def publish(self, found):
        """Make entries of all jobs; found: rows (image, category, score, x) of each variant."""
        plan = self.plan()
        evaluator = Evaluator(
            Path(self.prepared.val.annotations), self.prepared.categories, self.prepared.evaluation
        )
        for job in plan.jobs:
            folder = self.store.work(job.key) / "entry"
            for variant in job.variants:
                place = folder / "variants" / variant
                place.mkdir(parents=True)
                rows = [
                    (i - 1, c - 1, s, x, 9.0, 20.0, 20.0) for i, c, s, x in found.get(variant, [])
                ]
                table = columns(rows)
                pq.write_table(table, place / "detections.parquet")
                evaluator.evaluate(Detections.read(place / "detections.parquet")).save(place)
                weights = torch.ones(len(self.prepared.categories) + 1, 4)
                state = {"roi_head.bbox_head.fc_cls.weight": weights}
                torch.save({"state_dict": state}, place / "checkpoint.pth")
            losses = {f"{name}.loss_cls": 1.0 for name in job.variants}
            rows = [
                {"step": s, "lr": 0.1, "loss": 2.0, "loss_rpn_cls": 1.0, **losses} for s in (1, 4)
            ]
            (folder / "scalars.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
            (folder / JOB).write_text(job.model_dump_json(exclude={"config"}))
            self.store.publish(job.key, folder)
        return self

    def bacl(self, command, *words):
        named = [command, self.file, *words, "--store", self.store.root]
        done = CliRunner().invoke(cli.app, list(map(str, named)), catch_exceptions=False)
        said = done.output
        assert not re.search(r"\bnan\b", said, re.IGNORECASE), said
        return done


def columns(rows):
    names = ["image", "label", "score", "x", "y", "width", "height"]
    kinds = [pa.int64(), pa.int32(), *[pa.float32()] * 5]
    values = list(zip(*rows)) or [()] * len(names)
    return pa.table([pa.array(v, k) for v, k in zip(values, kinds)], names=names)


@pytest.fixture
def study(tmp_path):
    return lambda *args, **options: Study(tmp_path, *args, **options)


EVERYWHERE = [(image, 1 + image % 2, 10, 0) for image in range(1, 9)]
FOUND = {
    "features": [],
    "bacl": [(i, c, 0.9, x) for i, c, x, _ in EVERYWHERE],
    "softmax": [(i, c, 0.9, x) for i, c, x, _ in EVERYWHERE[:4]],
}
ABSENT = "AP is absent, for the validation split has no boxes to evaluate."


@pytest.mark.parametrize("boxes", [[], [(1, 1, 5, 1), (2, 2, 5, 1)]], ids=["none", "only crowds"])
def test_nothing_to_evaluate_is_told_everywhere(study, boxes, tmp_path):
    one = study(boxes)
    assert ABSENT in one.bacl("plan").output
    one.publish({"bacl": [(1, 1, 0.9, 5.0)]})
    reported = one.bacl("report", "--paper")
    assert reported.exit_code == 0
    assert ABSENT in reported.output
    assert re.search(r"bacl +– +– +– +– +– +–", reported.output)
    out = one.store.root / "reports/own"
    assert "| softmax | 1 | 30.0 | 10.0 | done |" in (out / "table.md").read_text()
    for page in ("report.md", "report.html", "table.md", "table.html"):
        text = re.sub(r"base64,[^\"]*", "", (out / page).read_text())
        assert ABSENT in text and "nan" not in text.lower(), page
    assert "nan" not in (out / "per_category.csv").read_text()
    assert not (out / "ap_by_group.png").exists()
    assert (out / "weight_norms.png").is_file()
    said = json.loads(one.bacl("report", "--quick", "--json").stdout, parse_constant=pytest.fail)
    assert said["variants"]["bacl"]["AP"] is None
    assert said["notes"] == [ABSENT]
    compared = one.bacl("compare", "softmax", "bacl", "--resamples", 20)
    assert compared.exit_code == 0
    assert ABSENT in compared.output
    said = one.bacl("compare", "softmax", "bacl", "--resamples", 20, "--json").stdout
    assert json.loads(said, parse_constant=pytest.fail)["metrics"] == {}
    assert CliRunner().invoke(cli.app, ["status", "--store", str(one.store.root)]).exit_code == 0


def test_group_without_boxes_is_told_and_the_others_are_shown(study):
    one = study([box for box in EVERYWHERE if box[1] == 2], images=8).publish(FOUND)
    reported = one.bacl("report")
    assert "AP_r is absent, for the validation split has no box of a rare category." in (
        reported.output
    )
    assert re.search(r"softmax +50\.5 .* – +50\.5 +–", reported.output)
    compared = one.bacl("compare", "softmax", "bacl", "--resamples", 20)
    assert "AP_c +49.5" in compared.output.replace("  ", " ")
    assert "AP_r +" not in compared.output


def test_groups_of_ones_own_are_told_by_name(study):
    one = study([])
    one.file.write_text(
        one.file.read_text().replace(
            "images: images}", "images: images, groups: {bounds: [5], names: [few, many]}}"
        )
    )
    boxes = [(1, 1, 5, 0)]
    one._write("val", 4, boxes, 2, "coco")
    one.plan()
    assert list(judged.absence(one.prepared)) == [
        "AP_many is absent, for the validation split has no box of group many"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "boxes", "categories", "found"),
    [
        pytest.param(8, EVERYWHERE, 2, {}, id="no detections at all"),
        pytest.param(8, EVERYWHERE, 2, {**FOUND, "bacl": []}, id="none of one variant"),
        pytest.param(8, EVERYWHERE, 2, dict.fromkeys(FOUND, FOUND["bacl"]), id="identical"),
        pytest.param(1, [(1, 1, 5, 0), (1, 2, 50, 0)], 2, {"bacl": [(1, 1, 0.9, 5.0)]}, id="image"),
        pytest.param(8, [(i, 1, 5, 0) for i in range(1, 9)], 1, {}, id="one category"),
    ],
)
def test_degenerate_results_are_reported_and_compared(study, images, boxes, categories, found):
    one = study(boxes, images=images, categories=categories).publish(found)
    assert one.bacl("report", "--score-threshold", 0.1).exit_code == 0
    done = one.bacl("compare", "softmax", "bacl", "--resamples", 20)
    assert done.exit_code == 0
    if images == 1:  # whatever is drawn is the same image: no interval can tell anything
        assert "too few images for an interval" in done.output
        assert "better" not in done.output
    elif not found:
        assert "AP +0.0 [0.0, 0.0]: no clear difference" in done.output


@pytest.mark.slow
def test_long_names_of_variants_leave_room_for_what_is_drawn(study):
    one, long = study(EVERYWHERE, images=8), "v" * 100
    one.file.write_text(one.file.read_text().replace("{bacl: {", f"{{{long}: {{"))
    one.publish({**FOUND, long: FOUND["bacl"]})
    assert one.bacl("report").exit_code == 0  # and no warning, which pytest would raise
    assert one.bacl("compare", "softmax", long, "--resamples", 20).exit_code == 0


@pytest.mark.slow
def test_an_experiment_of_one_variant_is_reported(study):
    one = study(EVERYWHERE, images=8)
    text = one.file.read_text()
    start, end = text.index("  heads:"), text.index("paper:")
    one.file.write_text(text[:start] + text[end:])
    one.publish(FOUND)
    assert one.bacl("report").exit_code == 0
    done = one.bacl("compare", "features", "features")
    assert done.exit_code == 2
    assert "expected two different variants, got features twice" in done.stderr


def test_what_needs_a_metric_is_refused_where_there_is_none(study):
    one = study([])
    best = "stages.heads.recipe={schedule: {iterations: 4, batch: 2}, keep_best: true, "
    best += "evaluate_every: 2, checkpoint_every: 2}"
    with pytest.raises(
        UsageError, match=r"stages\.heads\.recipe\.keep_best: expected false"
    ) as told:
        one.plan(best)
    assert "got true: the validation split has no boxes to evaluate" in str(told.value)
    every = "fixed: {stages.heads.recipe.evaluate_every: 2}\n"
    for more in ("scheduler: {type: asha}\n" + every, "search: tpe\nsamples: 2\n"):
        done = swept(one, "AP", more)
        assert done.exit_code == 2
        assert "expected one that trials can be judged by, got AP: the validation" in done.stderr
    done = swept(one, "AP", "")
    assert done.exit_code == 0, done.stderr  # a grid needs none
    assert ABSENT in done.output


def test_scheduler_by_a_group_without_boxes_is_refused(study):
    one = study([(1, 2, 5, 0)])
    more = "scheduler: {type: asha}\nfixed: {stages.heads.recipe.evaluate_every: 2}\n"
    for metric in ("AP_r", "AP_f"):
        done = swept(one, metric, more)
        assert f"got {metric}: the validation split has no box of that group" in done.stderr
    assert swept(one, "AP_c", more).exit_code == 0


def swept(one, metric, more):
    path = one.folder / "sweep.yaml"
    path.write_text(SWEEP.replace("METRIC", metric) + more)
    words = ["plan", path, "--store", one.store.root]
    return CliRunner().invoke(cli.app, list(map(str, words)), catch_exceptions=False)


def test_sweep_report_of_nothing_to_evaluate_has_no_numbers(study):
    one = study([])
    assert swept(one, "AP", "").exit_code == 0
    words = ["report", one.folder / "sweep.yaml", "--store", one.store.root]
    done = CliRunner().invoke(cli.app, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0
    assert ABSENT in done.output
    assert "nan" not in done.output.lower()


def test_crowded_images_are_told_with_what_to_set(study, tmp_path):
    crowd = [(1, 1, 1 + k / 10, 0) for k in range(400)]
    one = study([*crowd, (2, 2, 5, 0)])
    sentence = (
        "1 validation image has more boxes than can be found in an image (up to 400): recall is "
        "75.1 % at most, and AP is lower for it; set detector.max_detections to 400 (now 300)"
    )
    assert f"{sentence}." in one.bacl("plan").output
    verified = CliRunner().invoke(cli.app, ["data", "verify", str(one.file)])
    assert f"remark: val.json: {sentence}" in verified.output
    wider = ["--set", "detector.max_detections=400"]
    assert "than can be found" not in one.bacl("plan", *wider).output
    more = CliRunner().invoke(cli.app, ["data", "verify", str(one.file), *wider])
    assert "than can be found" not in more.output
    one.publish({})
    assert f"{sentence}." in one.bacl("report", "--quick").output
    assert f"{sentence}." in one.bacl("compare", "softmax", "bacl", "--resamples", 20).output


def test_quiet_where_everything_can_be_found(study):
    one = study(EVERYWHERE, images=8)
    one.plan()
    assert judged.notes([(load(one.file, []), one.prepared)]) == []
    assert judged.measured(one.prepared, load(one.file, []).detector) == measurable("rc", False)
