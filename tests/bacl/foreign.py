"""A method and an indicator that live outside of BACL, as a user's modules have them."""

import sys
from contextlib import contextmanager

from bacl import extensions, schema, variants
from bacl import indicators as parts
from bacl.datasets import formats
from bacl.method_settings import indicators, registry

METHOD = '''
"""Focal loss, in a module of a user's."""

from typing import Literal

import torch
import torch.nn.functional as F

from bacl.method_settings.registry import register
from bacl.method_settings.base import Method
from bacl.variants import METHODS, Sigmoid


@register
class Focal(Method):
    """Focal loss: what is classified well already counts little."""

    method: Literal["focal"]
    gamma: float = 2.0
    """How fast a sample's weight falls with its probability."""


@METHODS.register_module(name="focal")
class FocalVariant(Sigmoid):
    def __init__(self, width, categories, generator, gamma):
        super().__init__(width, categories, generator)
        self.gamma = gamma

    def loss(self, logits, labels):
        own = F.one_hot(labels, self.categories + 1)[:, :-1].bool()
        right = torch.where(own, logits, -logits)
        return ((1 - right.sigmoid()) ** self.gamma * -F.logsigmoid(right)).sum(dim=1)
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
