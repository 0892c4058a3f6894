"""Backbones: each gives what the table says of it, and begins from weights under its own names."""

import subprocess
import sys
from unittest.mock import patch

import pytest
import torch
import torchvision
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from training import RECIPE

from bacl.backbones import BACKBONES
from bacl.detector.backbone_fit import backbone_problem
from bacl.detector.timm_networks import config_of
from bacl.detector.two_stage import model_config, plain_model
from bacl.errors import UsageError
from bacl.settings import Detector

timm = pytest.importorskip("timm", reason="timm is not installed: pip install 'bacl[timm]'")


@pytest.mark.parametrize("name", BACKBONES)
def test_backbone_gives_four_levels_of_the_channels_in_the_table(name):
    found = BACKBONES[name]
    backbone = MODELS.build(ConfigDict({**found.config, "init_cfg": None})).to("meta")
    backbone.eval()
    levels = backbone(torch.empty(1, 3, 64, 96, device="meta"))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (channels, 64 // stride, 96 // stride)
        for channels, stride in zip(found.channels, (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize("name", [n for n, b in BACKBONES.items() if b.torchvision])
def test_weights_of_torchvision_are_of_a_network_with_the_same_parameters(name):
    with torch.device("meta"):
        network = BACKBONES[name].torchvision.partition(".")[0]  # what follows names weights
        theirs = getattr(torchvision.models, network)().state_dict()
    assert backbone_problem(BACKBONES[name].config, theirs) is None
    config = model_config(Detector(backbone=name, weights="torchvision"), RECIPE, 3, 0)
    place = f"torchvision://{BACKBONES[name].torchvision}"
    assert config["backbone"]["init_cfg"]["checkpoint"] == place


@pytest.mark.slow
def test_convnext_computes_as_torchvisions_before_its_norms():
    torch.manual_seed(0)
    theirs = torchvision.models.convnext_tiny().eval()
    ours = MODELS.build({"type": "ConvNeXt", "size": "tiny"}).eval()
    ours.load_state_dict(theirs.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found, expected = ours(images), theirs.features(images)
        torch.testing.assert_close(found[-1], ours.norms[3](expected))


def test_network_of_timm_computes_as_timms_own_from_its_own_weights(tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model("resnet10t").eval()
    convnext = timm.create_model("convnext_atto").eval()
    for name, network in (("resnet10t", theirs), ("convnext_atto", convnext)):
        file = tmp_path / f"{name}.pth"
        torch.save(network.state_dict(), file)
        detector = Detector(backbone=f"timm/{name}", weights=str(file))
        config = model_config(detector, RECIPE, 3, 0)
        assert backbone_problem(config["backbone"], network.state_dict()) is None
        ours = MODELS.build(ConfigDict(config["backbone"]))
        ours.init_weights()
        images = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            found = ours.eval()(images)
            expected = network.forward_intermediates(images, intermediates_only=True)[-4:]
        assert [level.shape for level in found] == [level.shape for level in expected]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)
        channels = config["neck"]["in_channels"]
        assert channels == [level.size(1) for level in found]


def test_weights_of_another_network_are_told():
    config, _ = config_of("timm/resnet10t")
    for other in ("convnext_atto", "resnet14t"):
        state = timm.create_model(other).state_dict()
        assert "expected the weights of a TimmBackbone" in backbone_problem(config, state)


def test_network_of_timm_keeps_its_batch_norms_in_evaluation():
    network = MODELS.build({"type": "TimmBackbone", "name": "resnet10t"}).train()
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and not any(norm.training for norm in norms) and network.training


@pytest.mark.parametrize(
    "name, problem",
    [
        ("timm/resnet10x", "expected a network of timm's, got timm/resnet10x; did you mean timm/"),
        ("timm/vit_tiny_patch16_224", "expected features at strides 4, 8, 16, 32, got 16, 16, 16"),
    ],
)
def test_network_that_timm_lacks_or_that_has_no_levels_is_told(name, problem):
    with pytest.raises(UsageError, match=problem):
        plain_model(Detector(backbone=name))


def test_timm_that_is_not_installed_is_told_with_how_to_get_it():
    with (
        patch("bacl.detector.timm_networks.find_spec", return_value=None),
        pytest.raises(UsageError, match=r"not installed: pip install 'bacl\[timm\]'"),
    ):
        plain_model(Detector(backbone="timm/resnet10d"))


def test_backbone_is_a_name_of_the_table_or_timms():
    assert Detector(backbone="timm/resnet10t").backbone == "timm/resnet10t"
    with pytest.raises(ValueError, match="'resnet50'"):
        Detector(backbone="resnet5")
    with pytest.raises(ValueError, match="'resnet50'"):
        Detector(backbone="timm/")
    with pytest.raises(ValueError, match="weights torchvision are not for timm/resnet10t"):
        Detector(backbone="timm/resnet10t", weights="torchvision")


@pytest.mark.slow
def test_backbones_are_known_wherever_bacl_is_registered():
    """In a process of its own, because others may have imported them."""
    code = (
        "import bacl.register; from mmdet.registry import MODELS; "
        "assert MODELS.get('ConvNeXt') and MODELS.get('TimmBackbone')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
