"""The proof on a GPU: one command, `make gpu`, within ten minutes on one H100.

    python tests/gpu/prove.py                            # on a CUDA machine
    python tests/gpu/prove.py --device cpu --small       # the same code at sizes for any machine

First it installs what the machine lacks from `.gpu-kit/`, where that is there. Then it runs the
parts in order of importance, each in a process of its own that is ended when its time is over, and
writes down after each what was found: a run that is cut short keeps what it has.
"""

import argparse
import contextlib
import json
import logging
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import kit
import page

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "benchmarks"
SMALL_RESULTS = ROOT / ".gpu-proof"

PARTS = {"right": 180, "waits": 60, "fast": 180, "trunk": 150, "benches": 90, "loading": 80}
"""Most seconds of each part, in the order in which they run."""
WHOLE = 570
"""Most seconds of all of them, imports included."""
LEAST = 10
"""Seconds that a part wants left to begin: it imports for as long."""
PACKAGES = ("torchvision", "numpy", "onedl-mmdetection", "onedl-mmcv", "onedl-mmengine")


class ProofError(Exception):
    """What is told in a sentence, without a traceback."""


def pieces(
    part: str, device: str, small: bool, folder: Path, temporary: Path
) -> Iterator[dict[str, Any]]:
    """What a part finds, piece by piece. `folder` takes what is kept and too large for the file."""
    # imported here, because a part imports torch, and the kit comes before it
    if part == "right":
        from right import right

        yield right(device, small, temporary)
    elif part == "waits":
        from waits import memory, waits

        yield waits(device, small)
        yield {"memory": memory(device, small)}
    elif part == "fast":
        from fast import fast

        yield from fast(device, small, folder)
    elif part == "trunk":
        from fast import trunks

        yield from trunks(device, small)
    elif part == "benches":
        from fast import benches

        yield from benches(device, small)
    else:
        from fast import loads

        yield from loads(device, small)


def prove(device: str, small: bool, out: Path, parts: list[str]) -> dict[str, Any]:
    """Run parts; returns what is in the file that was written."""
    facts = machine(device)
    now = datetime.now(timezone.utc)
    card = re.sub(r"[^a-z0-9]+", "-", facts["card"].lower()).strip("-")
    name = f"{now:%Y-%m-%d}-{card}-{facts['commit']}"
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    found: dict[str, Any] = {
        "date": f"{now:%Y-%m-%d %H:%M} UTC",
        "device": device,
        "small": small,
        **facts,
        "seconds": 0.0,
        "parts": {},
    }
    began = time.monotonic()
    for part in parts:
        limit = min(PARTS[part], WHOLE - (time.monotonic() - began))
        if limit < LEAST:
            found["parts"][part] = {"left_out": f"all, as the {WHOLE} s of the proof were over"}
        else:
            print(f"== {part}, at most {limit:.0f} s", flush=True)
            found["parts"][part] = run(part, device, small, out / name, limit)
        found["seconds"] = round(time.monotonic() - began, 1)
        write(path, found)
        print(f"== {part}: {page.summary(part, found['parts'][part])}", flush=True)
    print(f"{found['seconds']:.0f} s in all, written to {path}")
    return found


def run(part: str, device: str, small: bool, folder: Path, limit: float) -> dict[str, Any]:
    """Run a part in a process of its own; returns its pieces, its seconds, what was left out."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bacl-gpu-") as temporary:
        into = Path(temporary) / "pieces.json"
        command = [sys.executable, __file__, "--device", device, "--parts", part]
        command += ["--out", str(folder), "--into", str(into), *(["--small"] if small else [])]
        folders = (ROOT, ROOT / "platform", ROOT / "tests" / "bacl")
        paths = [*map(str, folders), os.environ.get("PYTHONPATH")]
        path = os.pathsep.join(filter(None, paths))
        child = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": path}, start_new_session=True
        )
        try:
            code: int | None = child.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end(child)
        found: dict[str, Any] = {}
        if into.exists():
            found = json.loads(into.read_text(encoding="utf-8"))
    if code is None:
        found["left_out"] = f"what was not done after {limit:.0f} s"
    elif code:
        found["left_out"] = f"what came after its process ended with code {code}"
    return {**found, "seconds": round(time.monotonic() - began, 1)}


def end(child: subprocess.Popen) -> None:
    """Kill a process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def work(part: str, device: str, small: bool, folder: Path, into: Path) -> None:
    """Run a part in this process, and write down its pieces as they come."""
    found: dict[str, Any] = {}
    logging.disable(logging.INFO)  # mmengine tells of each weight that it initialises
    try:
        for piece in pieces(part, device, small, folder, into.parent):
            found |= piece
            write(into, found)
    except Exception as error:  # it is told on the page, and the parts after it run
        traceback.print_exc()
        line = (str(error).strip() or "no message").splitlines()[0]
        write(into, {**found, "left_out": f"what came after {type(error).__name__}: {line}"})
    finally:
        logging.disable(logging.NOTSET)


def write(path: Path, content: dict[str, Any]) -> None:
    """Replace a JSON file at once."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(new, path)


def machine(device: str) -> dict[str, Any]:
    """The card, its driver, the versions and the commit that figures belong to.

    Raises:
        ProofError: without torch, or without a GPU that it can use.
    """
    try:
        import torch
    except ImportError:
        raise ProofError(
            f"{sys.executable} has no torch: run this with the Python that has it, or make the kit "
            'again with `make gpu-kit KIT="--target-lacks torch"`.'
        ) from None
    facts: dict[str, Any] = {
        "card": f"{os.cpu_count()}-core CPU",
        "driver": None,
        "python": platform.python_version(),
        "versions": {
            "torch": torch.__version__,
            **{name: kit.installed(name) or "absent" for name in PACKAGES},
        },
        "commit": commit(),
    }
    if device == "cpu":
        return facts
    if not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        raise ProofError(
            f"expected a GPU, torch {torch.__version__} (built {built}) finds none: run this on a "
            "machine with one, or at small sizes on this CPU with `--device cpu --small`."
        )
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=30,
    )
    properties = torch.cuda.get_device_properties(0)
    return {
        **facts,
        "card": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "driver": (driver.stdout.splitlines() or ["unknown"])[0].strip(),
        "cuda": torch.version.cuda,
    }


def commit() -> str:
    """The short commit of the checkout, with `-changed` where files differ from it; `unknown`
    where the checkout came without its history."""
    try:
        head, changes = (
            subprocess.run(
                ["git", "-C", str(ROOT), *arguments],
                capture_output=True,
                text=True,
                encoding="utf-8",
                timeout=30,
                check=True,
            ).stdout
            for arguments in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head.strip() + ("-changed" if changes.strip() else "")


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="(%(default)s)")
    parser.add_argument(
        "--small", action="store_true", help="small detectors and few tests, within two minutes"
    )
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(all, in this order)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help=f"folder of the results ({RESULTS.relative_to(ROOT)}, whose page is then made anew; "
        f"with --small {SMALL_RESULTS.relative_to(ROOT)})",
    )
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)  # of a part's own process
    return parser.parse_args()


def main() -> None:
    """Do what the command line asks for; exit code 1 where something is wrong or was left out."""
    asked = arguments()
    if asked.into:
        work(asked.parts[0], asked.device, asked.small, asked.out, asked.into)
        return
    out = asked.out or (SMALL_RESULTS if asked.small else RESULTS)
    try:
        if kit.KIT.exists() and (installed := kit.install(kit.KIT)):
            print(f"installed from the kit: {', '.join(installed)}", flush=True)
        found = prove(asked.device, asked.small, out, asked.parts)
    except (ProofError, kit.KitError) as error:
        sys.exit(str(error))
    if out == RESULTS:
        page.make(RESULTS)
    sys.exit(0 if page.proven(found) else 1)


if __name__ == "__main__":
    main()
