"""Training and test on CUDA are those on the CPU, and keep there what a bank promises.

The comparison is in float32 (`device` switches TF32 off), to 1e-3 of what is compared; `beside`
says which choices are left to rounding. Tests of one device share neither draws nor proposals.
"""

from unittest.mock import patch

import pytest
import torch
from beside import Proposals, detected_alike, drawn_on_cpu, losses_alike, moved_alike
from everything import BACL_VARIANT, CONFIGS, OWN, detected, everything
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import weights_to_cpu
from ranks import on_ranks
from training import (
    build,
    config_of,
    config_of_features,
    exported_and_own,
    on_features,
    record,
    train,
)

from bacl.detector import bank as bank_module
from bacl.settings import Features, Trunk

pytestmark = pytest.mark.gpu

STEPS = {"everything": 3, "cascade_rcnn": 2, "mask_rcnn": 2, "iterative": 2, "resampling": 2}
"""In its second step BACL has prototypes to make features of; in its third FASA has an epoch behind
it whose losses moved its chances."""
ALONE = (
    "softmax",
    "bce",
    "fcbl",
    "by_confusion_matrix",
    "eqlv2",
    "seesaw",
    "loce",
    "fasa",
    "rio",
    "simcal",
)
"""With and without state, draws, a classifier of their own and other layers."""

REPLAYED = ("backbone", "neck", "rpn_head", "roi_head.bbox_head.shared_fcs")
"""Parts that a replay does not train."""


def configured(name, dataset_info, folder):
    """A configuration that detects something however little it has trained."""
    config = CONFIGS[name](dataset_info, folder)
    config["model"]["test_cfg"]["rcnn"]["score_thr"] = 0.0
    return config


def trained(config, start, device, steps, proposals):
    """(losses of each step, the model after them) on a device, with proposals kept or shown."""
    model, told = build(config, start).to(device), []
    with drawn_on_cpu(), proposals(model):
        train(config, model, steps, told=told)
    return told, model


@pytest.mark.parametrize("name", CONFIGS)
def test_training_and_test_are_what_they_are_on_the_cpu(dataset_info, tmp_path, device, name):
    config = configured(name, dataset_info, tmp_path)
    start, proposals = build(config).state_dict(), Proposals()
    expected, here = trained(config, start, "cpu", STEPS[name], proposals.kept)
    found, there = trained(config, start, device, STEPS[name], proposals.shown)
    losses_alike(found, expected)
    moved_alike(there.state_dict(), here.state_dict(), start, device)

    there.load_state_dict(here.state_dict())
    proposals = Proposals()
    with proposals.kept(here.eval()):
        detections = detected(here, config)
    with proposals.shown(there.eval()):
        detected_alike(detected(there, config), detections)


def test_channels_last_changes_nothing(dataset_info, device):
    config = config_of(
        dataset_info, {"bacl": OWN["by_confusion_matrix"], "softmax": OWN["softmax"]}, freeze=()
    )
    start, proposals = build(config).state_dict(), Proposals()
    expected, plain = trained(config, start, device, 2, proposals.kept)
    config["model"]["channels_last"] = True
    found, laid_out = trained(config, start, device, 2, proposals.shown)
    assert laid_out.backbone.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    losses_alike(found, expected)
    moved_alike(laid_out.state_dict(), plain.state_dict(), start, device)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_trains_and_stays_finite(dataset_info, tmp_path, device, precision):
    if precision == "float16" and torch.device(device).type == "cpu":
        pytest.skip("mmengine scales losses on CUDA only")
    losses = {}
    for name in ("float32", precision):
        config = everything(dataset_info, tmp_path, precision=name)
        settings = config["optim_wrapper"]

        def wrapper(optimizer, settings=settings):
            return OPTIM_WRAPPERS.build({**settings, "optimizer": optimizer})

        model = build(config).to(device)
        start = {key: value.clone() for key, value in model.state_dict().items()}
        losses[name] = []
        # loss scaling leaves out the first steps until its scale, halved each time, fits
        train(config, model, 1 if name == "float32" else 8, wrapper=wrapper, told=losses[name])
    for step in losses[precision]:
        assert all(torch.as_tensor(value).isfinite().all() for value in step.values())
    # of all variants: proposals are others, and so is what a single one is shown
    first, expected = losses[precision][0]["loss"], losses["float32"][0]["loss"]
    torch.testing.assert_close(first.float(), expected, rtol=0.05, atol=0)
    state = model.state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            assert torch.equal(value.isfinite(), start[key].isfinite()), key
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    for name, variant in model.banks()[0].items():
        own = f"roi_head.bbox_head.variants.{name}."
        # DisAlign's classifier stays as it was
        moved = {
            key
            for key, _ in variant.named_parameters()
            if (state[own + key] != start[own + key]).any()
        }
        assert moved, name


@pytest.fixture(scope="module")
def bank(dataset_info, device, tmp_path_factory):
    """Configuration of a bank of everything, its weights before, and after three steps there."""
    config = configured("everything", dataset_info, tmp_path_factory.mktemp("everything"))
    start = build(config).state_dict()
    model = build(config, start).to(device)
    train(config, model, 3)
    return config, start, model


def only(config, name):
    """The configuration with one of its variants."""
    model = config["model"]
    head = {**model["roi_head"]["bbox_head"]}
    head["variants"] = {name: head["variants"][name]}
    return {**config, "model": {**model, "roi_head": {**model["roi_head"], "bbox_head": head}}}


@pytest.mark.parametrize("name", ALONE)
def test_bank_equals_alone(bank, device, name):
    config, start, together = bank
    alone = build(only(config, name))
    before = {key: start[key] for key in alone.state_dict()}
    alone.load_state_dict(before)
    alone.to(device)
    train(only(config, name), alone, 3)
    expected = {key: together.state_dict()[key] for key in before}
    moved_alike(alone.state_dict(), expected, before, device)


def test_resumed_equals_undisturbed(bank, device):
    config, start, undisturbed = bank
    first = build(config, start).to(device)
    optimizer = train(config, first, 1)
    second = build(config, weights_to_cpu(first.state_dict())).to(device)  # as from a checkpoint
    train(config, second, 2, skip=1, optimizer_state=optimizer.state_dict())
    moved_alike(second.state_dict(), undisturbed.state_dict(), start, device)


def test_replayed_stage_is_what_it_is_on_the_cpu(dataset_info, tmp_path, device):
    stored = Features(views=1, dtype="float32")
    recording = config_of_features(dataset_info, stored)
    recorder = build(recording)
    record(recording, recorder, tmp_path / "features")
    variants = {"softmax": OWN["softmax"], "bacl": BACL_VARIANT}
    config = config_of(dataset_info, variants, freeze=REPLAYED, replayed=stored)
    config = on_features(config, tmp_path / "features")
    start = {**build(config).state_dict(), **recorder.state_dict()}
    runs = []
    for place in ("cpu", device):
        model, told = build(config, start).to(place), []
        with drawn_on_cpu():
            train(config, model, 4, told=told)
        runs.append((told, model.state_dict()))
    (expected, here), (found, there) = runs
    losses_alike(found, expected)
    moved_alike(there, here, start, device)


@pytest.mark.parametrize("channels_last", [False, True])
def test_trunk_in_bfloat16_hands_on_nearly_what_it_does_in_float32(
    dataset_info, device, channels_last
):
    half = Trunk(precision="bfloat16")
    config = config_of(dataset_info, OWN, trunk=half, channels_last=channels_last)
    model = build(config).to(device).train()
    plain = build(config_of(dataset_info, OWN), model.state_dict()).to(device).train()
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)).to(device)
    with model.trunk.read():
        found = model.extract_feat(images)
    for level, other in zip(found, plain.extract_feat(images), strict=True):
        assert level.dtype == torch.float32 and not level.requires_grad
        away = (level - other).norm() / other.norm()
        assert 0 < away < 2e-2  # bfloat16 has 8 bits of mantissa
    told = []
    train(config, model, 2, told=told)
    assert all(torch.as_tensor(value).isfinite() for step in told for value in step.values())
    kinds = {value.dtype for value in model.state_dict().values() if value.is_floating_point()}
    assert torch.bfloat16 not in kinds


def sum_on_device(folder, device):
    """For `on_ranks`: whether sums of rows of a rank's tallies are those of the CPU."""
    rank = torch.distributed.get_rank()
    draw = torch.Generator().manual_seed(rank)
    tallies = [
        {
            "confusion": torch.randn(9, 10, generator=draw)
            * (torch.arange(9)[:, None] % 3 == rank),
            "moments": torch.randn(9, 5, generator=draw, dtype=torch.double),
            "counts": torch.randn(4, generator=draw),
        }
    ]
    there = [{name: value.to(device) for name, value in tally.items()} for tally in tallies]
    with patch.object(bank_module, "MANY", 1):
        expected, found = (bank_module.reduce_sum(one) for one in (tallies, there))
    same = [
        own.device.type == torch.device(device).type and torch.equal(own.cpu(), expected[0][name])
        for name, own in found[0].items()
    ]
    torch.save(same, folder / f"{rank}.pth")


def test_two_ranks_on_a_device_sum_what_they_sum_on_the_cpu(tmp_path, device):
    on_ranks(sum_on_device, 2, tmp_path, str(device))
    assert [torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1)] == [[True] * 3] * 2


def exports_equal(config, model, folder):
    """Asserts that each export finds what its variant finds in the bank."""
    compared = 0
    for name, theirs, mine in exported_and_own(config, model, folder):
        assert len(mine) == len(theirs) > 0, name
        assert torch.equal(mine.labels, theirs.labels), name
        for field in ("scores", "bboxes"):
            torch.testing.assert_close(
                mine[field], theirs[field], rtol=1e-3, atol=1e-5, msg=f"{name}: {field}"
            )
        compared += 1
    assert compared == len(model.banks()[0])


def test_every_export_predicts_as_its_bank_does(bank, tmp_path):
    config, _, model = bank
    exports_equal(config, model, tmp_path)


@pytest.mark.parametrize("name", ["cascade_rcnn", "mask_rcnn", "iterative", "resampling"])
def test_exports_of_other_detectors_predict_as_their_bank_does(
    dataset_info, device, tmp_path, name
):
    config = configured(name, dataset_info, tmp_path)
    model = build(config).to(device)
    train(config, model, 2)
    exports_equal(config, model, tmp_path)
