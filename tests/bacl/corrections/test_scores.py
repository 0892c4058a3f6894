"""What corrections believe of methods' scores is what the methods make of their logits."""

import torch
import torch.nn.functional as F
from everything import everything
from training import DETECTOR

from bacl.draws import generator
from bacl.method_settings.corrections import SCORES
from bacl.variants import build_variant

C = 6


def expected(kind, logits):
    if kind == "softmax":
        return logits.softmax(dim=1)
    if kind == "sigmoid":
        return F.pad(logits[:, :C].sigmoid(), (0, 1))
    return F.pad(logits[:, :C].sigmoid() * (1 - logits[:, C:].sigmoid()), (0, 1))


def test_kind_of_scores_is_the_methods_own(dataset_info, tmp_path):
    config = everything(dataset_info, tmp_path)
    bank = config["model"]["roi_head"]["bbox_head"]["variants"]
    seen = set()
    for options in bank.values():
        kind = SCORES.get(options["method"])
        if kind in (None, "tde") or len(options.get("passes", (1.0,))) > 1:
            continue
        variant = build_variant(options, DETECTOR.fc_channels, C, torch.Generator()).eval()
        logits = torch.randn(9, variant.columns, generator=generator("cpu", options["method"]))
        found = variant.probabilities(logits)[:, :C]
        torch.testing.assert_close(found, expected(kind, logits)[:, :C], msg=options["method"])
        seen.add(options["method"])
    assert seen == {method for method, kind in SCORES.items() if kind != "tde"}
