"""An exported variant is a stock detector that finds what the bank's variant finds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmdet.registry import DATASETS, MODELS
from mmdet.visualization import get_palette
from mmengine.config import Config
from PIL import Image
from training import CATEGORIES, build, config_of, train

from bacl import rle
from bacl.datasets.decoding import read
from bacl.detector.stock import TopKBBoxHead
from bacl.export import export_variants, variant_state
from bacl.inspection import confusions_of, weight_norms_of
from bacl.method_settings.paper import BACL, Hallucination, Sigmoid, Softmax
from bacl.method_settings.resampling import LOCE, RIO

VARIANTS = {
    "bacl": BACL(method="bacl", hallucination=Hallucination(categories=4)),
    "softmax": Softmax(method="softmax"),
    "sigmoid": Sigmoid(method="sigmoid"),
}


@pytest.fixture(scope="module", params=["faster_rcnn", "cascade_rcnn", "mask_rcnn"])
def trained(dataset_info, request):
    config = config_of(dataset_info, VARIANTS, freeze=(), detector=request.param)
    model = build(config)
    train(config, model, 2)
    return config, model.eval()


@pytest.mark.parametrize("index, name", enumerate(VARIANTS))
def test_exported_variant_detects_as_in_the_bank(trained, tmp_path, index, name):
    config, model = trained
    export_variants(config, model.state_dict(), CATEGORIES, tmp_path)
    stock = init_detector(
        str(tmp_path / name / "config.py"), str(tmp_path / name / "checkpoint.pth"), device="cpu"
    )
    heads = stock.roi_head.bbox_head
    heads = heads if isinstance(heads, torch.nn.ModuleList) else [heads]
    assert all(type(head) is TopKBBoxHead for head in heads)
    assert stock.dataset_meta["classes"] == ("0", "1", "2", "3", "4", "5")
    assert stock.dataset_meta["category_ids"] == [7, 14, 21, 28, "five", 10**20]

    dataset = DATASETS.build(config["val_dataloader"]["dataset"])
    sample = dataset[0]
    with torch.no_grad():
        mine = model.test_step(
            {"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]}
        )[0].pred_instances
    mine = mine[mine.variant == index]
    theirs = inference_detector(stock, dataset.get_data_info(0)["img_path"]).pred_instances
    assert len(mine) == len(theirs) > 0
    torch.testing.assert_close(mine.scores, theirs.scores)
    torch.testing.assert_close(mine.bboxes, theirs.bboxes)
    assert torch.equal(mine.labels, theirs.labels)
    assert ("masks" in mine) == ("masks" in theirs) == model.with_mask
    if model.with_mask:
        assert mine.masks == rle.encode(theirs.masks)


def test_exported_variant_sees_paths_and_arrays_alike(trained, tmp_path):
    config, model = trained
    export_variants(config, model.state_dict(), CATEGORIES, tmp_path)
    files = [str(tmp_path / "softmax" / name) for name in ("config.py", "checkpoint.pth")]
    stock = init_detector(*files, device="cpu")
    exif = Image.Exif()
    exif[274] = 6
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    path = str(tmp_path / "turned.webp")
    Image.fromarray(noise).save(path, lossless=True, exif=exif)
    by_path, by_array = inference_detector(stock, path), inference_detector(stock, read(path))
    assert by_path.ori_shape == by_array.ori_shape == (96, 64)
    assert len(by_path.pred_instances) > 0
    for name in ("scores", "bboxes", "labels"):
        assert torch.equal(by_path.pred_instances[name], by_array.pred_instances[name])


def test_exported_variant_is_read_drawn_and_written_by_stock_inference(trained, tmp_path):
    config, model = trained
    export_variants(config, model.state_dict(), CATEGORIES, tmp_path)
    files = [str(tmp_path / "softmax" / name) for name in ("config.py", "checkpoint.pth")]
    image = DATASETS.build(config["val_dataloader"]["dataset"]).get_data_info(0)["img_path"]
    found = inference_detector(init_detector(*files, device="cpu"), image).pred_instances
    inferencer = DetInferencer(*files, device="cpu", show_progress=False)
    said = inferencer(image, out_dir=str(tmp_path / "out"), no_save_pred=False)
    assert said["predictions"][0]["labels"] == found.labels.tolist()
    assert {path.suffix for path in (tmp_path / "out").rglob("*.*")} == {
        ".json",
        Path(image).suffix,
    }
    colours = get_palette(inferencer.model.dataset_meta["palette"], 1203)
    assert len(set(colours)) > 1000


def test_state_of_a_variant_holds_no_other_variants_weights(trained):
    _, model = trained
    state = variant_state(model.state_dict(), "bacl")
    assert not any("variants" in key or "statistics" in key for key in state)
    own = {key for key in model.state_dict() if ".variants.bacl.fc_cls." in key}
    assert own
    for key in own:
        assert torch.equal(state[key.replace("variants.bacl.", "")], model.state_dict()[key])


@pytest.mark.parametrize("settings", [LOCE(method="loce", slots=5), RIO(method="rio", slots=5)])
@pytest.mark.slow
def test_exported_variant_has_what_its_detector_reads_and_no_memory(
    dataset_info, tmp_path, settings
):
    name = settings.method
    config = config_of(dataset_info, {name: settings})
    state = build(config).state_dict()
    assert any(".memory." in key for key in state)
    export_variants(config, state, CATEGORIES, tmp_path)
    stock = MODELS.build(Config.fromfile(tmp_path / name / "config.py").model)
    exported = torch.load(tmp_path / name / "checkpoint.pth", weights_only=True)["state_dict"]
    assert exported.keys() == stock.state_dict().keys()


def test_checkpoints_tell_norms_and_confusions(trained, tmp_path):
    config, model = trained
    torch.save({"state_dict": model.state_dict()}, tmp_path / "bank.pth")
    export_variants(config, model.state_dict(), CATEGORIES, tmp_path)
    heads = model.roi_head.bbox_head
    heads = list(heads) if isinstance(heads, torch.nn.ModuleList) else [heads]
    confusions = confusions_of(tmp_path / "bank.pth", "bacl", len(CATEGORIES))
    expected = sum(head.variants["bacl"].indicator.tally.numpy() for head in heads)
    np.testing.assert_allclose(confusions, expected)
    assert confusions.sum() > 0
    assert confusions_of(tmp_path / "bank.pth", "softmax", len(CATEGORIES)) is None
    for name in VARIANTS:
        norms = weight_norms_of(tmp_path / name / "checkpoint.pth", len(CATEGORIES))
        if len(heads) > 1:
            assert norms is None
            continue
        rows = heads[0].variants[name].fc_cls.weight.detach().numpy()[: len(CATEGORIES)]
        np.testing.assert_allclose(norms, [float((row**2).sum()) ** 0.5 for row in rows], rtol=1e-5)
