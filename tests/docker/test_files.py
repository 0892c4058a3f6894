"""What can be told of docker/, of examples in docs/ and of files that others read, unrun."""

import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from outside import DOCKER, ROOT, run, variables

SBATCH = ROOT / "docs/slurm/bacl.sbatch"
TOOLS = {
    "hadolint": ["hadolint", "docker/Dockerfile"],
    "compose schema": [
        *("check-jsonschema", "--builtin-schema", "vendor.compose-spec"),
        *("docker/compose.yaml", "docker/compose.gpu.yaml"),
    ],
    "shellcheck": ["shellcheck", "docs/slurm/bacl.sbatch", ".ci/run"],
    "workflow schema": [
        *("check-jsonschema", "--builtin-schema", "vendor.github-workflows"),
        *(".github/workflows/ci.yml", ".github/workflows/release.yml"),
    ],
    "issue form schema": [
        *("check-jsonschema", "--builtin-schema", "vendor.github-issue-forms"),
        *(".github/ISSUE_TEMPLATE/wrong.yml", ".github/ISSUE_TEMPLATE/wish.yml"),
    ],
    "citation schema": [
        *("check-jsonschema", "--builtin-schema", "vendor.citation-file-format", "CITATION.cff"),
    ],
    "pre-commit": ["pre-commit", "validate-config", ".pre-commit-config.yaml"],
}


@pytest.mark.parametrize("tool", TOOLS)
def test_files_satisfy_their_linters(tool):
    told = run(TOOLS[tool], {})
    assert told.returncode == 0, told.stdout + told.stderr


def make_env(folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / "make_env.py"
    script.write_text((DOCKER / "make_env.py").read_text())
    return run([sys.executable, str(script)], {})


def test_secrets_are_random_private_and_known_to_the_client(tmp_path):
    (one, other) = (tmp_path / "one", tmp_path / "other")
    for folder in (one, other):
        folder.mkdir()
        assert make_env(folder).returncode == 0
        for name in (".env", "client.env"):
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    first, second = variables(one / ".env"), variables(other / ".env")
    assert not set(first.values()) & set(second.values())
    assert all(len(value) >= 20 for value in first.values())
    passwords = {
        name: value
        for name, value in variables(one / "client.env").items()
        if name.endswith(("TOKEN", "PASSWORD", "KEY", "KEY_ID"))
    }
    assert len(passwords) == 4
    assert set(passwords.values()) <= set(first.values())


@pytest.mark.parametrize("name", [".env", "client.env"])
def test_secrets_are_never_overwritten(tmp_path, name):
    (tmp_path / name).write_text("BACL_RAY_TOKEN=old\n")
    refused = make_env(tmp_path)
    assert refused.returncode == 1
    assert f"{tmp_path / name}: expected no such file" in refused.stderr
    assert (tmp_path / name).read_text() == "BACL_RAY_TOKEN=old\n"
    assert {path.name for path in tmp_path.iterdir()} == {"make_env.py", name}


def test_git_and_the_image_leave_secrets_out():
    for name in ("docker/.env", "docker/client.env"):
        ignored = run(["git", "check-ignore", name], {})
        assert ignored.stdout.strip() == name, ignored.stderr
    assert "docker/*.env" in (ROOT / ".dockerignore").read_text().splitlines()


def test_compose_publishes_on_loopback_only_and_keeps_the_database_inside(compose):
    published = {
        name: service["ports"] for name, service in compose.services.items() if "ports" in service
    }
    assert published == {
        "head": ["127.0.0.1:8265:8265"],
        "mlflow": ["127.0.0.1:5000:5000"],
        "s3": ["127.0.0.1:7070:7070"],
    }
    assert compose.services["postgres"]["networks"] == ["database"]
    assert compose.networks["database"] == {"internal": True}


def test_compose_waits_for_healthy_services_and_asks_for_every_secret(compose):
    services = compose.services
    for name, service in services.items():
        for on, how in service.get("depends_on", {}).items():
            once = services[on]["restart"] == "on-failure"
            wanted = "service_completed_successfully" if once else "service_healthy"
            assert how["condition"] == wanted, (name, on)
            # without a healthcheck a condition is never met; nodes have the image's
            assert once or on == "head" or services[on]["healthcheck"]["test"]
    text = (DOCKER / "compose.yaml").read_text()
    required = set(re.findall(r"\$\{(\w+):\?run python docker/make_env.py first\}", text))
    assert required == set(compose.secrets)


def test_mlflow_answers_under_the_name_that_the_head_and_users_call(compose):
    (allowed,) = (
        word.partition("=")[2].split(",")
        for word in compose.services["mlflow"]["command"]
        if word.startswith("--allowed-hosts=")
    )
    called = compose.services["head"]["environment"]["MLFLOW_TRACKING_URI"]
    for uri in (called, variables(compose.folder / "client.env")["MLFLOW_TRACKING_URI"]):
        assert uri.removeprefix("http://") in allowed


def test_compose_mounts_volumes_that_it_declares(compose):
    mounted = {
        volume.split(":")[0]
        for service in compose.services.values()
        for volume in service.get("volumes", [])
    }
    assert mounted == compose.volumes


def test_image_holds_every_file_that_the_compose_file_runs(compose):
    dockerfile = (DOCKER / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (\S+) \1$", dockerfile, re.MULTILINE)
    admitted = (ROOT / ".dockerignore").read_text().splitlines()
    words = [
        str(word)
        for service in compose.services.values()
        for word in [
            *service.get("command", []),
            *service.get("healthcheck", {}).get("test", []),
            *service.get("environment", {}).values(),
        ]
    ]
    used = {word for word in words if word.startswith("docker/")}
    assert used == {"docker/healthy.py", "docker/make_buckets.py", "docker/mlflow_auth.ini"}
    for path in used:
        assert (ROOT / path).is_file()
    sources = {
        name
        for line in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE)
        for name in line.split()
    }
    assert "docker" in copied
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source.split('/')[0]}" in admitted


def test_healthcheck_tells_a_server_that_refuses(tmp_path):
    told = run([sys.executable, "docker/healthy.py", "http://127.0.0.1:9/health"], {})
    assert told.returncode == 1
    assert told.stderr.startswith("http://127.0.0.1:9/health: ")


def test_buckets_that_cannot_be_made_are_told_in_one_sentence(compose):
    environment = compose.environment("buckets") | {"AWS_MAX_ATTEMPTS": "1"}
    told = run(compose.command("buckets"), environment)
    assert told.returncode == 1
    assert told.stderr.startswith("bucket bacl: expected http://127.0.0.1:")
    assert len(told.stderr.splitlines()) == 1


def bacl_command(words: list[str]) -> list[str]:
    """What follows `bacl` in a command line, accepted by the command line of this version."""
    from typer.testing import CliRunner

    from bacl_platform.cli.main import app

    assert words[0] == "bacl"
    command, file, *options = words[1:]
    assert (ROOT / file).is_file()
    told = CliRunner().invoke(app, [command, "--help"]).output
    for option in options[::2]:
        assert option in told
    return words[1:]


def test_rayjob_runs_an_experiment_on_a_cluster_that_asks_for_a_token():
    (job,) = yaml.safe_load_all((ROOT / "docs/kubernetes/rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    words = bacl_command(shlex.split(job["spec"]["entrypoint"]))
    assert words[2:] == ["--address", "auto", "--store", "s3://bacl/store"]

    cluster = job["spec"]["rayClusterSpec"]
    pinned = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line.startswith("ray==")
    )
    assert cluster["rayVersion"] == pinned["ray"]
    assert cluster["authOptions"] == {"mode": "token"}
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    for group in (cluster["headGroupSpec"], workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {
            volume["name"] for volume in pod["volumes"]
        }
        assert container["resources"]["requests"] == container["resources"]["limits"]
    entries = [
        container["envFrom"]
        for container in cluster["headGroupSpec"]["template"]["spec"]["containers"]
    ]
    assert entries == [[{"secretRef": {"name": "bacl-s3"}}, {"secretRef": {"name": "bacl-mlflow"}}]]


SRUN = """#!/bin/sh
# srun on one node: without its own options, the command as it is
while [ "${1#--}" != "$1" ]; do shift; done
printf '%s\\n' "$@" > "$RECORD"
"""


def slurm(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the batch script where `srun` records its command and its environment is Slurm's."""
    programs = folder / "bin"
    (folder / "venv/bin").mkdir(parents=True)
    programs.mkdir()
    (folder / "venv/bin/activate").write_text("")
    for name, text in {
        "srun": SRUN + 'printf "%s" "$RAY_AUTH_MODE $RAY_AUTH_TOKEN" > "$RECORD.token"\n',
        "scontrol": "#!/bin/sh\necho node1\necho node2\n",
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    given = {
        "PATH": f"{programs}:{Path(sys.executable).parent}:/usr/bin:/bin",
        "BACL_VENV": str(folder / "venv"),
        "RECORD": str(folder / "record"),
        "SLURM_JOB_ID": "1234567",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_SUBMIT_DIR": str(folder),
    }
    return subprocess.run(
        ["bash", SBATCH, *words],
        env=given | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_slurm_script_starts_ray_on_all_nodes_with_a_token_and_runs_the_experiment(tmp_path):
    done = slurm(tmp_path, "experiments/lvis/v1.0_r50.yaml", BACL_STORE="/shared/store")
    assert done.returncode == 0, done.stderr
    words = (tmp_path / "record").read_text().splitlines()
    start, command = words[: words.index("--")], words[words.index("--") + 1 :]
    assert start == ["ray", "symmetric-run", "--address", "node1:24567", "--min-nodes", "2"]
    assert bacl_command(command)[2:] == ["--address", "auto", "--store", "/shared/store"]
    mode, token = (tmp_path / "record.token").read_text().split()
    assert (mode, len(token)) == ("token", 64)


def test_slurm_script_asks_for_what_it_lacks(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    without_file = slurm(tmp_path / "a", BACL_STORE="/shared/store")
    assert without_file.returncode != 0
    assert "expected an experiment file" in without_file.stderr
    without_store = slurm(tmp_path / "b", "experiments/lvis/v1.0_r50.yaml")
    assert without_store.returncode != 0
    assert "expected a folder that all nodes see" in without_store.stderr
