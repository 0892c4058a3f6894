"""A method and an indicator that live outside of BACL, as a user's modules have them."""

import sys
from contextlib import contextmanager

from bacl import extensions, schema, variants
from bacl import indicators as parts
from bacl.datasets import formats
from bacl.method_settings import indicators, registry

METHOD = '''
"""Label smoothing, in a module of a user's."""

from typing import Literal

import torch
import torch.nn.functional as F

from bacl.method_settings.registry import register
from bacl.method_settings.base import Method
from bacl.variants import METHODS, Softmax


@register
class Smoothed(Method):
    """Label smoothing: a share of each target is all classes' alike."""

    method: Literal["smoothed"]
    smoothing: float = 0.1
    """Share of a target that all classes have alike."""


@METHODS.register_module(name="smoothed")
class SmoothedVariant(Softmax):
    def __init__(self, width, categories, generator, smoothing):
        super().__init__(width, categories, generator)
        self.smoothing = smoothing

    def loss(self, logits, labels):
        chances = logits.float().log_softmax(dim=1)
        own = F.nll_loss(chances, labels, reduction="none")
        return (1 - self.smoothing) * own - self.smoothing * chances.mean(dim=1)
'''

INDICATOR = '''
"""How rare a category is among training images, as a logarithm."""

import torch

from bacl.indicators import INDICATORS, Indicator
from bacl.method_settings.indicators import register_indicator

register_indicator("rarity", __name__)


@INDICATORS.register_module(name="rarity")
class Rarity(Indicator):
    def __init__(self, categories, image_counts, **_):
        super().__init__()
        counts = torch.tensor(image_counts, dtype=torch.float)
        self.register_buffer("logarithms", counts.log1p() / counts.max().log1p())

    def level(self):
        return self.logarithms
'''


@contextmanager
def forgotten():
    """In it, modules register what they bring; after it, nothing of that is there."""
    before = dict(sys.modules), list(sys.path)
    kept = [
        (table, dict(table))
        for table in (
            registry.METHODS,
            indicators.INDICATORS,
            formats.FORMATS,
            variants.METHODS.module_dict,
            parts.INDICATORS.module_dict,
        )
    ]
    try:
        yield
    finally:
        for table, content in kept:
            table.clear()
            table.update(content)
        for name in sys.modules.keys() - before[0].keys():
            del sys.modules[name]
        sys.path[:] = before[1]
        schema.rebuild()
        extensions.load_installed.cache_clear()
        extensions.FOLDERS.clear()
