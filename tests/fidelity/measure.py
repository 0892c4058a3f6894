"""How near replay comes to the exact classifier stage, on the embedded set.

    python tests/fidelity/measure.py STORE [--seeds 0,1] [--out docs/benchmarks]

Trains the distinct variants of Fig. 4 and Tables III to IX exactly, by replay of features made
after stage 1, and by replay of features made after an exact classifier stage, in a store that keeps
what it has; then writes `fidelity.md` and `fidelity.png`. About half an hour for two seeds on two
cores, nearly all of it stage 1 and the exact banks.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import yaml
from scipy.stats import spearmanr

from bacl_platform.analysis.results import Report, collect
from bacl_platform.plan.planner import make_plan
from bacl_platform.plan.sweep_plan import Preparation
from bacl_platform.plan.trials import SweepFile
from bacl_platform.spec.load import load
from bacl_platform.store.store import Store

ROOT = Path(__file__).parents[2]
SWEEPS = ("fig4", "table3", "table4", "table5", "table6", "table7", "table8", "table9")
METRICS = ("AP", "AP_r")
Row = tuple[str, float, float]
"""A variant's metric for one seed, exact and replayed, in points."""
BARS = {"after stage 1": (0.7, 1.5), "after a classifier stage": (0.5, 1.0)}
"""Most that AP and AP_r may differ in the mean, in points."""


def main() -> None:
    """Train what lacks, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    files = write_experiments(arguments.store / ".fidelity", seeds)
    seconds = {name: run(file, arguments.store) for name, file in files.items()}
    store = Store(arguments.store)
    reports = {name: read(file, store) for name, file in files.items()}
    exact = reports.pop("exact")
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = page(exact, reports, seconds)
    (arguments.out / "fidelity.md").write_text(text, encoding="utf-8")
    draw(exact, reports, arguments.out / "fidelity.png")
    print(text)


def variants() -> dict[str, Any]:
    """The distinct variants of the sweeps, as experiment files have them."""
    found: dict[str, Any] = {}
    for name in SWEEPS:
        file = SweepFile(ROOT / "experiments" / "sweeps" / "embedded" / f"{name}.yaml")
        for values in file.sweep.values():
            trial = file.trial(values)
            stage: Any = trial.experiment.stages[trial.stage]
            settings = stage.variants[trial.variant]
            found[trial.variant] = settings.model_dump(mode="json", exclude_defaults=True)
    return found


def write_experiments(folder: Path, seeds: Sequence[int]) -> dict[str, Path]:
    """The experiments, by what their features are of."""
    demo = yaml.safe_load((ROOT / "experiments/embedded/demo.yaml").read_text("utf-8"))
    first, second = demo["stages"]["representation"], demo["stages"]["classifier"]
    every = variants()
    one, *_ = every

    def bank(after: str, members: dict[str, Any], **recipe: Any) -> dict[str, Any]:
        return {
            **second,
            "after": after,
            "variants": members,
            "recipe": {**second["recipe"], **recipe},
        }

    stages: dict[str, dict[str, Any]] = {
        "exact": {"classifier": bank("representation", every)},
        "after stage 1": {
            "features": {"kind": "features", "after": "representation"},
            "classifier": bank("features", every, features="replay"),
        },
        "after a classifier stage": {
            "exact": bank("representation", {one: every[one]}),
            "features": {"kind": "features", "after": "exact"},
            "classifier": bank(
                "features", {n: v for n, v in every.items() if n != one}, features="replay"
            ),
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, own in stages.items():
        content = {
            **{key: value for key, value in demo.items() if key != "baseline"},
            "name": name.replace(" ", "-"),
            "seeds": list(seeds),
            "stages": {"representation": first, **own},
        }
        files[name] = folder / f"{content['name']}.yaml"
        files[name].write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return files


def run(file: Path, store: Path) -> float:
    """Seconds that `bacl run` takes for what lacks."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "bacl_platform", "run", str(file), "--store", str(store)]
    subprocess.run(command, check=True, timeout=4 * 3600)
    return time.perf_counter() - began


def read(file: Path, store: Store) -> Report:
    """What the store has of an experiment."""
    experiment = load(file)
    plan = make_plan(experiment, Preparation(store)(experiment.dataset), store)
    return collect(plan, store, f"bacl run {file}")


def pairs(exact: Report, replayed: Report, metric: str) -> list[Row]:
    """Each variant with each seed."""
    found: list[Row] = []
    names = {result.variant: None for result in replayed.results if result.features == "replay"}
    for name in names:
        own = zip(exact.values(name, metric), replayed.values(name, metric), strict=True)
        found += [(name, 100 * one, 100 * other) for one, other in own]
    return found


def page(exact: Report, reports: dict[str, Report], seconds: dict[str, float]) -> str:
    """What was found, in Markdown."""
    lines = [
        "| features | metric | rows | mean | absolute | largest | bar | Spearman | clear pairs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, report in reports.items():
        for metric, bar in zip(METRICS, BARS[name], strict=True):
            of_seeds = pairs(exact, report, metric)
            apart = [other - one for _, one, other in of_seeds]
            lines.append(
                f"| {name} | {metric} | {len(apart)} | {mean(apart):+.2f} "
                f"| {mean(map(abs, apart)):.2f} | {max(map(abs, apart)):.2f} | {bar} "
                f"| {rank_correlation(of_seeds):.3f} | {clear_pairs(of_seeds)} |"
            )
    taken = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    return "\n".join([*lines, "", f"`bacl run` of what the store lacked: {taken}.", ""])


def rank_correlation(of_seeds: Sequence[Row]) -> float:
    """Spearman's, between variants' means over seeds."""
    return float(spearmanr(*zip(*means_of(of_seeds), strict=True)).statistic)


def clear_pairs(of_seeds: Sequence[Row]) -> str:
    """How many pairs of variants differ exactly by more than a seed's noise, which is what one
    variant's seeds differ by, and in how many of them replay has the same one ahead."""
    names = list(dict.fromkeys(name for name, _, _ in of_seeds))
    seeds = [[row[1] for row in of_seeds if row[0] == name] for name in names]
    if any(len(values) < 2 for values in seeds):
        return "one seed"
    # the seeds of all variants share their stage 1, whose effect is not a variant's noise
    shift = [mean(values[number] for values in seeds) for number in range(len(seeds[0]))]
    noise = mean(
        pstdev([value - own for value, own in zip(values, shift, strict=True)]) for values in seeds
    )
    found = means_of(of_seeds)
    clear = [(a, b) for a, b in combinations(found, 2) if abs(a[0] - b[0]) > noise]
    alike = sum((a[0] > b[0]) == (a[1] > b[1]) for a, b in clear)
    return f"{alike} of {len(clear)} alike (noise {noise:.2f})"


def means_of(of_seeds: Sequence[Row]) -> list[tuple[float, float]]:
    """Each variant's means over seeds, exact and replayed."""
    names = dict.fromkeys(name for name, _, _ in of_seeds)
    own = [[row[1:] for row in of_seeds if row[0] == name] for name in names]
    return [(mean(one for one, _ in rows), mean(other for _, other in rows)) for rows in own]


def draw(exact: Report, reports: dict[str, Report], path: Path) -> None:
    """Exact against replayed AP, a panel for each metric."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    panels = figure.subplots(1, len(METRICS))
    for panel, metric in zip(panels, METRICS, strict=True):
        values = []
        for name, report in reports.items():
            of_seeds = pairs(exact, report, metric)
            one, other = [row[1] for row in of_seeds], [row[2] for row in of_seeds]
            panel.scatter(one, other, s=18, alpha=0.7, label=f"features {name}")
            values += [*one, *other]
        ends = [min(values) - 1, max(values) + 1]
        panel.plot(ends, ends, color="0.6", linewidth=1, zorder=0)
        panel.set(xlim=ends, ylim=ends, aspect="equal", title=metric)
        panel.set(xlabel="exact stage, points", ylabel="replay, points")
        panel.legend(loc="upper left", frameon=False)
    figure.savefig(path, dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
