"""The page of a plan's parent run: a report as files, a description with links."""

import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from bacl_platform.tracking.page import Page
from bacl_platform.tracking.tracking import Tracking

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def plan(planned, store, fill, rival_aps):
    """A plan whose jobs are in the store."""
    plan = planned()
    fill(plan.jobs, rival_aps)
    return plan


class Report:
    """Makes a report of one picture, and counts how often."""

    def __init__(self, text="the table", error=None):
        self.text, self.error, self.made = text, error, 0

    def __call__(self, folder):
        self.made += 1
        if self.error:
            raise self.error
        (folder / "report.html").write_text("<h1>all of it</h1>")
        (folder / "compare.png").write_bytes(PNG)
        return self.text


def track(plan, store, report, state="one", **options):
    """Let MLflow have a plan with a page."""
    settings = plan.experiment.model_dump(mode="json")
    name, dataset = plan.experiment.name, plan.experiment.dataset
    with Tracking(name, plan.digest, settings, store, dataset, **options) as tracking:
        for job in plan.jobs:
            tracking.finish(job, cached=False)
        tracking.report(Page(state, report))


def parent(client):
    experiment = client.get_experiment_by_name("tiny").experiment_id
    (run,) = client.search_runs([experiment], "tags.`bacl.plan` != ''")
    return run


def links(note):
    """Where the links of a description lead, by their words."""
    return {
        part[1:].partition("](")[0]: part.partition("](")[2][:-1]
        for part in note.splitlines()[0].split(" · ")
    }


def test_page_has_report_pictures_table_and_links(plan, store, client, tmp_path):
    track(plan, store, Report("| variant | AP |\n|---|---|\n| bacl | 70.0 |"))
    run = parent(client)
    files = {file.path for file in client.list_artifacts(run.info.run_id, "report")}
    assert files == {"report/report.html", "report/compare.png"}
    page = Path(client.download_artifacts(run.info.run_id, "report/report.html", str(tmp_path)))
    assert page.read_text(encoding="utf-8") == "<h1>all of it</h1>"
    note = run.data.tags["mlflow.note.content"]
    assert "\n| bacl | 70.0 |\n" in note
    found = links(note)
    assert list(found) == ["variants by AP", "charts", "side by side", "models", "report"]
    assert found["report"].startswith(
        f"#/experiments/1/runs/{run.info.run_id}/artifacts/report/report.html?"
    )
    assert f"viewStateShareKey={plan.digest}" in found["variants by AP"]
    experiment = client.get_experiment("1")
    assert f"mlflow.sharedViewState.{plan.digest}" in experiment.tags
    picture = note.splitlines()[-1]
    assert picture.startswith(
        f"Pictures: [compare](#/experiments/1/runs/{run.info.run_id}/artifacts/"
    )
    assert picture.partition("?")[0].endswith("/report/compare.png")


def test_report_is_made_only_where_mlflow_lacks_it(plan, store, client):
    report = Report()
    for state, made in (("one", 1), ("one", 1), ("two", 2)):
        track(plan, store, report, state)
        assert report.made == made


def test_description_that_a_user_wrote_stays(plan, store, client):
    track(plan, store, Report("ours"), "one")
    track(plan, store, Report("newer"), "two")
    run = parent(client)
    assert "newer" in run.data.tags["mlflow.note.content"]
    client.set_tag(run.info.run_id, "mlflow.note.content", "mine")
    track(plan, store, Report("newest"), "three")
    assert parent(client).data.tags["mlflow.note.content"] == "mine"


def test_report_that_cannot_be_made_is_told_and_fails_nothing(plan, store, client):
    said = []
    track(plan, store, Report(error=ValueError("no\nplot")), say=said.append)
    assert said == ["no report for MLflow: no plot"]
    assert parent(client).info.status == "FINISHED"


def test_description_is_as_long_as_mlflow_takes(plan, store, client):
    said = []
    track(plan, store, Report("a line\n" * 2000), say=said.append)
    note = parent(client).data.tags["mlflow.note.content"]
    assert said == [] and 7000 < len(note) <= 8000
    assert len(links(note)) == 5 and "Pictures: " in note


def test_page_that_a_dead_server_missed_is_sent_when_it_is_back(server, plan, store):
    report, said = Report(), []

    def say(sentence):
        said.append(sentence)
        if "cannot be reached" in sentence:
            server.mode = "ok"

    settings = plan.experiment.model_dump(mode="json")
    with Tracking("tiny", plan.digest, settings, store, say=say) as tracking:
        while tracking.outbox._events:
            time.sleep(0.01)
        server.mode = "away"
        tracking.report(Page("one", report))
    client = MlflowClient(server.uri)
    assert "the table" in parent(client).data.tags["mlflow.note.content"]
    assert report.made == 1 and "is back" in said[-1]
