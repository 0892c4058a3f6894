"""What a release says of itself agrees, and the wheel has what it should and nothing else."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import bacl

ROOT = Path(__file__).parents[1]
VERSION = bacl.__version__


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_version_is_the_same_everywhere():
    changelog = re.findall(r"^## \[([\d.]+)\] - \d{4}-\d\d-\d\d$", read("CHANGELOG.md"), re.M)
    assert changelog == [VERSION, "0.1.0"]
    assert yaml.safe_load(read("CITATION.cff"))["version"] == VERSION
    images = re.findall(r"image: bacl:(\S+)", read("docker/compose.yaml"))
    assert images == [f"{VERSION}-${{BACL_DEVICE:-cpu}}"]
    for name in ("rayjob.yaml", "README.md"):
        tags = re.findall(r"\bbacl:(\S+-cuda)\b", read(f"docs/kubernetes/{name}"))
        assert tags and set(tags) == {f"{VERSION}-cuda"}, name


def test_changelog_tells_nothing_twice():
    entries = re.findall(r"^- .*(?:\n  .*)*", read("CHANGELOG.md"), re.M)
    assert len(entries) > 100 and len(set(entries)) == len(entries)


def test_pythons_are_the_same_everywhere():
    pythons = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', read("pyproject.toml"))
    first, last = pythons[0], pythons[-1]
    beyond = f"3.{int(last.split('.')[1]) + 1}"
    assert f'requires-python = ">={first},<{beyond}"' in read("pyproject.toml")
    for name, job in (("ci", "test"), ("release", "wheel")):
        workflow = yaml.safe_load(read(f".github/workflows/{name}.yml"))
        assert workflow["jobs"][job]["strategy"]["matrix"]["python"] == pythons


@pytest.mark.slow
def test_wheel_holds_packages_and_experiments_alone(tmp_path):
    """Built as `python -m build` does it, from the sdist's own files."""
    pytest.importorskip("build")
    source = tmp_path / "source"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("no git checkout to take the sources from")
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    built = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(tmp_path / "dist"), str(source)],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    (wheel,) = (tmp_path / "dist").glob(f"bacl-{VERSION}-py3-none-any.whl")
    (sdist,) = (tmp_path / "dist").glob(f"bacl-{VERSION}.tar.gz")

    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        name.removeprefix("platform/")
        for name in listed.stdout.splitlines()
        if name.startswith(("bacl/", "platform/"))
    } | {
        f"bacl_platform/{name}"
        for name in listed.stdout.splitlines()
        if name.startswith("experiments/")
    }
    assert {name for name in names if ".dist-info/" not in name} == wanted
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert "constraints.txt" in inside and not any(name.startswith("tests") for name in inside)
