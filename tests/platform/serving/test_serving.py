"""`bacl serve` on Ray: the detector's own detections over HTTP, bad requests, overload, its end."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
from PIL import Image

from bacl_platform.inference.detector import Detector

pytestmark = [pytest.mark.ray, pytest.mark.slow]
QUEUE = 8
REPLICAS = 2


@dataclass
class Server:
    """A running `bacl serve`."""

    process: subprocess.Popen
    log: Path
    port: int
    metrics: int
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/detect"

    def replicas(self) -> set[int]:
        """The process ids of its replicas."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return {child.pid for child in children if "ServeReplica" in " ".join(child.cmdline())}


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@pytest.fixture(scope="module")
def folder(datasets, prepared, tmp_path_factory):
    """A detector of the tiny experiment, untrained, as a store exports it."""
    import bacl.register  # noqa: F401

    # isort: split
    import torch
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import ConfigDict

    from bacl.export import export_variants
    from bacl_platform.plan.planner import make_plan
    from bacl_platform.spec.load import load
    from bacl_platform.store.store import Store

    place = tmp_path_factory.mktemp("served")
    job = make_plan(load(datasets / "tiny.yaml"), prepared, Store(place / "store")).jobs[1]
    register_all_modules(init_default_scope=True)
    model = MODELS.build(ConfigDict(job.config["model"]))
    torch.manual_seed(0)
    model.init_weights()
    export_variants(job.config, model.state_dict(), prepared.categories, place)
    return place / "softmax"


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    port, metrics = free_ports(2)
    words = ["serve", folder, "--port", port, "--metrics-port", metrics, "--queue", QUEUE]
    words += ["--replicas", REPLICAS, "--cpus", 0.5, "--batch", 4, "--score-threshold", 0]
    log = tmp_path_factory.mktemp("serve") / "log"
    environment = {**os.environ, "RAY_ADDRESS": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "bacl_platform", *map(str, words)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    running = Server(process, log, port, metrics, folder)
    try:
        deadline = time.monotonic() + 200
        while "stop with Ctrl-C" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield running
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def picture(seed: int = 0, kind: str = "PNG", size: tuple[int, int] = (96, 80)) -> bytes:
    small = np.random.default_rng(seed).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(small).resize(size).save(written, kind)
    return written.getvalue()


def bomb() -> bytes:
    """A file of some kilobytes that says, and has, 50 million pixels."""
    written = io.BytesIO()
    Image.new("L", (10_000, 5_000)).save(written, "PNG")
    return written.getvalue()


def post(server, content, **options):
    return requests.post(server.url, data=content, timeout=60, **options)


def assert_found(answer, expected):
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["size"] == list(expected.size)
    boxes = np.array([one["box"] for one in found["detections"]])
    scores = [one["score"] for one in found["detections"]]
    np.testing.assert_allclose(scores, expected.scores, atol=1e-5)
    order, own = (np.lexsort((b[:, 1], b[:, 0], b[:, 2])) for b in (boxes, expected.boxes))
    np.testing.assert_allclose(boxes[order], expected.boxes[own], atol=1e-3)


def test_answers_are_the_detectors_alone_and_at_the_same_time(server):
    detector = Detector.load(server.folder, device="cpu")
    files = [picture(seed, size=(96, 64 + 8 * (seed % 3))) for seed in range(12)]
    opened = [np.asarray(Image.open(io.BytesIO(file))) for file in files]
    expected = detector.predict(opened, batch=1)
    assert all(len(found) for found in expected)
    assert_found(post(server, files[0]), expected[0])
    with ThreadPoolExecutor(12) as pool:
        for answer, own in zip(pool.map(lambda file: post(server, file), files[:8]), expected[:8]):
            assert_found(answer, own)
    form = requests.post(server.url, files={"image": ("a.png", files[3])}, timeout=60)
    assert_found(form, expected[3])
    middle = float(np.median(expected[0].scores))
    some = post(server, files[0], params={"score_threshold": middle})
    assert_found(some, expected[0].above(middle))


def test_picture_is_drawn_where_one_is_asked_for(server):
    for options in ({"params": {"format": "png"}}, {"headers": {"Accept": "image/png"}}):
        answer = post(server, picture(), **options)
        assert answer.headers["content-type"] == "image/png"
        drawn = Image.open(io.BytesIO(answer.content))
        assert drawn.size == (96 * 7, 80 * 7)
    answer = post(server, picture(), headers={"Accept": "image/png, application/json"})
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("content", "status", "told"),
    [
        (b"", 400, "expected an image, got an empty file"),
        (b"hello", 400, "expected an image, got none of JPEG"),
        (picture(kind="JPEG")[:-300], 400, "expected an image, got a JPEG that is truncated"),
        (bomb(), 413, "expected an image of at most 25,000,000 pixels, got 10000 x 5000"),
        (bytes(21 << 20), 413, "expected an image of at most 20,971,520 bytes, got 22,020,096"),
    ],
)
def test_what_is_no_image_gets_a_sentence(server, content, status, told):
    answer = post(server, content)
    assert answer.status_code == status
    assert answer.json() == {"error": answer.json()["error"]}
    assert told in answer.json()["error"]


def test_other_requests_get_a_sentence(server):
    base = f"http://127.0.0.1:{server.port}"
    for asked, status, told in [
        (("GET", server.url), 405, "expected POST, got GET"),
        (("DELETE", base), 405, "expected GET, got DELETE"),
        (("POST", f"{base}/detekt"), 404, "expected POST /detect, got /detekt"),
        (("POST", f"{server.url}?score=1"), 400, "expected score_threshold or format"),
        (("POST", f"{server.url}?score_threshold=2"), 400, "a number from 0 to 1, got '2'"),
        (("POST", f"{server.url}?score_threshold=nan"), 400, "a number from 0 to 1, got 'nan'"),
        (("POST", f"{server.url}?format=gif"), 400, "expected json or png, got 'gif'"),
    ]:
        answer = requests.request(*asked, data=picture(), timeout=60)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
        assert told in answer.json()["error"]
    for files in ({"photo": picture()}, {"image": picture(), "other": picture()}):
        answer = requests.post(server.url, files=files, timeout=60)
        assert answer.status_code == 400 and "a form with one file" in answer.json()["error"]
    broken = post(server, b"x", headers={"content-type": "multipart/form-data"})
    assert broken.status_code == 400 and "a broken one" in broken.json()["error"]
    described = requests.get(base, timeout=60).json()
    assert described["most_pixels"] == 25_000_000 and len(described["categories"]) > 1


def test_load_with_bad_requests_is_answered_and_kills_no_replica(server):
    before = server.replicas()
    assert len(before) == REPLICAS
    good, cut = picture(), picture(kind="JPEG")[:-300]
    kinds = [good, good, good, b"no image", cut, bomb(), b""]
    sent = [kinds[number % len(kinds)] for number in range(420)]
    wanted = {good: 200, b"no image": 400, cut: 400, kinds[5]: 413, b"": 400}
    began = time.monotonic()
    with ThreadPoolExecutor(QUEUE) as pool:  # as many at a time as find room
        answers = list(pool.map(lambda content: (content, post(server, content)), sent))
    took = time.monotonic() - began
    for content, answer in answers:
        assert answer.status_code == wanted[content], answer.text
    seconds = sorted(answer.elapsed.total_seconds() for _, answer in answers)
    print(f"{len(sent)} requests, {QUEUE} at a time: {took:.1f} s, {len(sent) / took:.0f} a second")
    print(f"median {seconds[len(sent) // 2] * 1e3:.0f} ms, slowest {seconds[-1] * 1e3:.0f} ms")
    assert server.replicas() == before


def test_overload_is_refused_and_passes(server):
    before = server.replicas()
    large = picture(size=(3000, 3000))
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _: post(server, large), range(200)))
    counts = Counter(answer.status_code for answer in answers)
    print(f"200 requests, 100 at a time: {dict(counts)}")
    assert set(counts) == {200, 503}
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert "dropped due to backpressure" in refused.text
    assert post(server, picture()).status_code == 200
    assert server.replicas() == before


def test_health_and_metrics_are_there(server):
    base = f"http://127.0.0.1:{server.port}"
    assert requests.get(f"{base}/-/healthz", timeout=60).text == "success"
    post(server, picture())
    deadline = time.monotonic() + 30
    wanted = {
        "ray_serve_num_http_requests_total",
        "ray_serve_http_request_latency_ms_count",
        "ray_serve_deployment_replica_healthy",
    }
    found = set()
    while wanted - found and time.monotonic() < deadline:
        told = requests.get(f"http://127.0.0.1:{server.metrics}/metrics", timeout=60).text
        found = {line.partition("{")[0] for line in told.splitlines() if not line.startswith("#")}
        time.sleep(0.5)
    assert wanted <= found


def test_port_that_is_taken_is_told(server):
    words = ["serve", str(server.folder), "--port", str(server.port)]
    done = subprocess.run(
        [sys.executable, "-m", "bacl_platform", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "RAY_ADDRESS": "", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 2
    assert f"error: --port {server.port}: expected a free port of 127.0.0.1" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_ctrl_c_ends_all_that_was_started(server):  # the last: it ends the others' server
    processes = psutil.Process(server.process.pid).children(recursive=True)
    assert processes
    os.kill(server.process.pid, signal.SIGINT)
    assert server.process.wait(60) == 0
    assert server.log.read_text().splitlines()[-1] == "stopped"
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []
