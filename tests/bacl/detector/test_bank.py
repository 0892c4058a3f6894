"""The bank's promises: variants do not touch each other, ranks and interruptions change nothing."""

import copy
from itertools import islice
from pathlib import Path
from unittest.mock import patch

import cv2
import pytest
import torch
from mmdet.registry import DATASETS
from ranks import on_ranks
from training import (
    backward,
    build,
    config_of,
    rewritten,
    step_without_boxes_on_rank_1,
    stream_of,
    train,
    train_and_save,
)

from bacl.datasets.prepared import Prepared
from bacl.detector import bank as bank_module
from bacl.errors import UsageError
from bacl.method_settings.paper import BACL, BCE, FCBL, Hallucination, Softmax

HALLUCINATION = Hallucination(categories=3, samples=4)
VARIANTS = {
    "bacl": BACL(method="bacl", hallucination=HALLUCINATION),
    "fcbl": FCBL(method="fcbl"),
    "bce": BCE(method="bce"),
    "softmax": Softmax(method="softmax"),
}


DETECTORS = [
    "faster_rcnn",
    pytest.param("cascade_rcnn", marks=pytest.mark.slow),
    pytest.param("mask_rcnn", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=DETECTORS)
def detector(request):
    return request.param


@pytest.fixture(scope="module")
def config(dataset_info, detector):
    return config_of(dataset_info, VARIANTS, detector=detector)


@pytest.fixture(scope="module")
def start(config):
    """Weights that every classifier stage of these tests starts from."""
    return build(config).state_dict()


@pytest.fixture(scope="module")
def bank(config, start):
    """Weights of the bank of all variants after three steps."""
    model = build(config, start)
    train(config, model, 3)
    return model.state_dict()


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_in_a_bank_equals_the_variant_alone(dataset_info, detector, start, bank, name):
    config = config_of(dataset_info, {name: VARIANTS[name]}, detector=detector)
    alone = build(config)
    alone.load_state_dict({key: start[key] for key in alone.state_dict()})
    train(config, alone, 3)
    for key, value in alone.state_dict().items():
        torch.testing.assert_close(value, bank[key], rtol=1e-5, atol=1e-6, msg=key)


def test_training_moves_classifiers_indicators_and_statistics_but_not_the_frozen_trunk(start, bank):
    moved = {key for key in bank if not torch.equal(bank[key], start[key])}
    parts = [f"variants.{name}.fc_cls.weight" for name in VARIANTS]
    parts += ["variants.fcbl.indicator.tally", "statistics.beta_0_9.prototype", "fc_reg.weight"]
    for key in start:
        if key.endswith(tuple(parts)) or key.startswith("roi_head.mask_head"):
            assert key in moved, key
        if key.startswith(("backbone.", "neck.")) or "shared_fcs" in key:
            assert key not in moved, key
    assert "rpn_head.rpn_cls.weight" in moved


def test_frozen_trunk_keeps_no_autograd_state_and_takes_no_gradient(config, start):
    model = build(config, start).train()
    backward(config, model)
    features = model.extract_feat(torch.randn(1, 3, 96, 96))
    assert all(not level.requires_grad for level in features)
    frozen = [model.get_submodule(name) for name in model.frozen_parts]
    assert len(frozen) >= 3
    assert all(p.grad is None for module in frozen for p in module.parameters())
    assert model.rpn_head.rpn_cls.weight.grad is not None


def test_variants_are_told_how_many_samples_each_image_has(config, start):
    with patch.object(bank_module, "Batch", wraps=bank_module.Batch) as shown:
        train(config, build(config, start), 1)
    assert shown.call_count
    for call in shown.call_args_list:
        counted = call.kwargs["images"].long().bincount(minlength=4)
        assert call.kwargs["sampled"] == counted.tolist()


def test_interrupted_and_resumed_equals_undisturbed(config, start, bank):
    first = build(config, start)
    optimizer = train(config, first, 1)
    second = build(config, first.state_dict())
    train(config, second, 2, skip=1, optimizer_state=optimizer.state_dict())
    for key, value in second.state_dict().items():
        assert torch.equal(value, bank[key]), key


@pytest.mark.slow
def test_two_ranks_equal_one_with_one_reduction_a_step(config, bank, tmp_path):
    on_ranks(train_and_save, 2, tmp_path, config)
    two = torch.load(tmp_path / "0.pth", weights_only=True)
    for key, value in two.items():
        torch.testing.assert_close(value, bank[key], rtol=1e-4, atol=1e-5, msg=key)


def test_one_reduction_sums_every_tensor_in_its_own_type(monkeypatch):
    """Moments need float64; what else travels with them is what it was before."""
    sent = []

    def all_reduce(flat, operation):
        sent.append((len(flat), operation))
        flat *= 3  # as of three ranks that have the same

    monkeypatch.setattr(bank_module, "get_world_size", lambda: 3)
    monkeypatch.setattr(bank_module, "all_reduce", all_reduce)
    moments = torch.tensor([[1.0, 1e8 + 0.25]], dtype=torch.float64)
    tallies = [{"moments": moments, "counts": torch.tensor([2.0, 5.0])}, {"mine": torch.ones(2, 3)}]
    first, second = bank_module.reduce_sum(tallies)
    assert sent == [(10, "sum")]
    assert first["moments"].tolist() == [[3, 3e8 + 0.75]]
    assert first["counts"].tolist() == [6, 15] and second["mine"].tolist() == [[3] * 3] * 2
    assert first["moments"].dtype == torch.float64
    assert first["counts"].dtype == second["mine"].dtype == torch.float32


def tallies_of(rank):
    """Tallies whose rows are mostly 0, some of them on one rank and others on several."""
    draw = torch.Generator().manual_seed(rank)
    tallies = []
    for head in range(2):
        matrix = torch.zeros(40, 41)
        rows = torch.randperm(40, generator=draw)[:6]
        matrix[rows] = torch.randn(6, 41, generator=draw)
        moments = torch.zeros(40, 5, dtype=torch.float64)
        moments[rows[:2]] = torch.randn(2, 5, generator=draw, dtype=torch.float64)
        moments[7] = float("nan") if rank == 1 and head == 1 else 0
        counts = torch.full((3,), float(rank + head))
        tallies.append({"moments": moments, "bacl": matrix, "counts": counts})
    return tallies


def reduce_by_rows(folder):
    sent = []
    plain = bank_module.all_reduce
    bank_module.MANY = 1
    bank_module.all_reduce = lambda flat, how: (sent.append(flat.numel()), plain(flat, how))
    rank = torch.distributed.get_rank()
    torch.save((bank_module.reduce_sum(tallies_of(rank)), sent), folder / f"{rank}.pth")


@pytest.mark.slow
def test_rows_that_any_rank_touched_are_summed_and_no_others_travel(tmp_path):
    on_ranks(reduce_by_rows, 3, tmp_path)
    per_rank = [tallies_of(rank) for rank in range(3)]
    for rank in range(3):
        found, (marks, *numbers) = torch.load(tmp_path / f"{rank}.pth", weights_only=True)
        rows = 0
        for head in range(2):
            for name, value in found[head].items():
                expected = sum(tallies[head][name] for tallies in per_rank)
                torch.testing.assert_close(value, expected, equal_nan=True)
                assert value.dtype == expected.dtype
                if value.dim() == 2:
                    touched = sum((t[head][name] != 0).any(1) for t in per_rank) > 0
                    rows += int(touched.sum()) * value.size(1)
        assert marks == 4 * 40 and sum(numbers) == rows + 6  # the counts travel whole


def train_and_save_by_rows(folder, config):
    bank_module.MANY = 1
    train_and_save(folder, config, reductions=3)  # of rows' marks, and of two types


@pytest.mark.slow
@pytest.mark.parametrize("detector", DETECTORS[:1], indirect=True)
def test_two_ranks_that_sum_rows_equal_one(config, bank, tmp_path):
    on_ranks(train_and_save_by_rows, 2, tmp_path, config)
    two = torch.load(tmp_path / "0.pth", weights_only=True)
    for key, value in two.items():
        torch.testing.assert_close(value, bank[key], rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.slow
def test_rank_without_ground_truth_neither_hangs_nor_differs(config, tmp_path):
    on_ranks(step_without_boxes_on_rank_1, 2, tmp_path, config)
    states = [torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in (0, 1)]
    for key, value in states[0].items():
        assert value.isfinite().all() and torch.equal(value, states[1][key]), key
    seen = [value for key, value in states[0].items() if key.endswith("beta_0_9.seen")]
    assert seen and all(value.any() for value in seen)


@pytest.fixture(scope="module")
def released(dataset_info, tmp_path_factory):
    """Configuration of a bank under the recipe of the release's stage 1, over images of two shapes.
    Some have no box, the others one in a corner that many a crop loses."""
    folder = tmp_path_factory.mktemp("shapes")
    own = Path(Prepared.load(dataset_info).train.images)

    def change(place, image, file, annotations):
        width, height = (96, 60) if place % 3 else (60, 96)
        picture = cv2.imread(str(own / file))[:height, :width]
        cv2.imwrite(str(folder / f"{place}.png"), picture)
        corner = {"bbox": [0, 0, 5, 5], "segmentation": [[0, 0, 5, 0, 5, 5, 0, 5]]}
        kept = [{**annotation, **corner} for annotation in annotations[: place % 4 > 0]]
        return {**image, "width": width, "height": height}, f"{place}.png", kept

    split = rewritten(dataset_info, folder, change).model_copy(update={"images": str(folder)})

    options = {"augmentation": "copy_paste", "copy_paste_size": 96}
    return config_of(dataset_info, VARIANTS, train_split=split, **options)


@pytest.fixture(scope="module")
def trained(released):
    """Weights before and after three steps of it."""
    model = build(released)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    train(released, model, 3)
    return start, model.state_dict()


def test_released_recipe_replaces_images_and_pairs_them_by_shape(released):
    dataset = DATASETS.build(released["train_dataloader"]["dataset"])
    stream = islice(iter(stream_of(released, dataset)), 32)
    drawn = [(dataset.dataset.get_data_info(one.index), dataset[one]) for one in stream]
    shown = [sample["data_samples"] for _, sample in drawn]
    assert len(dataset) < 130 and all(len(sample.gt_instances) for sample in shown)
    assert any(info["img_id"] != sample["data_samples"].img_id for info, sample in drawn)
    wide = [sample.img_id % 3 > 0 for sample in shown]
    assert wide[::2] == wide[1::2] and len(set(wide)) == 2


def test_released_recipe_resumed_equals_undisturbed(released, trained):
    start, expected = trained
    first = build(released, start)
    optimizer = train(released, first, 1)
    second = build(released, first.state_dict())
    train(released, second, 2, skip=1, optimizer_state=optimizer.state_dict())
    for key, value in second.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_released_recipe_trains_a_variant_alone_as_in_a_bank(released, trained):
    start, expected = trained
    config = copy.deepcopy(released)
    head = config["model"]["roi_head"]["bbox_head"]
    head["variants"] = {"bacl": head["variants"]["bacl"]}
    alone = build(config)
    alone.load_state_dict({key: start[key] for key in alone.state_dict()})
    train(config, alone, 3)
    for key, value in alone.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-6, msg=key)


def test_released_recipe_on_two_ranks_equals_one(released, trained, tmp_path):
    on_ranks(train_and_save, 2, tmp_path, released)
    two = torch.load(tmp_path / "0.pth", weights_only=True)
    for key, value in two.items():
        torch.testing.assert_close(value, trained[1][key], rtol=1e-4, atol=1e-5, msg=key)


def test_freeze_that_names_no_part_is_refused(dataset_info):
    with pytest.raises(UsageError, match=r"no part named neckk"):
        build(config_of(dataset_info, VARIANTS, freeze=["neckk"]))
