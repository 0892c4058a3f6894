"""Files that `bacl init` makes are ones that `bacl plan` accepts, whatever the data."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from PIL import Image
from rich.console import Console

import bacl_platform as bp
from bacl.errors import UsageError


@dataclass(frozen=True)
class Shape:
    """A generated data set: image n shows category n modulo `categories`, and every image the
    first."""

    train: int = 12
    val: int = 6
    categories: int = 9
    size: tuple[int, int] = (64, 48)
    lvis: bool = False
    gaps: int = 1
    name: str = "kind {}"
    image: str = "{}.bmp"
    boxes_in_val: bool = True

    def content(self, first, count, boxes=True):
        lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []} if self.lvis else {}
        w, h = self.size
        images = [
            {"id": n, "file_name": self.image.format(n), "width": w, "height": h, **lists}
            for n in range(first, first + count)
        ]
        pairs = [(n, c) for n in range(first, first + count) for c in {0, n % self.categories}]
        annotations = [
            {
                "id": place,
                "image_id": n,
                "category_id": c * self.gaps,
                "bbox": [1, 1, w // 2, h // 2],
                "area": w * h / 4,
            }
            for place, (n, c) in enumerate(pairs, start=1)
        ]
        categories = [
            {"id": c * self.gaps, "name": self.name.format(c)} for c in range(self.categories)
        ]
        return {
            "images": images,
            "annotations": annotations if boxes else [],
            "categories": categories,
        }

    def write(self, folder: Path) -> Path:
        (folder / "images").mkdir(parents=True)
        for n in range(self.train + self.val):
            shade = (n, 0, 0)
            Image.new("RGB", self.size, shade).save(folder / "images" / self.image.format(n))
        files = {"train": self.content(0, self.train)}
        if self.val:
            files["val"] = self.content(self.train, self.val, self.boxes_in_val)
        for name, content in files.items():
            text = json.dumps(content, ensure_ascii=False)
            (folder / f"{name}.json").write_text(text, encoding="utf-8")
        return folder


SHAPES = {
    "nine categories": Shape(),
    "one category": Shape(categories=1),
    "three categories": Shape(categories=3, train=40),
    "two images": Shape(train=2, val=0, categories=1),
    "no validation split": Shape(train=40, val=0),
    "huge images": Shape(train=2, val=2, size=(9000, 300), image="{}.png"),
    "tiny images": Shape(size=(8, 6)),
    "LVIS's number of categories": Shape(categories=1203, train=60, lvis=True),
    "no validation boxes": Shape(boxes_in_val=False),
    "ids with gaps": Shape(gaps=7, categories=5),
    "names that YAML and comments must take": Shape(
        name="größe # {}: \n'ü' 𝄞", image="bild ä {}.bmp"
    ),
}


def first(folder, out, **options):
    with (out.parent / "told.txt").open("w", encoding="utf-8") as file:
        console = Console(file=file, width=200)
        store = out.parent / "store"
        bp.first_experiment(folder, out, console=console, store=store, **options)
    return (out.parent / "told.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_file_is_one_that_plan_accepts(tmp_path, shape):
    folder = shape.write(tmp_path / "meine Größen" / "Vögel")
    told = first(folder, tmp_path / "mine.yaml", device="cpu")
    experiment = bp.Experiment.load(tmp_path / "mine.yaml", store=tmp_path / "store")
    assert [len(job.variants) for job in experiment.jobs().jobs] == [1, 4]
    assert experiment.settings.dataset.format == ("lvis" if shape.lvis else "coco")
    hallucination = experiment.settings.stages["classifier"].variants["bacl"].hallucination
    assert hallucination.drawn(shape.categories) == min(8, shape.categories)
    for stage in experiment.settings.stages.values():
        schedule = stage.recipe.schedule
        steps = schedule.total_iterations(shape.train)
        assert schedule.warmup < steps / 2 and schedule.batch <= max(2, shape.train)
    assert ("AP will be absent" in told) == (not shape.boxes_in_val)
    text = (tmp_path / "mine.yaml").read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) < 130


def test_gpu_file_has_epochs_by_the_number_of_images_and_a_backbone_of_imagenet(tmp_path):
    folder = Shape().write(tmp_path / "data")
    first(folder, tmp_path / "gpu.yaml", device="gpu")
    settings = bp.Experiment.load(tmp_path / "gpu.yaml").settings
    assert (settings.detector.backbone, settings.detector.weights) == ("resnet50", "torchvision")
    stage = settings.stages["representation"]
    assert stage.resources.gpus == 1 and stage.recipe.schedule.epochs == 48


def test_embedded_file_is_the_demos_experiment(tmp_path):
    demo = bp.Experiment.load(Path(__file__).parents[4] / "experiments/embedded/demo.yaml").settings
    first(None, tmp_path / "mine.yaml", device="cpu")
    made = bp.Experiment.load(tmp_path / "mine.yaml").settings
    same = {"name", "stages"}
    assert made.model_dump(exclude=same) == demo.model_dump(exclude=same)
    for name, stage in demo.stages.items():
        without = {"resources"}
        assert made.stages[name].model_dump(exclude=without) == stage.model_dump(exclude=without)
    with pytest.raises(UsageError, match="--weights: expected with --data"):
        first(None, tmp_path / "other.yaml", weights="torchvision")


def test_groups_fit_the_counts_and_every_choice_has_its_reason(tmp_path):
    folder = Shape(train=60, val=20, categories=20).write(tmp_path / "data")
    content = json.loads((folder / "train.json").read_text())
    # of category c, 20 - c images
    content["annotations"] = [
        one | {"id": n, "image_id": i, "category_id": c}
        for n, (c, i) in enumerate((c, i) for c in range(20) for i in range(20 - c))
        for one in content["annotations"][:1]
    ]
    (folder / "train.json").write_text(json.dumps(content))
    told = first(folder, tmp_path / "mine.yaml", device="cpu")
    raw = yaml.safe_load((tmp_path / "mine.yaml").read_text(encoding="utf-8"))
    assert raw["dataset"]["groups"] == {"by": "images", "bounds": [5, 10], "names": ["r", "c", "f"]}
    assert "groups: 20 categories have 1 to 20 training images" in told
    assert "without boxes, which are left out of training (40)" in told
    assert raw["dataset"]["train"] == "data/train.json"  # the folder can be moved with the file


def test_missing_images_empty_annotations_and_categories_that_never_train(tmp_path):
    folder = Shape().write(tmp_path / "data")
    (folder / "images/3.bmp").unlink()
    with pytest.raises(UsageError, match=r"1 of 12 images of .* are missing: 3\.bmp"):
        first(folder, tmp_path / "mine.yaml")
    assert not (tmp_path / "mine.yaml").exists()

    folder = Shape().write(tmp_path / "empty")
    content = json.loads((folder / "train.json").read_text())
    (folder / "train.json").write_text(json.dumps(content | {"annotations": []}))
    with pytest.raises(UsageError, match="annotations: expected boxes to train on, got 0"):
        first(folder, tmp_path / "mine.yaml")

    seen = [one for one in content["annotations"] if one["category_id"] != 4]
    (folder / "train.json").write_text(json.dumps(content | {"annotations": seen}))
    told = first(folder, tmp_path / "mine.yaml")
    assert "categories with validation boxes but no training image, so their AP" in told
    assert "will be 0 (1): kind 4" in told


def test_what_is_there_is_not_overwritten(tmp_path):
    folder = Shape(train=40, val=0).write(tmp_path / "data")
    out = tmp_path / "mine.yaml"
    first(folder, out)
    before = out.read_bytes(), sorted((tmp_path / "mine_split").iterdir())
    assert [path.name for path in before[1]] == ["train.json", "val.json"]
    with pytest.raises(UsageError, match="--force replaces it"):
        first(folder, out)
    out.unlink()
    with pytest.raises(UsageError, match=r"mine_split: expected no such folder"):
        first(folder, out)
    first(folder, out, force=True)
    assert out.read_bytes() == before[0]


def test_path_with_a_dollar_is_said_from_the_files_folder_or_refused(tmp_path):
    folder = Shape().write(tmp_path / "a $HOME" / "data")
    with pytest.raises(UsageError, match=r"expected a path without \$"):
        first(folder, tmp_path / "mine.yaml", device="cpu")
    first(folder, tmp_path / "a $HOME" / "mine.yaml", device="cpu")
    train = bp.Experiment.load(tmp_path / "a $HOME" / "mine.yaml").settings.dataset.train
    assert train == str(folder / "train.json")


def test_backbone_is_recognised_by_its_weights(tmp_path, monkeypatch):
    import torch
    from mmdet.registry import MODELS

    import bacl.register  # noqa: F401
    from bacl.backbones import BACKBONES
    from bacl_platform.tools.first_experiment.starts import start_of

    for name in ("mobilenet_v2", "tiny"):
        torch.save(MODELS.build(BACKBONES[name].config).state_dict(), tmp_path / f"{name}.pth")
        assert start_of(str(tmp_path / f"{name}.pth"), None, gpu=False).backbone == name
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(UsageError, match="found those of none of them"):
        start_of(str(tmp_path / "other.pth"), None, gpu=False)
    with pytest.raises(UsageError, match="--backbone: expected the backbone that the weights are"):
        start_of("https://example.org/a.pth", None, gpu=False)
    with pytest.raises(UsageError, match="torchvision has none for mobilenet_v2"):
        start_of("torchvision", "mobilenet_v2", gpu=True)
    assert replace(start_of(None, None, gpu=False), why="").backbone == "tiny"
