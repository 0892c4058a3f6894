"""Stages that correct scores: what they may say, and one sentence for what they may not."""

import re
from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import ValidationError

from bacl.errors import UsageError
from bacl.method_settings.base import Method
from bacl.method_settings.corrections import CORRECTIONS, SCORES
from bacl.method_settings.registry import METHODS, register
from bacl_platform.spec.load import load

STAGE = (
    "stages.corrected={kind: corrections, after: heads, variants: {one: {of: softmax, "
    "method: norcal}}}"
)


def refusal(path, *overrides):
    with pytest.raises(UsageError) as told:
        load(path, [STAGE, *overrides])
    return str(told.value).removeprefix(f"{path}: ")


def one(**settings):
    return f"stages.corrected.variants.one={yaml.safe_dump(settings, default_flow_style=True)}"


def test_stage_is_read_with_its_defaults(tiny):
    stage = load(tiny, [STAGE]).stages["corrected"]
    assert (stage.after, stage.variants["one"].gamma, stage.variants["one"].by) == (
        "heads",
        0.6,
        "images",
    )


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            one(of="bacl", method="logit_adjustment"),
            "stages.corrected.variants.one.of: correction logit_adjustment: expected a variant "
            "whose scores are a softmax over categories and background, got method bacl",
        ),
        (
            one(of="softmax", method="tde_alpha", alpha=1),
            "stages.corrected.variants.one.of: correction tde_alpha: expected a variant whose "
            "scores are method tde's, got method softmax",
        ),
        (
            one(of="absent", method="norcal"),
            "stages.corrected.variants.one.of: expected one of bacl, softmax, got 'absent'",
        ),
        (
            one(of="softmax", method="norcal", gamma=-1),
            "stages.corrected.variants.one.gamma: expected a number >= 0, got -1",
        ),
        (
            one(method="norcal"),
            "stages.corrected.variants.one.of: is missing, expected the name of a variant of the "
            "stage before",
        ),
        (
            one(of="softmax", method="softmax"),
            "stages.corrected.variants.one.method: expected one of "
            f"{', '.join(sorted(CORRECTIONS))}, got 'softmax'",
        ),
        (
            "stages.heads.variants.softmax={method: norcal, of: softmax}",
            f"stages.heads.variants.softmax.method: expected one of {', '.join(sorted(METHODS))}, "
            "got 'norcal'",
        ),
        (
            "stages.more={kind: classifier, after: corrected, variants: {new: {method: softmax}}, "
            "recipe: {schedule: {iterations: 1}}}",
            "stages.more.after: expected a stage of kind representation or imported, got the "
            "corrections stage 'corrected': it trains nothing that a stage could start from",
        ),
        (
            "stages.more={kind: corrections, after: corrected, variants: {new: {of: one, "
            "method: norcal}}}",
            "stages.more.after: expected a stage of kind representation or imported or "
            "classifier, got the corrections stage 'corrected': it trains nothing that a stage "
            "could start from",
        ),
        (
            "stages.more={kind: features, after: corrected}",
            "stages.more.after: expected a stage of kind representation or imported or "
            "classifier, got the corrections stage 'corrected': it trains nothing that a stage "
            "could start from",
        ),
        (
            "stages.corrected.variants.softmax={of: bacl, method: norcal}",
            "stages.corrected: expected a variant name of its own, got 'softmax', which stage "
            "'heads' has",
        ),
    ],
)
def test_problem_is_told_in_a_sentence(tiny, override, sentence):
    assert refusal(tiny, override) == sentence


def test_stage_of_features_has_no_variants_to_correct(tiny):
    stored = "stages.kept={kind: features, after: features}"
    assert refusal(tiny, stored, "stages.corrected.after=kept") == (
        "stages.corrected.after: expected a stage of kind representation or imported or "
        "classifier, got the features stage 'kept': it has no variants to correct"
    )


def test_variant_of_several_passes_is_not_corrected(tiny):
    iterative = "stages.features.classifier={method: pcb, passes: [0.2, 0.8]}"
    place = "stages.corrected.after=features", one(of="features", method="norcal")
    assert refusal(tiny, iterative, *place) == (
        "stages.corrected.variants.one.of: correction norcal: expected a variant of one pass, got "
        "method pcb with several"
    )


def test_documents_examples_are_files_that_can_be_run(tmp_path, sweep, tiny):
    text = (Path(__file__).parents[3] / "docs/guides/corrections.md").read_text(encoding="utf-8")
    experiment, gammas = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "corrected.yaml").write_text(
        experiment.replace("stages:", "base: tiny.yaml\nstages:").replace(
            "after: classifier ", "after: heads "
        )
    )
    stage = load(tmp_path / "corrected.yaml").stages["corrected"]
    assert stage.variants["softmax_adjusted"].tau == 1
    gammas = gammas.replace("experiments/embedded/corrected.yaml", "corrected.yaml")
    assert len(list(sweep(gammas).sweep.values())) == 6


def test_documents_table_names_every_correction():
    text = (Path(__file__).parents[3] / "docs/guides/corrections.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(CORRECTIONS)


def test_scores_that_corrections_know_are_methods():
    assert SCORES.keys() <= METHODS.keys()
    others = {"bags", "class_balanced", "forest", "gol", "seesaw", "simcal"}
    assert others == METHODS.keys() - SCORES.keys()


def test_method_of_ones_own_has_no_corrections_name():
    class Mine(Method):
        method: Literal["norcal"]

    with pytest.raises(UsageError, match="is registered already by bacl"):
        register(Mine)


def test_correction_of_nothing_known_is_told():
    with pytest.raises(ValidationError):
        CORRECTIONS["temperature"](method="temperature", of="it", temperatures=[0.0])
