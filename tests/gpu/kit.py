"""The kit: wheels of what a CUDA machine without internet lacks to run the method.

    python tests/gpu/kit.py build --python 3.12    # `make gpu-kit`, where there is internet
    python tests/gpu/kit.py install                # there, from the same folder

`build` starts from what pyproject.toml asks for and follows what each wheel says it requires, at
the versions of constraints.txt, leaving out what the target has and what nothing there imports.
`kit.json` in the folder says what the kit is for and the digest of each wheel.

`install` needs nothing but pip and packaging.
"""

import argparse
import email
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import invalidate_caches, metadata
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags, sys_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).resolve().parents[2]
KIT = ROOT / ".gpu-kit"
MANIFEST = "kit.json"
LIMIT = 55_000_000
"""Bytes that a whole kit may have."""

TARGET_HAS = {
    "torch": "filelock fsspec jinja2 markupsafe mpmath networkx sympy",
    "torchvision": "",
    "numpy": "",
    "scipy": "",
    "scikit-learn": "joblib threadpoolctl",
    "pandas": "python-dateutil",
    "pyarrow": "",
    "opencv-python-headless": "",
    "matplotlib": "contourpy cycler fonttools kiwisolver packaging pillow pyparsing",
    "rich": "markdown-it-py mdurl pygments",
    "typer": "click shellingham",
    "psutil": "",
    "pytest": "iniconfig pluggy",
    "timm": "pyyaml tqdm",
}
"""Packages of the machine that the kit is planned for, and what each brings of constraints.txt.

Not counted on: typing-extensions, of which pydantic wants a newer one than torch does, and six,
which older releases of python-dateutil bring and newer ones do not.
"""

LEFT_OUT = {
    "ray": "runs of the platform alone start it, and its wheel is larger than the whole kit",
    "mlflow": "runs of the platform alone write to it",
    "optuna": "sweeps alone ask it, and they run on Ray",
    "opencv-contrib-python-headless": "the same modules as the target's headless one",
    "opencv-python": "the same modules as opencv-python-headless, which the target has",
    "imagecorruptions-imaug": "MMDetection and imaug do without it, and it would bring numba and "
    "llvmlite",
    "cython": "lvis requires it and imports nothing of it",
}
"""What is required and not taken along, each with the reason; nor is what it alone requires."""

FOR_TESTS = ("pytest-timeout",)
"""Besides pyproject.toml's dependencies: what pytest's settings there want."""

BUILT_HERE = ("onedl-mmcv", "onedl-mmdetection")
"""Published as source alone. pip builds them apart from torch, and so mmcv compiles nothing."""


class KitError(Exception):
    """What is told in a sentence, or in one for each of several problems, without a traceback."""


@dataclass(frozen=True)
class Target:
    """What wheels are for: a CPython on a Linux, and the names of the packages there."""

    python: str = "3.12"
    platform: str = "manylinux_2_28_x86_64"
    has: frozenset[str] = frozenset(
        name for package, brings in TARGET_HAS.items() for name in (package, *brings.split())
    )

    def __post_init__(self) -> None:
        if not re.fullmatch(r"3\.\d+", self.python):
            raise KitError(f"--python: expected a version such as 3.12, got {self.python!r}.")
        if not re.fullmatch(r"manylinux_2_\d+_\w+", self.platform):
            raise KitError(
                "--platform: expected manylinux_2_MINOR_MACHINE, MINOR of the newest glibc that "
                f"wheels may want, such as manylinux_2_28_x86_64, got {self.platform!r}."
            )

    @property
    def platforms(self) -> list[str]:
        """Platforms of wheels that run there, the newest first, by all of their names."""
        _, _, newest, machine = self.platform.split("_", 3)
        older = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
        names = []
        for minor in range(int(newest), 4, -1):
            names.append(f"manylinux_2_{minor}_{machine}")
            if minor in older:
                names.append(f"{older[minor]}_{machine}")
        return names

    @property
    def tags(self) -> frozenset[Tag]:
        """Tags of wheels that run there."""
        version = tuple(int(number) for number in self.python.split("."))
        interpreter = "cp" + self.python.replace(".", "")
        return frozenset(
            [
                *cpython_tags(version, platforms=self.platforms),
                *compatible_tags(version, interpreter, self.platforms),
            ]
        )

    @property
    def environment(self) -> dict[str, str]:
        """What the markers of requirements see there."""
        return {
            **default_environment(),
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "implementation_version": f"{self.python}.0",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
            "os_name": "posix",
            "sys_platform": "linux",
            "platform_system": "Linux",
            "platform_machine": self.platform.split("_", 3)[3],
        }


@dataclass
class Manifest:
    """What `kit.json` says."""

    python: str
    platform: str
    complete: bool = False
    """False from the start of `build` to its end."""
    wheels: dict[str, str] = field(default_factory=dict)
    """SHA-256 by file name."""
    expects: list[str] = field(default_factory=list)
    """Packages that are required and that the target was said to have."""

    def write(self, folder: Path) -> None:
        """Replace the folder's `kit.json` at once."""
        new = folder / f"{MANIFEST}.new"
        new.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        os.replace(new, folder / MANIFEST)


def read(folder: Path) -> Manifest:
    """The folder's `kit.json`.

    Raises:
        KitError: where there is none, or none that `build` wrote.
    """
    path = folder / MANIFEST
    try:
        return Manifest(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise KitError(
            f"{folder} is no kit, it has no {MANIFEST}: make one with `make gpu-kit` on a machine "
            "with internet, and bring the folder here."
        ) from None
    except (ValueError, TypeError) as error:
        raise KitError(
            f"{path} cannot be read ({error}): remove {folder} and make the kit again with "
            "`make gpu-kit`."
        ) from None


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pins(lines: Iterable[str], target: Target) -> dict[str, str]:
    """Versions by canonical name, of the lines of constraints.txt that hold on the target."""
    found = {}
    for line in lines:
        text = line.split("#")[0].strip()
        if not text:
            continue
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(target.environment):
            (only,) = requirement.specifier
            found[canonicalize_name(requirement.name)] = only.version
    return found


def dependencies(pyproject: Path) -> list[str]:
    """What the project itself asks for."""
    try:
        import tomllib
    except ImportError:  # Python 3.10, where pytest brings the same by its older name
        import tomli as tomllib
    return tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]


def required(lines: Iterable[str], target: Target, extra: str = "") -> Iterator[Requirement]:
    """Those of the requirements that hold on the target and are not left out."""
    for line in lines:
        requirement = Requirement(line)
        holds = requirement.marker is None or requirement.marker.evaluate(
            {**target.environment, "extra": extra}
        )
        if holds and canonicalize_name(requirement.name) not in LEFT_OUT:
            yield requirement


def requires_dist(wheel: Path) -> list[str]:
    """What a wheel says it requires."""
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (
            name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)
        )
        return email.message_from_bytes(archive.read(path)).get_all("Requires-Dist", [])


def fits(wheel: str, tags: Collection[Tag]) -> bool:
    """Whether a wheel of this file name runs where wheels of these tags do."""
    return not parse_wheel_filename(wheel)[3].isdisjoint(tags)


def kept(wheels: Mapping[str, str], folder: Path, name: str, version: str, tags) -> str | None:
    """The file name of an undamaged wheel of this package and version that is there and fits."""
    for wheel, sha256 in wheels.items():
        named, at, _, _ = parse_wheel_filename(wheel)
        if (named, str(at)) == (name, version) and fits(wheel, tags):
            path = folder / wheel
            if path.is_file() and digest(path) == sha256:
                return wheel
    return None


def pip(*arguments: str | Path) -> None:
    """Run pip.

    Raises:
        KitError: with pip's own first words, where it fails.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
    )
    if done.returncode:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error:")]
        raise KitError("pip says: " + (errors or lines or ["nothing"])[-1])


def fetch(name: str, version: str, target: Target, folder: Path) -> str:
    """Download a wheel into the folder, or build it there; returns its file name.

    Raises:
        KitError: where there is none that runs on the target.
    """
    new = folder / ".new"  # a wheel is in the kit whole, or not at all
    shutil.rmtree(new, ignore_errors=True)
    try:
        if name in BUILT_HERE:
            # not from pip's cache: a wheel with compiled operators may lie there
            pip("wheel", "--no-deps", "--no-cache-dir", "--no-binary", name, "--wheel-dir", new,
                f"{name}=={version}")  # fmt: skip
        else:
            platforms = (word for one in target.platforms for word in ("--platform", one))
            pip("download", "--no-deps", "--only-binary", ":all:", "--implementation", "cp",
                "--python-version", target.python, *platforms, "--dest", new,
                f"{name}=={version}")  # fmt: skip
        (wheel,) = new.glob("*.whl")
        if not fits(wheel.name, target.tags):
            raise KitError(f"it came as {wheel.name}, and a wheel without compiled parts is wanted")
        os.replace(wheel, folder / wheel.name)
        return wheel.name
    except KitError as error:
        raise KitError(
            f"{name} {version}: no wheel for Python {target.python} on {target.platform} ({error})."
        ) from None
    finally:
        shutil.rmtree(new, ignore_errors=True)


def megabytes(size: int) -> str:
    """A size as people read it."""
    return f"{size / 1e6:.2f} MB"


def build(folder: Path, target: Target) -> Manifest:
    """Make the kit, or complete it: what is there undamaged stays, and what is not wanted goes.

    Raises:
        KitError: each package that could not be had, in one list; a folder that is something else;
            a kit that is too large.
    """
    if (folder / MANIFEST).exists():
        old = read(folder).wheels
    elif folder.exists() and any(folder.iterdir()):
        raise KitError(f"{folder} has files and is no kit: name an empty or a new folder.")
    else:
        old = {}
    folder.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(target.python, target.platform, wheels=old)
    manifest.write(folder)

    constraints = ROOT / "constraints.txt"
    pinned = pins(constraints.read_text(encoding="utf-8").splitlines(), target)
    asked = [*dependencies(ROOT / "pyproject.toml"), *FOR_TESTS]
    waiting = deque((one, "pyproject.toml") for one in required(asked, target))
    taken: dict[str, str] = {}  # file names by package
    followed = set()  # packages and extras
    expects = set()
    problems = {}  # by package
    while waiting:
        requirement, asker = waiting.popleft()
        name = canonicalize_name(requirement.name)
        if name in target.has:
            expects.add(name)
            continue
        if name not in taken and name not in problems:
            try:
                if name not in pinned:
                    raise KitError(
                        f"{name}, which {asker} asks for, is not in constraints.txt: pin it there, "
                        "or say with --target-has that the target has it."
                    )
                wheel = kept(manifest.wheels, folder, name, pinned[name], target.tags)
                how = "kept"
                if wheel is None:
                    wheel = fetch(name, pinned[name], target, folder)
                    how = "built" if name in BUILT_HERE else "downloaded"
                    manifest.wheels[wheel] = digest(folder / wheel)
                    manifest.write(folder)
            except KitError as error:
                problems[name] = str(error)
                continue
            taken[name] = wheel
            size = megabytes((folder / wheel).stat().st_size)
            print(f"{size:>9}  {name} {pinned[name]} ({how})", flush=True)
        if name in taken:
            for extra in {"", *requirement.extras}:
                if (name, extra) not in followed:
                    followed.add((name, extra))
                    lines = requires_dist(folder / taken[name])
                    waiting.extend((one, name) for one in required(lines, target, extra))
    if problems:
        raise KitError("\n".join(problems.values()))

    manifest.wheels = {wheel: manifest.wheels[wheel] for wheel in sorted(taken.values())}
    for path in folder.glob("*.whl"):
        if path.name not in manifest.wheels:
            path.unlink()
            print(f"{'removed':>9}  {path.name}")
    size = sum((folder / wheel).stat().st_size for wheel in manifest.wheels)
    if size > LIMIT:
        raise KitError(
            f"The kit has {megabytes(size)}, more than {megabytes(LIMIT)}: leave packages out in "
            "LEFT_OUT of tests/gpu/kit.py, or say with --target-has that the target has them."
        )
    manifest.expects = sorted(expects)
    manifest.complete = True
    manifest.write(folder)
    print(f"{megabytes(size):>9}  {len(taken)} wheels for Python {target.python} in {folder}")
    return manifest


def installed(name: str) -> str | None:
    """The version of a package in this Python, None where it is not there."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def lacking(wheels: Iterable[str]) -> list[str]:
    """Those of the wheels whose version is not installed in this Python."""
    parsed = ((wheel, parse_wheel_filename(wheel)) for wheel in wheels)
    return [wheel for wheel, (name, version, *_) in parsed if installed(name) != str(version)]


def install(folder: Path) -> list[str]:
    """Install into this Python what it lacks of the kit, without a network; returns the wheels.

    Raises:
        KitError: where the kit is for another Python or platform, is not finished, lacks a wheel,
            or counts on a package that is not there.
    """
    manifest = read(folder)
    wheels = lacking(manifest.wheels)
    if wheels or not manifest.complete:
        check(manifest, folder)
    if wheels:
        pip("install", "--no-index", "--no-deps", *(folder / wheel for wheel in wheels))
        invalidate_caches()
    return wheels


def check(manifest: Manifest, folder: Path) -> None:
    """Refuse a kit that this Python cannot install, with all that is wrong."""
    python = "{}.{}".format(*sys.version_info)
    if manifest.python != python:
        raise KitError(
            f"{folder} is a kit for Python {manifest.python}, and {sys.executable} is Python "
            f'{python}: make one with `make gpu-kit KIT="--python {python}"`.'
        )
    here = frozenset(sys_tags())
    strange = [wheel for wheel in manifest.wheels if not fits(wheel, here)]
    if strange:
        raise KitError(
            f"{folder} is a kit for {manifest.platform}, and {', '.join(strange)} cannot run on "
            "this machine: make one with --platform."
        )
    if not manifest.complete:
        raise KitError(f"{folder} is not finished: repeat `make gpu-kit`, which completes it.")
    problems = []
    missing = [wheel for wheel in manifest.wheels if not (folder / wheel).is_file()]
    damaged = [
        wheel
        for wheel, sha256 in manifest.wheels.items()
        if wheel not in missing and digest(folder / wheel) != sha256
    ]
    for what, wheels in (("lacks", missing), ("has a damaged", damaged)):
        if wheels:
            problems.append(
                f"{folder} {what} {', '.join(wheels)}: repeat `make gpu-kit`, which completes it, "
                "and bring the folder here again."
            )
    absent = [name for name in manifest.expects if installed(name) is None]
    if absent:
        problems.append(
            f"{folder} counts on {', '.join(absent)}, which {sys.executable} does not have: "
            "install what is absent, or make the kit again with "
            f'`make gpu-kit KIT="--target-lacks {" ".join(absent)}"`.'
        )
    if problems:
        raise KitError("\n".join(problems))


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser(
        "build",
        help="make the kit, or complete it",
        description="Make the kit, or complete it. What is there undamaged is kept.",
    )
    make.add_argument("--python", default=Target.python, help="of the target (%(default)s)")
    make.add_argument(
        "--platform",
        default=Target.platform,
        help="of the target, with the newest glibc that wheels may want (%(default)s)",
    )
    make.add_argument(
        "--target-has",
        nargs="+",
        default=[],
        metavar="NAME",
        help="packages that the target has besides " + ", ".join(TARGET_HAS),
    )
    make.add_argument(
        "--target-lacks",
        nargs="+",
        default=[],
        metavar="NAME",
        help="packages that the target lacks, of these and of what they bring",
    )
    make.add_argument("--out", type=Path, default=KIT, help="folder of the kit (%(default)s)")
    there = commands.add_parser(
        "install",
        help="install the kit into the Python that runs this",
        description="Install the kit into the Python that runs this, without a network.",
    )
    there.add_argument("--kit", type=Path, default=KIT, help="its folder (%(default)s)")
    return parser.parse_args()


def main() -> None:
    """Do what the command line asks for; exit code 1 with a sentence where it cannot be done."""
    asked = arguments()
    try:
        if asked.command == "build":
            has, lacks = (
                frozenset(map(canonicalize_name, names))
                for names in (asked.target_has, asked.target_lacks)
            )
            build(asked.out, Target(asked.python, asked.platform, (Target.has | has) - lacks))
        else:
            wheels = install(asked.kit)
            print(f"installed: {', '.join(wheels)}" if wheels else "all of the kit is installed")
    except KitError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
