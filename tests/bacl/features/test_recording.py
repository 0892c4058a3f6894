"""What is recorded of an image, against a walk through MMDetection's own parts."""

import numpy as np
import pytest
import torch
from features.conftest import EXACT
from mmdet.registry import DATASETS
from mmdet.structures.bbox import bbox2roi
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData
from training import RECIPE, build, config_of, config_of_features, record

from bacl.datasets.prepared import Prepared
from bacl.datasets.samplers import OrderedSampler, Position
from bacl.detector.bank import jittered
from bacl.errors import RunError
from bacl.features import shards
from bacl.features.observing import deviations
from bacl.features.parts import EACH, Part
from bacl.features.recording import Recorder
from bacl.features.replay import packed
from bacl.features.stored import StoredFeatures, collate_views
from bacl.hallucination import moments
from bacl.settings import Features

PLACE = 37
"""Of the image view that is looked at; the other of its pair is the one before."""
C = 6


def rows_at(content, place, by, names):
    """Of the view at a place of a shard, tensors that are counted by `by`."""
    begin = int(content[by][:place].sum())
    return {name: content[name][begin : begin + int(content[by][place])] for name in names}


@pytest.fixture(scope="module")
def view(exact):
    """What is recorded of the view."""
    content = shards.read(exact[0], "train-00000.pt")
    found = {n: content[n][PLACE] for n in ("index", "id", "rows", "positives", "stands_for")}
    found |= rows_at(content, PLACE, "rows", ["labels", "pooled", "fc1", "fc2"])
    found |= rows_at(content, PLACE, "positives", ["priors", "truths"])
    shown = ["shown_labels", "shown_counts", "shown_means", "shown_squares"]
    return found | rows_at(content, PLACE, "shown", shown)


@pytest.fixture(scope="module")
def by_hand(dataset_info, exact):
    """The detector, the view's sample, its sampled regions, and what the box head makes of any."""
    config = config_of(dataset_info, {})
    model = build(config)
    model.load_state_dict(exact[1])
    model.eval()
    dataset = DATASETS.build(config["train_dataloader"]["dataset"])
    order = OrderedSampler(dataset, RECIPE.schedule.batch, seed=0, pair_alike=True)
    pair = [dataset[Position(place, order.image(place))] for place in (PLACE - 1, PLACE)]
    data = model.data_preprocessor(pseudo_collate(pair), training=True)
    samples, head = data["data_samples"], model.roi_head
    with torch.no_grad():
        x = model.neck(model.backbone(data["inputs"]))
        metas = [sample.metainfo for sample in samples]
        (_, proposals) = model.rpn_head.predict_by_feat(
            *model.rpn_head(x), batch_img_metas=metas, cfg=model.train_cfg.rpn_proposal
        )
        own = InstanceData(priors=proposals.bboxes)
        truth = samples[1].gt_instances
        truth.set_metainfo({"position": PLACE})
        assigned = head.bbox_assigner.assign(own, truth, samples[1].ignored_instances)
        sampled = head.bbox_sampler.sample(assigned, own, truth)

        def layers(boxes):
            rois = bbox2roi([boxes[:0], boxes])
            pooled = head.bbox_roi_extractor(x[: head.bbox_roi_extractor.num_inputs], rois)
            found = [pooled.flatten(1)]
            for fc in head.bbox_head.shared_fcs:
                found.append((found[-1] @ fc.weight.T + fc.bias).clamp_min(0))
            return dict(zip(("pooled", "fc1", "fc2"), found, strict=True))

        yield model, dataset, order, samples[1], sampled, layers


def test_view_is_of_the_image_at_its_place_in_the_order(view, by_hand):
    _, _, order, sample, _, _ = by_hand
    assert int(view["index"]) == order.image(PLACE)
    assert int(view["id"]) == sample.img_id


def test_rows_labels_and_boxes_are_those_that_training_samples(view, by_hand):
    model, _, _, _, sampled, _ = by_hand
    head = model.roi_head.bbox_head
    labels, _, targets, weights = head.get_targets([sampled], model.train_cfg.rcnn)
    assert int(view["rows"]) == len(labels) > int(view["positives"]) > 0
    assert view["labels"].tolist() == labels.tolist()
    torch.testing.assert_close(view["priors"], sampled.pos_priors, rtol=0, atol=0)
    own = head.bbox_coder.encode(view["priors"], view["truths"])
    torch.testing.assert_close(own, targets[weights[:, 0] > 0])
    assert float(view["stands_for"]) == 1


def test_features_are_the_box_heads(view, by_hand):
    *_, sampled, layers = by_hand
    for name, values in layers(torch.cat([sampled.pos_priors, sampled.neg_priors])).items():
        torch.testing.assert_close(view[name], values, rtol=1e-4, atol=1e-5, msg=name)


def test_statistics_are_those_of_the_jittered_truth(view, by_hand):
    *_, sample, _, layers = by_hand
    features = layers(jittered(0, sample))["fc2"].double().numpy()
    labels = sample.gt_instances.labels.repeat_interleave(16).numpy()
    assert view["shown_labels"].tolist() == sorted(set(labels.tolist()))
    for place, label in enumerate(view["shown_labels"].tolist()):
        own = features[labels == label]
        assert int(view["shown_counts"][place]) == len(own)
        np.testing.assert_allclose(view["shown_means"][place], own.mean(axis=0), 1e-4, 1e-5)
        squares = own.var(axis=0) * len(own)
        np.testing.assert_allclose(view["shown_squares"][place], squares, 1e-3, 1e-4)


def test_deviations_are_numpys_by_category():
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(40, 5, generator=draw, dtype=torch.double) + 100
    labels = torch.tensor([4, 0, 0, 2] * 10)
    means, squares, shown, counts = deviations(features, labels)
    assert shown.tolist() == [0, 2, 4] and counts.tolist() == [20, 10, 10]
    for row, label in enumerate([0, 2, 4]):
        own = features[labels == label].numpy()
        np.testing.assert_allclose(means[row], own.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(squares[row], own.var(axis=0) * len(own), rtol=1e-9)


def test_moments_of_a_batch_are_those_of_its_features():
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(48, 5, generator=draw, dtype=torch.double) + 3
    labels = torch.tensor([4, 0, 0, 2] * 12)
    views = [deviations(features[part], labels[part]) for part in (slice(0, 20), slice(20, 48))]
    means, squares, shown, counts = (torch.cat(both) for both in zip(*views, strict=True))
    stored = {"shown_means": means, "shown_squares": squares, "shown_counts": counts.float()}
    own = packed(stored, shown, C)
    torch.testing.assert_close(own, moments(features, labels, C))


def test_validation_image_has_all_proposals_of_its_test(dataset_info, exact, by_hand):
    model, *_ = by_hand
    content = shards.read(exact[0], "val-00000.pt")
    dataset = DATASETS.build(config_of(dataset_info, {})["val_dataloader"]["dataset"])
    place = 3
    data = model.data_preprocessor(pseudo_collate([dataset[place]]))
    with torch.no_grad():
        x = model.extract_feat(data["inputs"])
        (proposed,) = model.rpn_head.predict(x, data["data_samples"], rescale=False)
    own = rows_at(content, place, "rows", ["priors", "fc2"])
    (sample,) = data["data_samples"]
    assert int(content["id"][place]) == sample.img_id
    assert content["shape"][place].tolist() == list(sample.img_shape)
    assert content["scale"][place].tolist() == list(sample.scale_factor)
    torch.testing.assert_close(own["priors"], proposed.bboxes, rtol=0, atol=0)


FEW = Features(dtype="float32", negatives=5, views=1, val=False)


def recorded(dataset_info, folder, features, wanted=None):
    config = config_of_features(dataset_info, features)
    record(config, build(config), folder, wanted)
    return folder


@pytest.mark.parametrize(("dtype", "size"), [("float16", 1e5), ("float32", float("inf"))])
def test_features_that_do_not_fit_are_told(dataset_info, dtype, size):
    config = config_of_features(dataset_info, Features(dtype=dtype))
    model = build(config)
    torch.nn.init.constant_(model.roi_head.bbox_head.shared_fcs[1].bias, size)
    with pytest.raises(RunError) as raised:
        next(Recorder(model, config).walk([Part("val", 0, 1)]))
    assert str(raised.value).startswith(
        f"val-00000.pt: expected finite features that {dtype} can hold, got others in layer fc2"
    )


def test_processes_that_load_images_change_nothing(dataset_info, exact):
    config = config_of_features(dataset_info, EXACT)
    model = build(config)
    part = Part("val", 0, 20)
    ((_, content),) = Recorder(model, config).walk([part], workers=1)
    for name, value in shards.read(exact[0], part.name).items():
        assert value.equal(content[name]), name


@pytest.fixture(scope="module")
def thinned(dataset_info, tmp_path_factory):
    """Features with five regions of background of each view at most."""
    return recorded(dataset_info, tmp_path_factory.mktemp("thinned"), FEW)


def test_background_that_is_kept_stands_for_all_that_was_sampled(exact, thinned):
    whole, few = (shards.read(folder, "train-00000.pt") for folder in (exact[0], thinned))
    assert few["positives"].equal(whole["positives"])
    assert few["rows"].equal(whole["positives"] + (whole["rows"] - whole["positives"]).clamp_max(5))
    negatives = few["rows"] - few["positives"]
    stand_for = few["positives"] + negatives * few["stands_for"]
    torch.testing.assert_close(stand_for, whole["rows"].to(stand_for))
    drawn = []
    for place in range(0, len(few["rows"]), 7):
        ours, theirs = (rows_at(c, place, "rows", ["labels", "fc2"]) for c in (few, whole))
        places = [
            int((row - theirs["fc2"]).abs().sum(dim=1).argmin()) for row in ours["fc2"].unbind()
        ]
        assert places == sorted(set(places))
        assert ours["labels"].tolist() == theirs["labels"][places].tolist()
        positives = int(few["positives"][place])
        assert places[:positives] == list(range(positives))
        drawn.append([other - positives for other in places[positives:]])
    assert len({tuple(view) for view in drawn}) == len(drawn)  # of each by itself


def test_weights_of_a_batch_sum_to_what_was_sampled(exact, thinned, dataset_info):
    index = Prepared.load(dataset_info).train.index
    datasets = [
        StoredFeatures(str(folder), index, ["fc2"], False, RECIPE.smallest_image, empty=False)
        for folder in (exact[0], thinned)
    ]
    batches = [
        collate_views([dataset[Position(p, p)] for p in range(4)])["stored"] for dataset in datasets
    ]
    whole, few = (batch["weights"] for batch in batches)
    assert whole.tolist() == [1.0] * len(whole)
    assert float(few.sum()) == pytest.approx(len(whole))
    assert (few[batches[1]["labels"] < C] == 1).all()


def test_shard_alone_is_as_it_is_among_others(dataset_info, thinned, tmp_path):
    shard = max(thinned.glob("*.pt"))
    number = int(shard.stem.split("-")[1])
    total = sum(len(shards.read(thinned, path.name)["id"]) for path in thinned.glob("*.pt"))
    assert number > 0
    recorded(dataset_info, tmp_path, FEW, [Part("train", number, total)])
    alone, among = (shards.read(folder, shard.name) for folder in (tmp_path, thinned))
    assert alone.keys() == among.keys()
    for name, value in alone.items():
        assert value.equal(among[name]), name


def test_background_is_drawn_by_position_alone(dataset_info, thinned, tmp_path):
    """Of more that are kept, the first are those of fewer, whatever else is recorded."""
    more = Features(dtype="float16", negatives=9, views=2, val=False, layers=["fc1"])
    number = Part("train", 1, 2 * EACH)
    recorded(dataset_info, tmp_path, more, [number])
    few, many = (shards.read(folder, number.name) for folder in (thinned, tmp_path))
    for place in range(5):
        ours = rows_at(few, place, "rows", ["fc2"])["fc2"].half()
        theirs = rows_at(many, place, "rows", ["fc2"])["fc2"]
        distances = torch.cdist(ours.float(), theirs.float()).min(dim=1).values
        assert len(ours) < len(theirs)
        torch.testing.assert_close(distances, torch.zeros(len(ours)), rtol=0, atol=1e-3)
