"""Scores of sigmoids with objectness, Eq. (5), in MMDetection without BACL.

MMDetection's own EQLV2Loss computes these scores, but lacks two attributes by which a box head
learns that a loss has scores of its own, and so would be given a softmax. The function below sets
them. Its source stands in the configurations of exported detectors, so it needs nothing but what is
in it; it imports by name because MMEngine reads configurations with import statements of other
packages in another way.
"""


def register_scores() -> None:
    """Register MMDetection's EQLV2Loss, whose scores are sigmoid(z_j) (1 - sigmoid(z_background)),
    as SigmoidWithObjectness, for which box heads ask for these."""
    import importlib

    eqlv2 = importlib.import_module("mmdet.models.losses").EQLV2Loss
    own = {
        "__module__": eqlv2.__module__,
        "custom_cls_channels": True,
        "custom_activation": True,
        "get_cls_channels": eqlv2.get_channel_num,
    }
    importlib.import_module("mmdet.registry").MODELS.register_module(
        "SigmoidWithObjectness", force=True, module=type("SigmoidWithObjectness", (eqlv2,), own)
    )
