"""The page of all proofs that were kept: `docs/benchmarks/README.md`, made from its JSON files.

python tests/gpu/page.py    # makes it anew; `make gpu` does that itself
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "benchmarks"
HEAD = """# Proofs on GPUs

`make gpu` ([how](gpu.md)) writes a file here for each run, and this page, made from all of them.
A ratio is ours divided by its peer's, measured in turns in the same run; where there is a limit,
the last column says whether it holds.
"""
NONE = "\nNo GPU has been measured yet: every figure elsewhere in the documentation is a CPU's.\n"


def make(folder: Path) -> None:
    """Write the page of the results in a folder."""
    (folder / "README.md").write_text(text(folder), encoding="utf-8")


def text(folder: Path) -> str:
    """The page of the results in a folder, the newest first.

    Raises:
        ValueError: for a file that is not a proof's.
    """
    proofs = []
    for path in sorted(folder.glob("*.json"), reverse=True):
        try:
            proofs.append((path.stem, json.loads(path.read_text(encoding="utf-8"))))
        except ValueError as error:
            raise ValueError(f"{path}: expected a file that `make gpu` wrote: {error}") from None
    proofs.sort(key=lambda proof: proof[1]["date"], reverse=True)
    sections = ["\n".join(_section(name, found)) for name, found in proofs]
    return HEAD + ("\n" + "\n\n".join(sections) + "\n" if sections else NONE)


def proven(found: dict[str, Any]) -> bool:
    """Whether everything ran and nothing was wrong. Ratios over their limits are not wrong: they
    are what there is to read."""
    return not any(
        problem for name, part in found["parts"].items() for problem in problems(name, part)
    )


def problems(name: str, part: dict[str, Any]) -> list[str]:
    """What is wrong with a part, or was left out of it, a line each."""
    found = [f"left out: {part['left_out']}"] if "left_out" in part else []
    if name == "right" and "tests" in part:
        tests = part["tests"]
        found += [f"{failure['test']}: {failure['error']}" for failure in tests["failures"]]
        found += [tests["error"]] if tests["error"] else []
        for device, chain in part["chain"].items():
            found += [f"jobs on {device}: {chain['error']}"] if chain["error"] else []
    if name == "waits":
        found += [
            f"no reason is known for the wait at {site}" for site in part.get("unexplained", [])
        ]
    found += [f"{key}: {value}" for key, value in part.items() if str(value).startswith("left out")]
    return found


def summary(name: str, part: dict[str, Any]) -> str:
    """A line on a part, for the terminal."""
    said = [f"{part['seconds']:.0f} s"] if "seconds" in part else []
    if name == "right" and "tests" in part:
        said.append(_counts(part["tests"]))
    rows = list(_rows(part))
    if rows:
        over = [row["name"] for row in rows if row["limit"] and row["ratio"] > row["limit"]]
        said.append(
            f"{len(rows)} ratios" + (f", over the limit: {', '.join(over)}" if over else "")
        )
    return "; ".join([*said, *problems(name, part)])


def _counts(tests: dict[str, Any]) -> str:
    return f"{tests['passed']} tests passed, {tests['failed']} failed, {tests['skipped']} skipped"


def _rows(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of benches that a part has."""
    for piece in part.values():
        if isinstance(piece, list):
            yield from (row for row in piece if isinstance(row, dict) and "ratio" in row)


def _section(name: str, found: dict[str, Any]) -> Iterator[str]:
    yield f"## {found['card']}, {found['date']}"
    yield ""
    facts = {
        "commit": found["commit"],
        "memory": f"{found['memory_gib']} GiB" if "memory_gib" in found else None,
        "driver": found["driver"],
        "CUDA": found.get("cuda"),
        "Python": found["python"],
        **found["versions"],
        "seconds in all": found["seconds"],
    }
    yield "; ".join(f"{key} {value}" for key, value in facts.items() if value) + "."
    yield f"Everything is in [{name}.json]({name}.json)."
    if found["small"]:
        yield "The sizes are small: this shows that it runs, and its times mean nothing."
    for part, content in found["parts"].items():
        yield ""
        yield f"### {_TITLES[part]}"
        wrong = problems(part, content)
        if wrong:
            yield ""
            yield from (f"- {problem}" for problem in wrong)
        yield ""
        yield from _PARTS[part](name, content)


def _right(name: str, part: dict[str, Any]) -> Iterator[str]:
    if "tests" not in part:
        return
    yield f"{_counts(part['tests'])} in {part['tests']['seconds']} s."
    for device, chain in part["chain"].items():
        if not chain["table"]:
            continue
        seconds = ", ".join(f"{job} {taken} s" for job, taken in chain["seconds"].items())
        yield ""
        yield f"Stage 1 and a bank of the platform on {device} ({seconds}):"
        yield ""
        columns = list(next(iter(chain["table"].values())))
        yield from _table(
            ["variant", *columns],
            (
                [variant, *("" if value is None else value for value in metrics.values())]
                for variant, metrics in chain["table"].items()
            ),
        )


def _waits(name: str, part: dict[str, Any]) -> Iterator[str]:
    for bank, sites in part.get("step", {}).items():
        yield f"Host-device waits in a step of {bank}:"
        yield ""
        ours = {place: times for place, times in sites.items() if place.startswith("bacl/")}
        yield from _table(
            ["place", "times", "why"],
            (
                [f"`{place}`", times, part["explained"].get(place, "")]
                for place, times in ours.items()
            ),
        )
        yield ""
        theirs = sum(sites.values()) - sum(ours.values())
        yield f"MMDetection's own: {theirs} at {len(sites) - len(ours)} places, all in the file."
        yield ""
    if "generators" in part:
        made = (
            f"{' and '.join(f'{count} on {place}' for place, count in places.items())} for {bank}"
            for bank, places in part["generators"].items()
        )
        yield f"Generators of random numbers in a step: {'; '.join(made)}."
        yield f"To make and seed one takes {part['generator_us']} µs."
        yield ""
    if "memory" in part:
        each = (f"{at} {size / 1e6:.1f} MB" for at, size in part["memory"]["bytes"].items())
        yield f"Memory, {part['memory']['what']}: {', '.join(each)}."


def _fast(name: str, part: dict[str, Any]) -> Iterator[str]:
    rows = list(_rows(part))
    yield from _table(
        ["measured", "ours", "peer", "its", "ratio", "limit", ""],
        (
            [
                f"{row['name']}: {row['what']}",
                f"{row['ours']:.4g} {row['unit']}",
                row["peer"],
                f"{row['theirs']:.4g} {row['unit']}",
                f"{row['ratio']:.3f}",
                row["limit"] or "",
                "" if row["limit"] is None else "over" if row["ratio"] > row["limit"] else "holds",
            ]
            for row in rows
        ),
    )
    for row in rows:
        if "parts" in row:
            names = dict.fromkeys(name for taken in row["parts"].values() for name in taken)
            yield ""
            yield f"Milliseconds of each part, {row['name']} (watching them slows a step):"
            yield ""
            yield from _table(
                ["part", *row["parts"]],
                ([n, *(f"{t.get(n, 0):.1f}" for t in row["parts"].values())] for n in names),
            )
    profile = part.get("profile")
    if isinstance(profile, dict):
        yield ""
        trace = profile["trace"]
        link = f"[trace]({name}/{trace})" if trace.endswith(".gz") else f"trace {trace}"
        yield f"Operators of a step with one variant that take longest ({link}):"
        yield ""
        yield from _table(
            ["operator", "calls", "ms"],
            ([f"`{one['name']}`", one["calls"], one["ms"]] for one in profile["operators"][:12]),
        )


def _table(head: list[str], rows: Iterable[list[Any]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |"


_TITLES = {
    "right": "Right",
    "waits": "Waits of the host for the device",
    "fast": "Fast",
    "trunk": "The frozen trunk, and features of it that are replayed",
    "benches": "Benches",
    "loading": "Loading",
}
_PARTS = {
    "right": _right,
    "waits": _waits,
    "fast": _fast,
    "trunk": _fast,
    "benches": _fast,
    "loading": _fast,
}


if __name__ == "__main__":
    make(RESULTS)
