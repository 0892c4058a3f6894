"""Exports in one file give what the detector gives; nothing else is left in their place."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from bacl.errors import RunError, UsageError
from bacl_platform.api.experiment import Experiment
from bacl_platform.cli import main as cli
from bacl_platform.exporting import onnx_file, parts, torchscript_file
from bacl_platform.exporting.checking import checked
from bacl_platform.exporting.export import export
from bacl_platform.exporting.onnx_file import OnnxDetector
from bacl_platform.exporting.torchscript_file import TorchScriptDetector
from bacl_platform.inference.detector import Detector

PHOTOS = Path(__file__).parents[5] / "shared" / "data" / "coco_photos"
READERS = {"onnx": OnnxDetector, "torchscript": TorchScriptDetector}


@pytest.fixture
def photographs(tmp_path):
    """Drawn pictures of other sizes than the validation images; beside the project, photographs
    as well."""
    draw = np.random.default_rng(0)
    paths = []
    for number, (width, height) in enumerate([(96, 64), (64, 150), (33, 20), (300, 200)]):
        small = draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(small).resize((width, height)).save(paths[-1])
    return [*paths, *sorted(PHOTOS.glob("images/*.jpg"))[:6]]


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize("form", READERS)
def test_file_detects_as_the_detector_in_images_of_any_size(
    exported_variant, prepared, photographs, tmp_path, form
):
    made = export(
        exported_variant / "checkpoint.pth",
        form,
        tmp_path / "out" / "one",
        prepared,
        facts={"a": 1},
    )
    assert made.path == tmp_path / "out" / "one" and made.agreement.images == 4
    assert [path.name for path in made.path.parent.iterdir()] == ["one"]
    detector = Detector.load(exported_variant, device="cpu")
    images = {path.name: pixels(path) for path in photographs}
    agreement = checked(detector, READERS[form](made.path), images)
    assert agreement.detections > 10 * len(images)
    assert agreement.score < 1e-5 and agreement.box < 1e-2


def test_onnx_file_says_what_it_is(exported_variant, prepared, tmp_path):
    path = tmp_path / "one.onnx"
    export(
        exported_variant / "checkpoint.pth", "onnx", path, prepared, opset=20, facts={"job": "k"}
    )
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert [one.version for one in model.opset_import if not one.domain] == [20]
    facts = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    detector = Detector.load(exported_variant, device="cpu")
    assert facts["categories"] == list(detector.categories)
    assert facts["category_ids"] == list(detector.category_ids)
    assert facts["score_threshold"] == detector.model.test_cfg.rcnn.score_thr
    assert (facts["job"], facts["settings"]["method"]) == ("k", "softmax")
    assert [one.name for one in model.graph.output] == ["boxes", "scores", "labels"]
    (image,) = model.graph.input
    assert [side.dim_param or side.dim_value for side in image.type.tensor_type.shape.dim] == [
        "height",
        "width",
        3,
    ]


def test_torchscript_file_says_what_it_is(exported_variant, prepared, tmp_path):
    path = tmp_path / "one.pt"
    export(exported_variant / "checkpoint.pth", "torchscript", path, prepared)
    inside = {"categories.json": ""}
    torch.jit.load(path, _extra_files=inside)
    detector = Detector.load(exported_variant, device="cpu")
    assert json.loads(inside["categories.json"]) == list(detector.categories)


def refused(exported_variant, prepared, tmp_path, form="onnx", error=UsageError, **options):
    """The sentence of an export that is refused, which leaves nothing."""
    with pytest.raises(error) as caught:
        export(exported_variant / "checkpoint.pth", form, tmp_path / "one", prepared, **options)
    assert list(tmp_path.glob("*one*")) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_opsets_without_what_a_detector_needs_are_refused(exported_variant, prepared, tmp_path):
    told = refused(exported_variant, prepared, tmp_path, opset=11)
    assert told.startswith("opset: expected at least 16, got 11, whose operator RoiAlign lacks")
    assert "opset 99: torch cannot write it: Unsupported" in refused(
        exported_variant, prepared, tmp_path, opset=99
    )
    told = refused(exported_variant, prepared, tmp_path, opset=23)
    assert told.startswith("opset: expected one whose operators onnxruntime") and "RoiAlign" in told
    assert "opset: expected with format onnx only" in refused(
        exported_variant, prepared, tmp_path, form="torchscript", opset=17
    )


def test_operator_that_the_opset_lacks_is_named(exported_variant, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "bacl_platform.exporting.whole.scaled_sides",
        lambda sides, scale: torch.special.bessel_j0(sides.double()).long() + 64,
    )
    told = refused(exported_variant, prepared, tmp_path)
    assert told.startswith("opset 17: ONNX's operators of that version lack one like aten::spec")
    assert told.endswith("expected another opset, or format torchscript")


def test_file_that_detects_otherwise_is_not_left(exported_variant, prepared, tmp_path, monkeypatch):
    """Such as one of a fixed size, here by an image that is read off by a pixel."""
    monkeypatch.setattr(
        "bacl_platform.exporting.whole.resized",
        lambda image, sides, shown: parts.resized(image, sides, shown).roll(8, 0),
    )
    told = refused(exported_variant, prepared, tmp_path, error=RunError)
    assert "expected the exported file to find what the detector finds" in told


@pytest.mark.parametrize("form", READERS)
def test_parts_without_a_counterpart_are_named(exported_variant, prepared, tmp_path, form):
    reword(exported_variant / "config.py", "'AnchorGenerator'", "'TorchvisionAnchorGenerator'")
    told = refused(exported_variant, prepared, tmp_path, form=form)
    assert told.startswith("TorchvisionAnchorGenerator: expected a detector with AnchorGenerator")


def reword(path, before, after):
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")


def test_suppression_that_files_lack_is_refused(exported_variant, prepared, tmp_path):
    reword(
        exported_variant / "config.py",
        "'nms': {'type': 'nms', 'iou_threshold': 0.5}",
        "'nms': {'type': 'soft_nms', 'iou_threshold': 0.5, 'method': 'linear'}",
    )
    told = refused(exported_variant, prepared, tmp_path)
    assert (
        told.startswith("suppression of boxes by {'type': 'soft_nms', ") and "format mmdet" in told
    )


def test_bad_places_and_words_are_refused(exported_variant, prepared, tmp_path):
    assert "format: expected one of mmdet, onnx, torchscript, got 'coreml'" in refused(
        exported_variant, prepared, tmp_path, form="coreml"
    )
    checkpoint = exported_variant / "checkpoint.pth"
    with pytest.raises(UsageError, match="expected a file to write, got a folder"):
        export(checkpoint, "onnx", tmp_path, prepared)
    (tmp_path / "mine.txt").write_text("kept", encoding="utf-8")
    with pytest.raises(UsageError, match=r"expected a new folder .* got one with mine\.txt in it"):
        export(checkpoint, "mmdet", tmp_path, prepared)
    with pytest.raises(UsageError, match="expected a folder, got a file"):
        export(checkpoint, "mmdet", tmp_path / "mine.txt", prepared)
    with pytest.raises(UsageError, match="expected a readable image, got no such file"):
        export(checkpoint, "onnx", tmp_path / "one", prepared, images=[tmp_path / "none.jpg"])
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "kept"


def test_export_that_was_there_is_replaced(exported_variant, prepared, tmp_path):
    folder = tmp_path / "exports" / "one"
    for _ in range(2):
        export(exported_variant / "checkpoint.pth", "mmdet", folder, prepared)
        assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.pth", "config.py"]
    assert [path.name for path in folder.parent.iterdir()] == ["one"]


@pytest.mark.slow
def test_command_and_python_export_a_finished_variant(
    tiny, store, finished, planned, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for job in planned().jobs:
        finished(job)
    words = ["export", str(tiny), "--variant", "softmax", "--store", str(store.root)]
    result = CliRunner().invoke(cli.app, [*words, "--format", "onnx"])
    assert result.exit_code == 0, result.output
    told = " ".join(result.output.split())
    assert "exports/softmax.onnx: onnx," in told and "scores differ by" in told
    made = Experiment.load(tiny, store=store).export("softmax", "torchscript")
    assert made.path == Path("exports/softmax.pt") and made.path.is_file()

    lacking = CliRunner().invoke(cli.app, ["export", str(tiny), "--variant", "nope", *words[4:]])
    assert lacking.exit_code != 0 and "expected one of tiny's" in lacking.output


def test_variant_that_is_not_finished_is_refused(tiny, store):
    words = ["export", str(tiny), "--variant", "softmax", "--store", str(store.root)]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code != 0
    assert "is not in the store" in " ".join(result.output.split())


@pytest.mark.slow
@pytest.mark.parametrize("form", READERS)
@pytest.mark.parametrize("kind", ["mask_rcnn", "cascade_rcnn"])
def test_masks_and_cascades_are_exported_and_may_find_nothing(
    planned, publish_untrained, prepared, tmp_path, kind, form
):
    plan = planned(f"detector.type={kind}")
    variant = publish_untrained(plan.jobs[1]) / "variants" / "softmax"
    path = tmp_path / "one"
    made = export(variant / "checkpoint.pth", form, path, prepared)
    assert made.agreement.detections > 10 and made.agreement.others == []

    reword(variant / "config.py", "'score_thr': 0.01", "'score_thr': 0.99")
    detector = Detector.load(variant, device="cpu")
    image = np.random.default_rng(0).integers(256, size=(40, 30, 3), dtype=np.uint8)
    if form == "onnx":
        onnx_file.write(path, detector.model.requires_grad_(False), image, {}, None)
    else:
        torchscript_file.write(path, detector.model.requires_grad_(False), image, {})
    found = READERS[form](path)(image)
    sizes = {"boxes": (0, 4), "scores": (0,), "labels": (0,)}
    masks = {"masks": (0, 40, 30)} if kind == "mask_rcnn" else {}
    assert {name: values.shape for name, values in found.items()} == {**sizes, **masks}
