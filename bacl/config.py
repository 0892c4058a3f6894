"""Translation of settings into the mmengine configuration of a stage: plain dicts for a `Runner`.

The configuration is saved with each job; anyone can run it again by hand with mmengine alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from pprint import pformat
from typing import Any

from bacl.augmentation_settings import PLACES
from bacl.datasets.index import Index
from bacl.datasets.prepared import Prepared
from bacl.detector.refusals import ROI_HEADS, box_heads
from bacl.detector.shape import cells_of, is_paper_head, layer_names, regressor_reads_h, width_of
from bacl.detector.two_stage import frozen_trunk, model_config
from bacl.errors import UsageError
from bacl.features.parts import parts as shards_of
from bacl.method_settings.base import Context
from bacl.method_settings.registry import Variant
from bacl.optimizer_settings import SGD
from bacl.settings import FROZEN_TRUNK, Detector, Features, Recipe, SeveralViews
from bacl.weights import checkpoint_of, enters_by_content

_PRECISION: dict[str, dict[str, Any]] = {
    "float32": {"type": "OptimWrapper"},
    "bfloat16": {"type": "BFloat16OptimWrapper"},
    "float16": {"type": "AmpOptimWrapper", "dtype": "float16"},
}


def stage_config(
    detector: Detector,
    prepared: Prepared,
    dataset_info: Path,
    recipe: Recipe,
    variants: Mapping[str, Variant],
    freeze: list[str],
    seed: int,
    workers: int,
    imports: Sequence[str] = (),
    replayed: Features | None = None,
) -> dict[str, Any]:
    """The configuration of one stage's training with a bank of `variants` over `workers` ranks.

    dataset_info: path of the prepared dataset's `dataset.json`. imports: modules with methods and
    indicators from outside, `bacl.extensions`. replayed: what features are stored, where the stage
    trains on such. The caller adds the working directory, the launcher of the ranks, and the
    `folder` of the evaluator and of stored features.
    """
    schedule = recipe.schedule
    images = images_that_train(prepared, recipe)
    total = schedule.total_iterations(images)
    names = list(variants)
    resampling = _resampling(recipe, prepared)
    model = model_config(detector, recipe, len(prepared.categories), seed, resampling)
    masks = "mask_head" in model["roi_head"]
    if (masks or recipe.augmentation == "copy_paste") and not prepared.train.masks:
        raise UsageError(
            f"{_with_masks(detector) if masks else 'recipe.augmentation copy_paste'} needs "
            "masks: expected a segmentation with an area in every training annotation, "
            f"{prepared.train.without_mask}"
        )
    _check_moves(variants, recipe)
    for head in box_heads(model["roi_head"]):
        head["variants"] = {
            name: variant_options(name, settings, prepared, model, images, total, schedule.batch)
            for name, settings in variants.items()
        }
    if detector.config and set(FROZEN_TRUNK) <= set(freeze):
        freeze = [*frozen_trunk(model), *(part for part in freeze if part not in FROZEN_TRUNK)]
    config: dict[str, Any] = {
        "custom_imports": {
            "imports": ["bacl.register", *imports],
            "allow_failed_imports": False,
        },
        "default_scope": "mmdet",
        "model": {
            "type": "ResamplingDetector" if resampling else "BankDetector",
            "freeze": freeze,
            "channels_last": recipe.channels_last,
            **model,
            **_trunk(recipe, model),
        },
        "train_dataloader": {
            "batch_size": schedule.batch // workers,
            "num_workers": recipe.loader_workers,
            "persistent_workers": recipe.loader_workers > 0,
            **_spawned(recipe),
            "sampler": _sampler(recipe, seed),
            "collate_fn": {"type": "pseudo_collate"},
            "dataset": _train_dataset(prepared, dataset_info, recipe, masks, seed),
        },
        "val_dataloader": {
            "batch_size": 1,
            "num_workers": recipe.loader_workers,
            "persistent_workers": recipe.loader_workers > 0,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "collate_fn": {"type": "pseudo_collate"},
            "dataset": {
                "type": "LVISFormatDataset",
                "ann_file": prepared.val.index,
                "images": prepared.val.images,
                "dataset_info": str(dataset_info),
                "pipeline": test_pipeline(recipe),
                "seed": seed,
                "test_mode": True,
            },
        },
        "val_evaluator": {
            "type": "BankMetric",
            "annotations": prepared.val.annotations,
            "dataset_info": str(dataset_info),
            "variants": names,
            "mode": prepared.evaluation,
            "masks": masks and prepared.val.masks,
        },
        "optim_wrapper": _optim_wrapper(recipe, by_variant=bool(freeze)),
        "param_scheduler": _learning_rates(recipe, images, total),
        "train_cfg": {
            **_loop(recipe),
            "max_iters": total,
            "val_interval": recipe.evaluate_every or total,
        },
        "val_cfg": {"type": "ValLoop"},
        "randomness": {"seed": seed},
        "log_level": "WARNING",
    }
    if recipe.tta is not None:
        if masks:
            raise UsageError(
                f"recipe.tta: expected nothing with {_with_masks(detector)}, whose masks are of "
                "one view of an image"
            )
        config["test_pipeline"] = test_pipeline(recipe)
        config["val_dataloader"]["dataset"]["pipeline"] = _views(recipe, recipe.tta)
    if recipe.soft_nms is not None:
        config["model"]["test_cfg"]["rcnn"]["nms"] = {
            "type": "soft_nms",
            "iou_threshold": detector.nms_iou,
            **recipe.soft_nms.model_dump(),
        }
    if recipe.ema is not None:
        config["custom_hooks"] = [{"type": "AveragedWeights", **recipe.ema.model_dump()}]
    if replayed is not None:
        _replay(config, replayed, variants, recipe)
    return config


def _trunk(recipe: Recipe, model: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `bacl.detector.trunk`, by the name that the detector has for them; nothing where
    the trunk computes as all else does."""
    asked: dict[str, Any] = recipe.trunk.model_dump() if recipe.trunk else {}
    if asked.get("precision") == recipe.precision:  # which it has anyway
        asked["precision"] = None
    given = {name: value for name, value in asked.items() if value}
    return {"trunk": {"parts": frozen_trunk(model), **given}} if given else {}


def _replay(
    config: dict[str, Any], stored: Features, variants: Mapping[str, Variant], recipe: Recipe
) -> None:
    """Turn a stage's configuration into one that trains on stored features."""
    layers = ["fc2", *stored.layers]
    training = config["train_dataloader"]["dataset"]
    training = training.get("dataset", training)  # inside Copy-Paste's
    config["model"] |= {"type": "ReplayDetector", "layers": layers}
    config["train_dataloader"].pop("multiprocessing_context", None)
    config["train_dataloader"] |= {
        "num_workers": 0,  # there is nothing to decode
        "persistent_workers": False,
        "collate_fn": {"type": "collate_views"},
        "dataset": {
            "type": "StoredFeatures",
            "ann_file": training["ann_file"],
            "layers": layers,
            "moments": any(getattr(v, "hallucination", None) for v in variants.values()),
            **_which_images(recipe),
        },
    }
    if stored.val:
        config["test_pipeline"] = config["val_dataloader"]["dataset"]["pipeline"]
        config["val_dataloader"] |= {
            "num_workers": 0,
            "persistent_workers": False,
            "collate_fn": {"type": "collate_images"},
            "dataset": {"type": "StoredProposals", "layers": layers},
        }
        config["val_evaluator"]["masks"] = False  # the mask head would need the trunk


def features_config(
    detector: Detector,
    prepared: Prepared,
    dataset_info: Path,
    recipe: Recipe,
    features: Features,
    seed: int,
    imports: Sequence[str] = (),
) -> dict[str, Any]:
    """The configuration with which `bacl.features.recording` makes features.

    It has a detector, frozen as a whole and with an empty bank, and both datasets; the sampler is
    the one that shows each image once an epoch.
    """
    plain = recipe.model_copy(update={"sampler": "random", "soft_nms": None, "tta": None})
    config = stage_config(detector, prepared, dataset_info, plain, {}, [], seed, 1, imports)
    _check_storable(config["model"]["roi_head"])
    parts = ("custom_imports", "default_scope", "model", "train_dataloader", "val_dataloader")
    views = features.views * images_that_train(prepared, recipe)
    shards = shards_of(views, prepared.val.image_total if features.val else 0)
    return {
        **{name: config[name] for name in parts},
        "features": features.model_dump(),
        "precision": recipe.precision,
        "train_cfg": {"max_iters": len(shards)},
    }


def imported_config(
    detector: Detector,
    prepared: Prepared,
    dataset_info: Path,
    recipe: Recipe,
    variants: Mapping[str, Variant],
    imported: Mapping[str, Any],
    imports: Sequence[str] = (),
) -> dict[str, Any]:
    """The configuration in which a trained detector is taken in and evaluated, but not trained.

    variants: the one of its classifier. imported: what `bacl.detector.imports.stage` needs to know
    about its checkpoint.
    """
    config = stage_config(detector, prepared, dataset_info, recipe, variants, [], 0, 1, imports)
    training = ("train_dataloader", "optim_wrapper", "param_scheduler", "train_cfg")
    config["model"]["backbone"]["init_cfg"] = None
    return {
        **{name: value for name, value in config.items() if name not in training},
        "imported": dict(imported),
        "train_cfg": {"max_iters": 0},
    }


def _check_storable(roi_head: Mapping[str, Any]) -> None:
    """Raise UsageError where features of regions do not determine what a box head learns."""
    head = box_heads(roi_head)[0]
    why = ""
    if isinstance(roi_head["bbox_head"], list):
        why = "whose later box heads see what the earlier ones, still training, make of proposals"
    elif not regressor_reads_h(head):
        why = "whose box regressor reads other features than its classifier"
    elif head.get("reg_decoded_bbox"):
        why = "whose box loss needs whole boxes, which are not stored"
    if why:
        kind = "a cascade" if isinstance(roi_head["bbox_head"], list) else "a detector"
        raise UsageError(f"kind: expected no stage of kind features with {kind}, {why}")


def _with_masks(detector: Detector) -> str:
    return f"detector.config {detector.config}" if detector.config else "detector.type mask_rcnn"


def images_that_train(prepared: Prepared, recipe: Recipe) -> int:
    """Number of images in an epoch: those of the training split that the recipe does not leave out.

    Raises UsageError where none is left.
    """
    if not prepared.train.index:  # a stand-in, which has no images
        return prepared.train.image_total
    found = len(Index(prepared.train.index).trained(**_which_images(recipe)))
    if not found:
        raise UsageError(
            "the training split: expected images to train on, got none: all "
            f"{prepared.train.image_total} are smaller than recipe.smallest_image "
            f"({recipe.smallest_image} pixels) or have no annotations; "
            "recipe.images_without_boxes: true trains on the latter"
        )
    return found


def _which_images(recipe: Recipe) -> dict[str, Any]:
    """Options of `Index.trained`."""
    return {"least_side": recipe.smallest_image, "empty": recipe.images_without_boxes}


def bank_heads(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The box heads of a stage's configuration: one, or one for each stage of a cascade."""
    return list(box_heads(config["model"]["roi_head"]))


_NOT_STOCK = ("freeze", "channels_last", "trunk", "layers")
_STOCK_TYPES = {bank: stock for stock, bank in ROI_HEADS.items()}


def stock_config(config: Mapping[str, Any], classifier: Mapping[str, Any]) -> dict[str, Any]:
    """The plain single-variant detector of a stage's configuration, for stock inference.

    config: what `stage_config` made. classifier: the box head's options for the variant's
    classifier, from `bacl.export.stock_classifier`. The result has a model of MMDetection's own
    types and the test pipeline, as `mmdet.apis.init_detector` and `DetInferencer` expect it.
    """
    model = {key: value for key, value in config["model"].items() if key not in _NOT_STOCK}
    heads = [
        {
            **{key: v for key, v in head.items() if key not in ("variants", "seed", "stage")},
            "type": "TopKBBoxHead",
            **classifier,
        }
        for head in bank_heads(config)
    ]
    roi_head = dict(model["roi_head"])
    roi_head["type"] = _STOCK_TYPES[roi_head["type"]]
    roi_head["bbox_head"] = heads if len(heads) > 1 else heads[0]
    model |= {
        "type": "TwoStageDetector",
        "train_cfg": None,
        "backbone": {**model["backbone"], "init_cfg": None},
        "rpn_head": _stock_rpn(model["rpn_head"]),
        "roi_head": roi_head,
    }
    pipeline = config.get("test_pipeline") or config["val_dataloader"]["dataset"]["pipeline"]
    return {
        "custom_imports": config["custom_imports"],
        "default_scope": "mmdet",
        "model": model,
        # a dataset class that brings no palette: COCO's has too few colours for LVIS
        "test_dataloader": {"dataset": {"type": "BaseDetDataset", "pipeline": pipeline}},
        "visualizer": {"type": "DetLocalVisualizer", "name": "visualizer"},
    }


def _stock_rpn(head: Mapping[str, Any]) -> dict[str, Any]:
    return {**head, "type": "RPNHead" if head["type"] == "ResamplingRPNHead" else head["type"]}


def config_text(config: Mapping[str, Any]) -> str:
    """Python source of a configuration, which `Config.fromfile` reads.

    MMEngine's own formatting takes seconds for a bank of many variants.
    """
    texts = {key: pformat(value, 4, 100, sort_dicts=False) for key, value in config.items()}
    return "".join(f"{key} = {text}\n" for key, text in texts.items())


def portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without what cannot change results: paths, loader options, the split over
    ranks.

    Used for a job's key. The dataset, weight files and methods from outside BACL enter the key
    separately, as digests.
    """
    drop = {
        "custom_imports",
        "ann_file",
        "annotations",
        "images",
        "dataset_info",
        "folder",
        "batch_size",
        "num_workers",
        "persistent_workers",
        "multiprocessing_context",
        "log_level",
        "val_interval",
    }

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            kept = {key: item for key, item in value.items() if key not in drop}
            checkpoint = checkpoint_of(value)
            if checkpoint and enters_by_content(checkpoint):
                del kept["checkpoint"]
            return {key: clean(item) for key, item in kept.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        return value

    result: dict[str, Any] = clean(config)
    return result


def variant_options(
    name: str,
    settings: Variant,
    prepared: Prepared,
    model: Mapping[str, Any],
    images: int,
    total: int,
    batch: int,
) -> dict[str, Any]:
    """A variant's settings as plain values, with the facts that it needs about the dataset, the
    detector and the stage. model: the detector's configuration. images: training images in an
    epoch. total: iterations of the stage. batch: images in an iteration, over all ranks."""
    head = box_heads(model["roi_head"])[0]
    if lacking := [layer for layer in settings.reads if layer not in layer_names(head)]:
        raise UsageError(
            f"variants.{name}: method {settings.method} reads {', '.join(lacking)} of a region: "
            "expected a detector whose box head has two FCs, got another"
        )
    context = Context(
        place=f"variants.{name}",
        categories=prepared.categories,
        groups=prepared.groups.names,
        width=width_of(head),
        channels=head["in_channels"],
        pooled=cells_of(head),
        deltas=4 if head.get("reg_class_agnostic") else 4 * len(prepared.categories),
        two_fcs=is_paper_head(head),
        images=images,
        iterations=total,
        batch=batch,
    )
    return settings.options(context)


def _check_moves(variants: Mapping[str, Variant], recipe: Recipe) -> None:
    """Raise UsageError where prototypes of all ranks would have to move before a step of which only
    a part has been shown."""
    for name, settings in variants.items():
        made = getattr(settings, "hallucination", None)
        if recipe.accumulate > 1 and made and (made.moves, made.statistics) == ("before", "shared"):
            raise UsageError(
                f"variants.{name}.hallucination.moves: expected after with recipe.accumulate "
                f"{recipe.accumulate}, whose parts do not know of each other's images, or "
                "statistics: per_rank, got before"
            )


def _loop(recipe: Recipe) -> dict[str, Any]:
    if recipe.accumulate == 1:
        return {"type": "IterBasedTrainLoop"}
    return {"type": "AccumulatingTrainLoop", "parts": recipe.accumulate}


def _optim_wrapper(recipe: Recipe, by_variant: bool) -> dict[str, Any]:
    """Configuration of the optimizer, and of its precision. by_variant: whether what is clipped of
    a variant is its own."""
    schedule = recipe.schedule
    chosen = recipe.optimizer or SGD(
        type="sgd", momentum=schedule.momentum, weight_decay=schedule.weight_decay
    )
    wrapper = dict(_PRECISION[recipe.precision])
    if recipe.clip_grad or recipe.accumulate > 1:
        wrapper["type"] = f"Stepping{wrapper['type']}"
    if recipe.clip_grad:
        wrapper |= {"clip_grad": recipe.clip_grad.model_dump(), "by_variant": by_variant}
    if recipe.accumulate > 1:
        wrapper["accumulative_counts"] = recipe.accumulate
    return {
        **wrapper,
        "optimizer": {"lr": schedule.scaled_lr, **chosen.torch_options()},
        **chosen.constructor(),
    }


def _learning_rates(recipe: Recipe, images: int, total: int) -> list[dict[str, Any]]:
    """Schedulers of the learning rate; images, total: of `variant_options`."""
    schedule = recipe.schedule
    if recipe.lr_schedule == "one_cycle":
        return [{"type": "GroupedOneCycleLR", "by_epoch": False, "begin": 0, "end": total}]
    warmup = schedule.warmup
    if recipe.lr_schedule == "cosine":
        if warmup >= total:
            raise UsageError(
                f"recipe.schedule.warmup: expected fewer than the stage's {total} iterations with "
                f"lr_schedule cosine, got {warmup}"
            )
        falling = {"type": "CosineAnnealingLR", "begin": warmup, "T_max": total - warmup}
    else:
        milestones = schedule.milestone_iterations(images)
        falling = {"type": "MultiStepLR", "begin": 0, "milestones": milestones, "gamma": 0.1}
    rising = {"type": "LinearLR", "start_factor": 0.001, "begin": 0, "end": warmup}
    found = [rising, {**falling, "end": total}] if warmup else [{**falling, "end": total}]
    return [{**one, "by_epoch": False} for one in found]


def test_pipeline(recipe: Recipe) -> list[dict[str, Any]]:
    """MMDetection's test pipeline at the recipe's scale."""
    return [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": recipe.test_scale, "keep_ratio": True},
        {
            "type": "PackDetInputs",
            "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
        },
    ]


def _views(recipe: Recipe, tta: SeveralViews) -> list[dict[str, Any]]:
    """MMDetection's pipeline of several views of an image."""
    load, resize, pack = test_pipeline(recipe)
    mirrored = {**pack, "meta_keys": (*pack["meta_keys"], "flip")}
    views = [
        [{**resize, "scale": scale} for scale in tta.scales or [recipe.test_scale]],
        [{"type": "RandomFlip", "prob": prob} for prob in ([0.0, 1.0] if tta.flip else [0.0])],
        [mirrored],
    ]
    return [load, {"type": "TestTimeAug", "transforms": views}]


def _resampling(recipe: Recipe, prepared: Prepared) -> dict[str, Any] | None:
    """Options of `bacl.detector.resampling` for the proposals; None where the recipe does not ask
    for it."""
    given, names = recipe.proposal_nms, prepared.groups.names
    if given is None:
        return None
    if len(given) != len(names):
        raise UsageError(
            f"recipe.proposal_nms: expected {len(names)} thresholds, one for each frequency group "
            f"({', '.join(names)}), got {len(given)}"
        )
    own = dict(zip(names, given))
    return {
        "nms": {"type": "nms", "iou_threshold": given[-1]},
        "nms_by_label": [own[category.frequency] for category in prepared.categories],
    }


def _sampler(recipe: Recipe, seed: int) -> dict[str, Any]:
    """Configuration of the sampler, which decides which images training sees in which order."""
    common = {
        "batch": recipe.schedule.batch,
        "seed": seed,
        "pair_alike": recipe.group_aspect_ratio,
    }
    if recipe.sampler == "repeat_factor":
        return {"type": "RepeatFactorSampler", "threshold": recipe.repeat_threshold, **common}
    if recipe.sampler == "class_aware":
        return {"type": "CategoryAwareSampler", **common}
    return {"type": "OrderedSampler", **common}


def _spawned(recipe: Recipe) -> dict[str, str]:
    """How loader processes start, where they use a GPU, which a fork cannot."""
    spawned = recipe.loader_workers > 0 and recipe.decoder == "nvjpeg"
    return {"multiprocessing_context": "spawn"} if spawned else {}


def _train_dataset(
    prepared: Prepared, dataset_info: Path, recipe: Recipe, masks: bool, seed: int
) -> dict[str, Any]:
    copy_paste = recipe.augmentation == "copy_paste"
    keys = ["img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "position"]
    if recipe.sampler == "class_aware":
        keys.append("drawn_for")
    pack = {"type": "PackDetInputs", "meta_keys": tuple(keys)}
    by_gpu = recipe.decoder == "nvjpeg"
    load = [
        {"type": "LoadImageByNvjpeg" if by_gpu else "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True, "with_mask": masks or copy_paste},
        *_augmentations(recipe),
    ]
    flip = {"type": "RandomFlip", "prob": recipe.flip}
    if copy_paste:
        pipeline = [*load, *_large_scale_jitter(recipe.copy_paste_size), flip]
        pipeline.append({"type": "PadBehindShape", "size": (recipe.copy_paste_size,) * 2})
    else:
        resize = {"type": "RandomChoiceResize", "scales": recipe.scales, "keep_ratio": True}
        pipeline = [*load, resize, flip, pack]
    dataset = {
        "type": "LVISFormatDataset",
        "ann_file": prepared.train.index,
        "images": prepared.train.images,
        "dataset_info": str(dataset_info),
        "pipeline": pipeline,
        "seed": seed,
        "least_box": recipe.smallest_box,
        **_which_images(recipe),
    }
    if not copy_paste:
        return dataset
    return {
        "type": "CopyPasteDataset",
        "dataset": dataset,
        "pipeline": [
            {"type": "QuickCopyPaste", "max_num_pasted": 100, "keep_masks": masks},
            pack,
        ],
        "seed": seed,
    }


def _augmentations(recipe: Recipe) -> list[dict[str, Any]]:
    """The recipe's own steps of the pipeline.

    Images stay whole numbers, as other steps expect. Boxes that a step leaves nothing of go, and
    with the last of them the image, unless images without boxes train. Raises UsageError for
    options that a transform does not take.
    """
    if not recipe.augmentations:
        return []
    from bacl.datasets.transforms import check  # which takes seconds to import

    found: list[dict[str, Any]] = []
    for number, one in enumerate(recipe.augmentations):
        step = {"type": one.type, **one.options}
        if problem := check(step):
            raise UsageError(f"recipe.augmentations.{number}: {problem}")
        found.append(step)
        if one.type == "PhotoMetricDistortion":
            found.append({"type": "RoundImage"})
        if one.type in PLACES:
            found.append(_WITH_BOXES)
            found += [] if recipe.images_without_boxes else [{"type": "RequireBoxes"}]
    return found


_WITH_BOXES = {"type": "FilterAnnotations", "min_gt_bbox_wh": (1e-2, 1e-2), "keep_empty": False}
"""Step that leaves out boxes which a crop has left nothing of."""


def _large_scale_jitter(side: int) -> list[dict[str, Any]]:
    """Scale jitter by 0.8 to 1.25, then a crop, as in the released stage-1 configurations."""
    return [
        {
            "type": "RandomResize",
            "scale": (side, side),
            "ratio_range": (0.8, 1.25),
            "keep_ratio": True,
        },
        {
            "type": "RandomCrop",
            "crop_type": "absolute_range",
            "crop_size": (side, side),
            "recompute_bbox": True,
            "allow_negative_crop": True,
        },
        _WITH_BOXES,
        {"type": "RequireBoxes"},
    ]
