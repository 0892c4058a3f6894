"""A few steps of training without Ray or a Runner, on one rank or several."""

import copy
from pathlib import Path
from unittest.mock import patch

import bacl.register  # noqa: F401  before anything imports mmdet.models

# isort: split
import torch
from mmdet.apis import inference_detector, init_detector
from mmdet.registry import DATA_SAMPLERS, DATASETS, MODELS
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.dist import get_world_size
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import FUNCTIONS, PARAM_SCHEDULERS

from bacl.config import features_config, stage_config
from bacl.datasets.categories import Category
from bacl.datasets.index import Index, write
from bacl.datasets.prepared import Prepared
from bacl.detector import bank
from bacl.export import export_variants
from bacl.features import shards
from bacl.features.recording import Recorder
from bacl.settings import FROZEN_TRUNK, Detector, Recipe, Schedule
from bacl.stepping import accumulated

register_all_modules(init_default_scope=True)

DETECTOR = Detector(
    backbone="tiny",
    neck_channels=16,
    fc_channels=24,
    anchor_scale=6,
    rpn_samples=64,
    roi_samples=32,
    test_proposals=50,
)
RECIPE = Recipe(
    schedule=Schedule(iterations=4, batch=4, lr=0.02, lr_batch=4, warmup=0),
    scales=[(96, 96)],
    test_scale=(96, 96),
    proposals=100,
    proposals_before_nms=100,  # with 2000, rounding turned a pixel of a mask target that was at 0.5
    loader_workers=0,
)
CATEGORIES = [
    Category(id=own, name=str(label), frequency="f", image_count=1, instance_count=1)
    for label, own in enumerate([7, 14, 21, 28, "five", 10**20])
]
"""The six of the embedded set with other ids, all of which an annotation file may have."""


def config_of(
    dataset_info,
    variants,
    freeze=FROZEN_TRUNK,
    seed=0,
    detector="faster_rcnn",
    train_split=None,
    replayed=None,
    **recipe,
):
    """Configuration of a small stage over the prepared set at `dataset_info`.

    train_split: instead of its own. replayed: what is stored, where it trains on that. recipe:
    what else the recipe says.
    """
    prepared = _prepared(dataset_info, train_split)
    return stage_config(
        DETECTOR.model_copy(update={"type": detector}),
        prepared,
        dataset_info,
        RECIPE.model_copy(update=recipe),
        variants,
        list(freeze),
        seed,
        workers=1,
        replayed=replayed,
    )


def _prepared(dataset_info, train_split):
    prepared = Prepared.load(dataset_info)
    if train_split is None:
        return prepared
    return prepared.model_copy(update={"train": train_split})


def config_of_features(
    dataset_info, features, seed=0, detector="faster_rcnn", train_split=None, **recipe
):
    """Configuration of what records features for `config_of(..., replayed=features)`."""
    return features_config(
        DETECTOR.model_copy(update={"type": detector}),
        _prepared(dataset_info, train_split),
        dataset_info,
        RECIPE.model_copy(update=recipe),
        features,
        seed,
    )


def record(config, model, folder, wanted=None):
    """Record features of a detector in a folder, all shards or those wanted."""
    recorder = Recorder(model, config)
    folder.mkdir(exist_ok=True)
    for part, content in recorder.walk(recorder.parts() if wanted is None else wanted):
        shards.write(folder, part, content)


def on_features(config, folder):
    """The configuration of a replay with features that lie in a folder."""
    for loader in ("train_dataloader", "val_dataloader"):
        if config[loader]["dataset"]["type"].startswith("Stored"):
            config[loader]["dataset"]["folder"] = str(folder)
    return config


def rewritten(dataset_info, folder, change):
    """The training split with each image's (image, file, annotations) as `change` has them, and
    without those of which it makes nothing."""
    prepared = Prepared.load(dataset_info)
    read = Index(prepared.train.index)
    rows = []
    for place in range(len(read)):
        entry = read.image(place)
        image = {"id": place, "width": entry.width, "height": entry.height}
        annotations = [
            {
                "id": number,
                "label": int(label),
                "bbox": box.tolist(),
                "segmentation": mask,
            }
            for number, (label, box, mask) in enumerate(
                zip(entry.labels, entry.boxes, read.masks(place), strict=True)
            )
        ]
        row = change(place, image, entry.file, annotations)
        if row is not None:
            rows.append(row)
    path = folder / "train.arrow"
    write(path, rows)
    return prepared.train.model_copy(update={"index": str(path)})


def build(config, state=None):
    """The detector of a configuration, on the weights `state` where given."""
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(config["model"]))
    torch.manual_seed(0)  # so that the trunk is the same whichever variants were made before
    model.init_weights()
    if state is not None:
        model.load_state_dict(state)
    return model


def stream_of(config, dataset):
    """The sampler of a configuration over its dataset."""
    sampler = config["train_dataloader"]["sampler"]
    return DATA_SAMPLERS.build(sampler, default_args={"dataset": dataset})


def batch_of(dataset, sampler, size, collate=None):
    """The next `size` samples of the stream, collated as MMDetection does, or by a function."""
    samples = [dataset[next(sampler)] for _ in range(size)]
    return pseudo_collate(samples) if collate is None else collate(samples)


def train(config, model, steps, skip=0, optimizer_state=None, wrapper=OptimWrapper, told=None):
    """`steps` optimizer steps after the first `skip`; returns the optimizer.

    told: a list that takes the losses of each step by name.
    """
    ranks = get_world_size()
    dataset = DATASETS.build(config["train_dataloader"]["dataset"])
    stream = stream_of(config, dataset)
    share = stream.batch // ranks
    stream.skip(skip * share)
    samples = iter(stream)
    collate = FUNCTIONS.get(config["train_dataloader"]["collate_fn"]["type"])
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=0.02, momentum=0.9
    )
    if optimizer_state is not None:
        optimizer.load_state_dict(optimizer_state)
    optim_wrapper = wrapper(optimizer)
    model.train()
    stepped = MMDistributedDataParallel(model, broadcast_buffers=False) if ranks > 1 else model
    for _ in range(steps):
        losses = stepped.train_step(batch_of(dataset, samples, share, collate), optim_wrapper)
        if told is not None:
            told.append(losses)
    return optimizer


def optimize(config, model, steps, skip=0, state=None):
    """`steps` steps after the first `skip` with the configuration's own optimizer and learning
    rates; returns what a resumed training needs of them.

    state: what it returned before.
    """
    ranks = get_world_size()
    dataset = DATASETS.build(config["train_dataloader"]["dataset"])
    stream = stream_of(config, dataset)
    share = stream.batch // ranks
    stream.skip(skip * share)
    samples = iter(stream)
    stepped = MMDistributedDataParallel(model, broadcast_buffers=False) if ranks > 1 else model
    wrapper = build_optim_wrapper(stepped, ConfigDict(config["optim_wrapper"]))
    schedulers = [
        PARAM_SCHEDULERS.build(one, default_args={"optimizer": wrapper})
        for one in config["param_scheduler"]
    ]
    if state is not None:
        wrapper.load_state_dict(copy.deepcopy(state["optimizer"]))
        for scheduler, its in zip(schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(its)
    loop = config["train_cfg"]
    wrapper.initialize_count_status(stepped, skip, loop["max_iters"])
    model.train()
    for _ in range(steps):
        batch = batch_of(dataset, samples, share)
        if "parts" in loop:
            accumulated(stepped, batch, wrapper, loop["parts"])
        else:
            stepped.train_step(batch, wrapper)
        for scheduler in schedulers:
            scheduler.step()
    return {
        "optimizer": copy.deepcopy(wrapper.state_dict()),
        "schedulers": [scheduler.state_dict() for scheduler in schedulers],
    }


def optimize_and_save(folder: Path, config, steps):
    """For `on_ranks`: `optimize`, then each rank's weights as `<rank>.pth`."""
    model = build(config)
    optimize(config, model, steps)
    torch.save(model.state_dict(), folder / f"{torch.distributed.get_rank()}.pth")


def backward(config, model):
    """Forward and backward of the first batch, without a step."""
    dataset = DATASETS.build(config["train_dataloader"]["dataset"])
    batch = batch_of(dataset, iter(stream_of(config, dataset)), 4)
    losses = model(**model.data_preprocessor(batch, training=True), mode="loss")
    model.parse_losses(losses)[0].backward()


def train_and_save(folder: Path, config, reductions=1):
    """For `on_ranks`: three steps, then each rank's weights as `<rank>.pth`.

    A bank's steps must have made so many reductions of their own each.
    """
    model = build(config)
    with patch("bacl.detector.bank.all_reduce", wraps=bank.all_reduce) as reduction:
        train(config, model, 3)
    assert reduction.call_count == 3 * reductions
    torch.save(model.state_dict(), folder / f"{torch.distributed.get_rank()}.pth")


def step_without_boxes_on_rank_1(folder: Path, config):
    """For `on_ranks`: one step in which rank 1 sees images without any ground truth."""
    dataset = DATASETS.build(config["train_dataloader"]["dataset"])
    batch = batch_of(dataset, iter(stream_of(config, dataset)), 2)
    rank = torch.distributed.get_rank()
    if rank == 1:
        for sample in batch["data_samples"]:
            sample.gt_instances = sample.gt_instances[:0]
    model = build(config)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    wrapper = OptimWrapper(torch.optim.SGD(trained, 0.01))
    MMDistributedDataParallel(model, broadcast_buffers=False).train_step(batch, wrapper)
    torch.save(model.state_dict(), folder / f"{rank}.pth")


def exported_and_own(config, model, folder):
    """(variant, detections of its exported detector, the bank's own), on the first image and where
    the model is."""
    model.eval()
    export_variants(config, model.state_dict(), CATEGORIES, folder)
    dataset = DATASETS.build(config["val_dataloader"]["dataset"])
    sample = dataset[0]
    inputs = {"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]}
    with torch.no_grad():
        found = model.test_step(inputs)[0].pred_instances
    for index, name in enumerate(model.banks()[0]):
        files = [str(folder / name / file) for file in ("config.py", "checkpoint.pth")]
        stock = init_detector(*files, device=next(model.parameters()).device)
        theirs = inference_detector(stock, dataset.get_data_info(0)["img_path"]).pred_instances
        yield name, theirs, found[found.variant == index]


def assert_alone_is_as_in_the_bank(config, start, bank):
    """Three steps of a configuration's only variant from the bank's weights give the bank's."""
    alone = build(config)
    alone.load_state_dict({key: start[key] for key in alone.state_dict()})
    optimize(config, alone, 3)
    for key, value in alone.state_dict().items():
        torch.testing.assert_close(value, bank[key], rtol=1e-5, atol=1e-6, msg=key)


def assert_resumed_is_undisturbed(config, start, bank):
    """One step, and two more with the optimizer's state, give what three steps gave."""
    first = build(config, start)
    state = optimize(config, first, 1)
    second = build(config, first.state_dict())
    optimize(config, second, 2, skip=1, state=state)
    for key, value in second.state_dict().items():
        assert torch.equal(value, bank[key]), key
