"""The servers of docker/compose.yaml, started by its own commands and asked as users would ask."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import psycopg2
import pytest
import requests
from outside import DOCKER, Compose, run, running, variables, wait_for


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
    port = compose.ports["8265"]
    jobs = f"http://127.0.0.1:{port}/api/jobs/"
    place = {"RAY_TMPDIR": str(short_folder)}
    with running(
        compose.command("head"), compose.environment("head") | place, tmp_path / "head.log"
    ) as head:
        check = image_healthcheck(compose, "head")
        wait_for(lambda: run(check, {}).returncode == 0, "head", tmp_path / "head.log", head)

        submission = {"entrypoint": "true"}
        assert requests.get(jobs, timeout=10).status_code == 401
        assert requests.post(jobs, json=submission, timeout=10).status_code == 401
        wrong = {"Authorization": "Bearer " + "0" * 64}
        assert requests.post(jobs, json=submission, headers=wrong, timeout=10).status_code == 403

        stranger = compose.environment("worker") | place | {"RAY_AUTH_TOKEN": "0" * 64}
        refused = run(compose.command("worker"), stranger)
        assert refused.returncode != 0

        with running(
            compose.command("worker"),
            compose.environment("worker") | place,
            tmp_path / "worker.log",
        ) as worker:
            check = image_healthcheck(compose, "worker")
            wait_for(
                lambda: run(check, {}).returncode == 0, "worker", tmp_path / "worker.log", worker
            )
            counted = "import json, ray; ray.init(); print('NODES', json.dumps([n['Resources'].get('CPU', 0) for n in ray.nodes()]))"
            submit = ["ray", "job", "submit", "--address", f"http://127.0.0.1:{port}", "--"]
            done = run([*submit, "python", "-c", counted], client(compose))
            assert done.returncode == 0, done.stdout + done.stderr
            (line,) = [line for line in done.stdout.splitlines() if line.startswith("NODES ")]
            assert len(json.loads(line.removeprefix("NODES "))) == 2
