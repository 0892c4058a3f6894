"""`bacl bench` at sizes that take no time: rows, their form, and that peers do the same work."""

import json
import math
import random

import pytest
import torch
from typer.testing import CliRunner

from bacl.hallucination import FeatureStatistics, moments
from bacl.settings import Detector
from bacl_platform import bench, cli
from bacl_platform.bench import classifier, detector, measure
from bacl_platform.bench.memory import peak_memory

TINY = Detector(
    backbone="tiny",
    neck_channels=16,
    fc_channels=24,
    anchor_scale=6,
    rpn_samples=64,
    roi_samples=32,
)
SETTING = measure.Setting(repeat=1, image=(64, 96))
SIZE = classifier.Size(categories=20, width=8, proposals=16, objects=3)


def test_looped_statistics_equal_ours():
    ours, looped = FeatureStatistics(6, 4, 0.9), classifier.LoopedStatistics(6, 4, 0.9, "cpu")
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
    ours, looped = FeatureStatistics(3, 2, 0.9), classifier.LoopedStatistics(3, 2, 0.9, "cpu")
    ours.seen.fill_(True)
    looped.seen = [True] * 3
    made = [
        ours.synthesize(strength, 4000, 1, torch.Generator().manual_seed(0))[1],
        looped.synthesize(strength, 4000, 1, random.Random(0))[1],
    ]
    expected = 4000 * (1 - strength) / (1 - strength).sum()
    for labels in made:
        assert ((labels.bincount(minlength=3) - expected).square() / expected).sum() < 13.8  # 0.001


@pytest.mark.parametrize("run", [classifier.loss, classifier.hallucination])
def test_classifier_benches_measure_both_sides(run):
    (row,) = run(SETTING, SIZE)
    assert row.ours > 0 and row.theirs > 0
    assert row.as_json() == {"name": run.__name__, "ratio": row.ratio, "limit": row.limit}


def test_bank_rows_have_times_parts_and_memory(monkeypatch):
    monkeypatch.setattr(detector, "peak_memory", lambda count, *_: 100.0 + count)
    rows = {row.name: row for row in detector.bank(SETTING, TINY)}
    assert {name: row.limit for name, row in rows.items()} == {
        "bank_8": 1.5,
        "bank_32": None,
        "bank_8_memory": 1.2,
    }
    assert rows["bank_8_memory"].ratio == 108 / 101
    for taken in rows["bank_8"].parts.values():
        assert list(taken) == list(detector.PARTS)
        assert min(taken.values()) > 0


def test_stock_step_has_our_weights_and_trains_what_ours_trains():
    ours = detector.Training(1, SETTING, TINY)
    theirs = ours.stock()
    trained = {
        name.replace("variants.bacl0.", "")
        for name, parameter in ours.model.named_parameters()
        if parameter.requires_grad
    }
    assert trained == {n for n, p in theirs.model.named_parameters() if p.requires_grad}
    (row,) = detector.step(SETTING, TINY)
    assert math.isfinite(row.ratio)


def test_clock_gives_each_part_its_own_time_only():
    clock = measure.Clock("cpu")
    with clock.part("outer"), clock.part("inner"):
        torch.rand(400, 400) @ torch.rand(400, 400)
    assert clock.taken["outer"] < clock.taken["inner"]


def test_command_prints_a_list_and_nothing_else(monkeypatch):
    row = measure.Row("loss", "FCBL", 13.0, "cross-entropy", 10.0, 1.25)
    monkeypatch.setattr(bench, "run", lambda what, setting: [row])
    result = CliRunner().invoke(cli.app, ["bench", "loss", "--json"])
    assert json.loads(result.stdout) == [{"name": "loss", "ratio": 1.3, "limit": 1.25}]
    result = CliRunner().invoke(cli.app, ["bench", "loss"])
    assert result.exit_code == 0
    assert "OVER" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["losses"], "expected some of loss, hallucination, bank, step, got 'losses'"),
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
