"""Importing this registers every part with MMDetection: `custom_imports = ['bacl.register']`."""

from bacl import operators

operators.install()

from bacl import bank, draws, evaluation, methods, precision, resampling, stock, variants  # noqa: E402, F401
from bacl.datasets import copy_paste, detection, loading, transforms  # noqa: E402, F401
