"""COCO-LT from a small COCO and index of our own, and the authors' index where it is at hand."""

import json
import pickle
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from PIL import Image

from bacl import settings
from bacl.datasets import coco_lt, sources
from bacl.datasets.coco_lt import Share
from bacl.datasets.examine import examine
from bacl.datasets.prepare import prepare
from bacl.datasets.provide import Request, provide
from bacl.datasets.sources import NAMED, Named, Record
from bacl.errors import UsageError

REAL = (
    Path(__file__).parents[4] / "shared/data/coco_lt/class_to_imageid_and_inscount_coco_sampled.pt"
)


def coco() -> dict:
    """Three categories with gaps in their ids; annotation ids say category, image and number.

    A head category whole in images 1 to 6, with a crowd; a thinned one with 4 instances in each of
    images 1 to 5; a tail one whose only annotation in image 3 is a crowd.
    """
    present = {1: dict.fromkeys(range(1, 7), 3), 5: dict.fromkeys(range(1, 6), 4), 9: {2: 2, 3: 1}}
    annotations = [
        {
            "id": 100 * category + 10 * image + number,
            "image_id": image,
            "category_id": category,
            "bbox": [1, 1, 5, 5],
            "area": 25,
            "iscrowd": int((category, image, number) in [(1, 6, 2), (9, 3, 0)]),
        }
        for category, images in present.items()
        for image, count in images.items()
        for number in range(count)
    ]
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 20, "height": 10} for i in range(1, 9)]
    names = {9: "kite", 1: "person", 5: "dog"}
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in names.items()],
    }


INDEX = {
    1: Share(frozenset(range(1, 7)), 18),  # whole, its crowd with it
    2: Share(frozenset({1, 2, 4}), 5),  # of 12 in these images, of 20 in all
    3: Share(frozenset({3}), 1),  # a crowd and nothing else
}


def pickled(path: Path, index=INDEX) -> Path:
    content = {
        label: {
            "img_id": sorted(share.images),
            "isntance_count": share.instances,
            "image_info_id": list(range(len(share.images))),
            "category_id": label,
        }
        for label, share in index.items()
    }
    path.write_bytes(pickle.dumps(content))
    return path


def per_image(content, category) -> dict[int, int]:
    return Counter(a["image_id"] for a in content["annotations"] if a["category_id"] == category)


def test_sample_has_the_images_and_counts_of_the_index():
    thinned = coco_lt.sample(coco(), INDEX, seed=0)
    for label, category in enumerate((1, 5, 9), start=1):
        shown = per_image(thinned, category)
        assert set(shown) == INDEX[label].images
        assert sum(shown.values()) == INDEX[label].instances
    assert [image["id"] for image in thinned["images"]] == [1, 2, 3, 4, 5, 6]


def test_categories_say_the_counts_of_the_index():
    thinned = coco_lt.sample(coco(), INDEX, seed=0)
    assert thinned["categories"] == [
        {"id": 1, "name": "person", "image_count": 6, "instance_count": 18},
        {"id": 5, "name": "dog", "image_count": 3, "instance_count": 5},
        {"id": 9, "name": "kite", "image_count": 1, "instance_count": 1},
    ]


def test_annotations_stay_as_they_are():
    before = {a["id"]: a for a in coco()["annotations"]}
    for annotation in coco_lt.sample(coco(), INDEX, seed=0)["annotations"]:
        assert annotation == before[annotation["id"]]


def test_choice_is_the_seeds_and_nothing_elses():
    def chosen(seed, content):
        thinned = coco_lt.sample(content, INDEX, seed)
        return {a["id"] for a in thinned["annotations"] if a["category_id"] == 5}

    shuffled = coco()
    shuffled["annotations"].reverse()
    assert chosen(0, coco()) == chosen(0, shuffled)
    # written down, so that another machine or Python that chose otherwise would be noticed
    assert chosen(0, coco()) == {511, 513, 523, 542, 543}
    assert len({frozenset(chosen(seed, coco())) for seed in range(20)}) > 10


def test_every_instance_of_a_thinned_category_has_a_chance():
    often = defaultdict(int)
    for seed in range(300):
        for annotation in coco_lt.sample(coco(), INDEX, seed)["annotations"]:
            often[annotation["id"]] += 1
    dogs = [often[500 + 10 * image + number] for image in (1, 2, 4) for number in range(4)]
    # 5 of 12 kept: 125 expected each; by symmetry all alike
    assert min(dogs) > 85 and max(dogs) < 165


def test_instances_that_coco_lacks_are_told_together():
    index = {
        1: Share(frozenset({1, 7, 8}), 9),
        2: Share(frozenset({1}), 9),
        3: Share(frozenset({2, 3}), 1),
    }
    with pytest.raises(UsageError) as told:
        coco_lt.sample(coco(), index, seed=0)
    assert str(told.value) == (
        "COCO's training annotations: expected what the COCO-LT index says; "
        "category 1: none in 2 of its images; "
        "category 5: 4 instances in 1 images, the index says 9; "
        "category 9: 3 instances in 2 images, the index says 1"
    )


def test_other_number_of_categories_is_told():
    with pytest.raises(UsageError, match="COCO-LT: expected 2 categories, got 3"):
        coco_lt.sample(coco(), {1: INDEX[1], 2: INDEX[2]}, seed=0)


def test_authors_file_is_taken_if_the_index_agrees():
    theirs = coco_lt.sample(coco(), INDEX, seed=7)
    theirs["categories"] = [{"id": 1, "name": "p_e_r_s_o_n"}]  # theirs need not be COCO's
    taken = coco_lt.authors_own(theirs, coco(), INDEX)
    assert taken == coco_lt.sample(coco(), INDEX, seed=7)


def test_authors_file_that_differs_is_refused():
    theirs = coco_lt.sample(coco(), INDEX, seed=7)
    dropped = theirs["annotations"].pop()
    theirs["annotations"].append(dict(dropped, category_id=4))
    with pytest.raises(UsageError) as told:
        coco_lt.authors_own(theirs, coco(), INDEX)
    assert str(told.value) == (
        "the authors' COCO-LT annotations: expected what the COCO-LT index says; "
        "category 9: 0 instances in 0 images, the index says 1 in 1; category 4: COCO has none"
    )


def test_index_is_read(tmp_path):
    assert coco_lt.read_index(pickled(tmp_path / "index.pt")) == INDEX


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps({1: Evil()}), "it asks for builtins.print"),
        (pickle.dumps({1: Counter()}), "it asks for collections.Counter"),
        (b"no pickle", ""),
        (b"", ""),
        (pickle.dumps([1]), "'list' object has no attribute 'items'"),
        (pickle.dumps({1: {"img_id": [1]}}), "'isntance_count'"),
        (pickle.dumps({1: {"img_id": ["x"], "isntance_count": 1}}), "expected whole numbers"),
    ],
)
def test_other_files_than_the_index_are_refused_and_run_nothing(tmp_path, capsys, content, reason):
    path = tmp_path / "index.pt"
    path.write_bytes(content)
    with pytest.raises(UsageError) as told:
        coco_lt.read_index(path)
    start = f"{path}: expected the COCO-LT index, a pickle of plain dicts, lists and numbers: "
    assert str(told.value).startswith(start + reason)
    assert capsys.readouterr().out == ""


def test_file_that_is_no_coco_json_is_told(tmp_path):
    (tmp_path / "a.json").write_text('{"images": []}')
    with pytest.raises(UsageError, match=r"a\.json: expected COCO JSON with images, annotations"):
        coco_lt.read(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UsageError, match=r"a\.json: expected COCO JSON: "):
        coco_lt.read(tmp_path / "a.json")


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A root that holds the small COCO as if it had been downloaded."""
    root = tmp_path / "root"
    (root / "annotations").mkdir(parents=True)
    for split, images in (("train", range(1, 9)), ("val", range(11, 13))):
        (root / f"{split}2017").mkdir()
        for i in images:
            size = (20, 10) if split == "train" else (9, 9)
            Image.new("RGB", size).save(root / f"{split}2017" / f"{i}.jpg")
    val = coco()
    val["images"] = [{"id": i, "file_name": f"{i}.jpg", "width": 9, "height": 9} for i in (11, 12)]
    val["annotations"] = [dict(val["annotations"][0], image_id=11)]
    (root / "annotations/instances_train2017.json").write_text(json.dumps(coco()))
    (root / "annotations/instances_val2017.json").write_text(json.dumps(val))
    (place,) = sources.COCO_LT_INDEX.files
    pickled(root / place)
    named = NAMED["coco_lt"]
    monkeypatch.setitem(NAMED, "coco_lt", Named((), named.made, named.dataset, named.groups))
    return root


def make(root, **fields) -> list[str]:
    said: list[str] = []
    provide(Request("coco_lt", root, **fields), said.append, lambda *_: None)
    return said


def test_experiment_finds_coco_lt_with_its_groups(root, tmp_path):
    assert make(root)[0] == (
        "coco_lt_train.json: making it: COCO's annotations by the authors' index, seed 0"
    )
    dataset = settings.Dataset(format="coco_lt", root=str(root))
    prepared = prepare(dataset, tmp_path / "cache")
    assert prepared.evaluation == "coco"
    examined = examine(dataset, tmp_path / "cache", [])
    assert {split.evaluation for split in examined} == {"coco"}  # what verify judges by
    assert prepared.groups.names == ["1", "2", "3", "4"]
    assert [c.instance_count for c in prepared.categories] == [18, 5, 1]
    assert {c.frequency for c in prepared.categories} == {"1"}
    assert prepared.train.image_total == 6


def test_coco_lt_is_made_once_and_not_of_another_seed(root):
    make(root)
    path = root / sources.COCO_LT_TRAIN
    before = path.stat().st_mtime_ns
    assert make(root) == [
        "coco_lt_train.json: there (COCO's annotations by the authors' index, seed 0)"
    ]
    assert path.stat().st_mtime_ns == before
    with pytest.raises(UsageError, match=r"expected COCO's .*, seed 1, got .*, seed 0: use"):
        make(root, seed=1)


def test_coco_lt_of_the_authors_own_file(root, tmp_path):
    theirs = tmp_path / "train_coco2017_LT_sampled.json"
    theirs.write_text(json.dumps(coco_lt.sample(coco(), INDEX, seed=5)))
    make(root, authors=theirs)
    content = json.loads((root / sources.COCO_LT_TRAIN).read_text())
    assert content == coco_lt.sample(coco(), INDEX, seed=5)
    record = sources.read_record(root, sources.COCO_LT_TRAIN)
    assert isinstance(record, Record)
    assert record.origin == "the authors' own annotations, checked against their index"


@pytest.mark.parametrize(
    ("instances", "group"),
    [(19, "1"), (20, "2"), (399, "2"), (400, "3"), (7999, "3"), (8000, "4")],
)
def test_groups_are_the_papers(instances, group):
    assert sources.COCO_LT_GROUPS.name(10**6, instances) == group


@pytest.mark.skipif(not REAL.exists(), reason="the authors' index is not here")
def test_authors_index_has_the_known_counts():
    index = coco_lt.read_index(REAL)
    assert len(frozenset().union(*(share.images for share in index.values()))) == 99_411
    assert sum(share.instances for share in index.values()) == 666_493
    groups = Counter(sources.COCO_LT_GROUPS.name(0, s.instances) for s in index.values())
    assert [groups[name] for name in "1234"] == [4, 24, 32, 20]
    assert REAL.stat().st_size == sources.COCO_LT_INDEX.size
