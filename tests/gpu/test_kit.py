"""The kit without a network: what is chosen, what fits, and what is refused."""

import sys
import zipfile
from importlib import metadata
from pathlib import Path

import kit
import pytest
from kit import KitError, Manifest, Target
from packaging.utils import canonicalize_name

HERE = "{}.{}".format(*sys.version_info)
CONSTRAINTS = [
    "# versions",
    "alpha==1.0",
    "beta_lib==2.0; python_version >= '3.11'",
    "gamma==3.0",
    "delta==4.0",
    "torch==2.11.0",
]
REQUIRES = {
    "alpha": ["beta-lib>=1", "torch", "ray", "gamma; sys_platform == 'win32'", "delta[fast]"],
    "beta-lib": [],
    "delta": ["gamma; extra == 'fast'", "missing; extra == 'slow'"],
    "gamma": [],
}


def write_wheel(folder: Path, name: str, version: str, requires=(), tag="py3-none-any") -> str:
    """A wheel that pip can install; returns its file name."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    lines += [f"Requires-Dist: {line}" for line in requires]
    wheel = folder / f"{stem}-{tag}.whl"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        archive.writestr(
            f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel.name


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A project that asks for alpha, and fetched wheels made up; returns the names fetched."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "constraints.txt").write_text("\n".join(CONSTRAINTS))
    (root / "pyproject.toml").write_text('[project]\ndependencies = ["alpha[x]>=1", "ray<3"]\n')
    fetched = []

    def fetch(name, version, target, folder):
        fetched.append(name)
        return write_wheel(folder, name, version, REQUIRES[name])

    monkeypatch.setattr(kit, "ROOT", root)
    monkeypatch.setattr(kit, "FOR_TESTS", ())
    monkeypatch.setattr(kit, "fetch", fetch)
    return fetched


def write_kit(folder: Path, *wheels: str, python=HERE, complete=True, expects=()) -> Path:
    """A folder with kit.json for wheels that lie in it."""
    digests = {wheel: kit.digest(folder / wheel) for wheel in wheels}
    Manifest(python, Target.platform, complete, digests, list(expects)).write(folder)
    return folder


def test_kit_has_what_constraints_have_and_the_target_lacks(registry, tmp_path):
    made = kit.build(tmp_path / "kit", Target())
    assert sorted(registry) == ["alpha", "beta-lib", "delta", "gamma"]
    assert sorted(made.wheels) == sorted(path.name for path in (tmp_path / "kit").glob("*.whl"))
    assert made.expects == ["torch"]
    assert made.complete
    assert kit.read(tmp_path / "kit") == made


def test_kit_repeated_fetches_only_what_is_absent_or_damaged(registry, tmp_path):
    folder = tmp_path / "kit"
    made = kit.build(folder, Target())
    registry.clear()
    assert kit.build(folder, Target()) == made
    assert registry == []
    (folder / "alpha-1.0-py3-none-any.whl").write_bytes(b"half")
    (folder / "gamma-3.0-py3-none-any.whl").unlink()
    assert kit.build(folder, Target()).wheels.keys() == made.wheels.keys()
    assert registry == ["alpha", "gamma"]


def test_kit_has_each_package_once_when_a_pin_moves(registry, tmp_path):
    folder = tmp_path / "kit"
    kit.build(folder, Target())
    constraints = kit.ROOT / "constraints.txt"
    constraints.write_text(constraints.read_text().replace("gamma==3.0", "gamma==3.1"))
    kit.build(folder, Target())
    assert [path.name for path in folder.glob("gamma*")] == ["gamma-3.1-py3-none-any.whl"]


def test_kit_for_another_python_keeps_only_what_fits_it(registry, tmp_path, monkeypatch):
    folder = tmp_path / "kit"

    def compiled(name, version, target, folder):
        registry.append(name)
        tag = f"cp{target.python.replace('.', '')}" if name == "delta" else "py3"
        abi = f"{tag}-manylinux2014_x86_64" if name == "delta" else "none-any"
        return write_wheel(folder, name, version, REQUIRES[name], f"{tag}-{abi}")

    monkeypatch.setattr(kit, "fetch", compiled)
    kit.build(folder, Target("3.12"))
    registry.clear()
    made = kit.build(folder, Target("3.11"))
    assert registry == ["delta"]
    assert [path.name for path in folder.glob("delta*")] == [
        "delta-4.0-cp311-cp311-manylinux2014_x86_64.whl"
    ]
    assert made.python == "3.11"


def test_kit_leaves_out_what_the_target_is_said_to_have(registry, tmp_path):
    made = kit.build(tmp_path / "kit", Target(has=Target.has | {"beta-lib"}))
    assert "beta-lib" not in registry
    assert made.expects == ["beta-lib", "torch"]


def test_packages_without_a_pin_are_told_together(registry, tmp_path):
    (kit.ROOT / "constraints.txt").write_text("alpha==1.0\ndelta==4.0\n")
    with pytest.raises(KitError) as caught:
        kit.build(tmp_path / "kit", Target())
    lines = str(caught.value).splitlines()
    assert [line.split(",")[0] for line in lines] == ["beta-lib", "gamma"]
    assert "alpha asks for" in lines[0] and "delta asks for" in lines[1]
    assert not kit.read(tmp_path / "kit").complete


def test_kit_over_the_limit_is_refused(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(kit, "LIMIT", 100)
    with pytest.raises(KitError, match=r"more than 0\.00 MB"):
        kit.build(tmp_path / "kit", Target())
    assert not kit.read(tmp_path / "kit").complete


def test_folder_with_other_files_is_left_alone(registry, tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(KitError, match="is no kit"):
        kit.build(tmp_path, Target())
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["photo.jpg"]


def test_markers_hold_for_the_target_and_not_for_this_python():
    lines = ["a==1; python_version < '3.11'", "a==2; python_version >= '3.11'", "B_c==3"]
    assert kit.pins(lines, Target("3.10")) == {"a": "1", "b-c": "3"}
    assert kit.pins(lines, Target("3.12")) == {"a": "2", "b-c": "3"}


@pytest.mark.parametrize(
    "wheel, expected",
    [
        ("a-1-py3-none-any.whl", True),
        ("a-1-py2.py3-none-any.whl", True),
        ("a-1-cp312-cp312-manylinux_2_28_x86_64.whl", True),
        ("a-1-cp312-cp312-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", True),
        ("a-1-cp310-abi3-manylinux1_x86_64.whl", True),
        ("a-1-cp311-cp311-manylinux_2_28_x86_64.whl", False),
        ("a-1-cp313-abi3-manylinux_2_28_x86_64.whl", False),
        ("a-1-cp312-cp312-manylinux_2_34_x86_64.whl", False),
        ("a-1-cp312-cp312-manylinux_2_28_aarch64.whl", False),
        ("a-1-cp312-cp312-linux_x86_64.whl", False),  # compiled here: not for other machines
    ],
)
def test_tags_say_what_runs_on_the_target(wheel, expected):
    assert kit.fits(wheel, Target("3.12", "manylinux_2_28_x86_64").tags) is expected


def test_wheel_built_with_compiled_parts_is_refused(tmp_path, monkeypatch):
    def pip(*arguments):
        folder = arguments[arguments.index("--wheel-dir") + 1]
        write_wheel(folder, "onedl-mmcv", "2.3.6", tag="cp312-cp312-linux_x86_64")

    monkeypatch.setattr(kit, "pip", pip)
    with pytest.raises(KitError, match=r"onedl-mmcv 2\.3\.6: no wheel for Python 3\.12 .*compiled"):
        kit.fetch("onedl-mmcv", "2.3.6", Target(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field", [{"python": "three"}, {"platform": "win_amd64"}])
def test_target_that_is_none_is_refused(field):
    (name, value), *_ = field.items()
    with pytest.raises(KitError, match=f"--{name}: expected .*{value}"):
        Target(**field)


def test_install_needs_no_network_and_nothing_twice(tmp_path, monkeypatch):
    folder = write_kit(tmp_path, write_wheel(tmp_path, "bacl-kit-probe", "1.0", ["absent"]))
    site = tmp_path / "site"
    monkeypatch.setenv("PIP_TARGET", str(site))  # not into the tests' own environment
    monkeypatch.syspath_prepend(site)
    assert kit.install(folder) == ["bacl_kit_probe-1.0-py3-none-any.whl"]
    assert metadata.version("bacl-kit-probe") == "1.0"
    assert kit.install(folder) == []


def test_install_has_nothing_to_do_where_all_is_there(tmp_path):
    wheel = write_wheel(tmp_path, "pytest", metadata.version("pytest"))
    assert kit.install(write_kit(tmp_path, wheel, python="3.99")) == []


def test_kit_for_another_python_is_refused(tmp_path):
    write_kit(tmp_path, write_wheel(tmp_path, "bacl-kit-probe", "1.0"), python="3.99")
    with pytest.raises(KitError, match=rf"kit for Python 3\.99, .* is Python {HERE}: make one"):
        kit.install(tmp_path)


def test_kit_for_another_machine_is_refused(tmp_path):
    tag = f"cp{HERE.replace('.', '')}-none-manylinux_2_17_s390x"
    write_kit(tmp_path, write_wheel(tmp_path, "bacl-kit-probe", "1.0", tag=tag))
    with pytest.raises(KitError, match=r"s390x\.whl cannot run on this machine"):
        kit.install(tmp_path)


def test_all_that_a_kit_lacks_is_told_together(tmp_path):
    names = [write_wheel(tmp_path, f"bacl-kit-{name}", "1.0") for name in ("away", "half", "whole")]
    write_kit(tmp_path, *names, expects=["pytest", "bacl-kit-nowhere"])
    (tmp_path / names[0]).unlink()
    (tmp_path / names[1]).write_bytes(b"half")
    with pytest.raises(KitError) as caught:
        kit.install(tmp_path)
    missing, damaged, absent = str(caught.value).splitlines()
    assert f"lacks {names[0]}: repeat" in missing
    assert f"has a damaged {names[1]}: repeat" in damaged
    assert "counts on bacl-kit-nowhere, which" in absent


def test_unfinished_kit_is_refused(tmp_path):
    write_kit(tmp_path, write_wheel(tmp_path, "bacl-kit-probe", "1.0"), complete=False)
    with pytest.raises(KitError, match="not finished: repeat `make gpu-kit`"):
        kit.install(tmp_path)


@pytest.mark.parametrize(
    "text, sentence", [(None, "is no kit"), ("{", "cannot be read"), ('{"a": 1}', "cannot be read")]
)
def test_folder_without_a_manifest_is_refused(tmp_path, text, sentence):
    if text is not None:
        (tmp_path / "kit.json").write_text(text)
    with pytest.raises(KitError, match=sentence):
        kit.install(tmp_path)


def test_pip_that_fails_is_told_in_its_own_words(tmp_path):
    (tmp_path / "broken-1.0-py3-none-any.whl").write_bytes(b"no archive")
    with pytest.raises(KitError, match=r"pip says: .*invalid"):
        kit.pip("install", "--no-index", "--no-deps", tmp_path / "broken-1.0-py3-none-any.whl")


def test_lists_of_packages_name_what_is_pinned():
    root = Path(__file__).resolve().parents[2]
    pinned = kit.pins((root / "constraints.txt").read_text().splitlines(), Target())
    asked = kit.required(kit.dependencies(root / "pyproject.toml"), Target())
    names = {*Target.has, *kit.LEFT_OUT, *kit.BUILT_HERE, *kit.FOR_TESTS}
    names |= {canonicalize_name(one.name) for one in asked}
    assert names <= pinned.keys()
