"""`bacl try`: variants on stored features, at once and in this process."""

import json

import pytest
from foreign import METHOD, forgotten
from typer.testing import CliRunner

from bacl.errors import UsageError
from bacl_platform.cli.main import app
from bacl_platform.plan.planner import make_plan
from bacl_platform.spec.load import load
from bacl_platform.tools.attempt import read_attempt

REPLAY = """
name: replay
base: tiny.yaml
stages:
  stored: {kind: features, after: features}
  heads:
    after: stored
    recipe: {features: replay}
"""


@pytest.fixture
def replay(tiny):
    """An experiment over `tiny` whose stage `heads` replays features."""
    path = tiny.with_name("replay.yaml")
    path.write_text(REPLAY)
    return path


@pytest.fixture
def stored(replay, prepared, store, finished):
    """The experiment, with its features in the store."""
    first, second, _ = make_plan(load(replay), prepared, store).jobs
    finished(first)
    finished(second)
    return replay


def run(*words):
    return CliRunner().invoke(app, ["try", *map(str, words)], terminal_width=200)


def test_only_named_variants_are_trained(replay):
    experiment, stage = read_attempt(replay, ["softmax"], [], None, 3)
    assert stage == "heads" and experiment.seeds == [3]
    assert list(experiment.stages["heads"].variants) == ["softmax"]
    experiment, _ = read_attempt(replay, [], [], None, None)
    assert list(experiment.stages["heads"].variants) == ["bacl", "softmax"]


def test_name_that_is_no_variant_is_a_methods(replay):
    override = "stages.heads.variants.fcbl.alpha=0.5"
    experiment, _ = read_attempt(replay, ["fcbl"], [override], None, None)
    (fcbl,) = experiment.stages["heads"].variants.values()
    assert (fcbl.method, fcbl.alpha) == ("fcbl", 0.5)
    with pytest.raises(UsageError, match=r"got 'sofmax' \(did you mean `softmax`\?\)"):
        read_attempt(replay, ["sofmax"], [], None, None)


def test_file_without_replay_is_refused(tiny, replay):
    with pytest.raises(UsageError, match=r"expected a stage with `recipe: \{features: replay\}`"):
        read_attempt(tiny, ["bacl"], [], None, None)
    with pytest.raises(UsageError, match="--stage: expected heads, got 'features'"):
        read_attempt(replay, ["bacl"], [], "features", None)


def test_features_that_are_not_stored_are_asked_for(replay, store):
    result = run(replay, "--store", store.root)
    assert result.exit_code == 2
    assert (
        "features, stored: expected stored features" in result.stderr
        and f"run `bacl run {replay} --store {store.root}` first, which makes them" in result.stderr
    )


@pytest.mark.slow
def test_variants_are_trained_evaluated_and_remembered(stored, store):
    first = run(stored, "--store", store.root, "--variant", "bce", "--variant", "softmax")
    assert first.exit_code == 0, first.output
    assert "heads: started" in first.stdout and "heads: done in" in first.stdout
    assert "trained on stored features" in first.stdout
    again = run(stored, "--store", store.root, "--variant", "bce", "--json")
    assert again.exit_code == 0 and "started" not in again.output
    content = json.loads(again.stdout)
    assert set(content["variants"]) == {"features", "bce"}
    assert content["variants"]["bce"]["AP"] >= 0


@pytest.mark.slow
def test_method_of_ones_own_is_tried(stored, store):
    stored.with_name("own_loss.py").write_text(METHOD)
    stored.write_text(f"imports: [own_loss]\n{stored.read_text()}")
    with forgotten():
        result = run(stored, "--store", store.root, "--variant", "smoothed", "--json")
    assert result.exit_code == 0, result.output
    assert "smoothed" in json.loads(result.stdout)["variants"]
