"""Experiments of the Python API: what they plan, find and write is what the commands do."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import bacl_platform as bp
from bacl.errors import RunError, UsageError
from bacl_platform.cli import main as cli

RIVALS = {"seeds": [0, 1]}


def command(*words):
    done = CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def study(tiny, store, two_seeds, fill, rival_aps):
    """The tiny experiment, finished with two seeds."""
    fill(two_seeds.jobs, rival_aps)
    return bp.Experiment.load(tiny, {"seeds": [0, 1]}, store)


def test_overrides_are_a_mapping_or_words_and_seeds_are_of_their_own(tiny, store):
    ways = [
        {"overrides": {"detector.fc_channels": 40, "seeds": [3, 4]}},
        {"overrides": ["detector.fc_channels=40", "seeds=[3, 4]"]},
        {"overrides": {"detector.fc_channels": 40}, "seeds": (3, 4)},
    ]
    for options in ways:
        settings = bp.Experiment.load(tiny, store=store, **options).settings
        assert settings.detector.fc_channels == 40 and list(settings.seeds) == [3, 4]
    with pytest.raises(UsageError, match=r"tiny.yaml: detector.backbone: "):
        bp.Experiment.load(tiny, {"detector.backbone": "tiniest"})


def test_store_is_a_folder_the_environments_or_one_here(tiny, tmp_path, monkeypatch):
    assert bp.Experiment.load(tiny, store=tmp_path / "a").store.root == tmp_path / "a"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BACL_STORE", raising=False)
    assert bp.Experiment.load(tiny).store.root == tmp_path / "bacl_store"
    assert bp.Experiment.load(tiny).command == f"bacl run {tiny}"
    monkeypatch.setenv("BACL_STORE", str(tmp_path / "b"))
    assert bp.Experiment.load(tiny).store.root == tmp_path / "b"


def test_plan_is_what_the_command_prints_and_a_frame(tiny, store, planned, fill):
    experiment = bp.Experiment.load(tiny, store=store)
    assert experiment.variants == ["features", "bacl", "softmax"]
    jobs = experiment.plan().jobs
    assert list(jobs.state) == ["to run", "to run"] and list(jobs.steps) == [12, 12]
    assert jobs.variants[1] == ["bacl", "softmax"]
    fill(planned().jobs, {("features", 0): 0.5, ("bacl", 0): 0.5, ("softmax", 0): 0.5})
    plan = experiment.plan()
    assert list(plan.jobs.state) == ["in store", "in store"]
    assert list(plan.jobs.key) == [job.key for job in planned().jobs]
    said = command("plan", tiny, "--store", store.root).split()
    assert [word for word in repr(plan).split() if word.isalnum()] == [
        word for word in said if word.isalnum()
    ]
    assert "<pre" in plan._repr_html_() and "in store" in plan._repr_html_()


def test_results_are_fractions_by_variant_and_seed(study, rival_aps):
    results = study.results()
    assert isinstance(results, pd.DataFrame) and list(results.columns[:4]) == [
        "variant",
        "seed",
        "features",
        "AP",
    ]
    found = {(row.variant, row.seed): row.AP for row in results.itertuples()}
    assert found == rival_aps
    np.testing.assert_allclose(results.AP_r, results.AP / 4)
    means = results.groupby("variant").AP.mean()
    assert math.isclose(means["bacl"], 0.82) and type(results[["AP"]]) is pd.DataFrame


def test_results_by_category_are_the_stores(study, rivals):
    frame = study.results().per_category()
    assert len(frame) == 6 * len(rivals.prepared.categories)
    one = frame[(frame.variant == "bacl") & (frame.seed == 1)]
    (stored,) = [r for r in rivals.results if (r.variant, r.seed) == ("bacl", 1)]
    assert list(one.name) == [row["name"] for row in stored.categories]
    expected = [math.nan if row["AP"] is None else row["AP"] for row in stored.categories]
    np.testing.assert_array_equal(one.AP, expected)
    assert one.image_count.dtype == int


def test_report_is_the_commands(study, tiny, store, tmp_path):
    report = study.report(tmp_path / "out", quick=True)
    assert report.page == tmp_path / "out/report.html" and report.page.is_file()
    words = ["report", tiny, "--store", store.root, "--seeds", "0,1", "--quick"]
    assert json.loads(command(*words, "--json")) == report.as_json()
    said = command(*words, "--out", tmp_path / "out")
    assert " ".join(repr(report).split()) == " ".join(said.split())
    assert "<pre" in report._repr_html_()


def test_comparison_is_the_commands_and_a_frame(study, tiny, store):
    made = study.compare("softmax", "bacl", resamples=50)
    words = ["compare", tiny, "softmax", "bacl", "--store", store.root, "--seeds", "0,1"]
    assert json.loads(command(*words, "--resamples", "50", "--json")) == made.as_json()
    row = made.metrics.set_index("metric").loc["AP"]
    assert math.isclose(row.second - row["first"], row.difference)
    assert row.low <= row.difference <= row.high and row.clear == (row.low > 0 or row.high < 0)
    (same,) = bp.compare(f"{tiny}:softmax", f"{tiny}:bacl", resamples=50, store=store, seeds=[0, 1])
    assert same.as_json()["metrics"] == made.as_json()["metrics"]
    with pytest.raises(UsageError, match="expected one of features, bacl, softmax"):
        study.compare("softmax", "nobody")


def test_what_has_not_run_is_told_with_what_to_run(tiny, store):
    experiment = bp.Experiment.load(tiny, store=store)
    for ask in (experiment.results, experiment.report, lambda: experiment.checkpoint("bacl")):
        with pytest.raises(RunError, match=rf"run `bacl run {tiny} --store {store.url}` first"):
            ask()


def test_detector_of_an_experiment_is_that_of_its_folder(tiny, store, exported_variant):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    experiment = bp.Experiment.load(tiny, store=store)
    ways = [
        bp.load_detector(experiment, "softmax", device="cpu"),
        bp.load_detector(exported_variant, device="cpu"),
        bp.load_detector(exported_variant / "checkpoint.pth", device="cpu"),
        experiment.detector("softmax", device="cpu"),
    ]
    first, *others = [detector.predict(pixels).as_json() for detector in ways]
    assert first and all(other == first for other in others)
    with pytest.raises(UsageError, match="seed: expected one of tiny's"):
        experiment.checkpoint("softmax", seed=5)


def test_module_offers_its_names_and_no_others():
    assert set(bp.__all__) <= set(dir(bp))
    assert all(getattr(bp, name) is not None for name in bp.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        bp.nothing  # noqa: B018
