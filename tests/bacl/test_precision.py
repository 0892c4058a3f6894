"""Options of speed change results to rounding only."""

import pytest
import torch
from training import build, config_of, train

from bacl.method_settings.paper import BACL, Hallucination, Softmax
from bacl.precision import BFloat16OptimWrapper, at_least_float32

VARIANTS = {
    "bacl": BACL(method="bacl", hallucination=Hallucination(categories=3, samples=4)),
    "softmax": Softmax(method="softmax"),
}


def test_channels_last_gives_the_same_features_and_gradients_to_rounding(dataset_info):
    config = config_of(dataset_info, VARIANTS, freeze=())
    plain = build(config)
    config["model"]["channels_last"] = True
    laid_out = build(config)
    images = torch.randn(2, 3, 96, 96)
    gradients = []
    for model in (plain, laid_out):
        features = model.extract_feat(images)
        sum(level.square().mean() for level in features).backward()
        gradients.append((*features, model.backbone.conv1.weight.grad))
    assert laid_out.backbone.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("freeze", [(), ("backbone", "neck", "roi_head.bbox_head*.shared_fcs")])
def test_bfloat16_trains_close_to_float32(dataset_info, freeze):
    config = config_of(dataset_info, VARIANTS, freeze=freeze)
    start = build(config).state_dict()
    moved = {}
    for name, wrapper in {"float32": None, "bfloat16": BFloat16OptimWrapper}.items():
        model = build(config, start)
        train(config, model, 2, **({} if wrapper is None else {"wrapper": wrapper}))
        key = "roi_head.bbox_head.variants.bacl.fc_cls.bias"
        moved[name] = model.state_dict()[key] - start[key]
        assert all(value.isfinite().all() for value in model.state_dict().values())
        assert model.state_dict()[key].dtype == torch.float32
    cosine = torch.cosine_similarity(moved["float32"], moved["bfloat16"], dim=0)
    assert cosine > 0.98


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_only_what_is_below_float32_is_lifted(dtype):
    tensor = torch.ones(2, dtype=dtype)
    lifted = at_least_float32(tensor)
    assert lifted.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (lifted is tensor) == (dtype in (torch.float32, torch.float64))
