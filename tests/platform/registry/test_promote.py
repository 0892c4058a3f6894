"""Promoting: an alias moves where the bootstrap shows an improvement, and only there."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from rich.console import Console

from bacl.errors import RunError, UsageError
from bacl_platform.analysis.compare import compare
from bacl_platform.analysis.contenders import contender
from bacl_platform.registry.promote import promote
from bacl_platform.registry.trained import Trained
from bacl_platform.store.store import Store


@pytest.fixture
def study(rivals, empty_database, tmp_path, monkeypatch):
    """The store of a study in which bacl is better than softmax, and MLflow apart from it."""
    shutil.copy(empty_database, tmp_path / "registry.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/registry.db")
    return Store(rivals.results[0].folder.parents[2])


@pytest.fixture
def client(study, tmp_path):
    return MlflowClient(f"sqlite:///{tmp_path}/registry.db")


@pytest.fixture
def birds(rivals, client):
    """Versions 1 and 2, softmax and bacl of the first seed, the former champion; 3, bacl of the
    second seed; 4, bacl of the first once more."""
    client.create_registered_model("birds")
    keys = {(result.variant, result.seed): result.key for result in rivals.results}
    for variant, seed in (("softmax", 0), ("bacl", 0), ("bacl", 1), ("bacl", 0)):
        tags = {"bacl.key": keys[variant, seed], "bacl.variant": variant}
        client.create_model_version("birds", "file:///nowhere", tags=tags)
    client.set_registered_model_alias("birds", "champion", "1")
    return client


def moved(study, *args, **options):
    """What `promote` returns, and what it prints."""
    console = Console(record=True, width=200, file=io.StringIO())
    given = {"version": None, "alias": "champion", "metric": "AP", "resamples": 60, **options}
    return promote(study, "birds", console=console, **given), console.export_text()


def champion(client):
    return int(client.get_model_version_by_alias("birds", "champion").version)


def test_better_version_is_promoted_with_its_interval(study, birds, rivals):
    done, said = moved(study, version="2")
    assert champion(birds) == 2
    assert (done.version, done.before) == ("2", "1")
    one, other = (contender(rivals, name) for name in ("softmax", "bacl"))
    firsts = [replace(c, results=c.results[:1]) for c in (one, other)]
    expected = compare(*firsts, 60, Console(quiet=True)).metrics["AP"]
    change = done.comparison.metrics["AP"]
    assert (change.low, change.high) == (expected.low, expected.high)
    assert f"[{100 * change.low:.1f}, {100 * change.high:.1f}]" in said


def test_worse_and_equal_versions_are_not_promoted(study, birds):
    birds.set_registered_model_alias("birds", "champion", "2")
    for version, number in (("1", 1), ("4", 4)):
        with pytest.raises(RunError, match=r"^champion stays with version 2: no improvement"):
            moved(study, version=version)
        assert champion(birds) == 2
        _, said = moved(study, version=version, anyway=True)
        assert champion(birds) == number
        assert "AP " in said and "[" in said and "the alias moves all the same" in said
        birds.set_registered_model_alias("birds", "champion", "2")


def test_seeds_may_differ(study, birds):
    done, _ = moved(study, version="3")
    assert champion(birds) == 3 and done.comparison.metrics["AP"].low > 0


def test_newest_version_is_meant_and_other_metrics_may_decide(study, birds):
    done, _ = moved(study, metric="AP_f")
    assert (done.version, champion(birds)) == ("4", 4)


def test_alias_that_nobody_has_is_set(study, birds):
    done, said = moved(study, alias="challenger")
    assert (done.before, done.comparison) == (None, None)
    assert "none had it before" in said
    assert int(birds.get_model_version_by_alias("birds", "challenger").version) == 4
    done, said = moved(study, version="1")
    assert "is version 1 already" in said and done.comparison is None


def test_version_may_be_named_by_another_alias(study, birds):
    birds.set_registered_model_alias("birds", "challenger", "2")
    moved(study, version="challenger")
    assert champion(birds) == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"version": "9"}, r"expected a version \(1, 2, 3, 4\) or an alias \(champion \(version"),
        ({"version": "nobody"}, r"or an alias .*, got nobody"),
        ({"metric": "AP_x"}, r"--metric: expected one of AP, .*, got 'AP_x'"),
        ({"metric": "AP_x", "anyway": True}, r"--metric: expected one of AP, .*, got 'AP_x'"),
        ({"alias": "latest"}, r"--alias: expected letters"),
    ],
)
def test_what_does_not_exist_is_told(study, birds, options, told):
    with pytest.raises(UsageError, match=told):
        moved(study, **options)
    assert champion(birds) == 1


def test_names_without_a_model_or_a_version_are_told(study, client):
    with pytest.raises(UsageError, match=r"there are none yet: `bacl register` makes one"):
        moved(study)
    client.create_registered_model("birds")
    with pytest.raises(UsageError, match=r"expected a version \(there is none\)"):
        moved(study)


def test_store_without_the_detections_is_told(study, birds, store):
    with pytest.raises(RunError, match=r"version 1 of birds: its detections .* has no job \w{16}"):
        moved(store)
    assert champion(birds) == 1
    moved(store, anyway=True)
    assert champion(birds) == 4


def test_version_of_others_is_told(study, birds):
    birds.create_model_version("birds", "file:///nowhere")
    with pytest.raises(UsageError, match=r"version 5 of birds: expected one that `bacl register`"):
        moved(study)
    assert champion(birds) == 1


def test_versions_of_different_splits_are_not_compared(study, birds, rivals, tmp_path, monkeypatch):
    val = rivals.prepared.val
    truth = json.loads(Path(val.annotations).read_text(encoding="utf-8"))
    truth["annotations"].pop()
    (tmp_path / "val.json").write_text(json.dumps(truth))
    changed = val.model_copy(update={"annotations": str(tmp_path / "val.json")})
    other = rivals.prepared.model_copy(update={"digest": "0" * 16, "val": changed})
    of = {"softmax": rivals.prepared, "bacl": other}
    monkeypatch.setattr(Trained, "prepared", property(lambda self: of[self.variant]))
    with pytest.raises(UsageError, match=r"expected the same validation split, got two that diff"):
        moved(study, version="2")
    assert champion(birds) == 1
