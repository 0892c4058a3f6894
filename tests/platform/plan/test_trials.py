"""Trials of sweeps: their values, and what is said of mistakes."""

from pathlib import Path

import pytest

from bacl.errors import UsageError
from bacl_platform.plan.trials import SweepFile
from bacl_platform.report import sweep_report


def test_null_and_mapping_are_values(alphas, sweep, store):
    text = alphas.replace(
        "variant.threshold: [0.6, 0.7]", "variant.hallucination: [null, {categories: 4}]"
    )
    trials = sweep(text).trials(store)
    made = [t.experiment.stages["heads"].variants[t.variant].hallucination for t in trials]
    assert [m and m.categories for m in made] == [None, 4] * 3


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("variant.alpha: [0, 0.5, 0.85]", "variant.alpah: [0]"), "alpah: unknown field, did you"),
        (("[0.6, 0.7]", "[high]"), r"variant\.threshold: expected a number .* got 'high'"),
        (("[0.6, 0.7]", "[]"), "space"),
        (("[0.6, 0.7]", "{uniform: [0.5, 0.9]}"), "a grid expects a list of values"),
        (("[0.6, 0.7]", "{uniform: [0.9, 0.5]}"), "expected low < high, got 0.9 and 0.5"),
        (
            ("stage: heads", "stage: head"),
            r"stage: expected one of tiny.yaml's \(features, heads\)",
        ),
        (("variant: bacl", "variant: bacI"), "expected settings, or one of the stage's variants"),
        (("variant: bacl\n", ""), "got nothing"),
        (("variant.alpha", "stages.heads.kind.x"), "there is no `x`"),
        (("variant: bacl", "search: tpe\nvariant: bacl"), "samples: expected how many trials"),
        (
            ("variant: bacl", "scheduler: {type: hyper}\nvariant: bacl"),
            "expected one of asha, median, pbt",
        ),
    ],
)
def test_mistakes_are_told_in_a_sentence(alphas, sweep, store, change, problem):
    with pytest.raises(UsageError, match=problem) as told:
        sweep(alphas.replace(*change)).trials(store)
    assert str(told.value).startswith(str(told.value).split(": ")[0])
    assert "sweep.yaml" in str(told.value)


FOLDER = Path(__file__).parents[3] / "experiments"

SWEEPS = sorted((FOLDER / "sweeps").rglob("*.yaml"))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_sweep_of_the_project_makes_trials_and_finds_its_rows_in_the_paper(
    path, store, monkeypatch
):
    monkeypatch.setenv("BACL_DATA", "/data")
    file = SweepFile(path)
    if file.sweep.search == "tpe":  # there are none until they are proposed
        assert file.trials(store) == [] and file.example().stage == "classifier"
        return
    trials = file.trials(store)
    assert len(trials) > 1
    if file.sweep.paper is not None:
        printed = sweep_report.printed(file).rows
        for match, points in printed:
            found = [trial for trial in trials if match.items() <= trial.varied.items()]
            assert len(found) == 1 and points, match
        assert path.stem != "table3" or len(printed) == len(trials) == 8
