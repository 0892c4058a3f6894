"""The bank: one trunk, many variants, as MMDetection parts.

N sampled RoIs, C foreground categories, D feature width, K_v logits of variant v. While training,
the box head hands on its D-wide features where MMDetection's heads hand on classification scores,
and in evaluation the logits of all variants side by side; so the RoI heads' own flow, a cascade's
averaging over its stages included, stays as it is. Where variants read more of a RoI than h
(`bacl.variants.LAYERS`), all that any of them reads is handed on, side by side.
"""

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import (
    CascadeRoIHead,
    HybridTaskCascadeRoIHead,
    StandardRoIHead,
)
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample, SampleList
from mmdet.structures.bbox import bbox2roi, scale_boxes
from mmengine.config import ConfigDict
from mmengine.dist import all_reduce, get_world_size
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from bacl import rle
from bacl.corrections.corrected import share_bases
from bacl.detector import views
from bacl.detector.layers import ConvFCs, layers, passed, read
from bacl.detector.trunk import Trunk
from bacl.detector.unlimited import HandsOn
from bacl.draws import generator
from bacl.errors import UsageError
from bacl.hallucination import FeatureStatistics, jitter_boxes, moments
from bacl.transfer import sent
from bacl.variants import LAYERS, Batch, Variant, build_variant

MANY = 1 << 20
"""Numbers of a step from which on the ranks first agree which rows they sum."""
_MASKS_AT_ONCE = 100
"""Detections that pass the mask head together: it makes a map for each category of each."""


def reduce_sum(tallies: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Sums of each tensor over all ranks, each of its tensor's own type.

    Few numbers are summed in one reduction, in a buffer of the widest type among them. Of `MANY`,
    as the confusion matrices of a bank over LVIS have, only the rows travel that any rank has
    touched, those of each type by themselves; the tensors that are given are then overwritten.
    """
    if get_world_size() == 1:
        return list(tallies)
    tensors = [tensor for tally in tallies for tensor in tally.values()]
    many = sum(tensor.numel() for tensor in tensors) >= MANY
    sums = iter(_sums_by_rows(tensors) if many else _sums(tensors))
    return [{name: next(sums) for name in tally} for tally in tallies]


def _sums(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Sums over all ranks, in one reduction."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    all_reduce(flat, "sum")
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(one).to(one.dtype) for part, one in zip(parts, tensors, strict=True)]


def _sums_by_rows(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Sums over all ranks, of matrices the rows that are not 0 on all of them."""
    touched = torch.cat([(one != 0).any(dim=1) for one in tensors if one.dim() == 2])
    shared = touched.to(torch.uint8)
    all_reduce(shared, "max")
    # how long the rows are has to be known: the one place where a device is waited for
    marks = iter(shared.bool().cpu().split([len(one) for one in tensors if one.dim() == 2]))
    rows = [
        next(marks).nonzero()[:, 0].to(one.device) if one.dim() == 2 else None for one in tensors
    ]
    sums = list(tensors)
    for dtype in dict.fromkeys(one.dtype for one in tensors):
        places = [place for place, one in enumerate(tensors) if one.dtype == dtype]
        picked = [sums[p] if (r := rows[p]) is None else sums[p][r] for p in places]
        for place, found in zip(places, _sums(picked), strict=True):
            own = rows[place]
            sums[place] = found if own is None else sums[place].index_copy_(0, own, found)
    return sums


@MODELS.register_module()
class BankBBoxHead(HandsOn, ConvFCs):
    """The layers and the box regressor of the trunk's box head, and the classifiers of the
    variants.

    `variants` maps names to plain settings (`bacl.settings`). A variant's hallucinated features
    are drawn from generators keyed by (seed, cascade stage, variant, image pair), as
    docs/architecture.md says. Each stage of a cascade is a bank with classifiers and state of its
    own.
    """

    def __init__(
        self, variants: dict[str, dict[str, Any]], seed: int, stage: int = 0, **kwargs: Any
    ) -> None:
        branch = any(kwargs.get(name) for name in ("num_cls_convs", "num_cls_fcs"))
        super().__init__(with_cls=branch, **kwargs)
        if branch:  # MMDetection makes a classifier's own layers only with the classifier
            del self.fc_cls
            self.with_cls = False
            initialisations: list[dict[str, Any]] = self.init_cfg  # type: ignore[has-type]
            self.init_cfg = [one for one in initialisations if not _is_of_classifier(one)]
        self.seed = seed
        self.stage = stage
        width = self.cls_last_dim
        self.variants = nn.ModuleDict(
            {
                name: build_variant(
                    settings, width, self.num_classes, self.draw("cpu", "init", name)
                )
                for name, settings in variants.items()
            }
        )
        share_bases(self.bank().values())
        kinds = [v.hallucination for v in self.bank().values() if v.hallucination]
        self.statistics = nn.ModuleDict(
            {
                name: FeatureStatistics(self.num_classes, width, options["beta"], _ranks(options))
                for name, options in sorted({_kind(options): options for options in kinds}.items())
            }
        )
        self.moments = {
            _moments(ranks): ranks for ranks in sorted({_ranks(options) for options in kinds})
        }
        """Numbers of ranks that keep statistics of their own, by the name of their moments."""
        self.moves_first = any(name.endswith(_FIRST) for name in self.statistics)
        """Whether any statistics move before features are made of them."""
        self._known: dict[str, Tensor] = {}
        """Moments of the step of all ranks, where these are summed before the losses."""
        self._positions: list[int] = []
        self._ids: list[int] = []
        self._drawn_for: list[int] | None = None
        self._sampled: list[int] | None = None
        self._terms: list[str] = []
        """Names of the variants' losses of the step."""
        self.tally: dict[str, Tensor] = {}
        """This rank's part of the step in what moves state and scales losses; see `settle`."""
        self.part = (0, 1)
        """Number of the part of the step that passes the head, and how many there are."""
        self.views: list[tuple[Tensor, Tensor]] | None = None
        """Boxes and logits of the regions of an image's views, where it has several; see
        `bacl.detector.views`."""
        self._gathered: dict[str, Tensor] = {}
        """What moves state, of the parts of the step that have passed."""

    def draw(self, device: torch.device | str, *key: int | str) -> torch.Generator:
        """A generator of this head's own for draws that `key` names.

        The first stage of a cascade draws as a detector without one.
        """
        stage = (self.stage,) if self.stage else ()
        return generator(device, self.seed, *stage, *key)

    def bank(self) -> dict[str, Variant]:
        """The variants by name."""
        return dict(self.variants.items())  # type: ignore[arg-type]

    def _handed_on(self) -> list[str]:
        """The layers that variants read."""
        return [name for name in LAYERS if any(name in v.reads for v in self.bank().values())]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(layers in training, else all variants' logits (N, sum of K_v); box deltas)."""
        bank = self.bank().values()
        found, deltas = passed(self, x, list(bank))
        if self.training:
            return read(found, self._handed_on()), deltas
        return self.logits(found), deltas

    def logits(self, found: dict[str, Tensor]) -> Tensor:
        """Logits of all variants, (N, sum of K_v), of the layers of regions; those that several
        variants correct are computed once."""
        known: dict[Variant, Tensor] = {}
        for variant in self.bank().values():
            if (source := variant.source) not in known:
                known[source] = source.logits(read(found, source.reads))
        return torch.cat([v.adjusted(known[v.source]) for v in self.bank().values()], dim=1)

    def _layers(self, handed_on: Tensor) -> dict[str, Tensor]:
        """What `forward` handed on while training, by name."""
        names = self._handed_on()
        pooled = self.in_channels * self.roi_feat_area
        widths = [pooled if name == "pooled" else self.cls_last_dim for name in names]
        passes = handed_on.size(1) // sum(widths)
        return dict(zip(names, handed_on.split([passes * w for w in widths], dim=1), strict=True))

    def begin(
        self,
        positions: list[int],
        ids: list[int],
        drawn_for: Sequence[int | None],
        sampled: list[int] | None = None,
    ) -> None:
        """A step on this rank's images begins; for each, what `bacl.variants.Batch` says of it."""
        self._positions, self._ids = positions, ids
        known = [label for label in drawn_for if label is not None]
        self._drawn_for = known if len(known) == len(drawn_for) else None
        self._sampled = sampled
        self.tally = {}

    @torch.no_grad()
    def observe(self, pooled: Tensor, labels: Tensor, images: Tensor) -> None:
        """Keep the moments of the jittered ground truth of this step's images for `settle`.

        pooled: RoI features of the jittered boxes; labels: their categories; images: which of the
        rank's images each is in.
        """
        features = layers(self, pooled)["fc2"].float()
        for name, ranks in self.moments.items():
            rows = self.row_of(labels, images, ranks)
            self.tally[name] = moments(features, rows, ranks * self.num_classes)

    def row_of(self, labels: Tensor, images: Tensor, ranks: int) -> Tensor:
        """Rows (N,) in statistics of so many ranks of categories in images of this process."""
        if ranks == 1:
            return labels
        first = [position // 2 % ranks * self.num_classes for position in self._positions]
        return labels + sent(torch.tensor(first), labels.device)[images.long()]

    def _hallucinate(self, variant: Variant, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Features (H, D) and labels (H,) for this rank's image pairs, if the variant has any."""
        options = variant.hallucination
        if options is None or not batch.pairs:
            return None
        statistics: FeatureStatistics = self.statistics[_kind(options)]  # type: ignore[assignment]
        return statistics.synthesize(
            variant.strength(),
            options["categories"],
            options["samples"],
            [batch.generator("hallucination", pair) for pair in batch.pairs],
            batch.pairs,
        )

    def loss_and_target(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        rois: Tensor,
        sampling_results: list[SamplingResult],
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, Any]:
        self._sampled = [len(sampled.priors) for sampled in sampling_results]
        found: dict[str, Any] = super().loss_and_target(
            cls_score, bbox_pred, rois, sampling_results, *args, **kwargs
        )
        return found

    def loss(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        rois: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor,
        bbox_weights: Tensor,
        reduction_override: str | None = None,
    ) -> dict[str, Tensor]:
        """Box loss of the trunk, and of each variant `<variant>.loss_<part>` for its loss's parts,
        mostly one called `cls`, for `settle` to scale.

        `cls_score` holds the layers that variants read. A part is a sum over samples, made ones
        included.
        """
        losses: dict[str, Tensor] = super().loss(
            None, bbox_pred, rois, labels, label_weights, bbox_targets, bbox_weights
        )
        return losses | self.classify(self._layers(cls_score), labels, rois[:, 0])

    def classify(
        self,
        found: dict[str, Tensor],
        labels: Tensor,
        images: Tensor,
        weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of the variants, as `loss` has them, on the layers of this rank's samples (N, each
        its width); moves their state, or keeps for `settle` what moves it.

        labels, images, weights: (N,), of `bacl.variants.Batch`.
        """
        losses: dict[str, Tensor] = {}
        positives = (labels < self.num_classes).sum()
        counts = [positives, labels.new_full((), len(labels)) if weights is None else weights.sum()]
        self._terms = []
        for name, variant in self.bank().items():
            batch = Batch(
                features=read(found, variant.reads),
                labels=labels,
                images=images,
                positions=self._positions,
                ids=self._ids,
                generator=partial(self._draw_of, name, labels.device),
                drawn_for=self._drawn_for,
                sampled=self._sampled,
                weights=weights,
            )
            logits = variant.logits(batch.features)
            made = self._hallucinate(variant, batch)
            if made is not None:
                # Categories never seen yield rows labelled as background, which count for nothing.
                batch = batch.with_made(made[1], made[1] < self.num_classes)
                logits = torch.cat([logits, variant.logits(made[0])])
            for part, (total, count) in variant.terms(logits, batch).items():
                self._terms.append(f"{name}.loss_{part}")
                losses[self._terms[-1]] = total
                counts.append(count)
            if get_world_size() == 1 and self.part[1] == 1:
                variant.update(logits, batch)
            elif (increment := variant.increment(logits, batch)) is not None:
                self.tally[name] = increment
        self.tally["counts"] = torch.stack([count.float() for count in counts])
        return losses

    def _draw_of(self, name: str, device: torch.device, what: str, *key: int) -> torch.Generator:
        return self.draw(device, what, name, *key)

    @torch.no_grad()
    def settle(self, tally: dict[str, Tensor]) -> dict[str, Tensor]:
        """Move all state by the tally of all ranks, after the last part of a step; returns the
        factor of each loss, by its name.

        With them a classification loss is divided by its mean count per rank, and the box and mask
        losses are means over all ranks' RoIs, so that ranks together make the step that one rank
        with all images would make.
        """
        state = {name: value for name, value in tally.items() if name != "counts"} | self._known
        self._known = {}
        if self.part[0]:
            state = {name: self._gathered[name] + value for name, value in state.items()}
        number, parts = self.part
        self._gathered = state if number + 1 < parts else {}
        if number + 1 == parts:
            self._move(state)
        own_positives, own_rois = self.tally["counts"][:2]
        means = tally["counts"] / get_world_size()
        positives, rois, *samples = torch.where(means > 0, means, 1.0)
        self.tally = {}
        factors = {name: 1 / count for name, count in zip(self._terms, samples, strict=True)}
        return {**factors, "loss_bbox": own_rois / rois, "loss_mask": own_positives / positives}

    def move_first(self, sums: dict[str, Tensor]) -> None:
        """Move the statistics of which features are made after that, by moments of all ranks."""
        self._known = sums
        self._move_statistics(sums, first=True)

    def _move_statistics(self, sums: dict[str, Tensor], first: bool) -> None:
        for name, statistics in self.statistics.items():
            if name.endswith(_FIRST) == first:
                statistics.update(sums[_moments(statistics.ranks)])  # type: ignore[operator,arg-type]

    def _move(self, state: dict[str, Tensor]) -> None:
        self._move_statistics(state, first=False)
        bank = self.bank()
        for name in bank.keys() & state.keys():
            bank[name].add(state[name])

    def _predict_by_feat_single(
        self,
        roi: Tensor,
        cls_score: Tensor,
        bbox_pred: Tensor,
        img_meta: dict[str, Any],
        rescale: bool = False,
        rcnn_test_cfg: ConfigDict | None = None,
    ) -> InstanceData:
        """Detections of every variant on one image, told apart by their field `variant`.

        `cls_score` holds the logits of all variants; in a cascade, MMDetection has averaged them
        over the stages, before activation, and an exported detector does the same.
        """
        nothing = InstanceData(
            bboxes=roi.new_zeros(0, 4),
            scores=roi.new_zeros(0),
            labels=roi.new_zeros(0, dtype=torch.long),
            variant=roi.new_zeros(0, dtype=torch.long),
        )
        if len(roi) == 0:
            return nothing
        assert rcnn_test_cfg is not None  # only MMDetection's test-time augmentation passes none
        decoded = self._decode(roi, bbox_pred, img_meta, rescale)
        if self.views is None:
            return self.chosen(decoded, cls_score, rcnn_test_cfg, img_meta, rescale)
        self.views.append((decoded, cls_score))
        return nothing

    def chosen(
        self,
        boxes: Tensor,
        cls_score: Tensor,
        rcnn_test_cfg: ConfigDict,
        img_meta: dict[str, Any],
        rescaled: bool = True,
    ) -> InstanceData:
        """Detections of every variant among the boxes (N, C * 4) or (N, 4) of an image's regions
        with the logits of all variants; rescaled: whether the boxes are in the original image."""
        bank = list(self.bank().values())
        logits = cls_score.split([variant.columns for variant in bank], dim=1)
        results = []
        for index, variant in enumerate(bank):
            found = self.limited(
                boxes,
                variant.probabilities(logits[index]),
                rcnn_test_cfg,
                index,
                img_meta,
                rescaled,
            )
            found.variant = torch.full_like(found.labels, index)
            results.append(found)
        return InstanceData.cat(results)

    def refine_bboxes(
        self,
        sampling_results: list[SamplingResult],
        bbox_results: dict[str, Any],
        batch_img_metas: list[dict[str, Any]],
    ) -> list[InstanceData]:
        """Boxes for the next stage of a cascade; regression there is class-agnostic, so no score
        has a say in it and none is given."""
        rois = bbox_results["rois"]
        unscored = {**bbox_results, "cls_score": rois.new_zeros(len(rois), self.num_classes)}
        return super().refine_bboxes(sampling_results, unscored, batch_img_metas)

    def _decode(
        self, roi: Tensor, bbox_pred: Tensor, img_meta: dict[str, Any], rescale: bool
    ) -> Tensor:
        """Boxes (N, C * 4), or (N, 4) where regression is class-agnostic, in pixels."""
        each = 1 if self.reg_class_agnostic else self.num_classes
        boxes = self.bbox_coder.decode(
            roi[:, 1:].repeat_interleave(each, dim=0),
            bbox_pred.view(-1, 4),
            max_shape=img_meta["img_shape"],
        )
        if rescale:
            boxes = scale_boxes(boxes, _inverse(img_meta))
        return boxes.view(len(roi), -1)


def _is_of_classifier(initialisation: dict[str, Any]) -> bool:
    override = initialisation.get("override")
    return isinstance(override, dict) and override.get("name") == "fc_cls"


def _inverse(img_meta: dict[str, Any]) -> list[float]:
    """Factors (x, y) from the network's image to the original."""
    return [1 / scale for scale in img_meta["scale_factor"]]


_FIRST = "_first"
"""How the names of statistics end that move before features are made of them."""


def _kind(hallucination: Mapping[str, Any]) -> str:
    """The module's name of the statistics that options of hallucination ask for (module names
    cannot hold dots)."""
    ranks = f"_of_{_ranks(hallucination)}" if "ranks" in hallucination else ""
    first = _FIRST if hallucination.get("moves") == "before" else ""
    return f"beta_{hallucination['beta']}{ranks}{first}".replace(".", "_")


def _ranks(hallucination: Mapping[str, Any]) -> int:
    """How many ranks keep statistics of their own."""
    return int(hallucination.get("ranks", 1))


def _moments(ranks: int) -> str:
    """The name in a step's tally of the moments that so many ranks keep apart."""
    return "moments" if ranks == 1 else f"moments of {ranks}"


def jittered(seed: int, sample: DetDataSample) -> Tensor:
    """16 boxes around each ground-truth box of a training sample, Eq. (10), (G * 16, 4)."""
    magnitudes = torch.rand(16, 4, generator=generator("cpu", seed, "jitter", sample.position))
    return jitter_boxes(sample.gt_instances.bboxes, magnitudes, sample.img_shape[:2])


def settled(
    heads: Sequence[BankBBoxHead], losses: dict[str, Tensor], prefixes: Sequence[str]
) -> dict[str, Tensor]:
    """The losses of a step on all ranks, after which the heads' state has moved; those of a head
    have its prefix."""
    tallies = reduce_sum([head.tally for head in heads])
    for head, tally, prefix in zip(heads, tallies, prefixes, strict=True):
        for name, factor in head.settle(tally).items():
            if prefix + name in losses:
                losses[prefix + name] = losses[prefix + name] * factor
    return losses


def move_first(heads: Sequence[BankBBoxHead]) -> None:
    """Move the heads' statistics that move before the step's losses, once the ground truth has been
    shown to them."""
    if not heads[0].moves_first:
        return
    seen = [{name: head.tally.pop(name) for name in head.moments} for head in heads]
    for head, sums in zip(heads, reduce_sum(seen), strict=True):
        head.move_first(sums)


class _OverBanks:
    """RoI head over banks: shows them the jittered ground truth, Eq. (10), and settles their step.

    All that the ranks must agree on in a step is summed in one reduction, after the losses: margin,
    sampling and prototypes are those of before the step, and move after it (Algorithm 1 moves
    prototypes and indicator first; so do prototypes of variants that ask for it, which takes a
    reduction of their own).
    """

    bbox_head: Any
    bbox_roi_extractor: Any
    shared_head: Any
    with_shared_head: bool
    mask_head: Any
    test_cfg: Any

    def loss(
        self,
        x: tuple[Tensor, ...],
        rpn_results_list: list[InstanceData],
        batch_data_samples: SampleList,
    ) -> dict[str, Tensor]:
        cascade = isinstance(self.bbox_head, nn.ModuleList)
        heads: list[BankBBoxHead] = list(self.bbox_head) if cascade else [self.bbox_head]
        positions = [sample.position for sample in batch_data_samples]
        ids = [sample.img_id for sample in batch_data_samples]
        drawn_for = [sample.get("drawn_for") for sample in batch_data_samples]
        for head in heads:
            head.begin(positions, ids, drawn_for)
        if heads[0].statistics:
            self._show(heads, x, batch_data_samples)
        losses: dict[str, Tensor] = super().loss(x, rpn_results_list, batch_data_samples)  # type: ignore[misc]
        return settled(heads, losses, [f"s{n}." if cascade else "" for n in range(len(heads))])

    def predict_bbox(self, *args: Any, **kwargs: Any) -> list[InstanceData]:
        results: list[InstanceData] = super().predict_bbox(*args, **kwargs)  # type: ignore[misc]
        for found in results:
            if "variant" not in found:  # MMDetection asks no box head where nothing is proposed
                found.variant = torch.zeros_like(found.labels)
        return results

    def predict_mask(
        self,
        x: tuple[Tensor, ...],
        batch_img_metas: list[dict[str, Any]],
        results_list: list[InstanceData],
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Add `masks`, pycocotools' RLE of each detection of all variants, and rescale the boxes.

        What several variants detect alike, box and category, gets one mask. They are made some at
        a time and kept as RLE, so that memory does not grow with the variants; MMDetection would
        hold a map for each category and a bitmap of the image for each detection.
        """
        for number, (results, meta) in enumerate(zip(results_list, batch_img_metas, strict=True)):
            if len(results) == 0:
                results.masks = []
                continue
            found = torch.cat([results.bboxes.float(), results.labels[:, None]], dim=1)
            distinct, which = found.unique(dim=0, return_inverse=True)
            masks: list[dict[str, Any]] = []
            for part in distinct.split(_MASKS_AT_ONCE):
                masks += self._masks(x, number, part[:, :4], part[:, 4].long(), meta, rescale)
            results.masks = [masks[place] for place in which.tolist()]
            if rescale:
                results.bboxes = scale_boxes(results.bboxes, _inverse(meta))
        return results_list

    def _masks(
        self,
        x: tuple[Tensor, ...],
        number: int,
        boxes: Tensor,
        labels: Tensor,
        meta: dict[str, Any],
        rescale: bool,
    ) -> list[dict[str, Any]]:
        """RLE of the masks in boxes (N, 4) of the image with that number in the batch."""
        rois = torch.cat([boxes.new_full((len(boxes), 1), number), boxes], dim=1)
        own = torch.stack([_of_labels(one, labels) for one in self._mask_logits(x, rois)])
        cascade = isinstance(self.mask_head, nn.ModuleList)
        head = self.mask_head[-1] if cascade else self.mask_head
        pasted = head._predict_by_feat_single(
            own.sigmoid().mean(dim=0) if cascade else own[0],
            boxes.clone(),
            torch.zeros_like(labels),
            meta,
            self.test_cfg,
            rescale,
            activate_map=cascade,
        )
        return rle.encode(pasted)

    def _mask_logits(self, x: tuple[Tensor, ...], rois: Tensor) -> list[Tensor]:
        """Logits of masks (N, C, height, width) of regions, of each mask head."""
        raise NotImplementedError

    @torch.no_grad()
    def _show(
        self, heads: Sequence[BankBBoxHead], x: tuple[Tensor, ...], samples: SampleList
    ) -> None:
        rois = bbox2roi([jittered(heads[0].seed, sample) for sample in samples])
        labels = torch.cat([sample.gt_instances.labels for sample in samples])
        images = rois[:, 0]
        extractors = self.bbox_roi_extractor
        if not isinstance(extractors, nn.ModuleList):
            extractors = [extractors]
        for head, extractor in zip(heads, extractors, strict=True):
            head.observe(self.pooled(extractor, x, rois), labels.repeat_interleave(16), images)
        move_first(heads)

    def pooled(self, extractor: Any, x: tuple[Tensor, ...], rois: Tensor) -> Tensor:
        """Features of regions (N, 5) that a box head reads, (N, channels, height, width)."""
        found: Tensor = extractor(x[: extractor.num_inputs], rois)
        return self.shared_head(found) if self.with_shared_head else found


def _of_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Of mask logits (N, C, height, width), those of each region's label, (N, 1, ...); logits of a
    head that knows no categories are there for any."""
    if logits.size(1) == 1:
        return logits
    return logits[torch.arange(len(labels), device=labels.device), labels][:, None]


@MODELS.register_module()
class BankRoIHead(_OverBanks, StandardRoIHead):
    """Standard RoI head of Faster and Mask R-CNN over a bank."""

    def _mask_logits(self, x: tuple[Tensor, ...], rois: Tensor) -> list[Tensor]:
        return [self._mask_forward(x, rois)["mask_preds"]]


@MODELS.register_module()
class BankCascadeRoIHead(_OverBanks, CascadeRoIHead):
    """RoI head of Cascade and Cascade Mask R-CNN over one bank for each stage."""

    def _mask_logits(self, x: tuple[Tensor, ...], rois: Tensor) -> list[Tensor]:
        stages = range(self.num_stages)
        return [self._mask_forward(stage, x, rois)["mask_preds"] for stage in stages]


@MODELS.register_module()
class BankHybridTaskCascadeRoIHead(_OverBanks, HybridTaskCascadeRoIHead):
    """RoI head of Hybrid Task Cascade over one bank for each stage.

    Annotations of objects have no map of stuff. So its semantic branch, where it has one, learns
    only from the box and mask heads that it feeds, and not at all while it is frozen.
    """

    def loss(
        self,
        x: tuple[Tensor, ...],
        rpn_results_list: list[InstanceData],
        batch_data_samples: SampleList,
    ) -> dict[str, Tensor]:
        if self.with_semantic:
            unknown = self.semantic_head.criterion.ignore_index
            for sample in batch_data_samples:
                size = (1, *sample.batch_input_shape)
                nothing = x[0].new_full(size, unknown, dtype=torch.long)
                sample.gt_sem_seg = PixelData(sem_seg=nothing)
        losses = super().loss(x, rpn_results_list, batch_data_samples)
        losses.pop("loss_semantic_seg", None)
        return losses

    def pooled(self, extractor: Any, x: tuple[Tensor, ...], rois: Tensor) -> Tensor:
        found = super().pooled(extractor, x, rois)
        if self.with_semantic and "bbox" in self.semantic_fusion:
            of_stuff = self.semantic_roi_extractor([self.semantic_head(x)[1]], rois)
            height, width = found.shape[-2:]
            found = found + adaptive_avg_pool2d(of_stuff, (height, width))
        return found

    def predict_mask(  # type: ignore[override]
        self,
        x: tuple[Tensor, ...],
        semantic_heat: Tensor | None,
        batch_img_metas: list[dict[str, Any]],
        results_list: list[InstanceData],
        rescale: bool = False,
    ) -> list[InstanceData]:
        self._semantic = semantic_heat
        return super().predict_mask(x, batch_img_metas, results_list, rescale)

    def _mask_logits(self, x: tuple[Tensor, ...], rois: Tensor) -> list[Tensor]:
        found: list[Tensor] = self._mask_forward(-1, x, rois, self._semantic, training=False)[
            "mask_preds"
        ]
        return found


@MODELS.register_module()
class BankDetector(TwoStageDetector):
    """Two-stage detector over a bank, with the named parts frozen.

    `freeze` lists module paths such as `backbone`, in which `*` stands for anything; one that names
    no module is an error. Parts of variants are meant only by patterns that name `variants`. Frozen
    parts take no gradient and stay in evaluation mode.
    `channels_last` lays images and the backbone's weights out so. `trunk` has options of
    `bacl.detector.trunk.Trunk`.
    """

    def __init__(
        self,
        *args: Any,
        freeze: Sequence[str] = (),
        channels_last: bool = False,
        trunk: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        names = [name for name, _ in self.named_modules()]
        matches = {
            pattern: [
                name
                for name in fnmatch.filter(names, pattern)
                # `*` crosses dots, but a pattern for the trunk is not meant for variants' parts
                if ".variants." not in name or "variants" in pattern
            ]
            for pattern in freeze
        }
        absent = [pattern for pattern, found in matches.items() if not found]
        if absent:
            known = ", ".join(name for name, _ in self.named_children())
            raise UsageError(
                f"freeze: the detector has no part named {', '.join(absent)}: expected parts such "
                f"as {known}, or what is inside them"
            )
        self.frozen_parts = [name for found in matches.values() for name in found]
        self._frozen = [self.get_submodule(name) for name in self.frozen_parts]
        for module in self._frozen:
            module.requires_grad_(False)
        self.trunk = Trunk(**(trunk or {}))
        self.trunk.attach(self)

    def drop(self, names: Collection[str]) -> list[nn.Parameter]:
        """Leave variants out from now on, in all heads; returns the parameters that they had."""
        dropped = []
        for bank in self.banks():
            for name in names:
                dropped += list(bank.pop(name).parameters())
        return dropped

    def banks(self) -> list[nn.ModuleDict]:
        """The variants by name, of each head."""
        return [head.variants for head in self.heads()]

    def heads(self) -> list[BankBBoxHead]:
        """The box head, or that of each stage of a cascade."""
        return [module for module in self.modules() if isinstance(module, BankBBoxHead)]

    def init_weights(self) -> None:
        """Initialise, then lay the weights out: the other way round, draws would land elsewhere."""
        super().init_weights()
        self.backbone.to(memory_format=self.memory_format)

    def train(self, mode: bool = True) -> "BankDetector":
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """Pyramid of features of images (B, 3, H, W)."""
        trained = torch.is_grad_enabled() and self._trains_pyramid()
        with torch.set_grad_enabled(trained):
            images = batch_inputs.contiguous(memory_format=self.memory_format)
            return self.trunk.pyramid(super().extract_feat, images)

    def _trains_pyramid(self) -> bool:
        parts = [self.backbone, *([self.neck] if self.with_neck else [])]
        return any(parameter.requires_grad for part in parts for parameter in part.parameters())

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        self.place(batch_data_samples)
        with self.trunk.read():
            losses: dict[str, Tensor] = super().loss(batch_inputs, batch_data_samples)
        return losses

    def place(self, samples: SampleList) -> None:
        """Tell the samplers of regions at which position of training an image is."""
        for sample in samples:
            if "position" not in sample:
                raise UsageError(
                    "training samples carry no position: use bacl's LVISFormatDataset with "
                    "OrderedSampler, and pack `position` among the meta keys"
                )
            sample.gt_instances.set_metainfo({"position": sample.position})

    def val_step(self, data: Any) -> Any:
        return views.detected(self, data) if views.are_several(data) else super().val_step(data)

    def test_step(self, data: Any) -> Any:
        return self.val_step(data)

    def in_one_view(self, data: Any) -> Any:
        """What is detected in images of which there is one view."""
        return super().val_step(data)

    def propose(self, x: tuple[Tensor, ...], samples: SampleList) -> list[InstanceData]:
        """Proposals for training on images with the pyramid `x`, without the RPN's losses."""
        metas = [sample.metainfo for sample in samples]
        outputs = self.rpn_head(x)
        proposals: list[InstanceData] = self.rpn_head.predict_by_feat(
            *outputs, batch_img_metas=metas, cfg=self.train_cfg.rpn_proposal
        )
        return proposals
