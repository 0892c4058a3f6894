"""Mean features of ground-truth boxes, against MMDetection's own way of loading those boxes."""

import pytest
import torch
from mmdet.registry import DATASETS
from mmdet.structures.bbox import bbox2roi
from training import build, config_of

from bacl.datasets.index import Index
from bacl.datasets.prepared import Prepared
from bacl.errors import RunError
from bacl.forest.box_features import choose, mean_features
from bacl.method_settings.paper import Softmax

VARIANTS = {"softmax": Softmax(method="softmax")}


@pytest.fixture
def index(dataset_info):
    return Index(Prepared.load(dataset_info).train.index)


def all_boxes(index):
    return {
        (place, number): int(label)
        for place in range(len(index))
        for number, label in enumerate(index.image(place).labels)
    }


def test_all_boxes_are_chosen_where_there_are_no_more(index):
    chosen = choose(index, 10_000, 0)
    assert {(place, n) for place, numbers in chosen.items() for n in numbers} == set(
        all_boxes(index)
    )


def test_no_category_has_more_boxes_chosen_than_wanted(index):
    labels = all_boxes(index)
    chosen = choose(index, 3, 0)
    own = [labels[place, n] for place, numbers in chosen.items() for n in numbers]
    for label in set(labels.values()):
        assert own.count(label) == min(3, list(labels.values()).count(label))
    assert chosen == choose(index, 3, 0) != choose(index, 3, 1)
    assert list(chosen) == sorted(chosen)


@pytest.mark.parametrize("kind", ["faster_rcnn", "cascade_rcnn"])
def test_means_are_those_of_boxes_that_mmdetection_loads(dataset_info, index, tmp_path, kind):
    config = config_of(dataset_info, VARIANTS, freeze=(), detector=kind)
    resize = next(
        step for step in config["val_dataloader"]["dataset"]["pipeline"] if step["type"] == "Resize"
    )
    resize["scale"] = (150, 130)  # so that boxes do not lie where the file has them
    model = build(config).eval()
    checkpoint = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": model.state_dict()}, checkpoint)
    chosen = {place: list(range(len(index.image(place).labels))) for place in (0, 3, 4, 7)}
    seen = []
    found = mean_features(
        config, checkpoint, chosen, "cpu", lambda images, total: seen.append(total) or images
    )
    assert seen == [4]

    dataset = DATASETS.build(
        {
            **config["train_dataloader"]["dataset"],
            "pipeline": [
                {"type": "LoadImageFromFile"},
                {"type": "LoadAnnotations", "with_bbox": True},
                resize,
                {"type": "PackDetInputs"},
            ],
            "test_mode": True,
        }
    )
    cascade = kind == "cascade_rcnn"
    head = model.roi_head.bbox_head[0] if cascade else model.roi_head.bbox_head
    extractor = model.roi_head.bbox_roi_extractor
    extractor = extractor[0] if cascade else extractor
    of_label = {}
    for place in chosen:
        sample = dataset[place]
        batch = {"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]}
        batch = model.data_preprocessor(batch)
        truth = batch["data_samples"][0].gt_instances
        with torch.no_grad():
            levels = model.extract_feat(batch["inputs"])
            for box, label in zip(truth.bboxes, truth.labels.tolist()):
                pooled = extractor(levels[:4], bbox2roi([box[None]]))
                h = pooled.flatten(1)
                for fc in head.shared_fcs:
                    h = fc(h).relu()
                of_label.setdefault(label, []).append(h[0])
    assert len(of_label) > 2
    for label, mean in enumerate(torch.from_numpy(found).float()):
        if label in of_label:
            wanted = torch.stack(of_label[label]).mean(dim=0)
            torch.testing.assert_close(mean, wanted, rtol=1e-4, atol=1e-6)
        else:
            assert mean.isnan().all()


def test_checkpoint_of_another_detector_is_told(dataset_info, tmp_path):
    config = config_of(dataset_info, VARIANTS)
    checkpoint = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": {"other": torch.zeros(1)}}, checkpoint)
    with pytest.raises(RunError, match=r"checkpoint\.pth: expected the weights of the stage's"):
        mean_features(config, checkpoint, {}, "cpu", lambda images, total: images)
