"""Jobs of corrections: what they hang on, what they cost, and how sweeps pack them."""

import pytest

from bacl.errors import UsageError
from bacl_platform.plan.judged import notes, prepared_of
from bacl_platform.plan.show import sharing

STAGE = (
    "stages.corrected={kind: corrections, after: heads, variants: {norcal: {of: softmax, "
    "method: norcal, gamma: 0.6}, of_bacl: {of: bacl, method: temperature, temperatures: "
    "[1, 1, 2]}}}"
)
GAMMAS = """
name: gammas
base: corrected.yaml
stage: corrected
variant: norcal
space:
  variant.of: [softmax, bacl]
  variant.gamma: [0, 0.2, 0.4, 0.6, 0.8, 1]
"""


def corrected(plan):
    return [job for job in plan.jobs if job.stage == "corrected"]


def test_job_is_of_its_parents_configuration_with_corrections_in_it(planned):
    *_, heads, job = planned(STAGE).jobs
    assert (job.kind, job.parent, job.iterations) == ("corrections", heads.key, 0)
    head, before = (j.config["model"]["roi_head"]["bbox_head"] for j in (job, heads))
    assert head["variants"]["norcal"]["base"] == before["variants"]["softmax"]
    assert head["variants"]["of_bacl"]["base"] == before["variants"]["bacl"]
    assert job.config["val_dataloader"] == heads.config["val_dataloader"]
    assert job.config["val_evaluator"]["variants"] == ["norcal", "of_bacl"]
    assert "train_dataloader" not in job.config and "statistics_dataloader" not in job.config


def test_other_stages_have_the_keys_that_they_had(planned):
    keys = [job.variant_keys for job in planned().jobs]
    assert [job.variant_keys for job in planned(STAGE).jobs][:-1] == keys


def test_key_follows_what_is_corrected_and_the_correction(planned):
    def key(*overrides):
        return corrected(planned(STAGE, *overrides))[0].variant_keys["norcal"]

    same = [
        key("stages.corrected.variants.norcal.by=images"),  # the default
        key("stages.corrected.resources.workers=2"),
        key("stages.heads.variants.bacl.alpha=0.1"),
    ]
    assert set(same) == {key()}
    different = [
        key("stages.corrected.variants.norcal.gamma=0.7"),
        key("stages.corrected.variants.norcal.by=instances"),
        key("stages.corrected.variants.norcal.of=bacl"),
        key("stages.heads.recipe.schedule.lr=0.01"),
        key("stages.heads.recipe.tta={flip: true}"),
        key("seeds=[1]"),
    ]
    assert len({key(), *different}) == 1 + len(different)


def test_statistics_hang_on_how_training_shows_images(planned):
    logn = "stages.corrected.variants={logn: {of: softmax, method: logn, images: 5000}}"
    (job,) = corrected(planned(STAGE, logn))
    assert job.config["statistics_dataloader"]["dataset"]["type"] == "LVISFormatDataset"
    options = job.config["model"]["roi_head"]["bbox_head"]["variants"]["logn"]
    assert options["images"] < 5000  # an epoch's


def test_variants_of_several_jobs_are_corrected_in_as_many(planned):
    heads = [job for job in planned(STAGE, "stages.heads.variants_per_job=1").jobs][1:3]
    jobs = corrected(planned(STAGE, "stages.heads.variants_per_job=1"))
    assert [(list(j.variants), j.parent) for j in jobs] == [
        (["of_bacl"], heads[0].key),
        (["norcal"], heads[1].key),
    ]
    assert [job.name for job in jobs] == ["corrected 1/2", "corrected 2/2"]


def test_plan_says_that_nothing_trains(planned):
    lines = list(sharing(planned(STAGE).experiment))
    assert (
        "corrected: norcal + of_bacl from one pass of the trunk of heads; nothing trains" in lines
    )


def test_groups_that_are_not_the_datasets_are_refused(planned):
    place = "stages.corrected.variants.of_bacl.temperatures=[1, 2]"
    with pytest.raises(
        UsageError,
        match=r"stages\.corrected\.variants\.of_bacl\.temperatures: expected 3, one for each "
        r"frequency group \(r, c, f\), got 2",
    ):
        planned(STAGE, place)


@pytest.fixture
def gammas(tiny, sweep):
    def read(text=GAMMAS, **more):
        stage = STAGE.removeprefix("stages.corrected=")
        tiny.with_name("corrected.yaml").write_text(
            f"base: tiny.yaml\nstages:\n  corrected: {stage}\n"
        )
        return sweep(text, **more)

    return read


def test_sweep_has_all_values_in_one_job(gammas, plan_sweep_files):
    (plan,) = plan_sweep_files(gammas())
    assert len(plan.cells) == 12 and len({cell.job.key for cell in plan.cells}) == 1
    assert [job.stage for job in plan.jobs] == ["features", "heads", "corrected"]
    assert plan.cells[0].trial.label == "of=softmax, gamma=0"


def test_sweep_trains_what_it_corrects_and_nothing_else(gammas, plan_sweep_files, planned):
    (plan,) = plan_sweep_files(gammas(GAMMAS.replace("[softmax, bacl]", "[softmax]")))
    heads = plan.jobs[1]
    assert list(heads.variants) == ["softmax"]
    assert heads.variant_keys["softmax"] == planned(STAGE).jobs[1].variant_keys["softmax"]


def test_notes_begin_with_who_chose_the_best(gammas, plan_sweep_files, planned, store):
    (plan,) = plan_sweep_files(gammas())
    dataset = prepared_of(plan.jobs[0].dataset_digest, store)
    said = notes((cell.trial.experiment, dataset) for cell in plan.cells)
    assert said[0].startswith(
        "The best of several corrections (6 norcal of softmax, 6 norcal of bacl) is optimistic, "
        "for the validation split that is reported chooses it: "
    )
    assert not any("optimistic" in one for one in notes([(planned(STAGE).experiment, dataset)]))


def test_scheduler_has_nothing_to_stop(gammas, plan_sweep_files):
    judged = GAMMAS + "scheduler: {type: asha}\nfixed: {stages.heads.recipe.evaluate_every: 5}\n"
    with pytest.raises(UsageError, match="scheduler: expected none for stage corrected, whose"):
        plan_sweep_files(gammas(judged))


def test_screen_is_for_what_trains(gammas):
    file = gammas(GAMMAS + "screen: {confirm: 1}\n")
    with pytest.raises(UsageError, match="trains exactly, corrected trains nothing"):
        file.trial({"variant.of": "softmax", "variant.gamma": 0.2})
