"""Frozen trunks that training reads in another precision, or compiled."""

from functools import partial
from unittest.mock import patch

import pytest
import torch
from ranks import on_ranks
from training import backward, build, config_of, train, train_and_save

from bacl.detector import trunk
from bacl.errors import RunError
from bacl.method_settings.paper import BACL, Hallucination, Softmax
from bacl.precision import BFloat16OptimWrapper
from bacl.settings import Trunk

VARIANTS = {
    "bacl": BACL(method="bacl", hallucination=Hallucination(categories=3, samples=4)),
    "softmax": Softmax(method="softmax"),
}
HALF = Trunk(precision="bfloat16")


def stepped(config, steps=2, state=None, **options):
    """Weights before and after some steps of a configuration."""
    model = build(config, state)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    train(config, model, steps, **options)
    return start, model.state_dict()


def of(state, part):
    """The tensors of a part."""
    return {name: value for name, value in state.items() if part in name}


def computed_in(model, module):
    """Types of what the module takes and returns from now on, and of what it makes inside."""
    seen = []

    def keep(_module, inputs, output):
        seen.append((inputs[0].dtype, output.dtype))

    module.register_forward_hook(keep)
    return seen


def test_nothing_is_configured_where_nothing_is_asked(dataset_info):
    plain = config_of(dataset_info, VARIANTS)
    assert "trunk" not in plain["model"]
    for same in (Trunk(), Trunk(precision="float32")):
        assert config_of(dataset_info, VARIANTS, trunk=same) == plain


def test_precision_that_training_has_anyway_is_not_configured(dataset_info):
    plain = config_of(dataset_info, VARIANTS, precision="bfloat16")
    assert config_of(dataset_info, VARIANTS, precision="bfloat16", trunk=HALF) == plain


def test_step_leaves_all_of_the_frozen_trunk_as_it_is(dataset_info):
    config = config_of(dataset_info, VARIANTS)
    # which in training would count what it sees
    config["model"]["backbone"] |= {"norm_cfg": {"type": "BN"}, "norm_eval": False}
    start, end = stepped(config)
    frozen = [of(start, part) for part in ("backbone", "neck", "bbox_head.shared_fcs")]
    assert any("running_mean" in name for name in frozen[0])
    for part in frozen:
        assert part and all(torch.equal(value, end[name]) for name, value in part.items())
    moved = of(start, ".fc_cls.weight")
    assert moved and not any(torch.equal(value, end[name]) for name, value in moved.items())


def test_trunk_computes_in_bfloat16_and_all_else_in_float32(dataset_info):
    model = build(config_of(dataset_info, VARIANTS, trunk=HALF)).train()
    head = model.roi_head.bbox_head
    seen = {
        name: computed_in(model, module)
        for name, module in {
            "backbone": model.backbone.layer4,
            "neck": model.neck.fpn_convs[0],
            "rpn": model.rpn_head.rpn_conv,
            "fcs": head.shared_fcs[1],
            "classifier": head.variants["softmax"].fc_cls,
        }.items()
    }
    levels = []
    model.neck.register_forward_hook(lambda *call: levels.extend(call[2]))
    config = config_of(dataset_info, VARIANTS, trunk=HALF)
    backward(config, model)
    half, whole = torch.bfloat16, torch.float32
    assert set(seen["backbone"]) == {(half, half)}
    assert {out for _, out in seen["neck"]} == {half}
    assert {level.dtype for level in levels} == {half}
    for name in ("rpn", "classifier"):
        assert set(seen[name]) == {(whole, whole)}
    assert {out for _, out in seen["fcs"]} == {whole}
    weights = [*model.parameters(), *model.buffers()]
    assert half not in {weight.dtype for weight in weights}
    # what 8 bits of mantissa hold is all that the box head's features have
    found = []
    head.shared_fcs[1].register_forward_hook(lambda *call: found.append(call[2]))
    backward(config, model)
    assert all(torch.equal(one, one.bfloat16().float()) for one in found)


def test_trunk_in_bfloat16_moves_classifiers_nearly_as_in_float32(dataset_info):
    start, plain = stepped(config_of(dataset_info, VARIANTS))
    other, half = stepped(config_of(dataset_info, VARIANTS, trunk=HALF))
    assert all(torch.equal(value, other[name]) for name, value in start.items())
    for name in of(start, ".fc_cls."):
        moves = [(end[name] - start[name]).flatten() for end in (plain, half)]
        assert not torch.equal(*moves)
        assert torch.cosine_similarity(*moves, dim=0) > 0.98, name
        assert (moves[0] - moves[1]).norm() < 0.2 * moves[0].norm(), name


def test_trunk_in_float32_under_bfloat16_hands_on_what_float32_does(dataset_info):
    whole = Trunk(precision="float32")
    config = config_of(dataset_info, VARIANTS, trunk=whole, precision="bfloat16")
    model, plain = (build(one).train() for one in (config, config_of(dataset_info, VARIANTS)))
    images = torch.randn(1, 3, 96, 96)
    with model.trunk.read(), torch.autocast("cpu", torch.bfloat16):
        found = model.extract_feat(images)
        h = model.roi_head.bbox_head.shared_fcs[0](torch.ones(1, 16 * 49))
    assert h.dtype == torch.float32
    for level, other in zip(found, plain.extract_feat(images), strict=True):
        assert torch.equal(level, other)
    train(config, model, 1, wrapper=BFloat16OptimWrapper)


def test_evaluation_reads_the_trunk_in_float32(dataset_info):
    plain, half = (
        build(config_of(dataset_info, VARIANTS, trunk=one)).eval() for one in (None, HALF)
    )
    images = torch.randn(1, 3, 96, 96)
    for level, other in zip(half.extract_feat(images), plain.extract_feat(images), strict=True):
        assert torch.equal(level, other)
    with half.trunk.read():
        read = half.extract_feat(images)
    assert not torch.equal(read[0], plain.extract_feat(images)[0])


@pytest.mark.parametrize("name", VARIANTS)
def test_bank_over_a_trunk_in_bfloat16_equals_each_variant_alone(dataset_info, name):
    start, together = stepped(config_of(dataset_info, VARIANTS, trunk=HALF))
    only = config_of(dataset_info, {name: VARIANTS[name]}, trunk=HALF)
    state = {key: start[key] for key in build(only).state_dict()}
    _, alone = stepped(only, state=state)
    for key in alone:
        torch.testing.assert_close(together[key], alone[key], rtol=1e-5, atol=1e-6)


def test_training_over_a_trunk_in_bfloat16_goes_on_as_if_undisturbed(dataset_info):
    config = config_of(dataset_info, VARIANTS, trunk=HALF)
    whole = build(config)
    train(config, whole, 2)
    first = build(config)
    optimizer = train(config, first, 1)
    resumed = build(config, first.state_dict())
    train(config, resumed, 1, skip=1, optimizer_state=optimizer.state_dict())
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.slow
def test_ranks_over_a_trunk_in_bfloat16_train_as_one(dataset_info, tmp_path):
    config = config_of(dataset_info, VARIANTS, trunk=HALF)
    on_ranks(train_and_save, 2, tmp_path, config)
    model = build(config)
    train(config, model, 3)
    found = [torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1)]
    for name, value in model.state_dict().items():
        assert torch.equal(found[0][name], found[1][name]), name
        torch.testing.assert_close(found[0][name], value, rtol=1e-3, atol=1e-4)


def test_variants_with_a_box_head_of_their_own_keep_it_in_float32(dataset_info):
    from bacl.method_settings.resampling import SimCal

    config = config_of(
        dataset_info, {"simcal": SimCal(method="simcal")}, trunk=HALF, sampler="class_aware"
    )
    model = build(config)
    own = model.roi_head.bbox_head.variants["simcal"].copy.shared_fcs[0]
    with model.trunk.read():
        assert not torch.equal(own(x := torch.randn(4, 16 * 49)), own(x).bfloat16().float())


@pytest.mark.slow
def test_compiled_trunk_gives_the_same_steps_to_rounding(dataset_info):
    sizes = [(96, 96), (128, 96), (96, 64)]
    plain = config_of(dataset_info, VARIANTS, scales=sizes)
    compiled = config_of(dataset_info, VARIANTS, scales=sizes, trunk=Trunk(compile=True))
    torch._dynamo.reset()
    start, expected = stepped(plain)
    with torch._dynamo.config.patch(error_on_recompile=True):  # it serves all sizes
        _, found = stepped(compiled)
    assert torch._dynamo.utils.counters["frames"]["ok"] == 1
    assert found.keys() == expected.keys()  # which checkpoints and exports are of
    for name in of(start, ".fc_cls."):
        moves = [(end[name] - start[name]).flatten() for end in (expected, found)]
        assert (moves[0] - moves[1]).norm() < 1e-3 * moves[0].norm(), name


@pytest.mark.slow
def test_trunk_is_compiled_where_training_reads_it_and_nowhere_else(dataset_info):
    calls = []

    def backend(graph, _):
        calls.append(graph)
        return graph.forward

    compiling = partial(torch.compile, backend=backend)
    with patch.object(trunk.torch, "compile", lambda f, **o: compiling(f, **o)):
        model = build(config_of(dataset_info, VARIANTS, trunk=Trunk(compile=True)))
    images = torch.randn(2, 3, 96, 96)
    expected = model.eval().extract_feat(images)
    assert not calls
    with model.trunk.read():
        found = model.extract_feat(images)
    assert len(calls) == 1
    assert all(torch.equal(*levels) for levels in zip(found, expected, strict=True))


@pytest.mark.slow
def test_trunk_that_cannot_be_compiled_is_told_in_a_sentence(dataset_info):
    def backend(*_):
        raise OSError("no compiler")

    compiling = partial(torch.compile, backend=backend)
    config = config_of(dataset_info, VARIANTS, trunk=Trunk(compile=True))
    with patch.object(trunk.torch, "compile", lambda f, **o: compiling(f, **o)):
        model = build(config).train()
    sentence = "^recipe.trunk.compile: expected .*OSError: no compiler.*: set it to false, or"
    with pytest.raises(RunError, match=sentence):
        backward(config, model)
