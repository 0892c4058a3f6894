"""`bacl bench` at sizes that take no time: rows, their form, and that peers do the same work."""

import contextlib
import json
import math
import random
import re
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bacl.errors import RunError, UsageError
from bacl.evaluation import Detections
from bacl.hallucination import FeatureStatistics, moments
from bacl.method_settings.registry import METHODS
from bacl.settings import Detector
from bacl_platform import bench
from bacl_platform.bench import measure, training
from bacl_platform.bench.drawn import Size, write_annotations
from bacl_platform.bench.memory import peak_memory
from bacl_platform.bench.rows import (
    bank,
    checkpoint,
    corrections,
    evaluate,
    hallucination,
    index,
    inference,
    loader,
    loading,
    loss,
    nodes,
    onnx,
    postprocess,
    predict,
    reduce,
    results_file,
    step,
    sweep,
    throughput,
    tracking,
    trunk,
    zoo,
)
from bacl_platform.cli import main as cli
from bacl_platform.train import worker
from bacl_platform.train.hooks import checkpoints as hook

TINY = Detector(
    backbone="tiny",
    neck_channels=16,
    fc_channels=24,
    anchor_scale=6,
    rpn_samples=64,
    roi_samples=32,
)
SETTING = measure.Setting(repeat=1, image=(64, 96))


def test_looped_statistics_equal_ours():
    ours, looped = FeatureStatistics(6, 4, 0.9), hallucination.LoopedStatistics(6, 4, 0.9, "cpu")
    draw = torch.Generator().manual_seed(0)
    for _ in range(3):
        labels = torch.randint(6, (2,), generator=draw).repeat_interleave(16)
        features = torch.randn(32, 4, generator=draw)
        ours.update(moments(features, labels, 6))
        looped.update(features, labels)
    assert ours.seen.tolist() == looped.seen
    torch.testing.assert_close(ours.prototype, looped.prototype)
    torch.testing.assert_close(ours.variance, looped.variance)


def test_looped_synthesis_draws_from_the_same_distribution_as_ours():
    strength = torch.tensor([0.9, 0.1, 0.5])
    ours, looped = FeatureStatistics(3, 2, 0.9), hallucination.LoopedStatistics(3, 2, 0.9, "cpu")
    ours.seen.fill_(True)
    looped.seen = [True] * 3
    made = [
        ours.synthesize(strength, 4000, 1, [torch.Generator().manual_seed(0)])[1],
        looped.synthesize(strength, 4000, 1, random.Random(0))[1],
    ]
    expected = 4000 * (1 - strength) / (1 - strength).sum()
    for labels in made:
        assert ((labels.bincount(minlength=3) - expected).square() / expected).sum() < 13.8  # 0.001


@pytest.mark.parametrize(
    ("bench", "size"),
    [
        (loss, loss.Size(categories=20, width=8, proposals=16)),
        (hallucination, hallucination.Size(categories=20, width=8, objects=3)),
    ],
)
def test_classifier_benches_measure_both_sides(bench, size):
    (row,) = bench.measure(SETTING, size)
    assert row.ours > 0 and row.theirs > 0
    assert row.limit is not None


def test_bank_rows_have_times_parts_and_memory(monkeypatch):
    monkeypatch.setattr(bank, "peak_memory", lambda count, *_: 100.0 + count)
    rows = {row.name: row for row in bank.measure(SETTING, TINY)}
    assert {name: row.limit for name, row in rows.items()} == {
        "bank_8": 1.5,
        "bank_32": None,
        "bank_8_memory": 1.2,
    }
    assert rows["bank_8_memory"].ratio == 108 / 101
    for taken in rows["bank_8"].parts.values():
        assert list(taken) == [part for part in training.PARTS if part != "masks"]
        assert min(taken.values()) > 0


def test_stock_step_has_our_weights_and_trains_what_ours_trains():
    ours = training.Training(1, SETTING, TINY)
    theirs = ours.stock()
    trained = {
        name.replace("variants.bacl0.", "")
        for name, parameter in ours.model.named_parameters()
        if parameter.requires_grad
    }
    assert trained == {n for n, p in theirs.model.named_parameters() if p.requires_grad}
    (row,) = step.measure(SETTING, TINY)
    assert math.isfinite(row.ratio)


def test_drawn_set_is_federated_and_has_lvis_s_number_of_detections(tmp_path):
    evaluate.draw_set(tmp_path, 5)
    truth = json.loads((tmp_path / "val.json").read_text())
    shards = [Detections.read(tmp_path / f"detections.{rank}.parquet") for rank in (0, 1)]
    assert [sorted(set(shard.image.tolist())) for shard in shards] == [[0, 2, 4], [1, 3]]
    for image in truth["images"]:
        mine = [a["category_id"] for a in truth["annotations"] if a["image_id"] == image["id"]]
        assert mine and not set(mine) & set(image["neg_category_ids"])
        assert set(image["not_exhaustive_category_ids"]) <= set(mine)
        assert (shards[image["id"] % 2].image == image["id"]).sum() == 300


def test_both_evaluations_find_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "float", float, raising=False)
    evaluate.draw_set(tmp_path, 5)
    ours, theirs = evaluate.ours(tmp_path), evaluate.theirs(tmp_path)
    assert ours.ap == pytest.approx(theirs.ap, abs=1e-6)
    assert ours.ap > 0.1


def test_results_file_reaches_what_hotcoco_finds_in_it(tmp_path):
    evaluate.draw_set(tmp_path, 5)
    results_file.write_results(tmp_path)
    ours, theirs = results_file.ours(tmp_path), results_file.theirs(tmp_path)
    assert ours.ap == pytest.approx(theirs.ap, abs=1e-12)
    assert ours.ap > 0.1


@pytest.mark.slow
def test_results_file_is_measured_in_processes_of_its_own():
    seconds, memory = results_file.measure(SETTING, images=5)
    assert seconds.name == "results_file" and seconds.limit is None
    assert memory.unit == "MiB" and memory.theirs > 0


@pytest.mark.slow
def test_evaluation_is_measured_in_processes_of_its_own():
    seconds, memory, whole, _ = evaluate.measure(SETTING, images=5)
    assert whole.name == "evaluate_all" and whole.peer == "AP alone" and whole.theirs > 0
    assert seconds.name == "evaluate" and seconds.ours > 0 and seconds.limit is None
    assert memory.unit == "MiB" and memory.ours > 0


def test_postprocessing_is_measured_with_many_candidates_and_with_few():
    size = postprocess.Size(regions=40, categories=30, few=200, most=20)
    rows = postprocess.measure(SETTING, size)
    assert {row.name: row.limit for row in rows} == {
        "postprocess_flat": 1.1,
        "postprocess": 0.1,
        "postprocess_fixed": 1.5,
        "postprocess_first": None,
    }
    assert all(row.ours > 0 and row.theirs > 0 for row in rows)


def test_eight_corrections_are_measured_beside_the_variant_alone():
    (row,) = corrections.measure(SETTING, TINY)
    assert (row.name, row.limit) == ("corrections", 1.15) and row.ours > 0 and row.theirs > 0
    one, eight = corrections.detectors(TINY, "cpu")
    variants = list(eight.roi_head.bbox_head.variants.values())
    assert len(variants) == 8 and len({id(variant.base) for variant in variants}) == 1
    weight = one.roi_head.bbox_head.variants["softmax"].fc_cls.weight
    assert variants[0].base.fc_cls.weight.equal(weight)


def test_inference_is_measured_with_one_variant_and_with_eight():
    rows = inference.measure(SETTING, TINY)
    assert {row.name: row.limit for row in rows} == {"inference": 1.1, "inference_8": None}
    assert all(row.ours > 0 and row.theirs > 0 for row in rows)


@pytest.mark.slow
def test_reduction_is_measured_with_rows_and_with_all():
    size, taken = reduce.measure(SETTING, banks=(2,), categories=300)
    assert (size.name, size.unit, size.limit) == ("reduce_2", "MB", 0.1)
    matrices = 2 * 300 * 301 + 300 * (2 * 1024 + 1) + 4
    assert size.theirs == pytest.approx(8 * matrices / 1e6)  # all in the widest type
    assert 0 < size.ours < size.theirs and taken.ours > 0 and taken.theirs > 0


@pytest.mark.slow
def test_loading_is_measured_by_workers_and_by_decoders():
    size = Size(images=6, annotations=40, categories=5)
    rows = {row.name: row for row in loading.measure(SETTING, size, seconds=0.2)}
    rates = [f"loading_{kind}_{n}" for kind in ("multi_scale", "copy_paste_1280") for n in (1, 2)]
    assert list(rows) == [*rates, "loading_decode_torchvision"]
    assert all(row.ours > 0 and row.limit is None for row in rows.values())
    assert rows["loading_multi_scale_1"].theirs == pytest.approx(9.26, abs=0.01)
    assert rows["loading_copy_paste_1280_1"].theirs == pytest.approx(6.03, abs=0.01)
    # resizing alone loads several times as many images as pasting onto larger ones
    assert rows["loading_multi_scale_2"].ours > rows["loading_copy_paste_1280_2"].ours


def test_prediction_is_measured_alone_and_by_several_images():
    rows = predict.measure(SETTING, TINY, side=96, images=2)
    assert {row.name: row.limit for row in rows} == {"predict": 1.05, "predict_2": 0.8}
    assert all(row.ours > 0 and row.theirs > 0 for row in rows)


@pytest.mark.slow
def test_throughput_has_stages_banks_and_precisions():
    rows = {row.name: row for row in throughput.measure(SETTING, TINY)}
    expected = {}
    for precision in ("float32", "bfloat16"):
        expected[f"stage1_{precision}"] = None
        expected |= {f"stage2_{n}_{precision}": limit for n, limit in throughput.BANKS.items()}
    assert {name: row.limit for name, row in rows.items()} == expected
    row = rows["stage2_8_bfloat16"]
    assert row.what == f"8 variants, frozen trunk, {2000 / row.ours:.3g} images/s"
    for whose, taken in row.parts.items():
        assert list(taken) == [part for part in training.PARTS if part != "masks"]
        idle = {"feature statistics"} if whose == "MMDetection" else set()
        assert {name for name, time_ in taken.items() if not time_} == idle


@pytest.mark.parametrize("way", ["bfloat16", "channels_last", "bfloat16_channels_last"])
def test_trunk_is_measured_as_it_is_read(way):
    step, away = trunk.ways(way, trunk.WAYS[way], SETTING, TINY)
    assert (step.name, away.name) == (f"trunk_{way}", f"trunk_{way}_away")
    assert step.ours > 0 and step.theirs > 0
    # bfloat16 has 8 bits of mantissa, float32 24
    assert (1e-4 < away.ratio < 2e-2) if "bfloat16" in way else away.ratio < 1e-4


@pytest.mark.slow
def test_compiled_trunk_is_measured_after_it_was_compiled():
    step, away = trunk.ways("compiled", trunk.WAYS["compiled"], SETTING, TINY)
    assert re.match(r"1 variant, frozen trunk, compiled in \d+ s, [\d.]+ images/s$", step.what)
    assert step.ours < 5 * step.theirs and away.ratio < 1e-4


def test_end_to_end_step_trains_all_that_mmdetection_s_own_trains():
    ours = training.Training(1, SETTING, TINY, end_to_end=True, images=2)
    theirs = ours.stock()
    names = [
        {
            name.replace("variants.softmax.", "")
            for name, parameter in training_.model.named_parameters()
            if parameter.requires_grad
        }
        for training_ in (ours, theirs)
    ]
    assert names[0] == names[1] and "backbone.layer1.0.conv1.weight" in names[0]
    before = theirs.model.state_dict()["roi_head.bbox_head.fc_cls.weight"].clone()
    theirs.step()
    assert not torch.equal(before, theirs.model.state_dict()["roi_head.bbox_head.fc_cls.weight"])


def test_scores_of_the_bench_are_mostly_candidates():
    boxes, probabilities = postprocess._scores(postprocess.Size(regions=50))
    assert boxes.shape == (50, 1203 * 4) and probabilities.shape == (50, 1204)
    assert 0.93 < (probabilities[:, :-1] > postprocess.THRESHOLD).float().mean() < 0.95


def test_drawn_annotations_are_an_lvis_file_of_the_size_asked_for(tmp_path):
    names = write_annotations(tmp_path / "train.json", Size(30, 400, 20), first=7)
    content = json.loads((tmp_path / "train.json").read_text())
    assert [image["id"] for image in content["images"]] == list(range(7, 37))
    assert all(image["coco_url"].endswith(n) for image, n in zip(content["images"], names))
    assert len(content["annotations"]) == 400
    counts = [0] * 20
    for annotation in content["annotations"]:
        counts[annotation["category_id"] - 1] += 1
        x, y, width, height = annotation["bbox"]
        (polygon,) = annotation["segmentation"]
        assert min(x, y) >= 0 and x + width <= 640 and y + height <= 480
        assert min(polygon[::2]) == pytest.approx(x) and min(polygon[1::2]) == pytest.approx(y)
    assert [category["instance_count"] for category in content["categories"]] == counts
    assert counts[0] > 4 * counts[10]


@pytest.mark.slow
def test_index_is_measured_in_processes_of_its_own():
    rows = {row.name: row for row in index.measure(SETTING, Size(60, 700, 20))}
    assert rows["index_open"].ours > 0 and rows["index_open"].theirs > 0
    assert rows["index_open_most"].theirs == 2
    assert [row.limit for row in rows.values()] == [0.1, 0.25, 1, 1, None, None]


def test_loader_says_where_the_time_goes(monkeypatch):
    monkeypatch.setattr(loader, "LOADED", Size(4, 12, 3))
    small = {"copy_paste_size": 96, "scales": [(96, 96)]}
    for name in ("RECIPE", "COPY_PASTE"):
        monkeypatch.setattr(loader, name, getattr(loader, name).model_copy(update=small))
    pasted, scaled = loader.measure(SETTING)
    assert (pasted.name, scaled.name) == ("loader", "loader_multi_scale")
    own = ({"CopyPaste", "RandomCrop"}, {"RandomChoiceResize"})
    for row, expected in zip((pasted, scaled), own):
        assert row.limit == 1 and row.ours > 0
        ours, theirs = row.parts.values()
        assert set(ours) == set(theirs) >= {"LoadImageFromFile", "PackDetInputs"} | expected
        assert min(*ours.values(), *theirs.values()) > 0


def test_clock_gives_each_part_its_own_time_only():
    clock = measure.Clock("cpu")
    with clock.part("outer"), clock.part("inner"):
        torch.rand(400, 400) @ torch.rand(400, 400)
    assert clock.taken["outer"] < clock.taken["inner"]


def test_command_prints_a_list_and_nothing_else(monkeypatch):
    row = measure.Row("loss", "FCBL", 13.0, "cross-entropy", 10.0, 1.25)
    monkeypatch.setattr(bench, "run", lambda what, setting: [row])
    result = CliRunner().invoke(cli.app, ["bench", "loss", "--json"])
    assert json.loads(result.stdout) == [
        {
            "name": "loss",
            "ratio": 1.3,
            "limit": 1.25,
            "what": "FCBL",
            "ours": 13.0,
            "peer": "cross-entropy",
            "theirs": 10.0,
            "unit": "ms",
        }
    ]
    result = CliRunner().invoke(cli.app, ["bench", "loss"])
    assert result.exit_code == 0
    assert "OVER" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["losses"], f"BENCH: expected some of {', '.join(bench.names())}, got 'losses'"),
        (["step", "--scale", "huge"], "--scale: expected small or full, got 'huge'"),
        (["loss", "--device", "tpu"], "--device: expected cpu or cuda, got 'tpu'"),
    ],
)
def test_unknown_words_are_told(arguments, problem):
    result = CliRunner().invoke(cli.app, ["bench", *arguments])
    assert result.exit_code == 2
    assert result.stderr == f"error: {problem}\n"


@pytest.mark.slow
def test_peak_memory_is_of_the_steps_alone():
    found = peak_memory(1, SETTING, TINY)
    assert 1 < found < 500


@pytest.mark.slow
def test_sweep_bench_measures_both_sides(monkeypatch):
    def run_here(plans, store, *_):
        for job in (job for plan in plans for job in plan.missing(store)):
            worker.train(job, store, lambda *_: None, lambda _: None)

    monkeypatch.setattr("bacl_platform.tune.sweeps.run_sweeps", run_here)
    monkeypatch.setattr(sweep, "TRIALS", 3)
    monkeypatch.setattr(sweep, "SINGLES", 1)
    monkeypatch.setattr(sweep, "STEPS", {SETTING.image: (10, 12, "small", 4)})
    fused, whole, of_bank = sweep.measure(SETTING)
    assert fused.ours > 0 and fused.theirs > 0 and fused.limit == 1 / 8
    assert 0 < whole.ratio < 1 and whole.limit == 0.15
    assert of_bank.theirs == fused.ours and 0 < of_bank.ratio < 1 and of_bank.limit is None


def test_nodes_are_measured_in_turns_of_which_the_first_does_not_count(monkeypatch):
    runs, seconds = [], iter([9.0, 9.0, 0.3, 0.1, 0.2, 0.4, 0.4, 0.1])
    now = 0.0

    @contextlib.contextmanager
    def acted(*given):
        yield {}

    def run(folder, name, address, store, access):
        nonlocal now
        now += next(seconds)
        runs.append((name, store))

    monkeypatch.setattr(nodes, "STEPS", {SETTING.image: (10, 12, "small", 4)})
    monkeypatch.setattr(nodes, "_bucket", acted)
    monkeypatch.setattr(nodes, "_cluster", acted)
    monkeypatch.setattr(nodes, "_run", run)
    monkeypatch.setattr(nodes, "_loop_seconds", lambda store, *_: 0.1 if "two" in store else 0.2)
    monkeypatch.setattr(nodes.time, "perf_counter", lambda: now)
    whole, loops = nodes.measure(replace(SETTING, repeat=3))
    assert [name for name, _ in runs] == ["two nodes", "one node"] * 4
    assert len({store for _, store in runs}) == 8  # each from an empty store
    assert (whole.name, whole.peer, whole.limit) == ("nodes", "one node of two", 1.1)
    assert (whole.ours, whole.theirs) == (pytest.approx(0.3), pytest.approx(0.1))
    assert (loops.ours, loops.theirs, loops.limit) == (0.1, 0.2, None)


@pytest.mark.slow
def test_exported_file_is_measured_beside_its_detector(monkeypatch):
    monkeypatch.setattr(onnx, "CATEGORIES", 30)
    (row,) = onnx.measure(SETTING, TINY, side=96)
    assert (row.name, row.peer, row.limit) == ("onnx", "PyTorch", 1.0)
    assert row.ours > 0 and row.theirs > 0
    with pytest.raises(UsageError, match="expected --device cpu"):
        onnx.measure(measure.Setting(device="cuda"), TINY)


@pytest.mark.slow
def test_zoo_trains_all_methods_in_one_bank(monkeypatch):
    monkeypatch.setattr(zoo, "STEPS", {SETTING.image: (10, 12, "small", 4)})
    row = zoo.bank(SETTING)
    assert row.what == f"{len(METHODS) - 4} methods in one bank, 12 steps"
    assert row.ours > 0 and row.theirs > 0 and row.limit == 2.5


def test_zoo_times_every_methods_loss(monkeypatch):
    for name, size in {"CATEGORIES": 1000, "WIDTH": 8, "ROWS": 16}.items():
        monkeypatch.setattr(zoo, name, size)
    rows = zoo.losses(SETTING)
    assert [row.name for row in rows] == [f"zoo_{name}" for name in METHODS]
    assert all(row.ours > 0 and row.theirs > 0 for row in rows)
    unlimited = {"zoo_simcal", "zoo_forest"}
    assert all(row.limit == (None if row.name in unlimited else 2.0) for row in rows)


@pytest.mark.slow
def test_checkpoint_is_timed_from_the_losses_of_its_step_to_its_report(planned, store, monkeypatch):
    write = hook.write_checkpoint

    def slow(*arguments):
        time.sleep(0.5)
        return write(*arguments)

    monkeypatch.setattr(hook, "write_checkpoint", slow)
    watch = checkpoint.Watch()
    recipe = "stages.features.recipe"
    job = planned(f"{recipe}.checkpoint_every=10", f"{recipe}.schedule={{iterations: 10}}").jobs[0]
    assert worker.train(job, store, watch.tell, watch.report) is None
    (seconds,) = watch.seconds
    assert seconds > 0.5


@pytest.mark.slow
def test_tracking_bench_counts_what_the_server_has_of_what_was_logged(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(tracking, "SECONDS", 0.7)
    monkeypatch.setattr(tracking, "_server", lambda folder: contextlib.nullcontext())  # SQLite
    check, logged = tracking._check, []

    def checked(plan, store, rows):
        logged.append(rows)
        check(plan, store, rows)
        with pytest.raises(RunError, match=rf"steps 0 to {rows} of loss_0 .* has {rows}"):
            check(plan, store, rows + 1)  # as if one had been lost

    monkeypatch.setattr(tracking, "_check", checked)
    (row,) = tracking.measure(SETTING)
    assert row.name == "tracking" and row.limit == 1.02
    assert logged[0] > 0 and row.what == f"1 rounds, {logged[0] * 32} metrics of 8 jobs"
    assert row.ours > 0 and row.theirs > 0
