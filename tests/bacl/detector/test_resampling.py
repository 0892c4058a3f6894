"""NMS re-sampling of proposals: against a loop over its rule, and against the plain RPN head."""

import copy

import pytest
import torch
from mmdet.apis import init_detector
from mmdet.models.dense_heads import RPNHead
from mmdet.registry import DATASETS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from ranks import on_ranks
from training import DETECTOR, RECIPE, batch_of, build, train, train_and_save

from bacl.config import stage_config
from bacl.datasets.prepared import Prepared
from bacl.datasets.samplers import OrderedSampler
from bacl.detector.resampling import ResamplingRPNHead, own_thresholds
from bacl.errors import UsageError
from bacl.export import export_variants
from bacl.method_settings.paper import Softmax
from bacl.settings import Recipe

FOREST = [0.9, 0.8, 0.7]


def configured(dataset_info, thresholds):
    return stage_config(
        DETECTOR,
        Prepared.load(dataset_info),
        dataset_info,
        RECIPE.model_copy(update={"proposal_nms": thresholds}),
        {"softmax": Softmax(method="softmax")},
        [],
        seed=0,
        workers=1,
    )


def iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (sum(areas) - shared)


def survivors(boxes, scores, levels, threshold):
    """Greedy suppression, level by level: places of what stays."""
    kept = []
    for place in sorted(range(len(boxes)), key=lambda n: -scores[n]):
        rivals = [other for other in kept if levels[other] == levels[place]]
        if all(iou(boxes[place], boxes[other]) <= threshold for other in rivals):
            kept.append(place)
    return kept


def crowded(seed, count=150):
    """Proposals around three objects of three groups, and some that are nowhere near."""
    draw = torch.Generator().manual_seed(seed)
    truth = torch.tensor([[10.0, 10, 50, 50], [30, 20, 80, 70], [100, 100, 160, 150]])
    boxes = truth[torch.randint(3, (count,), generator=draw)].double()
    boxes += torch.randn(count, 4, generator=draw, dtype=torch.double) * 4
    boxes[: count // 5] += 200
    scores = torch.rand(count, generator=draw)
    levels = torch.randint(2, (count,), generator=draw)
    return truth, boxes.float(), scores, levels


def head():
    return ResamplingRPNHead(
        in_channels=4,
        feat_channels=4,
        anchor_generator={"type": "AnchorGenerator", "scales": [8], "ratios": [1], "strides": [4]},
        loss_cls={"type": "CrossEntropyLoss", "use_sigmoid": True},
    )


def proposed(truth, labels, boxes, scores, levels, by_label, max_per_img=1000):
    cfg = ConfigDict(
        nms={"type": "nms", "iou_threshold": by_label[-1]},
        nms_by_label=by_label,
        min_bbox_size=0,
        max_per_img=max_per_img,
    )
    results = InstanceData(bboxes=boxes, scores=scores, level_ids=levels)
    meta = {"truth": InstanceData(bboxes=truth, categories=labels)}
    return head()._bbox_post_process(results, cfg, img_meta=meta)


@pytest.mark.parametrize("seed", range(4))
def test_proposal_stays_if_it_survives_at_the_threshold_of_its_group(seed):
    truth, boxes, scores, levels = crowded(seed)
    labels = torch.tensor([2, 0, 1])  # of them 0 is rare, 1 common, 2 frequent
    found = proposed(truth, labels, boxes, scores, levels, FOREST)

    wanted, own = [], []
    for box in boxes.tolist():
        overlaps = [iou(box, one) for one in truth.tolist()]
        best = max(range(3), key=overlaps.__getitem__)
        own.append(FOREST[labels[best]] if overlaps[best] >= 0.3 else 0.7)
    alive = {t: survivors(boxes.tolist(), scores.tolist(), levels.tolist(), t) for t in FOREST}
    wanted = [n for n in range(len(boxes)) if n in alive[own[n]]]
    wanted.sort(key=lambda n: -scores[n])
    assert set(own) == set(FOREST) and wanted != alive[0.7]
    assert torch.equal(found.scores, scores[wanted])
    assert torch.equal(found.bboxes, boxes[wanted])
    assert set(found.keys()) == {"bboxes", "scores", "labels"}
    fewer = proposed(truth, labels, boxes, scores, levels, FOREST, max_per_img=10)
    assert torch.equal(fewer.bboxes, boxes[wanted[:10]])


def test_overlap_of_three_tenths_counts_and_less_does_not():
    truth = torch.tensor([[0.0, 0, 10, 10]])
    boxes = torch.tensor([[0.0, 0, 3, 10], [0.0, 0, 2.9, 10], [50.0, 50, 60, 60]])
    own = own_thresholds(boxes, truth, torch.tensor([1]), [0.5, 0.9], 0.7)
    assert own.tolist() == [0.9, 0.7, 0.7]


def test_image_without_ground_truth_is_suppressed_as_usual():
    _, boxes, scores, levels = crowded(0)
    none, nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    found = proposed(none, nothing, boxes, scores, levels, FOREST)
    wanted = survivors(boxes.tolist(), scores.tolist(), levels.tolist(), 0.7)
    assert torch.equal(found.bboxes, boxes[wanted])


def test_proposals_without_area_leave_nothing():
    truth, boxes, scores, levels = crowded(0)
    boxes[:, 2] = boxes[:, 0]
    assert len(proposed(truth, torch.tensor([0, 1, 2]), boxes, scores, levels, FOREST)) == 0


def proposals_of(model, config):
    """What the RPN proposes for the first training images, and its losses."""
    dataset = DATASETS.build(config["train_dataloader"]["dataset"])
    batch = batch_of(dataset, iter(OrderedSampler(dataset, batch=4, seed=0)), 4)
    batch = model.data_preprocessor(batch, training=True)
    for sample in batch["data_samples"]:  # what the detectors do
        sample.gt_instances.categories = sample.gt_instances.labels
        sample.gt_instances.labels = torch.zeros_like(sample.gt_instances.labels)
        sample.gt_instances.set_metainfo({"position": sample.position})
    features = model.extract_feat(batch["inputs"])
    cfg = copy.deepcopy(model.train_cfg.rpn_proposal)
    cfg.max_per_img = 10_000
    return model.rpn_head.loss_and_predict(features, batch["data_samples"], proposal_cfg=cfg)


def test_equal_thresholds_propose_exactly_what_the_plain_head_does(dataset_info):
    plain, equal = configured(dataset_info, None), configured(dataset_info, [0.7] * 3)
    models = [build(plain), build(equal)]
    assert type(models[0].rpn_head) is RPNHead and type(models[1].rpn_head) is ResamplingRPNHead
    (losses, found), (own_losses, own_found) = map(proposals_of, models, (plain, equal))
    assert all(torch.equal(a, b) for k in losses for a, b in zip(losses[k], own_losses[k]))
    for one, other in zip(found, own_found, strict=True):
        assert set(one.keys()) == set(other.keys()) and len(one) > 10
        for name in one.keys():  # noqa: SIM118  InstanceData is no dict
            assert torch.equal(one[name], other[name])
    for model, config in zip(models, (plain, equal)):
        train(config, model, 2)
    for one, other in zip(models[0].state_dict().values(), models[1].state_dict().values()):
        assert torch.equal(one, other)


def test_rare_objects_get_more_proposals_and_testing_stays_as_it_is(dataset_info):
    plain, forest = configured(dataset_info, None), configured(dataset_info, [1.0, 1.0, 0.7])
    models = [build(plain), build(forest)]
    found = [proposals_of(*pair)[1] for pair in zip(models, (plain, forest))]
    assert sum(map(len, found[1])) > sum(map(len, found[0]))
    dataset = DATASETS.build(plain["val_dataloader"]["dataset"])
    detected = [
        model.eval().test_step(batch_of(dataset, iter([0]), 1))[0].pred_instances
        for model in models
    ]
    assert torch.equal(detected[0].bboxes, detected[1].bboxes)


@pytest.mark.slow
def test_two_ranks_train_what_one_trains(dataset_info, tmp_path):
    config = configured(dataset_info, FOREST)
    one = build(config)
    train(config, one, 3)
    on_ranks(train_and_save, 2, tmp_path, config)  # which counts the reductions
    two = torch.load(tmp_path / "0.pth", weights_only=True)
    for key, value in one.state_dict().items():
        torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-5, msg=key)


def test_recipe_without_thresholds_configures_what_it_always_did(dataset_info):
    model = configured(dataset_info, None)["model"]
    assert model["type"] == "BankDetector" and model["rpn_head"]["type"] == "RPNHead"
    assert set(model["train_cfg"]["rpn_proposal"]) == {
        "nms_pre",
        "max_per_img",
        "nms",
        "min_bbox_size",
    }


def test_thresholds_go_to_the_labels_of_their_groups(dataset_info):
    proposal = configured(dataset_info, FOREST)["model"]["train_cfg"]["rpn_proposal"]
    groups = [category.frequency for category in Prepared.load(dataset_info).categories]
    own = {"r": 0.9, "c": 0.8, "f": 0.7}
    assert proposal["nms_by_label"] == [own[group] for group in groups]
    assert proposal["nms"]["iou_threshold"] == 0.7


def test_thresholds_of_another_number_of_groups_are_refused(dataset_info):
    sentence = r"recipe\.proposal_nms: expected 3 thresholds, .* \(r, c, f\), got 2"
    with pytest.raises(UsageError, match=sentence):
        configured(dataset_info, [0.9, 0.7])


@pytest.mark.parametrize("wrong", [[0.0, 0.7], [0.9, 1.1]])
def test_threshold_that_is_no_overlap_is_refused(wrong):
    with pytest.raises(ValueError, match="proposal_nms"):
        Recipe(schedule={"iterations": 1}, proposal_nms=wrong)


def test_exported_detector_has_mmdetections_own_rpn(dataset_info, tmp_path):
    config = configured(dataset_info, FOREST)
    model = build(config)
    categories = Prepared.load(dataset_info).categories
    export_variants(config, model.state_dict(), categories, tmp_path)
    folder = tmp_path / "softmax"
    stock = init_detector(str(folder / "config.py"), str(folder / "checkpoint.pth"), device="cpu")
    assert type(stock.rpn_head) is RPNHead
