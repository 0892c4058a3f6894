"""The field's methods as a small bank of them trains."""

import json

from bacl.datasets.prepared import Prepared
from bacl.method_settings.adaptive import PCB, ROG, EQLv2, Focal, Seesaw
from bacl.method_settings.classifiers import BAGS, TDE, Cosine, DisAlign, Forest
from bacl.method_settings.priors import BALMS, ECM, LDAM, ClassBalanced, LogitAdjusted
from bacl.method_settings.resampling import FASA, LOCE, RIO, SimCal
from bacl.method_settings.suppression import ACSL, EQL, GOL, DropLoss, Federated

VARIANTS = {
    "eql": EQL(method="eql"),
    "droploss": DropLoss(method="droploss"),
    "balms": BALMS(method="balms"),
    "eqlv2": EQLv2(method="eqlv2"),
    "seesaw": Seesaw(method="seesaw"),
    "seesaw_cosine": Seesaw(method="seesaw", classifier="cosine"),
    "acsl": ACSL(method="acsl"),
    "bags": BAGS(method="bags", bounds=[20]),
    "disalign": DisAlign(method="disalign"),
    "cosine": Cosine(method="cosine"),
    "tde": TDE(method="tde"),
    "pcb": PCB(method="pcb", start=0),
    "loce": LOCE(method="loce", slots=5),
    "rio": RIO(method="rio", slots=5, most_images=1000),
    "fasa": FASA(method="fasa", held_out=0.5),
    "simcal": SimCal(method="simcal", threshold=20),
    "forest": Forest(method="forest", trees="trees.json"),
    "focal": Focal(method="focal"),
    "class_balanced": ClassBalanced(method="class_balanced"),
    "class_balanced_focal": ClassBalanced(method="class_balanced", base="sigmoid", gamma=2),
    "ldam": LDAM(method="ldam", deferred=0),
    "logit_adjusted": LogitAdjusted(method="logit_adjusted"),
    "federated": Federated(method="federated", trained=3),
    "gol": GOL(method="gol"),
    "ecm": ECM(method="ecm"),
    "ecm_cosine": ECM(method="ecm", classifier="cosine"),
    "rog": ROG(method="rog"),
}
"""They take sampler `class_aware`; `forest` has trees once it is `grown`."""


def grown(dataset_info, folder):
    """A forest of two trees over the dataset's six categories."""
    names = [category.name for category in Prepared.load(dataset_info).categories]
    trees = {"visual": [0, 0, 1, 1, 2, 2], "geometric": [1, 0, 1, 0, 1, 0]}
    (folder / "trees.json").write_text(json.dumps({"categories": names, "trees": trees}))
    return Forest(method="forest", trees=str(folder / "trees.json"))


def in_short_epochs(config):
    """The configuration with epochs of one step of four images for `fasa`, whose made features
    begin in the second."""
    config["model"]["roi_head"]["bbox_head"]["variants"]["fasa"]["epoch"] = 4
    return config
