"""Jobs with every option of a recipe: killed, with variants that leave, as a population."""

import json
from pathlib import Path

import pytest
import torch

from bacl_platform.plan.sweep_plan import Preparation, plan_sweeps
from bacl_platform.plan.trials import SweepFile
from bacl_platform.store.names import MOVES
from bacl_platform.train import worker
from bacl_platform.train.messages import Logged

RICH = {
    "schedule": "{iterations: 24, batch: 4, lr: 0.001, lr_batch: 4, warmup: 0}",
    "lr_schedule": "one_cycle",
    "clip_grad": "{max_norm: 0.5}",
    "accumulate": "2",
    "optimizer": "{type: adamw, layer_decay: 0.8, paramwise: {norm_decay_mult: 0}}",
}
OPTIONS = [
    f"stages.{stage}.recipe.{field}={value}"
    for stage in ("features", "heads")
    for field, value in RICH.items()
]


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


@pytest.mark.slow
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
