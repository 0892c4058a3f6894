"""Random draws that depend on their purpose, not on the process or the moment that makes them.

Every draw of training is keyed by the experiment's seed, the name of its stream and the *position*
of an image in the seeded order of training images (position p is the p-th image since the start of
the stage, over all ranks). So draws survive resuming, grouping of variants and another number of
ranks.
"""

import hashlib
from typing import Any

import numpy as np
import torch
from mmdet.models.task_modules.assigners import AssignResult
from mmdet.models.task_modules.samplers import RandomSampler, SamplingResult
from mmdet.registry import TASK_UTILS
from mmengine.structures import InstanceData
from torch import Tensor

from bacl.transfer import sent


def seed_of(*key: int | str) -> int:
    """A 63-bit seed from any key, the same on every machine."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(device: torch.device | str, *key: int | str) -> torch.Generator:
    """A generator on `device` seeded by `key`."""
    return torch.Generator(device).manual_seed(seed_of(*key))


@TASK_UTILS.register_module()
class KeyedRandomSampler(RandomSampler):
    """MMDetection's random sampler with draws keyed by (seed, stream, image position).

    `stream` tells the samplers of one detector apart (`rpn`, `roi`). Ground truth handed to
    `sample` carries its image's `position`; `bacl.detector.bank.BankDetector` puts it there.
    """

    def __init__(
        self, num: int, pos_fraction: float, stream: str, seed: int, **kwargs: Any
    ) -> None:
        super().__init__(num=num, pos_fraction=pos_fraction, **kwargs)
        self.stream = stream
        self.seed = seed

    def sample(
        self,
        assign_result: AssignResult,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        **kwargs: Any,
    ) -> SamplingResult:
        self._generator = generator("cpu", self.seed, self.stream, gt_instances.position)
        return super().sample(assign_result, pred_instances, gt_instances, **kwargs)

    def random_choice(self, gallery: Tensor, num: int) -> Tensor:
        chosen = torch.randperm(gallery.numel(), generator=self._generator)[:num]
        return gallery[sent(chosen, gallery.device)]


@TASK_UTILS.register_module()
class KeyedSampler:
    """Any other sampler of MMDetection's, with draws keyed as `KeyedRandomSampler`'s are.

    Such a sampler draws from the generators of torch and numpy that a process shares; they are
    seeded while it draws, and afterwards are as they were.
    """

    def __init__(self, sampler: dict[str, Any], stream: str, seed: int, **context: Any) -> None:
        self.sampler = TASK_UTILS.build(sampler, default_args=context)
        self.stream = stream
        self.seed = seed

    def sample(
        self,
        assign_result: AssignResult,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        **kwargs: Any,
    ) -> SamplingResult:
        key = seed_of(self.seed, self.stream, gt_instances.position)
        of_numpy = np.random.get_state()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key)
            np.random.seed(key % 2**32)
            try:
                return self.sampler.sample(assign_result, pred_instances, gt_instances, **kwargs)
            finally:
                np.random.set_state(of_numpy)
