"""Screen and confirm: what is planned, which trials are chosen, and how results agree."""

import pytest
from scipy.stats import spearmanr
from typer.testing import CliRunner

from bacl.errors import UsageError
from bacl_platform.cli.main import app
from bacl_platform.plan.screening import agreement, confirmations, expected, rank_correlation
from bacl_platform.plan.sweep_memory import Notes
from bacl_platform.plan.sweep_plan import Preparation, plan_sweeps

SCREEN = """
name: screened
base: tiny.yaml
stage: heads
variant: bacl
space: {variant.alpha: [0, 0.25, 0.5, 1]}
screen: {views: 1, negatives: 8, confirm: 2}
"""


@pytest.fixture
def confirm(store):
    """The plan of what a sweep confirms; None while that is not known."""
    return lambda plan: next(iter(confirmations([plan], Preparation(store), store)), None)


def alphas(plan):
    return [cell.trial.values["variant.alpha"] for cell in plan.cells]


def test_all_trials_replay_a_stage_that_is_inserted(sweep, plan_sweep_files):
    (plan,) = plan_sweep_files(sweep(SCREEN))
    assert [(job.stage, job.kind) for job in plan.jobs] == [
        ("features", "representation"),
        ("screen", "features"),
        ("heads", "classifier"),
    ]
    stage_1, stored, heads = plan.jobs
    assert (stored.parent, heads.parent) == (stage_1.key, stored.key)
    assert heads.replayed and len(heads.variants) == 4
    assert stored.config["features"]["views"] == 1 and stored.config["features"]["negatives"] == 8
    assert stored.resources == heads.resources
    assert plan.cells[0].trial.label == "alpha=0 (replayed)"


def test_inserted_stage_has_a_name_that_no_other_has(tiny, sweep, plan_sweep_files):
    tiny.write_text(tiny.read_text().replace("features:\n    kind", "screen:\n    kind"))
    tiny.write_text(tiny.read_text().replace("after: features", "after: screen"))
    (plan,) = plan_sweep_files(sweep(SCREEN))
    assert [job.stage for job in plan.jobs] == ["screen", "screen-2", "heads"]


def test_screened_keys_are_those_of_the_same_stages_in_an_experiment(
    planned, sweep, plan_sweep_files
):
    (plan,) = plan_sweep_files(sweep(SCREEN))
    cell = plan.cells[1]
    settings = "{method: bacl, alpha: 0.25, hallucination: {categories: 4}}"
    by_hand = planned(
        "stages.kept={kind: features, after: features, views: 1, negatives: 8}",
        "baseline=null",
        "stages.heads.after=kept",
        "stages.heads.recipe.features=replay",
        f"stages.heads.variants={{{cell.trial.variant}: {settings}}}",
    )
    assert by_hand.jobs[1].key == plan.jobs[1].key
    assert by_hand.jobs[2].variant_keys[cell.trial.variant] == cell.key


def test_best_are_confirmed_with_the_keys_of_a_sweep_without_screen(
    sweep, filled, plan_sweep_files, confirm
):
    plan = filled(SCREEN, (0.1, 0.4, 0.2, 0.3))
    confirmed = confirm(plan)
    assert alphas(confirmed) == [0.25, 1]
    (bank,) = [job for job in confirmed.jobs if job.stage == "heads"]
    assert len(bank.variants) == 2 and not bank.replayed
    (plain,) = plan_sweep_files(sweep(SCREEN.split("screen:")[0], "plain.yaml"))
    keys = {cell.trial.values["variant.alpha"]: cell.key for cell in plain.cells}
    assert [cell.key for cell in confirmed.cells] == [keys[0.25], keys[1]]


def test_gc_keeps_what_a_sweep_has_confirmed(filled, fill, confirm, store):
    plan = filled(SCREEN, (0.1, 0.4, 0.2, 0.3))
    confirmed = confirm(plan)
    fill(confirmed.missing(store), {(cell.trial.variant, 0): 0.5 for cell in confirmed.cells})
    words = ["store", "gc", "--store", str(store.root), "--keep", str(plan.file.path)]
    run = CliRunner().invoke(app, words, catch_exceptions=False)
    assert run.exit_code == 0, run.output
    keys = {job.key for job in (*plan.jobs, *confirmed.jobs)}
    assert len(keys) == 4 and not [key for key in keys if key in run.output], run.output


def test_ranking_is_by_the_mean_over_seeds_and_the_mode(filled, confirm):
    text = SCREEN + "seeds: [0, 1]\nmode: min\n"
    # by alpha: (0.1, 0.9), (0.3, 0.3), (0.4, 0.4), (0.2, 0.7): means 0.5, 0.3, 0.4, 0.45
    plan = filled(text, (0.1, 0.9, 0.3, 0.3, 0.4, 0.4, 0.2, 0.7))
    confirmed = confirm(plan)
    assert alphas(confirmed) == [0.25, 0.25, 0.5, 0.5]
    banks = [job for job in confirmed.jobs if job.stage == "heads"]
    assert [(job.seed, len(job.variants)) for job in banks] == [(0, 2), (1, 2)]


def test_baseline_is_confirmed_with_the_best(tiny, filled, confirm):
    tiny.write_text(tiny.read_text().replace("baseline: softmax", "baseline: usual"))
    usual = "variants: {usual: {method: bacl, alpha: 0.5, hallucination: {categories: 4}}, "
    tiny.write_text(tiny.read_text().replace("variants: {", usual))
    assert alphas(confirm(filled(SCREEN, (0.4, 0.3, 0.1, 0.2)))) == [0, 0.25, 0.5]


def test_nothing_is_confirmed_before_all_trials_have_ended(sweep, plan_sweep_files, fill, confirm):
    text = SCREEN + "variants_per_job: 2\n"
    (plan,) = plan_sweep_files(sweep(text))
    values = {(c.trial.variant, c.seed): 0.1 * k for k, c in enumerate(plan.cells, 1)}
    fill(plan.jobs[:-1], values | {("features", 0): 0.0})
    (plan,) = plan_sweep_files(sweep(text))
    assert confirm(plan) is None


def test_trial_that_failed_does_not_hold_up_the_others(
    sweep, plan_sweep_files, fill, confirm, store
):
    text = SCREEN + "variants_per_job: 3\n"
    (plan,) = plan_sweep_files(sweep(text))
    values = {(c.trial.variant, c.seed): 0.1 * k for k, c in enumerate(plan.cells, 1)}
    fill(plan.jobs[:-1], values | {("features", 0): 0.0})
    (plan,) = plan_sweep_files(sweep(text))
    Notes(plan, store, "failed").write({plan.cells[3].key: "loss is not finite"})
    assert alphas(confirm(plan)) == [0.5, 0.25]


def test_search_that_proposes_is_over_once_it_has_proposed_all(sweep, fill, store, confirm):
    file = sweep(
        SCREEN.replace("[0, 0.25, 0.5, 1]", "{uniform: [0, 1]}") + "search: tpe\nsamples: 2\n"
    )

    def planned():
        return plan_sweeps([file], [file.trials(store)], Preparation(store), store)[0]

    for number, alpha in enumerate((0.25, 0.75)):
        file.note_proposed({"variant.alpha": alpha}, store)
        plan = planned()
        done = {(c.trial.variant, c.seed): 0.1 * (number + 1) for c in plan.cells}
        fill(plan.missing(store), done | {("features", 0): 0.0})
        assert (confirm(planned()) is not None) == (number == 1)
    assert alphas(confirm(planned())) == [0.75, 0.25]


def test_confirmed_results_stand_beside_screened_ones(filled, fill, confirm, store):
    plan = filled(SCREEN.replace("confirm: 2", "confirm: 3"), (0.1, 0.4, 0.2, 0.3))
    confirmed = confirm(plan)
    assert agreement(plan, confirmed, store) is None
    exact = dict(zip([c.trial.variant for c in confirmed.cells], (0.5, 0.6, 0.45)))
    fill(confirmed.missing(store), {(name, 0): ap for name, ap in exact.items()})
    found = agreement(plan, confirm(plan), store)
    # screened 0.4 > 0.3 > 0.2, exact 0.5, 0.6, 0.45: one swap of neighbours, 1 - 6 * 2 / 24
    assert found.trials == 3 and found.correlation == pytest.approx(0.5)
    assert found.sentence("AP") == (
        "The ranks by AP of 3 confirmed agree with Spearman's correlation +0.50; the best screened "
        "is alpha=0.25, the best exact alpha=1."
    )


@pytest.mark.parametrize(
    "values", [([1, 2, 3, 4], [2, 1, 4, 3]), ([1, 1, 2, 5, 5], [3, 2, 2, 9, 1])]
)
def test_rank_correlation_is_scipys(values):
    assert rank_correlation(*values) == pytest.approx(spearmanr(*values).statistic)


def test_rank_correlation_of_equal_values_is_none():
    assert rank_correlation([1, 1], [1, 2]) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("confirm: 2", "confirm: 5"), "screen.confirm: expected at most 4, as many as there are"),
        (("views: 1", "views: 0"), "screen.views: expected a whole number > 0"),
        (("space: {", "space: {detector.fc_channels: [16, 32], "), "fields of stage heads alone"),
        (
            ("space: {", "scheduler: {type: asha}\nspace: {"),
            "scheduler: expected nothing with screen, which ranks .*, got asha",
        ),
        (
            ("space: {", "space: {stages.features.recipe.flip: [0, 1], "),
            "space.stages.features.recipe.flip: expected fields of stage heads alone",
        ),
        (
            ("space: {", "fixed: {stages.heads.freeze: [backbone]}\nspace: {"),
            r"trial alpha=0: stages.heads.freeze: expected neck.* among what is frozen",
        ),
        (
            (
                "variant: bacl\nspace: {variant.alpha: [0, 0.25, 0.5, 1]}",
                "variant: {method: forest, trees: x.json}\nspace: {recipe.flip: [0, 1]}",
            ),
            r"trial flip=0: stages.heads.variant: method forest reads fc1 of a region, which stage "
            r"'screen' does not store: expected screen.layers: \[fc1\]",
        ),
    ],
)
def test_what_cannot_be_screened_is_refused(sweep, plan_sweep_files, change, told):
    with pytest.raises(UsageError, match=told):
        plan_sweep_files(sweep(SCREEN.replace(*change)))


def test_stage_1_cannot_be_screened(sweep, plan_sweep_files):
    text = SCREEN.replace("stage: heads", "stage: features").replace("variant: bacl\n", "")
    text = text.replace("variant.alpha: [0, 0.25, 0.5, 1]", "recipe.flip: [0, 1]")
    with pytest.raises(UsageError, match="screen: expected a classifier stage that trains exactly"):
        plan_sweep_files(sweep(text))


def test_plan_shows_both_phases_and_their_cost(sweep, filled, store, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    words = ["plan", str(sweep(SCREEN).path), "--store", str(store.root)]
    run = CliRunner().invoke(app, words, catch_exceptions=False)
    assert run.exit_code == 0, run.output
    assert "screening, on stored features:" in run.output
    assert "then exactly: the best 2 by AP, about so much:" in run.output
    filled(SCREEN, (0.1, 0.4, 0.2, 0.3))
    run = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "then exactly: alpha=0.25; alpha=1:" in run.output
    assert "0 of 1 jobs are in the store, 1 to run: 12 steps" in run.output


def test_expected_confirmation_has_as_many_trials(sweep, plan_sweep_files, store):
    (plan,) = plan_sweep_files(sweep(SCREEN))
    assert len(expected(plan, Preparation(store), store).cells) == 2
