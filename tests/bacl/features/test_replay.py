"""A bank on stored features is the bank, but for what the features leave out."""

import pytest
import torch
from everything import BACL_VARIANT, OWN, detected
from features.conftest import EXACT
from field import VARIANTS as FIELD
from field import grown, in_short_epochs
from mmdet.registry import DATASETS
from mmengine.dataset import pseudo_collate
from mmengine.optim import OptimWrapper
from ranks import on_ranks
from training import (
    RECIPE,
    build,
    config_of,
    config_of_features,
    exported_and_own,
    on_features,
    record,
    rewritten,
    train,
    train_and_save,
)

from bacl.datasets.samplers import OrderedSampler, Position
from bacl.detector.unlimited import hand_on
from bacl.errors import RunError, UsageError
from bacl.features.stored import StoredFeatures, StoredProposals, collate_images
from bacl.precision import BFloat16OptimWrapper
from bacl.settings import Features, Trunk

TRUNK = ("backbone", "neck", "rpn_head", "roi_head.bbox_head.shared_fcs")
OF_EACH_RANK = BACL_VARIANT.hallucination.model_copy(update={"statistics": "per_rank"})
VARIANTS = {
    "bacl": BACL_VARIANT,
    "bacl_of_each_rank": BACL_VARIANT.model_copy(update={"hallucination": OF_EACH_RANK}),
    "softmax": OWN["softmax"],
    "bce": OWN["bce"],
}


def configs(dataset_info, folder, variants=VARIANTS, freeze=TRUNK, stored=EXACT, **recipe):
    """The stage as it is, and on the features in `folder`."""
    plain = config_of(dataset_info, variants, freeze=freeze, **recipe)
    replayed = config_of(dataset_info, variants, freeze=freeze, replayed=stored, **recipe)
    return plain, on_features(replayed, folder)


def started(config, state):
    """The model of a configuration on the weights of a trunk."""
    model = build(config)
    model.load_state_dict(state, strict=False)
    return model


@DATASETS.register_module()
class AsRecorded:
    """Training images of `dataset`, each in the view that replays show at a position."""

    def __init__(self, dataset, views):
        self.images = DATASETS.build(dataset)
        order = OrderedSampler(self.images, RECIPE.schedule.batch, seed=0, pair_alike=True)
        self.places = {}
        for place in range(views * len(self)):
            self.places.setdefault(order.image(place), []).append(place)

    def __len__(self):
        return len(self.images)

    def __getattr__(self, name):
        return getattr(self.images, name)

    def __getitem__(self, at):
        views = self.places[at.index]
        place = views[at.position // len(self) % len(views)]
        sample = self.images[Position(place, at.index)]
        sample["data_samples"].set_metainfo({"at": at.position, "drawn_for": at.drawn_for})
        return sample


def trained(config, state, steps=3, skip=0, wrapper=OptimWrapper):
    """Losses of some steps from the weights `state`, and the model after them."""
    told = []
    model = started(config, state)
    train(config, model, steps, skip=skip, told=told, wrapper=wrapper)
    return told, model


def trained_as_recorded(config, state, steps=3, skip=0):
    """The same on images, in the views that were recorded."""
    loader = config["train_dataloader"]
    dataset = {"type": "AsRecorded", "dataset": loader["dataset"], "views": EXACT.views}
    config = {**config, "train_dataloader": {**loader, "dataset": dataset}}
    model, told = started(config, state), []
    head, loss = model.roi_head.bbox_head, model.loss
    begin, shown = head.begin, []

    def seen(inputs, samples):
        shown[:] = [sample.at for sample in samples]
        return loss(inputs, samples)

    # variants draw by the position in training, where boxes are drawn by the one of the recording
    head.begin = lambda positions, *others: begin(list(shown), *others)
    model.loss = seen
    train(config, model, steps, skip=skip, told=told)
    return told, model


def of_method(sampler, dataset_info, folder):
    if sampler == "random":
        return VARIANTS
    forest = {"forest": grown(dataset_info, folder)}
    return VARIANTS | (FIELD if sampler == "class_aware" else {}) | forest


@pytest.mark.parametrize(
    ("sampler", "skip"), [("random", 0), ("random", 64), ("repeat_factor", 3), ("class_aware", 40)]
)
def test_replay_of_all_regions_trains_as_the_exact_stage_does(
    dataset_info, exact, tmp_path, sampler, skip
):
    folder, state = exact
    variants = of_method(sampler, dataset_info, tmp_path)
    recipe = {"sampler": sampler, "repeat_threshold": 0.3}
    plain, replayed = configs(dataset_info, folder, variants, **recipe)
    if "fasa" in variants:
        in_short_epochs(plain), in_short_epochs(replayed)
    expected, one = trained_as_recorded(plain, state, skip=skip)
    found, other = trained(replayed, state, skip=skip)
    names = {name for name in expected[0] if name == "loss_bbox" or ".loss_" in name}
    assert {name.split(".")[0] for name in names} == {"loss_bbox", *variants}
    for step, again in zip(expected, found, strict=True):
        assert {name: again[name].item() for name in names} == pytest.approx(
            {name: step[name].item() for name in names}, rel=1e-4
        )
    after = other.state_dict()
    for name, value in one.state_dict().items():
        torch.testing.assert_close(after[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_first_epoch_of_a_random_order_shows_what_the_exact_stage_would(dataset_info, exact):
    folder, state = exact
    plain, replayed = configs(dataset_info, folder)
    expected, found = (trained(config, state, steps=2)[0] for config in (plain, replayed))
    for step, again in zip(expected, found, strict=True):
        for name in ("loss_bbox", "bacl.loss_cls", "softmax.loss_cls"):
            assert again[name].item() == pytest.approx(step[name].item(), rel=1e-4)


def found_in_the_first(model, config):
    stored = DATASETS.build(config["val_dataloader"]["dataset"])
    with torch.no_grad():
        return model.eval().test_step(collate_images([stored[0]]))[0].pred_instances


def assert_detect_alike(found, expected, least=20):
    assert len(found) > least
    for name in ("bboxes", "scores", "labels", "variant"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)


def test_detections_of_stored_proposals_are_the_exact_ones_to_the_bit(dataset_info, exact):
    folder, state = exact
    plain, replayed = configs(dataset_info, folder)
    of_images = started(plain, state)
    of_features = build(replayed, of_images.state_dict())
    found = found_in_the_first(of_features, replayed)
    assert_detect_alike(found, detected(of_images.eval(), plain))


def test_detections_without_stored_proposals_are_those_of_images(dataset_info, exact):
    folder, state = exact
    stored = EXACT.model_copy(update={"val": False})
    plain, replayed = configs(dataset_info, folder, stored=stored)
    assert replayed["val_dataloader"] == plain["val_dataloader"]
    of_images = started(plain, state)
    of_features = build(replayed, of_images.state_dict())
    expected = detected(of_images.eval(), plain)
    assert_detect_alike(detected(of_features.eval(), replayed), expected)


def test_variant_in_a_replayed_bank_equals_the_variant_alone(dataset_info, exact):
    folder, state = exact
    _, replayed = configs(dataset_info, folder)
    _, bank = trained(replayed, state)
    for name in VARIANTS:
        _, own = configs(dataset_info, folder, {name: VARIANTS[name]})
        _, alone = trained(own, state)
        for key, value in alone.state_dict().items():
            torch.testing.assert_close(value, bank.state_dict()[key], rtol=1e-5, atol=1e-6, msg=key)


def test_resumed_replay_equals_an_undisturbed_one(dataset_info, exact):
    folder, state = exact
    _, replayed = configs(dataset_info, folder)
    _, undisturbed = trained(replayed, state, steps=4)
    first = started(replayed, state)
    optimizer = train(replayed, first, 2)
    second = build(replayed, first.state_dict())
    train(replayed, second, 2, skip=2, optimizer_state=optimizer.state_dict())
    for key, value in second.state_dict().items():
        assert value.equal(undisturbed.state_dict()[key]), key


def test_two_ranks_replay_as_one(dataset_info, exact, tmp_path):
    folder, _ = exact
    variants = of_method("class_aware", dataset_info, tmp_path)
    _, replayed = configs(dataset_info, folder, variants, sampler="class_aware")
    in_short_epochs(replayed)
    single = build(replayed)
    train(replayed, single, 3)
    on_ranks(train_and_save, 2, tmp_path, replayed)
    two = torch.load(tmp_path / "0.pth", weights_only=True)
    for key, value in two.items():
        torch.testing.assert_close(value, single.state_dict()[key], rtol=1e-4, atol=1e-5, msg=key)


def test_frozen_box_regressor_has_no_loss_and_stays(dataset_info, exact):
    folder, state = exact
    _, replayed = configs(dataset_info, folder, freeze=[*TRUNK, "roi_head.bbox_head.fc_reg"])
    told, model = trained(replayed, state, steps=1)
    assert "loss_bbox" not in told[0] and "bacl.loss_cls" in told[0]
    name = "roi_head.bbox_head.fc_reg.weight"
    assert model.state_dict()[name].equal(state[name])


def test_trunk_stays_as_it_was(dataset_info, exact):
    folder, state = exact
    _, replayed = configs(dataset_info, folder)
    _, model = trained(replayed, state, steps=2)
    after = model.state_dict()
    moved = {name for name, value in state.items() if not after[name].equal(value)}
    assert moved == {"roi_head.bbox_head.fc_reg.weight", "roi_head.bbox_head.fc_reg.bias"}


def test_exported_variants_detect_as_the_replayed_bank(dataset_info, exact, tmp_path):
    folder, state = exact
    _, replayed = configs(dataset_info, folder)
    _, model = trained(replayed, state, steps=2)
    of_images = config_of(dataset_info, VARIANTS, freeze=TRUNK)
    images = {**replayed, "val_dataloader": of_images["val_dataloader"]}
    compared = list(exported_and_own(images, model, tmp_path / "of images"))
    assert [name for name, _, _ in compared] == list(VARIANTS)
    for name, theirs, mine in compared:
        assert len(mine) == len(theirs) > 0, name
        torch.testing.assert_close(mine.scores, theirs.scores, msg=name)
        assert mine.labels.equal(theirs.labels), name


FEWER = {"views": 1, "negatives": 64, "layers": []}


@pytest.mark.parametrize(
    "recipe",
    [
        {"proposal_nms": [0.9, 0.8, 0.7]},
        {"augmentation": "copy_paste", "copy_paste_size": 96},
        {"precision": "bfloat16"},
        {"trunk": Trunk(precision="bfloat16")},
    ],
    ids=["resampling", "copy_paste", "bfloat16", "trunk"],
)
def test_first_epoch_of_every_recipe_is_replayed(dataset_info, tmp_path, recipe):
    split = small(dataset_info, tmp_path)
    features = EXACT.model_copy(update={"views": 1})
    state = recorded(dataset_info, tmp_path / "f", features, train_split=split, **recipe)
    plain, replayed = (
        config_of(
            dataset_info, VARIANTS, freeze=TRUNK, train_split=split, replayed=stored, **recipe
        )
        for stored in (None, features)
    )
    half = recipe.get("precision") == "bfloat16"
    wrapper = BFloat16OptimWrapper if half else OptimWrapper
    expected, found = (
        trained(config, state, wrapper=wrapper)[0]
        for config in (plain, on_features(replayed, tmp_path / "f"))
    )
    for step, again in zip(expected, found, strict=True):
        for name in ("loss_bbox", "bacl.loss_cls", "softmax.loss_cls", "bce.loss_cls"):
            assert again[name].item() == pytest.approx(
                step[name].item(), rel=2e-2 if half else 1e-4
            ), name


def small(dataset_info, folder, images=12, boxes=lambda place: True):
    """The training split's first images, of which some have boxes."""

    def kept(place, image, file, annotations):
        if place >= images:
            return None
        return image, file, annotations if boxes(place) else []

    return rewritten(dataset_info, folder, kept)


def recorded(dataset_info, folder, features, **options):
    config = config_of_features(dataset_info, features, **options)
    model = build(config)
    record(config, model, folder)
    return model.state_dict()


class Beyond:
    """Takes what a detector hands on beyond its limit per image."""

    def __init__(self):
        self.found = {}

    def connect(self):
        pass

    def lowest(self, variant, like):
        return torch.full((like.size(1) - 1,), 0.05)

    def take(self, image, variant, best, rest):
        self.found[image, variant] = rest


def test_replay_hands_on_beyond_its_limit_what_the_detector_does(dataset_info, exact):
    folder, state = exact
    handed = []
    for config in configs(dataset_info, folder):
        config["model"]["test_cfg"]["rcnn"]["max_per_img"] = 3
        model, beyond = started(config, state).eval(), Beyond()
        assert hand_on(model, beyond)
        loader = config["val_dataloader"]
        dataset = DATASETS.build(loader["dataset"])
        stored = loader["dataset"]["type"] == "StoredProposals"
        collate = collate_images if stored else pseudo_collate
        with torch.no_grad():
            model.val_step(collate([dataset[0]]))
        handed.append(beyond.found)
    assert handed[0].keys() == handed[1].keys() and handed[0]
    assert sum(len(rest[1]) for rest in handed[0].values()) > 0
    for place, rest in handed[0].items():
        for one, other in zip(rest, handed[1][place], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_half_precision_changes_losses_by_its_rounding_alone(dataset_info, tmp_path):
    split = small(dataset_info, tmp_path)
    losses = {}
    for dtype in ("float32", "float16"):
        features = Features(dtype=dtype, **FEWER)
        state = recorded(dataset_info, tmp_path / dtype, features, train_split=split)
        replayed = config_of(
            dataset_info, VARIANTS, freeze=TRUNK, replayed=features, train_split=split
        )
        losses[dtype], _ = trained(on_features(replayed, tmp_path / dtype), state)
    sizes = [(tmp_path / dtype / "train-00000.pt").stat().st_size for dtype in losses]
    assert sizes[1] < sizes[0]
    names = ("loss_bbox", "bacl.loss_cls", "softmax.loss_cls", "bce.loss_cls")
    of_float32, of_float16 = (
        [step[name].item() for step in steps for name in names] for steps in losses.values()
    )
    assert of_float16 == pytest.approx(of_float32, rel=2e-3)  # half precision rounds by 2**-11
    assert of_float16 != of_float32


def test_mask_rcnn_trains_on_features_and_finds_the_boxes_of_the_exact_path(dataset_info, tmp_path):
    split, kind = small(dataset_info, tmp_path), {"detector": "mask_rcnn"}
    features = Features(dtype="float32", **FEWER)
    state = recorded(dataset_info, tmp_path / "f", features, train_split=split, **kind)
    plain, replayed = (
        config_of(
            dataset_info,
            VARIANTS,
            freeze=[*TRUNK, "roi_head.mask_head"],
            train_split=split,
            **kind,
            **more,
        )
        for more in ({}, {"replayed": features})
    )
    assert plain["val_evaluator"]["masks"] and not replayed["val_evaluator"]["masks"]
    told, model = trained(on_features(replayed, tmp_path / "f"), state, steps=2)
    assert "loss_mask" not in told[0]
    of_images = build(plain, model.state_dict())
    expected = detected(of_images.eval(), plain)
    assert_detect_alike(found_in_the_first(model, replayed), expected)


def test_images_without_boxes_are_recorded_and_replayed(dataset_info, tmp_path):
    split = small(dataset_info, tmp_path, images=8, boxes=lambda place: place % 2)
    features, recipe = Features(**FEWER), {"images_without_boxes": True}
    state = recorded(dataset_info, tmp_path / "f", features, train_split=split, **recipe)
    replayed = config_of(
        dataset_info, VARIANTS, freeze=TRUNK, replayed=features, train_split=split, **recipe
    )
    on_features(replayed, tmp_path / "f")
    _, model = trained(replayed, state, steps=2)
    dataset = DATASETS.build(replayed["train_dataloader"]["dataset"])
    without = [i for i in range(8) if not dataset[Position(0, i)]["positives"]]
    assert without == [0, 2, 4, 6]
    assert all(len(dataset[Position(0, i)]["labels"]) for i in without)
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_views_of_an_image_are_shown_in_turn(exact, dataset_info):
    folder, _ = exact
    _, replayed = configs(dataset_info, folder)
    dataset = DATASETS.build(replayed["train_dataloader"]["dataset"])
    shown = [dataset[Position(epoch * len(dataset), 5)]["fc2"] for epoch in range(4)]
    assert torch.equal(shown[0], shown[2]) and torch.equal(shown[1], shown[3])
    assert not torch.equal(shown[0], shown[1])


def test_variant_that_reads_what_is_not_stored_is_refused(dataset_info, exact):
    stored = EXACT.model_copy(update={"layers": ["fc1"]})
    _, replayed = configs(dataset_info, exact[0], {"simcal": FIELD["simcal"]}, stored=stored)
    with pytest.raises(UsageError) as raised:
        build(replayed)
    assert str(raised.value) == (
        "variants.simcal: expected a method that reads fc2, fc1 of a region, which are stored, got "
        "one that reads pooled"
    )


def test_folder_without_features_of_all_images_is_refused(dataset_info, exact, tmp_path):
    folder, _ = exact
    index = configs(dataset_info, folder)[1]["train_dataloader"]["dataset"]["ann_file"]
    with pytest.raises(
        RunError, match=f"{tmp_path}: expected stored features of train, found none"
    ):
        StoredFeatures(str(tmp_path), index, ["fc2"], moments=False)
    with pytest.raises(RunError, match="expected stored features of val, found none"):
        StoredProposals(str(tmp_path), ["fc2"])
    first = "train-00000.pt"
    (tmp_path / first).symlink_to(folder / first)
    with pytest.raises(RunError, match="as many views of each of 130 images, found 64 of"):
        StoredFeatures(str(tmp_path), index, ["fc2"], moments=False)
