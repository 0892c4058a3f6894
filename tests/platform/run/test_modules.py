"""Modules of one's own on clusters: a node that lacks one is named before any job starts."""

import os
import subprocess
import sys

import pytest
import yaml
from foreign import METHOD, forgotten
from ray.cluster_utils import Cluster

from bacl_platform.run.modules import check_modules, failed_imports, modules_of, sentences

ON_ONE_NODE = (
    "import os\n\nif 'IS_BARE' in os.environ:\n"
    "    raise ModuleNotFoundError(\"No module named 'my_losses'\")\n\n"
)


@pytest.fixture
def mine(tiny):
    """An experiment of one stage, whose classifier is of a module beside its file."""
    (tiny.parent / "my_losses.py").write_text(ON_ONE_NODE + METHOD)
    content = yaml.safe_load(tiny.read_text())
    del content["stages"]["heads"], content["baseline"]
    content["stages"]["features"]["classifier"] = {"method": "smoothed"}
    tiny.write_text(yaml.safe_dump({**content, "imports": ["my_losses"]}))
    with forgotten():
        yield tiny


def test_modules_are_those_that_bacl_does_not_bring(mine, planned):
    assert modules_of(planned().jobs) == ["my_losses"]


def test_experiment_without_modules_asks_no_node(planned):
    check_modules(planned().jobs, [{"Alive": True, "Resources": {"CPU": 8.0}, "Labels": {}}])


def test_failed_import_says_why(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "wrong_losses.py").write_text("1 / 0\n")
    assert failed_imports(["json", "no_such_losses", "wrong_losses"]) == {
        "no_such_losses": "ModuleNotFoundError: No module named 'no_such_losses'",
        "wrong_losses": "ZeroDivisionError: division by zero",
    }


def test_sentence_names_the_module_its_nodes_and_what_to_do():
    error = "ModuleNotFoundError: No module named 'a'"
    assert sentences([("n1 (10.0.0.1)", {}), ("n2 (10.0.0.2)", {"a": error}), ("n3", {})]) == [
        f"imports: a cannot be imported on node n2 (10.0.0.2) ({error}): install it there, or run "
        "the file with `bacl submit`, which sends modules that lie beside it"
    ]
    (two,) = sentences([("n1", {"a": error}), ("n2", {"a": error})])
    assert "on nodes n1, n2 (Module" in two


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_node_without_the_module_is_named_before_any_job_starts(mine, prepared, store):
    small = {"object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **small})
    try:
        cluster.add_node(num_cpus=1, env_vars={"IS_BARE": "1"}, **small)
        command = [sys.executable, "-m", "bacl_platform", "run", str(mine)]
        finished = subprocess.run(
            [*command, "--store", str(store.root), "--address", cluster.address],
            capture_output=True,
            text=True,
            timeout=180,
            env={name: v for name, v in os.environ.items() if name != "MLFLOW_TRACKING_URI"},
        )
    finally:
        cluster.shutdown()
    assert finished.returncode == 1, finished.stderr
    (sentence,) = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert sentence.startswith(
        f"error: imports: my_losses cannot be imported on node {os.uname()[1]} ("
    )
    assert "(ModuleNotFoundError: No module named 'my_losses'): install it there, or " in sentence
    assert "features: started" not in finished.stdout
