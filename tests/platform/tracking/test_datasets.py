"""What runs say that they were trained and evaluated on."""

import json

import pytest

from bacl.settings import Dataset
from bacl_platform.tracking.datasets import inputs, name_of
from bacl_platform.tracking.tracking import Tracking


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"format": "embedded"}, ("embedded train", "embedded val")),
        ({"format": "lvis_v1", "root": "x"}, ("lvis_v1 train", "lvis_v1 val")),
        (
            {"format": "coco", "train": "a/birds.json", "val": "b/birds_2026.json", "images": "."},
            ("birds", "birds_2026"),
        ),
        (
            {"format": "coco", "train": "a/t/x.json", "val": "a/v/x.json", "images": "."},
            ("x train", "x val"),
        ),
    ],
)
def test_splits_are_called_by_their_data_set_or_file(fields, names):
    dataset = Dataset.model_validate(fields)
    assert (name_of(dataset, "train"), name_of(dataset, "val")) == names


def test_splits_have_digest_counts_and_what_they_are_used_for(prepared):
    found = inputs(Dataset(format="embedded", size="small"), prepared)
    assert [[(tag.key, tag.value) for tag in one.tags] for one in found] == [
        [("mlflow.data.context", "training")],
        [("mlflow.data.context", "evaluation")],
    ]
    for one, split in zip(found, (prepared.train, prepared.val)):
        described = one.dataset
        assert len(described.digest) <= 36 and prepared.digest.startswith(described.digest)
        counts = json.loads(described.profile)
        assert (counts["images"], counts["boxes"]) == (split.image_total, split.instance_total)
        assert counts["categories"] == len(prepared.categories)
        assert counts["rare categories"] == sum(c.frequency == "r" for c in prepared.categories)
        assert json.loads(described.source) == {"uri": split.images}
        columns = [column["name"] for column in json.loads(described.schema)["mlflow_colspec"]]
        assert columns == ["image", "boxes", "categories", "masks"]


def test_file_of_a_split_is_its_source(prepared):
    plain = {"format": "coco", "train": "a.json", "val": "b.json", "images": "."}
    found = inputs(Dataset.model_validate(plain), prepared)
    assert [json.loads(one.dataset.source)["uri"] for one in found] == ["a.json", "b.json"]


def test_runs_say_what_they_were_trained_on_and_by_which_command(
    planned, store, fill, rival_aps, client, monkeypatch
):
    monkeypatch.setattr(
        "sys.argv", ["/usr/bin/bacl", "run", "my file.yaml", "--store", "s3://a:b@c"]
    )
    from bacl_platform.tracking import mlflow_runs

    mlflow_runs._origin.cache_clear()
    plan = planned()
    fill(plan.jobs, rival_aps)
    with Tracking.of_plan(plan, store) as tracking:
        for job in plan.jobs:
            tracking.finish(job, cached=False)
    mlflow_runs._origin.cache_clear()
    for run in client.search_runs([client.get_experiment_by_name("tiny").experiment_id]):
        tags = run.data.tags
        assert tags["mlflow.source.name"] == "bacl run 'my file.yaml' --store s3://***@c"
        assert tags["mlflow.user"] and tags["mlflow.source.git.commit"]
        names = [one.dataset.name for one in run.inputs.dataset_inputs]
        job = run.info.run_name.startswith("job")  # which the fixture gives no checkpoint
        assert sorted(names) == ([] if job else ["embedded train", "embedded val"])
