"""Registration of every part with MMDetection on import, for `custom_imports =
['bacl.register']`."""

from bacl.detector import operators

operators.install()

from bacl import (  # noqa: E402
    averaging,  # noqa: F401
    corrections,  # noqa: F401
    draws,  # noqa: F401
    evaluation,  # noqa: F401
    extensions,
    methods,  # noqa: F401
    optimizers,  # noqa: F401
    precision,  # noqa: F401
    stepping,  # noqa: F401
    variants,  # noqa: F401
)
from bacl.datasets import copy_paste, detection, loading, transforms  # noqa: E402, F401
from bacl.detector import anchors, backbones, bank, resampling, stock  # noqa: E402, F401
from bacl.features import replay, stored  # noqa: E402, F401

extensions.load_installed()
