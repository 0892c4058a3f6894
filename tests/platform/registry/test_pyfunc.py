"""The model as MLflow serves it."""

import base64
import os
import signal
import socket
import subprocess
import sysconfig
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image
from web import serving

from bacl_platform.inference.detector import Detector
from bacl_platform.store.store import Store


@pytest.fixture
def without_bacl(tmp_path) -> Path:
    """The programs of an environment that has all packages of this one but BACL."""
    place = tmp_path / "fresh"
    venv.create(place, symlinks=True)
    packages = Path(sysconfig.get_path("purelib"))
    (own,) = place.glob("lib/python*/site-packages")
    # what a line names is searched, its own such files (BACL's among them) are not read
    (own / "packages.pth").write_text(f"{packages}\n")
    server = place / "bin" / "uvicorn"
    server.write_text(f"#!{place}/bin/python\nfrom uvicorn.main import main\nmain()\n")
    server.chmod(0o755)
    code = "import importlib.util as u, mmdet\nassert not u.find_spec('bacl')"
    subprocess.run([place / "bin/python", "-c", code], check=True, env=clean({}), cwd=place)
    return place / "bin"


def clean(added: dict[str, str]) -> dict[str, str]:
    """The environment's variables without those by which Python would find BACL."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, **added}


@contextmanager
def serving_model(programs: Path, store: Store, uri: str, hosts: str) -> Iterator[str]:
    """`mlflow models serve` on the loopback device; hosts: that it may fetch images from."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["models", "serve", "-m", uri, "--env-manager", "local", "--port", str(port)]
    environment = clean(
        {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "MLFLOW_TRACKING_URI": f"sqlite:///{store.root}/mlflow.db",
            "BACL_URL_HOSTS": hosts,
            "BACL_DEVICE": "cpu",
        }
    )
    log = store.root / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [programs / "python", "-m", "mlflow", *words, "--workers", "1"],
            env=environment,
            cwd=store.root,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    base = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                if requests.get(f"{base}/ping", timeout=5).ok:
                    break
            except requests.ConnectionError:
                time.sleep(0.2)
            if server.poll() is not None:
                pytest.fail(f"the server ended: {log.read_text()}")
        yield base
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def ask(base: str, content: object) -> requests.Response:
    return requests.post(f"{base}/invocations", json=content, timeout=60)


@pytest.mark.slow
def test_model_server_without_bacl_answers_as_the_detector_does(
    experiment, store, tmp_path, without_bacl
):
    experiment.register("bacl", name="birds", alias="champion")
    photographs = sorted(Path(experiment.prepared.val.images).rglob("*.png"))[:3]
    assert len(photographs) == 3
    detector = Detector.load(experiment.checkpoint("bacl"), device="cpu")
    expected = detector.predict([str(path) for path in photographs], score_threshold=0.01)
    assert all(len(found) for found in expected)
    with (
        serving() as web,
        serving_model(without_bacl, store, "models:/birds@champion", "127.0.0.1") as base,
    ):
        for path in photographs:
            web.files[f"/{path.name}"] = path.read_bytes()
        in_base64 = [base64.b64encode(path.read_bytes()).decode() for path in photographs]
        urls = [f"{web.base}/{path.name}" for path in photographs]
        for images in (in_base64, urls, [urls[0], *in_base64[1:]]):
            content = {"inputs": {"image": images}, "params": {"score_threshold": 0.01}}
            answer = ask(base, content)
            assert answer.status_code == 200, answer.text
            for found, own in zip(answer.json()["predictions"], expected, strict=True):
                assert found["size"] == list(own.size)
                assert [one["label"] for one in found["detections"]] == own.labels.tolist()
                boxes = np.array([one["box"] for one in found["detections"]])
                np.testing.assert_allclose(boxes, own.boxes, atol=1e-6 * max(own.size))
                scores = [one["score"] for one in found["detections"]]
                np.testing.assert_allclose(scores, own.scores, atol=1e-6)
        large = tmp_path / "large.png"
        Image.fromarray(np.zeros((5001, 5000, 3), dtype=np.uint8)).save(large)
        web.files["/page"] = b"<html></html>"
        cut = base64.b64encode(photographs[0].read_bytes()[:-200]).decode()
        for image, told in (
            ("nonsense!", "expected an image in base64 or its address on the web"),
            (cut, "expected an image, got a PNG that is truncated"),
            (base64.b64encode(large.read_bytes()).decode(), "at most 25,000,000 pixels, got 5000"),
            (f"{web.base}/page", "expected an image, got none of JPEG"),
            ("http://example.org/a.png", "one of a host that may not be asked"),
            ("file:///etc/passwd", "expected an image in base64 or its address"),
        ):
            answer = ask(base, {"inputs": {"image": [in_base64[0], image]}})
            assert answer.status_code == 400
            assert told in answer.json()["message"]
            assert len(answer.text) < 500  # the request is not repeated in it
        wrong = [{"score_threshold": 2}, {"score_threshold": -0.1}]
        for params in wrong:
            answer = ask(base, {"inputs": {"image": in_base64[:1]}, "params": params})
            assert answer.status_code == 400 and "expected a" in answer.json()["message"]
        for content in ({}, {"inputs": {"img": in_base64[:1]}}, "words", {"inputs": None}):
            assert 400 <= ask(base, content).status_code < 500
        answer = ask(base, {"inputs": {"image": in_base64}, "params": {"score_threshold": 0.01}})
        assert len(answer.json()["predictions"]) == 3
