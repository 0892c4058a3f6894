"""Simple Copy-Paste, section III-B: MMDetection's, to the last bit, without its copies.

MMDetection's implementation multiplies whole images as 64-bit integers and copies every sample
several times, which takes half of the loading time and hands the detector eight bytes a value.

Objects are pasted inside of their own bounds.
"""

from contextlib import nullcontext
from typing import Any

import numpy as np
from mmdet.datasets import MultiImageMixDataset
from mmdet.datasets.transforms import CopyPaste
from mmdet.registry import DATASETS, TRANSFORMS
from numpy.typing import NDArray

from bacl.datasets.detection import seeded
from bacl.datasets.masks import parts_of, placed
from bacl.datasets.samplers import Position


@DATASETS.register_module()
class CopyPasteDataset(MultiImageMixDataset):
    """mmdet's mix of several images, with draws that come from (seed, position) as well.

    The dataset's samples are changed in place, and so must be new with each access, as those of
    `LVISFormatDataset` are; that dataset also replaces samples that its pipeline rejects.
    """

    def __init__(self, dataset: dict[str, Any], pipeline: list[dict[str, Any]], seed: int) -> None:
        super().__init__(dataset, pipeline)
        self.seed = seed

    def presence(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """`Index.presence` of the images as they are, without pasted objects; for samplers."""
        found: tuple[NDArray[Any], NDArray[Any]] = self.dataset.presence()
        return found

    def wide(self) -> NDArray[Any]:
        """Whether each image is wider than high, (I,)."""
        found: NDArray[Any] = self.dataset.wide()
        return found

    def __getitem__(self, idx: int | Position) -> dict[str, Any]:
        with seeded(self.seed, idx.position, "mix") if isinstance(idx, Position) else nullcontext():
            results: dict[str, Any] = self.dataset[idx]
            for transform in self.pipeline:
                if hasattr(transform, "get_indexes"):
                    others = np.atleast_1d(transform.get_indexes(self.dataset))
                    results["mix_results"] = [self.dataset[int(other)] for other in others]
                results = transform(results)
                results.pop("mix_results", None)
        return results


@TRANSFORMS.register_module()
class QuickCopyPaste(CopyPaste):
    """Pastes as `CopyPaste` does, on masks' and images' own types.

    Args:
        keep_masks: leave masks in the sample. They are most of the data that a loader worker hands
            over, so they are dropped for detectors that do not use them.
        max_num_pasted: one more than the number of objects that may be pasted.
    """

    def __init__(self, keep_masks: bool, max_num_pasted: int = 100) -> None:
        super().__init__(max_num_pasted=max_num_pasted)
        self.keep_masks = keep_masks

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        pasted: dict[str, Any] = super().transform(results)
        if not self.keep_masks:
            del pasted["gt_masks"]
        return pasted

    def _copy_paste(
        self, dst_results: dict[str, Any], src_results: dict[str, Any]
    ) -> dict[str, Any]:
        target, source = dst_results, src_results
        if len(source["gt_bboxes"]) == 0:
            return target
        height, width = target["img"].shape[:2]
        pasted = parts_of(source["gt_masks"])
        covered = np.zeros((height, width), dtype=bool)
        for part in pasted:
            covered[part.place] |= part.pixels.astype(bool)
        left = [
            part._replace(pixels=part.pixels * ~covered[part.place])
            for part in parts_of(target["gt_masks"])
        ]
        boxes = placed(left, height, width).get_bboxes(type(target["gt_bboxes"]))
        moved = (boxes.tensor - target["gt_bboxes"].tensor).abs()
        in_place = (moved <= self.bbox_occluded_thr).all(dim=-1).numpy()
        visible = np.array([np.count_nonzero(part.pixels) for part in left], dtype=int)
        kept = in_place | (visible > self.mask_occluded_thr)

        for part in pasted:
            shown = part.pixels.astype(bool)[..., None]
            np.copyto(target["img"][part.place], source["img"][part.place], where=shown)
        target["gt_bboxes"] = boxes.cat([boxes[kept], source["gt_bboxes"]])
        for name in ("gt_bboxes_labels", "gt_ignore_flags"):
            target[name] = np.concatenate([target[name][kept], source[name]])
        if self.keep_masks:
            masks = [*(left[n] for n in np.flatnonzero(kept)), *pasted]
            target["gt_masks"] = placed(masks, height, width)
        return target
