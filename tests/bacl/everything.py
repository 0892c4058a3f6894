"""Every method, indicator, kind of detector and way to train of ours, in few configurations."""

import torch
from field import VARIANTS, grown, in_short_epochs
from mmdet.registry import DATASETS
from training import config_of

from bacl.indicators import INDICATORS
from bacl.method_settings.adaptive import PCB
from bacl.method_settings.paper import BACL, BCE, FCBL, Hallucination, Sigmoid, Softmax

HALLUCINATION = Hallucination(categories=3, samples=4)
BACL_VARIANT = BACL(method="bacl", hallucination=HALLUCINATION)
GUIDED = {
    f"by_{indicator}": BACL(method="bacl", indicator=indicator, hallucination=HALLUCINATION)
    for indicator in INDICATORS.module_dict
}
OWN = {
    "softmax": Softmax(method="softmax"),
    "sigmoid": Sigmoid(method="sigmoid"),
    "bce": BCE(method="bce"),
    "fcbl": FCBL(method="fcbl", alpha=0, weight_term="none"),
    **GUIDED,
}


def everything(dataset_info, folder, **recipe):
    """All methods, and BACL with each indicator and hallucination, in one bank."""
    variants = {**VARIANTS, "forest": grown(dataset_info, folder), **OWN}
    return in_short_epochs(config_of(dataset_info, variants, sampler="class_aware", **recipe))


CONFIGS = {
    "everything": everything,
    "cascade_rcnn": lambda info, _: config_of(
        info, {"bacl": BACL_VARIANT}, detector="cascade_rcnn"
    ),
    "mask_rcnn": lambda info, _: config_of(info, {"bacl": BACL_VARIANT}, detector="mask_rcnn"),
    "iterative": lambda info, _: config_of(
        info, {"pcb": PCB(method="pcb", start=0, passes=[0.2, 0.2, 0.6])}, freeze=()
    ),
    "resampling": lambda info, _: config_of(
        info, {"softmax": OWN["softmax"]}, freeze=(), proposal_nms=[0.9, 0.8, 0.7]
    ),
}
"""By name, of `dataset.json` and a folder for what a configuration needs."""


@torch.no_grad()
def detected(model, config):
    """What a detector finds in the first image."""
    sample = DATASETS.build(config["val_dataloader"]["dataset"])[0]
    inputs = {key: [sample[key]] for key in ("inputs", "data_samples")}
    return model.test_step(inputs)[0].pred_instances
