"""`bacl compare`: the page, the pictures, JSON, and what is printed."""

import json
import re

from rich.console import Console
from typer.testing import CliRunner

from bacl_platform.analysis import compare, differences
from bacl_platform.analysis.contenders import contender
from bacl_platform.cli import main as cli
from bacl_platform.report import comparison_report
from bacl_platform.report.plots.comparison import changes
from bacl_platform.report.plots.style import png

SEEDS = "seeds=[0, 1]"
QUIET = Console(quiet=True)


def test_equal_variants_are_drawn(study_of, rival_aps):
    equal = study_of(dict.fromkeys(rival_aps, 0.5))
    assert png(
        changes(
            compare.compare(contender(equal, "softmax"), contender(equal, "bacl"), 30, QUIET)
        ).figure
    )


def test_change_without_an_interval_is_drawn_and_null_in_json(rivals, monkeypatch):
    monkeypatch.setattr(differences, "FEWEST_IMAGES", 10**6)
    without = compare.compare(contender(rivals, "softmax"), contender(rivals, "bacl"), 20, QUIET)
    content = json.loads(json.dumps(comparison_report.as_json(without), allow_nan=False))
    assert {change["interval"] for change in content["metrics"].values()} == {None}
    assert png(changes(without).figure)


def test_page_and_markdown_hold_the_tables(compared, tmp_path):
    page = comparison_report.write(compared, tmp_path)
    assert page.name == "compare_softmax_bacl.html"
    text = page.with_suffix(".md").read_text()
    ap = compared.metrics["AP"]
    assert f"| AP | {100 * ap.first:.1f} | {100 * ap.second:.1f} | +" in text
    assert "over seeds" in text and "| ± " in text
    assert "![bacl against softmax](compare_softmax_bacl.png)" in text
    assert compared.gained()[0].category.name in page.read_text()
    assert (tmp_path / "compare_softmax_bacl.png").read_bytes().startswith(b"\x89PNG")


def test_command_prints_verdicts_or_json(tiny, two_seeds, store, fill, rival_aps):
    fill(two_seeds.jobs, rival_aps)
    words = ["compare", tiny, "softmax", "bacl", "--resamples", 30, "--store", store.root]
    words = [str(word) for word in [*words, "--set", SEEDS]]
    done = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert re.search(r"^AP_f \+.*: bacl is better than softmax; ", done.stdout, re.MULTILINE)
    assert (store.root / "reports/tiny/compare_softmax_bacl.html").is_file()
    done = CliRunner().invoke(cli.app, [*words, "--json"], catch_exceptions=False)
    content = json.loads(done.stdout)
    assert content["metrics"]["AP"]["interval"][0] > 0
    assert set(content["metrics"]["AP"]["by_seed"]) == {"0", "1"}
    done = CliRunner().invoke(cli.app, [*words[:3], "softmx", *words[4:]])
    assert done.exit_code == 2
    assert "got softmx" in done.stderr


def test_replayed_and_exact_are_compared_only_if_asked_and_loudly(
    tiny, planned, replayed, store, fill
):
    fill(planned(*replayed).jobs, dict.fromkeys(PAIRS, 0.4))
    overrides = [word for one in replayed for word in ("--set", one)]
    words = ["--resamples", 20, "--store", store.root, *overrides]

    def compared(first, second, *more):
        line = [str(word) for word in ("compare", tiny, first, second, *words, *more)]
        return CliRunner().invoke(cli.app, line)

    done = compared("softmax", "fcbl")
    assert done.exit_code == 2
    assert done.stderr == (
        "error: tiny: fcbl is replayed (trained on stored features) and softmax is exact (trained "
        "on what the trunk computes): compare exact variants with exact ones, or let --mixed "
        "compare these all the same\n"
    )
    done = compared("softmax", "fcbl", "--mixed")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("MIXED: fcbl is replayed")
    page = store.root / "reports/tiny/compare_softmax_fcbl.html"
    assert "MIXED: fcbl is replayed" in page.read_text()
    content = json.loads(compared("softmax", "fcbl", "--mixed", "--json").stdout)
    assert content["features"] == {"softmax": "exact", "fcbl": "replay"}
    assert content["notes"][0].startswith("MIXED: ")
    done = compared("bce", "fcbl")
    assert done.exit_code == 0 and done.stdout.startswith("bce and fcbl are both replayed")


PAIRS = [(name, 0) for name in ("features", "bacl", "softmax", "fcbl", "bce")]


def test_comparison_says_with_what_variants_were_evaluated(tiny, planned, store, fill):
    override = "stages.heads.recipe.soft_nms={method: gaussian}"
    names = ("features", "bacl", "softmax")
    fill(planned(override).jobs, dict.fromkeys([(name, 0) for name in names], 0.4))
    words = ["--resamples", "20", "--store", str(store.root), "--set", override, "--json"]
    line = ["compare", str(tiny), "features", "bacl", *words]
    done = CliRunner().invoke(cli.app, line)
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert content["evaluated_with"] == {"features": "", "bacl": "soft-NMS"}
    assert content["notes"][0] == (
        "Evaluated in other ways than usual: bacl with soft-NMS; part of the difference may come "
        "from that and not from the variants."
    )
