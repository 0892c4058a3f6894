"""Registration of every part with MMDetection on import, for `custom_imports =
['bacl.register']`."""

from bacl.detector import operators

operators.install()

from bacl import draws, evaluation, extensions, methods, precision, variants  # noqa: E402, F401
from bacl.datasets import copy_paste, detection, loading, transforms  # noqa: E402, F401
from bacl.detector import anchors, bank, resampling, stock  # noqa: E402, F401
from bacl.features import replay, stored  # noqa: E402, F401

extensions.load_installed()
