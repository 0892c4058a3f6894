"""Corrections over a trained bank: all in one walk are each alone, exported or not, on any number
of ranks."""

import copy

import pytest
import torch
from everything import BACL_VARIANT, OWN, detected
from field import VARIANTS
from mmdet.apis import init_detector
from mmdet.registry import DATASETS
from ranks import on_ranks
from simulated import DEVICE, here, simulated
from training import (
    CATEGORIES,
    DETECTOR,
    RECIPE,
    batch_of,
    build,
    config_of,
    config_of_features,
    exported_and_own,
    on_features,
    record,
    stream_of,
    train,
)

from bacl.config import corrections_config
from bacl.corrections.statistics import observe
from bacl.corrections.warmstart import load_corrected
from bacl.datasets.prepared import Prepared
from bacl.detector.plain import plain_detector
from bacl.errors import RunError, UsageError
from bacl.export import export_variants
from bacl.features.stored import collate_images, collate_views
from bacl.method_settings.corrections import CORRECTIONS
from bacl.settings import FROZEN_TRUNK, Features

TRAINED = {
    "softmax": OWN["softmax"],
    "sigmoid": OWN["sigmoid"],
    "bacl": BACL_VARIANT,
    "cosine": VARIANTS["cosine"],
    "loce": VARIANTS["loce"],
    "tde": VARIANTS["tde"],
}
CORRECTED = {
    "nothing": {"of": "softmax", "method": "norcal", "gamma": 0.0},
    "norcal": {"of": "softmax", "method": "norcal", "gamma": 0.6},
    "of_sigmoid": {"of": "sigmoid", "method": "norcal", "gamma": 0.3},
    "of_bacl": {"of": "bacl", "method": "norcal", "gamma": 0.1, "by": "instances"},
    "adjusted": {"of": "softmax", "method": "logit_adjustment"},
    "of_cosine": {"of": "cosine", "method": "logit_adjustment", "tau": 0.5},
    "tempered": {"of": "bacl", "method": "temperature", "temperatures": [0.8, 1.0, 1.2]},
    "logn": {"of": "softmax", "method": "logn", "images": 6},
    "of_loce": {"of": "loce", "method": "logn", "images": 4},
    "alpha": {"of": "tde", "method": "tde_alpha", "alpha": 0.2},
}
STEPS = 3


def corrections(names=CORRECTED):
    return {n: CORRECTIONS[s["method"]](**s) for n, s in CORRECTED.items() if n in names}


def corrected_config(dataset_info, trained, names=CORRECTED, recipe=RECIPE):
    prepared = Prepared.load(dataset_info)
    shown = trained["train_dataloader"]
    return corrections_config(trained, prepared, recipe, corrections(names), shown)


class Batches:
    """What a DataLoader is for `observe`, with this rank's part of each batch of training."""

    def __init__(self, config, collate=None, ranks=1):
        loader = config["statistics_dataloader"]
        self.config, self.collate = {"train_dataloader": loader}, collate
        self.batch_size = RECIPE.schedule.batch // ranks
        self.dataset = DATASETS.build(loader["dataset"])

    def __iter__(self):
        samples = iter(stream_of(self.config, self.dataset))
        while True:
            yield batch_of(self.dataset, samples, self.batch_size, self.collate)


@pytest.fixture(scope="module")
def trained(dataset_info, tmp_path_factory):
    """A configuration, the bank that it has trained, and its checkpoint."""
    config = config_of(dataset_info, TRAINED)
    config["model"]["test_cfg"]["rcnn"]["score_thr"] = 0.0
    model = build(config)
    train(config, model, STEPS)
    path = tmp_path_factory.mktemp("trained") / "checkpoint.pth"
    torch.save({"state_dict": model.state_dict()}, path)
    return config, model.eval(), path


def begun(config, path, collate=None):
    """The bank of corrections with all that it needs."""
    model = build(config)
    load_corrected(model, path)
    if any(one["method"] == "logn" for one in options_of(config).values()):
        observe(model, Batches(config, collate))
    return model.eval()


def options_of(config):
    head = config["model"]["roi_head"]["bbox_head"]
    return (head[0] if isinstance(head, list) else head)["variants"]


@pytest.fixture(scope="module")
def bank(dataset_info, trained):
    config = corrected_config(dataset_info, trained[0])
    return config, begun(config, trained[2])


def own(found, number):
    return found[found.variant == number]


def same(found, expected):
    assert len(found) == len(expected) > 0
    for field in ("bboxes", "scores", "labels"):
        assert torch.equal(found[field], expected[field]), field


def test_correction_of_nothing_detects_to_the_bit_what_was_trained(bank, trained):
    config, model = bank
    found, before = detected(model, config), detected(trained[1], trained[0])
    same(own(found, list(CORRECTED).index("nothing")), own(before, 0))
    for name in ("norcal", "adjusted", "logn"):
        mine = own(found, list(CORRECTED).index(name))
        assert not torch.equal(mine.scores, own(before, 0).scores), name


@pytest.mark.parametrize("name", ["norcal", "of_bacl", "logn", "alpha"])
def test_one_walk_finds_what_a_walk_for_each_finds(dataset_info, bank, trained, name):
    config, model = bank
    alone = corrected_config(dataset_info, trained[0], [name])
    expected = detected(begun(alone, trained[2]), alone)
    found = own(detected(model, config), list(CORRECTED).index(name))
    assert len(found) == len(expected) > 0 and torch.equal(found.labels, expected.labels)
    assert torch.equal(found.bboxes, expected.bboxes)
    # sigmoids of columns side by side with others round otherwise than those of whole rows
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-6, atol=0)


def test_corrections_of_a_variant_compute_its_logits_once(bank):
    config, model = bank
    head = model.heads()[0].bank()
    assert head["norcal"].base is head["adjusted"].base is head["logn"].base
    assert head["norcal"].base is not head["of_sigmoid"].base
    calls = []
    for name in ("norcal", "of_bacl", "tempered"):
        head[name].base.fc_cls.register_forward_hook(lambda module, *_: calls.append(module))
    detected(model, config)
    assert len(calls) == 3  # once for each hook: softmax's once, and bacl's once with its two hooks


def test_exported_corrections_detect_as_in_the_bank(bank, tmp_path):
    config, model = bank
    compared = list(exported_and_own(config, model, tmp_path))
    assert [name for name, _, _ in compared] == list(CORRECTED)
    for name, theirs, mine in compared:
        assert len(mine) == len(theirs) > 0, name
        torch.testing.assert_close(mine.scores, theirs.scores, rtol=1e-4, atol=1e-6, msg=name)
    for name, linear in (("norcal", True), ("logn", True), ("of_cosine", False), ("alpha", False)):
        text = (tmp_path / name / "config.py").read_text()
        assert ("VariantBBoxHead" not in text) is linear, name


@pytest.mark.parametrize("name", ["norcal", "tempered", "logn"])
def test_linear_corrections_are_detectors_of_mmdetections_own_types(bank, tmp_path, name):
    config, model = bank
    export_variants(config, model.state_dict(), CATEGORIES, tmp_path)
    files = [str(tmp_path / name / file) for file in ("config.py", "checkpoint.pth")]
    stock = init_detector(*files, device="cpu")
    settings = torch.load(files[1], weights_only=True)["meta"]["variant"]
    plain, state = plain_detector(stock.cfg.to_dict(), stock, settings)
    assert plain["roi_head"]["bbox_head"]["type"] == "Shared2FCBBoxHead"
    weight = state["roi_head.bbox_head.fc_cls.weight"]
    assert torch.equal(weight, stock.roi_head.bbox_head.fc_cls.weight[: len(weight)])


def test_corrections_of_other_classifiers_have_no_such_types(bank, tmp_path):
    config, model = bank
    export_variants(config, model.state_dict(), CATEGORIES, tmp_path)
    files = [str(tmp_path / "of_cosine" / file) for file in ("config.py", "checkpoint.pth")]
    stock = init_detector(*files, device="cpu")
    settings = torch.load(files[1], weights_only=True)["meta"]["variant"]
    with pytest.raises(UsageError, match="it corrects the scores of a classifier that is not lin"):
        plain_detector(stock.cfg.to_dict(), stock, settings)


def test_cascade_corrects_the_mean_of_its_stages_logits(dataset_info, tmp_path):
    trained = config_of(dataset_info, {"softmax": OWN["softmax"]}, detector="cascade_rcnn")
    trained["model"]["test_cfg"]["rcnn"]["score_thr"] = 0.0
    model = build(trained).eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "checkpoint.pth")
    config = corrected_config(dataset_info, trained, ["nothing", "norcal", "logn"])
    corrected = begun(config, tmp_path / "checkpoint.pth")
    counts = {float(head.bank()["logn"].count) for head in corrected.heads()}
    assert len(corrected.heads()) == 3 and min(counts) > 0
    found = detected(corrected, config)
    same(own(found, 0), detected(model, trained))
    for name, theirs, mine in exported_and_own(config, corrected, tmp_path):
        torch.testing.assert_close(mine.scores, theirs.scores, rtol=1e-4, atol=1e-6, msg=name)


def test_stored_features_serve_statistics_and_detections(dataset_info, tmp_path):
    """Of all regions in float32 of the first view, they are those of images."""
    stored = Features(views=1, negatives=DETECTOR.roi_samples, dtype="float32")
    freeze = [*FROZEN_TRUNK, "rpn_head"]
    recording = config_of_features(dataset_info, stored)
    start = build(recording)
    record(recording, start, tmp_path / "features")
    variants = {"softmax": OWN["softmax"]}
    exact = config_of(dataset_info, variants, freeze=freeze)
    replayed = config_of(dataset_info, variants, freeze=freeze, replayed=stored)
    on_features(replayed, tmp_path / "features")
    model = build(exact)
    model.load_state_dict(start.state_dict(), strict=False)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "checkpoint.pth")
    names = ["norcal", "logn"]
    config = corrected_config(dataset_info, replayed, names)
    of_features = begun(config, tmp_path / "checkpoint.pth", collate_views)
    of_images = begun(corrected_config(dataset_info, exact, names), tmp_path / "checkpoint.pth")
    one, other = (m.heads()[0].bank()["logn"] for m in (of_features, of_images))
    assert one.count == other.count > 0
    torch.testing.assert_close(one.sums, other.sums, rtol=1e-4, atol=1e-3)
    image = DATASETS.build(config["val_dataloader"]["dataset"])[0]
    with torch.no_grad():
        found = of_features.test_step(collate_images([image]))[0].pred_instances
    assert set(found.variant.tolist()) == {0, 1}


def test_walk_leaves_weights_as_they_are(bank, trained):
    state, before = bank[1].state_dict(), trained[1].state_dict()
    for key, value in before.items():
        if ".variants." not in key and key in state:
            assert torch.equal(state[key], value), key
    prefix = "roi_head.bbox_head.variants."
    for part in ("weight", "bias"):
        mine = state[f"{prefix}logn.base.fc_cls.{part}"]
        assert torch.equal(mine, before[f"{prefix}softmax.fc_cls.{part}"])


def test_corrections_are_found_on_any_device(bank):
    config, model = bank
    expected = detected(model, config)
    with simulated():
        found = detected(copy.deepcopy(model).to(DEVICE), config)
        assert len(found) == len(expected) > 0
        torch.testing.assert_close(here(found.scores), expected.scores)


def test_every_correction_is_among_them():
    assert {one["method"] for one in CORRECTED.values()} == CORRECTIONS.keys()
    assert len(CORRECTED) >= 8


def test_checkpoint_of_another_detector_is_refused(dataset_info, bank, trained, tmp_path):
    config, _ = bank
    state = trained[1].state_dict()
    lacking = {k: v for k, v in state.items() if "variants.softmax." not in k}
    torch.save({"state_dict": lacking}, tmp_path / "checkpoint.pth")
    with pytest.raises(RunError, match=r"found no roi_head\.bbox_head\.variants\.softmax\.fc_cls"):
        load_corrected(build(config), tmp_path / "checkpoint.pth")


def observe_and_save(folder, config, path):
    """For `on_ranks`."""
    model = build(config)
    load_corrected(model, path)
    observe(model, Batches(config, ranks=2))
    torch.save(model.state_dict(), folder / f"{torch.distributed.get_rank()}.pth")


@pytest.mark.slow
def test_two_ranks_have_the_statistics_of_one(bank, trained, tmp_path):
    config, model = bank
    on_ranks(observe_and_save, 2, tmp_path, config, trained[2])
    for rank in (0, 1):
        state = torch.load(tmp_path / f"{rank}.pth", weights_only=True)
        for name in ("logn", "of_loce"):
            key = f"roi_head.bbox_head.variants.{name}."
            assert state[f"{key}count"] == model.state_dict()[f"{key}count"] > 0
            torch.testing.assert_close(state[f"{key}sums"], model.state_dict()[f"{key}sums"])
