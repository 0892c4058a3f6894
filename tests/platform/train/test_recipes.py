"""Jobs with every option of a recipe: killed, with variants that leave, as a population."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch

from bacl.variants import Softmax
from bacl_platform.plan.sweep_plan import Preparation, plan_sweeps
from bacl_platform.plan.trials import SweepFile
from bacl_platform.store.names import LOG, MOVES
from bacl_platform.train import worker
from bacl_platform.train.hooks.scalars import Scalars
from bacl_platform.train.messages import Logged

pytestmark = pytest.mark.slow
RICH = {
    "schedule": "{iterations: 24, batch: 4, lr: 0.001, lr_batch: 4, warmup: 0}",
    "lr_schedule": "one_cycle",
    "clip_grad": "{max_norm: 0.5}",
    "accumulate": "2",
    "ema": "{momentum: 0.3}",
    "augmentations": "[{type: PhotoMetricDistortion}, {type: TranslateX}]",
    "soft_nms": "{method: gaussian}",
    "tta": "{scales: [[96, 96], [64, 64]]}",
    "optimizer": "{type: adamw, layer_decay: 0.8, paramwise: {norm_decay_mult: 0}}",
}
OPTIONS = [
    f"stages.{stage}.recipe.{field}={value}"
    for stage in ("features", "heads")
    for field, value in RICH.items()
]
OPTIONS.append("stages.heads.recipe.trunk={precision: bfloat16}")


class Killed(Exception):
    """Stands for the death of the process."""


def train(job, store, kill_at=None, stopped=None):
    def tell(message):
        if isinstance(message, Logged) and message.rows and message.rows[-1]["step"] == kill_at:
            raise Killed

    return worker.train(job, store, tell, lambda _: None, stopped)


def weights(folder: Path) -> dict:
    return torch.load(folder / "checkpoint.pth", weights_only=True)["state_dict"]


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_killed_job_goes_on_to_the_weights_of_an_undisturbed_one(planned, store, undisturbed):
    for job in planned(*OPTIONS).jobs:
        assert train(job, undisturbed) is None
        with pytest.raises(Killed):
            train(job, store, kill_at=20)
        assert train(job, store) is None
        assert_same(weights(store.entry(job.key)), weights(undisturbed.entry(job.key)))
        rows = [
            json.loads(line)
            for line in (store.entry(job.key) / "scalars.jsonl").read_text().splitlines()
        ]
        assert rows[0]["step"] == 10 and 0 < rows[-2]["lr"] < rows[0]["lr"] <= 1e-3


def test_stopped_variant_leaves_a_bank_and_disturbs_no_other(planned, store, undisturbed, finished):
    features, heads = planned(*OPTIONS).jobs
    finished(features)
    train(heads, undisturbed)
    with pytest.raises(Killed):
        train(heads, store, kill_at=20, stopped=lambda _: ["softmax"])
    assert train(heads, store, stopped=lambda _: []) is None
    whole = weights(undisturbed.entry(heads.key))
    kept = {name: value for name, value in whole.items() if ".variants.softmax." not in name}
    assert_same(weights(store.entry(heads.key)), kept)


def test_variant_whose_loss_diverges_leaves_and_the_others_go_on(
    planned, store, undisturbed, finished, monkeypatch
):
    features, heads = planned(*OPTIONS).jobs
    finished(features)
    train(heads, undisturbed)
    monkeypatch.setattr(Softmax, "loss", lambda self, logits, labels: logits.sum(1) * math.nan)
    assert train(heads, store) is None
    whole = weights(undisturbed.entry(heads.key))
    kept = {name: value for name, value in whole.items() if ".variants.softmax." not in name}
    assert_same(weights(store.entry(heads.key)), kept)


def test_entry_and_what_is_evaluated_and_kept_are_averages(planned, store, finished, monkeypatch):
    """Weights are recorded before each step, and averaged here."""
    steps, evaluated = [], []

    def recorded(runner):
        return {n: p.detach().clone() for n, p in runner.model.named_parameters()}

    def before_step(hook, runner, *_, **__):
        steps.append(recorded(runner))

    def before_evaluation(hook, runner):
        evaluated.append(recorded(runner))

    features, heads = planned(*OPTIONS, "stages.heads.recipe.keep_every=20").jobs
    finished(features)
    monkeypatch.setattr(Scalars, "before_train_iter", before_step)
    monkeypatch.setattr(Scalars, "before_val_epoch", before_evaluation)
    assert train(heads, store) is None
    entry = store.entry(heads.key)
    kept = torch.load(entry / "checkpoints" / "step_20" / "checkpoint.pth", weights_only=True)
    learnt = kept["trained"].keys()
    assert any(".variants.bacl." in name for name in learnt)
    assert any("rpn" in name for name in learnt)
    average = {name: steps[1][name].double() for name in learnt}
    for step in steps[2:21]:
        average = {name: 0.7 * average[name] + 0.3 * step[name].double() for name in learnt}
    for name in learnt:
        torch.testing.assert_close(
            kept["state_dict"][name].double(), average[name], rtol=1e-4, atol=1e-6, msg=name
        )
        assert torch.equal(kept["trained"][name], steps[20][name]), name
    found = weights(entry)
    for name, value in evaluated[-1].items():
        assert torch.equal(found[name], value), name
    exported = weights(entry / "variants" / "bacl")["roi_head.bbox_head.fc_cls.weight"]
    assert torch.equal(exported, found["roi_head.bbox_head.variants.bacl.fc_cls.weight"])


def assert_close(found, expected, rtol=1e-4, atol=1e-5):
    assert found.keys() <= expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=rtol, atol=atol, msg=name)


def test_variant_alone_ends_as_in_a_bank(planned, store, undisturbed, finished):
    features, heads = planned(*OPTIONS).jobs
    finished(features)
    train(heads, undisturbed)
    bank = weights(undisturbed.entry(heads.key))
    _, *alone = planned(*OPTIONS, "stages.heads.variants_per_job=1").jobs
    assert len(alone) == 2
    for job in alone:
        assert train(job, store) is None
        assert_close(weights(store.entry(job.key)), bank)


def test_two_ranks_end_with_the_weights_of_one(planned, store, undisturbed, finished, on_two_ranks):
    eight = "stages.heads.recipe.schedule.batch=8"
    features, one = planned(*OPTIONS, eight).jobs
    two = planned(*OPTIONS, eight, "stages.heads.resources.workers=2").jobs[1]
    assert one.key == two.key
    finished(features)
    train(one, undisturbed)
    assert on_two_ranks(two, store) == [None, None]
    found, expected = (weights(s.entry(one.key)) for s in (store, undisturbed))
    assert_close(found, expected, rtol=1e-3, atol=2e-4)
    log = (store.entry(one.key) / LOG).read_text(encoding="utf-8")
    assert re.search(r" \d+ MB of frozen weights are in memory once for all ranks", log)


IMAGES = ("accumulate", "augmentations", "trunk", "tta")
"""Fields that steps on stored features have no use for."""


def _needs_images(option):
    return any(f".recipe.{field}=" in option for field in IMAGES)


REPLAYED = [
    "stages.kept={kind: features, after: features}",
    "stages.heads.after=kept",
    "stages.heads.recipe.features=replay",
    *(option for option in OPTIONS if "heads.recipe" in option and not _needs_images(option)),
]


def test_replay_trains_alike_alone_and_in_a_bank_and_across_a_kill(planned, store, undisturbed):
    *before, heads = planned(*REPLAYED).jobs
    for job in (*before, heads):
        assert train(job, undisturbed) is None
    bank = weights(undisturbed.entry(heads.key))
    for job in before:
        shutil.copytree(undisturbed.entry(job.key), store.entry(job.key))
    with pytest.raises(Killed):
        train(heads, store, kill_at=20)
    assert train(heads, store) is None
    assert_same(weights(store.entry(heads.key)), bank)
    shutil.rmtree(store.entry(heads.key))
    *_, first, second = planned(*REPLAYED, "stages.heads.variants_per_job=1").jobs
    for job in (first, second):
        assert train(job, store) is None
        assert_close(weights(store.entry(job.key)), bank)


def test_killed_population_ends_as_an_undisturbed_one(
    competing, tiny, store, undisturbed, finished
):
    text = competing.replace("stages.heads.recipe.schedule.lr: 0.2", ", ".join(_fixed()))
    path = tiny.parent / "competing.yaml"
    path.write_text(text)
    file = SweepFile(path)
    features, heads = plan_sweeps([file], [file.trials(store)], Preparation(store), store)[0].jobs
    finished(features)
    assert train(heads, undisturbed) is None
    with pytest.raises(Killed):  # after the evaluation and the move at step 5
        train(heads, store, kill_at=5)
    assert train(heads, store) is None
    ours, theirs = store.entry(heads.key), undisturbed.entry(heads.key)
    assert (ours / MOVES).read_text() == (theirs / MOVES).read_text()
    assert any(row["moves"] for row in json.loads((ours / MOVES).read_text()))
    assert_same(weights(ours), weights(theirs))


def _fixed():
    return (option.replace("=", ": ") for option in OPTIONS if option.startswith("stages.heads"))
