"""The servers of docker/compose.yaml, started by its own commands and asked as users would ask."""

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import psycopg2
import pytest
import requests
from outside import DOCKER, Compose, free_port, run, running, variables, wait_for

DOCKERFILE = (DOCKER / "Dockerfile").read_text()


def client(compose: Compose) -> dict[str, str]:
    """The environment that client.env gives a shell beside the cluster."""
    return {
        name: compose.here(value)
        for name, value in variables(compose.folder / "client.env").items()
    }


@pytest.mark.slow
def test_mlflow_keeps_runs_in_postgresql_and_artifacts_in_s3_for_those_who_log_in(
    compose, postgres, s3, monkeypatch, tmp_path
):
    for _ in range(2):  # the service may start again
        made = run(compose.command("buckets"), compose.environment("buckets"))
        assert made.returncode == 0, made.stderr
    log = tmp_path / "mlflow.log"
    environment = compose.environment("mlflow") | postgres
    with running(compose.command("mlflow"), environment, log) as server:
        check = compose.healthcheck("mlflow")
        wait_for(lambda: run(check, {}).returncode == 0, "MLflow", log, server)

        for name, value in client(compose).items():
            monkeypatch.setenv(name, value)
        uri = client(compose)["MLFLOW_TRACKING_URI"]
        search = f"{uri}/api/2.0/mlflow/experiments/search?max_results=1"
        password = compose.secrets["BACL_MLFLOW_PASSWORD"]
        assert requests.get(search, timeout=10).status_code == 401
        for wrong in (("admin", "password1234"), ("admin", ""), ("other", password)):
            assert requests.get(search, auth=wrong, timeout=10).status_code == 401
        rebound = requests.get(search, headers={"Host": "elsewhere.example"}, timeout=10)
        assert rebound.status_code == 403

        import mlflow

        tracking = mlflow.MlflowClient(tracking_uri=uri)
        experiment = tracking.create_experiment("shared")
        tracked = tracking.create_run(experiment).info.run_id
        tracking.log_metric(tracked, "AP", 0.25)
        tracking.log_text(tracked, "kept", "notes/a.txt")
        assert tracking.get_run(tracked).data.metrics == {"AP": 0.25}

        stored = boto3.client("s3").list_objects_v2(Bucket="mlflow", Prefix="artifacts/")
        keys = [item["Key"] for item in stored["Contents"]]
        assert [key for key in keys if key.endswith(f"{tracked}/artifacts/notes/a.txt")] == keys
        database = psycopg2.connect(
            host=postgres["PGHOST"],
            port=postgres["PGPORT"],
            user="mlflow",
            password=compose.secrets["BACL_POSTGRES_PASSWORD"],
            dbname="mlflow",
        )
        with database, database.cursor() as cursor:
            cursor.execute("SELECT run_uuid FROM runs")
            assert cursor.fetchall() == [(tracked,)]
            cursor.execute("SELECT username, is_admin FROM users")  # of the authentication
            assert cursor.fetchall() == [("admin", True)]
        database.close()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder for Ray's sockets, whose paths must be short."""
    folder = Path(tempfile.mkdtemp(prefix="bacl-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.ray
@pytest.mark.slow
def test_ray_takes_jobs_and_nodes_with_the_token_only(compose, short_folder, tmp_path):
    dashboard = client(compose)["RAY_API_SERVER_ADDRESS"]
    jobs = f"{dashboard}/api/jobs/"
    place = {"RAY_TMPDIR": str(short_folder)}
    with node(compose, "head", place, tmp_path / "head.log"):
        submission = {"entrypoint": "true"}
        assert requests.get(jobs, timeout=10).status_code == 401
        assert requests.post(jobs, json=submission, timeout=10).status_code == 401
        wrong = {"Authorization": "Bearer " + "0" * 64}
        assert requests.post(jobs, json=submission, headers=wrong, timeout=10).status_code == 403

        stranger = compose.environment("worker") | place | {"RAY_AUTH_TOKEN": "0" * 64}
        assert run(compose.command("worker"), stranger).returncode != 0

        with node(compose, "worker", place, tmp_path / "worker.log"):
            submit = ["ray", "job", "submit", "--", "python", "-c", COUNT_NODES]
            done = run(submit, client(compose))
            assert done.returncode == 0, done.stdout + done.stderr
            assert "head and 1 worker" in done.stdout


# The head has no CPUs, so that training runs on workers.
COUNT_NODES = """
import ray
ray.init()
cpus = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
print("head and", sum(count > 0 for count in cpus), "worker" if 0 in cpus else "workers, no head")
"""


@contextlib.contextmanager
def node(compose: Compose, service: str, place: dict[str, str], log: Path) -> Iterator[None]:
    """A Ray node of the file while the block lasts, healthy by the image's own check."""
    agent = {"52365": free_port()}  # in containers all may use the same
    environment = compose.environment(service) | place
    with running(compose.command(service, agent), environment, log) as process:
        check = [compose.here(word, agent) for word in image_healthcheck()]
        wait_for(lambda: run(check, {}).returncode == 0, service, log, process)
        yield


def image_healthcheck() -> list[str]:
    """The command of the Dockerfile's HEALTHCHECK."""
    (command,) = re.findall(r"^HEALTHCHECK .*?CMD (\[.*?\])$", DOCKERFILE, re.DOTALL | re.MULTILINE)
    return json.loads(command)
