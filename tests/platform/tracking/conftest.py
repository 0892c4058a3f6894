"""An MLflow database, and an MLflow server that fails as a test says."""

import shutil
import socket
import threading

import mlflow
import pytest
from mlflow import MlflowClient

from bacl_platform.tracking import tracking as tracking_module


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", raising=False)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """MLflow's tables without a run, which take it a second to make."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def client(store, empty_database):
    shutil.copy(empty_database, store.root / "mlflow.db")
    return MlflowClient(f"sqlite:///{store.root}/mlflow.db")


NEWER = ("logged-models", "runs/log-inputs", "runs/outputs")
"""What a server of `mode` old does not know."""


class Server:
    """MLflow's own server in this process, whose connections fail as `mode` says."""

    def __init__(self, app):
        from werkzeug.serving import make_server

        self.app, self.mode, self.requests = app, "ok", 0
        self.http = make_server("127.0.0.1", 0, self, threaded=True)
        self.uri = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def __call__(self, environ, start_response):
        self.requests += 1
        mode = self.mode
        if mode.isdigit() or (mode == "poison" and environ["PATH_INFO"].endswith("log-batch")):
            status = mode if mode.isdigit() else "400"
            start_response(f"{status} NO", [("Content-Type", "text/plain")])
            return [b"not you"]
        if mode == "old" and environ["PATH_INFO"].rpartition("/mlflow/")[2].startswith(NEWER):
            start_response("404 NOT FOUND", [("Content-Type", "text/html")])
            return [b"no such page"]
        if mode == "away":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        answer = self.app(environ, start_response)
        if mode == "lost":  # carried out, and nobody learns of it
            list(answer)
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return answer


@pytest.fixture(scope="module")
def served(tmp_path_factory, empty_database):
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_database, folder / "mlflow.db")
    settings = {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/mlflow.db",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        from mlflow.server import app

        server = Server(app)
        MlflowClient(server.uri).search_experiments()  # opens the database
        mlflow.set_tracking_uri(None)  # which the server did for the whole process
        yield server
        server.http.shutdown()


@pytest.fixture
def server(served, monkeypatch):
    served.mode = "ok"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served.uri)
    monkeypatch.setattr(tracking_module, "LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(tracking_module, "GATHERING", 0.1)
    return served
