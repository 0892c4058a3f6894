"""Make docs/results.md: train what a store lacks of the paper's tables, and write what it has.

    python tests/results/make.py STORE [--only embedded|exact|recipe|boards] [--seeds N]

The store keeps what it has, so an interrupted run goes on where it was. On two cores the embedded
set takes about an hour, most of it stage 1, and photographs as long; `exact` and `recipe`
take half an hour for each seed. Photographs need the folder `BACL_DATA` with `boards_lt` and
`weights`, and are left as they stand in the page without.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from rich.console import Console
from studies import Study, boards, embedded, exact, recipe, written
from tables import section

from bacl_platform.analysis.contenders import contender
from bacl_platform.analysis.matrix import Matrix, compare_all
from bacl_platform.analysis.results import Report, collect
from bacl_platform.plan.planner import make_plan
from bacl_platform.plan.sweep_plan import Preparation
from bacl_platform.report.plots.matrix import matrix_of
from bacl_platform.spec.load import load
from bacl_platform.store.store import Store

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results.md"
STUDIES = {"embedded": embedded, "exact": exact, "recipe": recipe, "boards": boards}
METRICS = ("AP", "APFixed")
RESAMPLES = 1000
HOURS = 6


def main() -> None:
    """Train what lacks, then write the sections of the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--only", choices=STUDIES)
    parser.add_argument("--seeds", type=int, help="how many of a study's; default: all")
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    for name, make in STUDIES.items():
        if arguments.only not in (None, name):
            continue
        if name == "boards" and "BACL_DATA" not in os.environ:
            print("boards: left as it is, for BACL_DATA does not name the folder of boards_lt")
            continue
        study = make()
        study.content["seeds"] = study.content["seeds"][: arguments.seeds]
        report = trained(study, arguments.store)
        matrices = compared(study, report)
        text = section(study, report, matrices, facts(study, report))
        if "XIII" in matrices:
            path = arguments.page.with_name(f"results_{name}.png")
            text += f"\n\n{drawn(study, matrices['XIII'], path)}"
        replace_section(arguments.page, name, text)
        print(f"{arguments.page}: {name}")


def trained(study: Study, folder: Path) -> Report:
    """The results of a study, of which what the store lacks is trained first."""
    file = written(study, folder / ".results")
    command = [sys.executable, "-m", "bacl_platform", "run", str(file), "--store", str(folder)]
    subprocess.run(command, check=True, timeout=HOURS * 3600)
    store, experiment = Store(folder), load(file)
    plan = make_plan(experiment, Preparation(store)(experiment.dataset), store)
    return collect(plan, store, f"bacl run {file}")


def compared(study: Study, report: Report) -> dict[str, Matrix]:
    """Every pair of each table's rows."""
    console = Console(stderr=True)
    return {
        table.name: compare_all(
            [contender(report, row.variant) for row in table.rows],
            RESAMPLES,
            console,
            metrics=METRICS,
        )
        for table in study.tables
    }


def drawn(study: Study, matrix: Matrix, path: Path) -> str:
    """Draw who is better than whom in Table XIII into `path`; returns it as Markdown."""
    labels = {row.variant: row.label for row in study.table("XIII").rows}
    named = replace(matrix, names=[labels[name] for name in matrix.names])
    picture = matrix_of(named, "APFixed")
    picture.figure.savefig(path, dpi=110)
    return f"![{picture.title}]({path.name})\n\n{picture.caption}"


def facts(study: Study, report: Report) -> str:
    """What the numbers of a study are of, in sentences."""
    data, seeds = report.prepared, report.experiment.seeds
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    ).stdout.strip()
    left_out = ", ".join(study.left_out)
    sentences = [
        f"{data.train.image_total} training and {data.val.image_total} validation images, "
        f"{len(data.categories)} categories. {seeds_text(seeds)}: {study.trained}.",
        f"Made on {date.today():%-d %B %Y} at commit {commit or 'unknown'}.",
        "Points are means over seeds ± their standard deviation; a gain is over the table's first "
        "row, with its 95 % interval over images and seeds; rows are *told apart* after Holm's "
        "correction for all pairs of a table.",
    ]
    if left_out:
        sentences.append(f"Left out, for they read more than is stored: {left_out}.")
    return " ".join(sentences)


def seeds_text(seeds: Sequence[int]) -> str:
    """Which seeds, in words."""
    return f"Seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"Seed {seeds[0]} alone"


def replace_section(page: Path, name: str, text: str) -> None:
    """Put a section between its marks on the page, at the end where it is not there yet."""
    begin, end = f"<!-- {name}: made by tests/results/make.py -->", f"<!-- end of {name} -->"
    made = f"{begin}\n{text}\n{end}"
    old = page.read_text(encoding="utf-8") if page.exists() else "# Results\n"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    new = pattern.sub(lambda _: made, old) if pattern.search(old) else f"{old.rstrip()}\n\n{made}\n"
    page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
