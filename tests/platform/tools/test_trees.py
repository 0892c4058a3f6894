"""`bacl trees`: what is written, what is left out, and what cannot be made."""

import json
import re

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from tiny_wordnet import write_wordnet
from typer.testing import CliRunner

import bacl.register  # noqa: F401

# isort: split
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules

from bacl.datasets.examine import synsets
from bacl.datasets.index import Index
from bacl.forest.box_features import choose, mean_features
from bacl.forest.trees import geometric, read_trees, shapes_of, visual
from bacl_platform.cli import main as cli
from bacl_platform.spec.load import load
from bacl_platform.store.names import CHECKPOINT, JOB


@pytest.fixture
def trained(planned, store):
    """The representation job, in the store with the weights that it would start from."""
    register_all_modules(init_default_scope=True)
    job = planned().jobs[0]
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(job.config["model"]))
    model.init_weights()
    folder = store.work(job.key) / "entry"
    folder.mkdir(parents=True)
    torch.save({"state_dict": model.state_dict()}, folder / CHECKPOINT)
    (folder / JOB).write_text(job.model_dump_json(exclude={"config"}))
    store.publish(job.key, folder)
    return job


@pytest.fixture
def make(tiny, store, tmp_path):
    """Runs the command; gives what it did and the file that it wrote or would have."""

    def run(*words, name="out/trees.json"):
        out = tmp_path / name
        words = ["trees", tiny, "--store", store.root, "--out", out, "--device", "cpu", *words]
        return CliRunner().invoke(cli.app, [str(word) for word in words]), out

    return run


def sentence(done):
    return done.stderr.splitlines()[-1].removeprefix("error: ")


def test_trees_of_a_finished_stage_are_written(make, trained, prepared, store):
    words = ("--stage", "features", "--visual", 3, "--geometric", 2, "--boxes", 4)
    done, out = make(*words)
    assert done.exit_code == 0, done.stderr
    content = json.loads(out.read_text())
    names = [category.name for category in prepared.categories]
    assert content["categories"] == names
    assert content["made"] == {
        "by": "bacl trees",
        "dataset": prepared.digest,
        "job": trained.key,
        "stage": "features",
        "seed": 0,
        "boxes": 4,
        "parents": {"visual": 3, "geometric": 2},
    }
    index = Index(prepared.train.index)
    means = mean_features(
        trained.config,
        store.entry(trained.key) / CHECKPOINT,
        choose(index, 4, 0),
        "cpu",
        lambda images, total: images,
    )
    assert np.isfinite(means).all()
    assert content["trees"] == {
        "visual": visual(means, 3),
        "geometric": geometric(shapes_of(index, len(names)), 2),
    }
    assert read_trees(out, names) == list(content["trees"].values())
    assert "no lexical tree: it needs WordNet: expected --wordnet FOLDER" in done.stdout
    assert f"visual: {len(names)} categories under 3 parents" in done.stdout
    _, other = make(*words, name="again.json")
    assert other.read_text() == out.read_text()


def test_fewer_categories_than_parents_are_told(make, prepared):
    done, out = make("--visual", 0)
    assert done.exit_code == 0, done.stderr
    names = [category.name for category in prepared.categories]
    assert f"under {len(names)} parents instead of 50, as the categories allow" in done.stdout
    assert read_trees(out, names) == [list(range(len(names)))]


def test_stage_that_has_not_run_is_told_with_what_to_run(make):
    done, out = make("--stage", "features")
    assert done.exit_code == 1
    assert re.search(
        r"features .* is not in the store .* run `bacl run .*tiny.yaml", sentence(done)
    )
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "got"), [([], "no --stage"), (["--stage", "heads"], "--stage heads")]
)
def test_another_stage_is_told_with_those_there_are(make, words, got):
    done, _ = make(*words)
    assert done.exit_code == 2
    assert sentence(done) == (
        f"tiny: expected a representation or imported stage for the visual tree (features), "
        f"got {got}"
    )


def test_lexical_tree_that_was_asked_for_needs_wordnet(make):
    done, out = make("--visual", 0, "--lexical", 5)
    assert done.exit_code == 2
    assert sentence(done) == "--lexical 5: it needs WordNet: expected --wordnet FOLDER, got none"
    assert not out.exists()


def test_no_tree_at_all_is_refused(make):
    done, _ = make("--visual", 0, "--geometric", 0, "--lexical", 0)
    assert done.exit_code == 2
    assert sentence(done) == "expected a tree to make, got none"


def test_synsets_are_the_annotation_files(tiny, prepared, store):
    names = [category.name for category in prepared.categories]
    assert synsets(load(tiny).dataset, store.datasets) == {name: f"{name}.n.01" for name in names}


def test_lexical_tree_is_of_the_annotations_synsets(make, tiny, prepared, store, tmp_path):
    """The embedded set as LVIS files of the user's, whose synsets a small WordNet has."""
    wordnet = write_wordnet(tmp_path / "wordnet")
    done, _ = make("--visual", 0, "--lexical", 5, "--wordnet", wordnet)
    assert done.exit_code == 2
    assert "got none that is in WordNet" in sentence(done)

    folder = next(store.datasets.glob("embedded-small-*"))
    given = ["square.n.01", "circle.n.02", "star.n.01", "sun.n.01", "moon.n.01", None]
    for split in ("train", "val"):
        content = json.loads((folder / f"{split}.json").read_text())
        content["categories"].sort(key=lambda category: category["id"])
        for category, synset in zip(content["categories"], given, strict=True):
            category.pop("synset")
            category |= {"synset": synset} if synset else {}
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    dataset = f"{{format: lvis, train: train.json, val: val.json, images: {folder}/images}}"
    tiny.write_text(tiny.read_text().replace("{format: embedded, size: small}", dataset))
    done, out = make("--visual", 0, "--geometric", 0, "--lexical", 3, "--wordnet", wordnet)
    assert done.exit_code == 0, done.stderr
    content = json.loads(out.read_text())
    # entity is divided into shape and thing, then shape into square and circle
    assert content["trees"] == {"lexical": [0, 1, 2, 2, 3, 3]}
    assert content["made"]["parents"] == {"lexical": 3} and len(content["made"]["wordnet"]) == 64
