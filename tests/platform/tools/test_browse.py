"""`bacl data browse`: pictures are what training is given, rare ones first, and what is left out is
said."""

import io
import json
import re
import shutil
from collections import Counter
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco
from typer.testing import CliRunner

import bacl.register  # noqa: F401

# isort: split
from mmdet.registry import DATA_SAMPLERS, DATASETS
from mmengine.registry import DefaultScope

from bacl.datasets.index import Index
from bacl.datasets.prepare import prepare
from bacl.errors import RunError, UsageError
from bacl.settings import Dataset
from bacl_platform.cli import main as cli
from bacl_platform.console import Console
from bacl_platform.tools.browse import Annotated, Trained, Wanted, job_of_stage
from bacl_platform.tools.browse import browse as page_of

PASTING = ("augmentation=copy_paste", "copy_paste_size=128", "sampler=repeat_factor")
PASTING = tuple(f"stages.features.recipe.{one}" for one in PASTING)


def browse(*words):
    words = ["data", "browse", *words]
    return CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)


def errors(done):
    return [line.removeprefix("error: ") for line in done.stderr.splitlines()]


def shelves(path):
    """Categories of a page with their pictures' captions, in order."""
    text = path.read_text()
    found = {}
    for part in text.split('<section class="shelf"')[1:]:
        name = unescape(re.search(r'data-name="([^"]*)"', part)[1])
        found[name] = [unescape(one) for one in re.findall(r"<figcaption>([^<]*)", part)]
    return found


def loaded(job):
    """The dataset and the sampler that the job's own configuration makes."""
    loader = job.config["train_dataloader"]
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = DATASETS.build(loader["dataset"])
        return dataset, DATA_SAMPLERS.build({**loader["sampler"], "dataset": dataset})


@pytest.mark.parametrize("overrides", [(), PASTING, (*PASTING, "detector.type=mask_rcnn")])
def test_pictures_are_what_training_is_given(planned, prepared, overrides):
    job = planned(*overrides).jobs[0]
    dataset, sampler = loaded(job)
    source = Trained(job, prepared, 1)
    assert len(source.stream) == 24  # all that 12 steps of 2 images see
    pasted = 0
    for position in range(12):
        given = dataset[sampler.at(position)]
        sample = source.sample(position)
        assert np.array_equal(sample.pixels, given["inputs"].permute(1, 2, 0).numpy())
        truth = given["data_samples"].gt_instances
        assert [thing.box for thing in sample.things] == truth.bboxes.tensor.tolist()
        assert [thing.label for thing in sample.things] == truth.labels.tolist()
        if "detector.type=mask_rcnn" in overrides:
            masks = np.stack([thing.mask for thing in sample.things])
            assert np.array_equal(masks, truth.masks.masks)
        name = Path(given["data_samples"].img_path).name
        assert sample.caption.startswith(f"{name}: position {position}, ")
        assert ("mirrored" in sample.caption) == given["data_samples"].flip
        pasted += sum(thing.note == "pasted" for thing in sample.things)
    assert (pasted > 0) == bool(overrides)
    assert ("load no masks" in " ".join(source.about)) == (not overrides)


def test_pasted_things_are_those_of_the_other_image(planned, prepared):
    job = planned(*PASTING).jobs[0]
    dataset, sampler = loaded(job)
    source = Trained(job, prepared, 1)
    for position in range(12):
        own = dataset.dataset[sampler.at(position)]  # before another is pasted into it
        labels = Counter(own["gt_bboxes_labels"].tolist())
        things = source.sample(position).things
        kept = Counter(thing.label for thing in things if not thing.note)
        assert kept <= labels


def test_how_often_a_category_is_drawn_is_counted(planned, prepared):
    # 1 / 2 of the images: even the most frequent category is repeated
    job = planned(*PASTING, "stages.features.recipe.repeat_threshold=0.5").jobs[0]
    source = Trained(job, prepared, 8)
    dataset, sampler = loaded(job)
    seen = Counter()
    for position in range(min(len(dataset), 24)):
        (image,) = [sampler.at(position).index]
        info = dataset.dataset.get_data_info(image)
        seen.update({one["bbox_label"] for one in info["instances"]})
    for label in range(len(prepared.categories)):
        assert source.facts(label) == f"drawn {seen[label]} × in the first 24"


def test_annotated_images_are_as_the_file_has_them(prepared):
    content = json.loads(Path(prepared.val.annotations).read_text(encoding="utf-8"))
    source = Annotated(prepared, "val", 0)
    for label in (0, 5):
        candidates = list(source.candidates(label))
        theirs = {a["image_id"] for a in content["annotations"] if a["category_id"] == label}
        assert sorted(candidates) == sorted(theirs)
        assert candidates != list(Annotated(prepared, "val", 1).candidates(label))
        assert source.facts(label) == f"{len(theirs)} validation images"
        own = [a for a in content["annotations"] if a["image_id"] == candidates[0]]
        things = source.sample(candidates[0]).things
        assert len(things) == len(own)
        for thing, annotation in zip(things, own, strict=True):
            x, y, width, height = annotation["bbox"]
            assert thing.label == annotation["category_id"]
            assert thing.box == pytest.approx([x, y, x + width, y + height])
            polygons = [np.reshape(one, (-1, 2)) for one in annotation["segmentation"]]
            assert len(thing.mask) == len(polygons)
            assert all(map(np.allclose, thing.mask, polygons))


def test_rare_categories_come_first_and_the_page_is_bounded(tiny, store, prepared, tmp_path):
    out = tmp_path / "page.html"
    longer = "stages.features.recipe.schedule.iterations=200"
    words = ("--store", store.root, "--out", out, "--images", 2, "--set", longer)
    done = browse(tiny, *words)
    assert done.exit_code == 0, done.stderr
    found = shelves(out)
    order = sorted(prepared.categories, key=lambda one: one.image_count)
    assert list(found) == [category.name for category in order]
    assert all(1 <= len(captions) <= 2 for captions in found.values())
    assert "written" in done.stdout and "12 pictures of 6 categories" in done.stdout

    done = browse(tiny, *words, "--most", 3)
    assert [len(captions) for captions in shelves(out).values()] == [2, 1]
    assert "4 more categories" in done.stdout
    assert "4 categories more than fit in 3 pictures" in out.read_text()

    few = [word for word in words if word not in ("--set", longer)]
    browse(tiny, *few)  # 24 images, which show not all categories
    lacking = [one.name for one in order if one.name not in shelves(out)]
    assert lacking
    assert f"nothing to show of {len(lacking)} ({', '.join(lacking)})" in out.read_text()

    browse(tiny, *words, "--group", "c", "--category", order[2].name, "--as", "annotated")
    assert list(shelves(out)) == [order[2].name]


@pytest.mark.parametrize("trained", [False, True])
def test_unreadable_images_are_named_and_others_are_shown(planned, prepared, tmp_path, trained):
    images = tmp_path / "images"
    shutil.copytree(prepared.train.images, images)
    if trained:
        job = planned("stages.features.recipe.schedule.iterations=200").jobs[0]
        job.config["train_dataloader"]["dataset"]["images"] = str(images)
        source = Trained(job, prepared, 2)
    else:
        split = prepared.train.model_copy(update={"images": str(images)})
        source = Annotated(prepared.model_copy(update={"train": split}), "train", 0)
    label = min(range(6), key=lambda one: prepared.categories[one].image_count)
    index = Index(prepared.train.index)
    first = next(source.candidates(label))
    file = index.image(source.stream[first] if trained else first).file
    (images / file).write_bytes(b"no image")
    console = Console(record=True, width=500, quiet=False, file=io.StringIO())
    wanted = Wanted(images=2, categories=[prepared.categories[label].name])
    out = tmp_path / "page.html"
    skipped = page_of(source, prepared, wanted, "title", out, console)
    reason = f"{images / file}: expected a readable image, got none of"
    assert len(skipped) == 1 and skipped[0].startswith(reason)
    assert f"left out: {reason}" in console.export_text()
    assert f"<li>{reason}" in out.read_text()
    (captions,) = shelves(out).values()
    assert len(captions) == 2 and not any(one.startswith(file) for one in captions)


def test_nothing_that_can_be_shown_is_an_error_and_no_page(prepared, tmp_path):
    split = prepared.train.model_copy(update={"images": str(tmp_path)})
    source = Annotated(prepared.model_copy(update={"train": split}), "train", 0)
    with pytest.raises(RunError, match=r"could show none: .*no such file"):
        page_of(source, prepared, Wanted(), "", tmp_path / "page.html", Console(quiet=True))
    assert not list(tmp_path.glob("*.html*"))


def test_crowds_are_marked_and_say_that_training_ignores_them(planned, prepared, tmp_path):
    content = json.loads(Path(prepared.val.annotations).read_text(encoding="utf-8"))
    for annotation in content["annotations"][::2]:
        annotation["iscrowd"] = 1
        height, width = (content["images"][0][side] for side in ("height", "width"))
        mask = coco.frPyObjects(annotation["segmentation"], height, width)
        whole = coco.merge(mask)
        annotation["segmentation"] = {**whole, "counts": whole["counts"].decode()}
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    crowded = prepare(
        Dataset(
            format="coco",
            train=str(tmp_path / "train.json"),
            val=str(tmp_path / "val.json"),
            images=prepared.val.images,
        ),
        tmp_path,
    )
    index = Index(crowded.train.index)
    source = Annotated(crowded, "train", 0)
    for place in range(5):
        things = source.sample(place).things
        assert [thing.note for thing in things] == [
            "crowd" if crowd else "" for crowd in index.image(place).crowd
        ]
        for thing, mask in zip(things, index.masks(place), strict=True):
            if thing.note:
                assert np.array_equal(thing.mask, coco.decode(mask))
    job = planned().jobs[0]
    job.config["train_dataloader"]["dataset"] |= {
        "ann_file": crowded.train.index,
        "images": crowded.train.images,
        "dataset_info": str(Path(crowded.train.index).with_name("dataset.json")),
    }
    trained = Trained(job, crowded, 1)
    notes = Counter(thing.note for place in range(12) for thing in trained.sample(place).things)
    assert notes["crowd: ignored"] > 0 and notes[""] > 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--split", "val", "--as", "trained"], "--split val: expected with --as annotated"),
        (["--as", "annotated", "--stage", "heads"], "--stage: expected with --as trained only"),
        (["--group", "x"], "--group: expected one of r, c, f, got 'x'"),
        (["--category", "plain_circl"], "(did you mean `plain_circle`?)"),
        (
            ["--stage", "head"],
            "expected one of features, heads, got 'head' (did you mean `heads`?)",
        ),
        (["--out", "page.pdf"], "--out: expected the name of an HTML file, got page.pdf"),
        (["--set", "detector.backbone=tinny"], "detector.backbone"),
    ],
)
def test_wrong_requests_are_told_and_nothing_is_written(
    tiny, store, tmp_path, monkeypatch, words, reason
):
    monkeypatch.chdir(tmp_path)
    done = browse(tiny, "--store", store.root, *words)
    assert done.exit_code == 2
    assert reason in errors(done)[0]
    assert not (tmp_path / "data_browse.html").exists()


def test_dataset_by_name_cannot_be_seen_as_trained(tmp_path):
    done = browse("lvis_v1", "--as", "trained", "--root", tmp_path)
    assert errors(done) == ["--as trained: expected an experiment file, got the data set lvis_v1"]


def test_stage_that_sees_no_images_is_told_with_those_that_do(planned, replayed):
    plan = planned(*replayed)
    assert job_of_stage(plan, None).stage == "features"
    assert job_of_stage(plan, "kept").stage == "kept"
    with pytest.raises(UsageError, match=r"\(features, heads, kept\), got quick, which replays"):
        job_of_stage(plan, "quick")
