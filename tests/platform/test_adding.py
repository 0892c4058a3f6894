"""What the documents on adding something add is found by its name, and works by their own tests."""

import inspect
import subprocess
import sys
from types import ModuleType

import pytest
from documents import python_blocks
from typer.testing import CliRunner

from bacl_platform import bench
from bacl_platform.analysis.results import collect
from bacl_platform.bench import rows
from bacl_platform.bench.measure import Setting
from bacl_platform.cli import main as cli
from bacl_platform.report import experiment_report, plots
from bacl_platform.report.plots import registry


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Puts a document's first block into a file of a package; returns its second, the test."""
    folder = tmp_path / "added"
    folder.mkdir()

    def added(document: str, package: ModuleType, name: str) -> str:
        first, test = python_blocks(document)
        (folder / f"{name}.py").write_text(first, encoding="utf-8")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        return test

    registry.load()
    known = {page: list(of_page) for page, of_page in registry._PLOTS.items()}
    yield added
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(folder)):
            package, _, last = name.rpartition(".")
            delattr(sys.modules[package], last)
            del sys.modules[name]
    for page, of_page in known.items():
        registry._PLOTS[page][:] = of_page


def run(block: str, request: pytest.FixtureRequest) -> None:
    """Run the tests of a block of Python, with the fixtures that they ask for."""
    written: dict = {"__name__": "added"}
    exec(block, written)
    tests = [value for name, value in written.items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test(*map(request.getfixturevalue, inspect.signature(test).parameters))


def test_bench_of_the_document_is_listed_and_measured(add, request):
    test = add("extending/adding-a-bench-row.md", rows, "decode")
    assert "decode" in bench.names()
    shown = " ".join(CliRunner().invoke(cli.app, ["bench", "--help"]).stdout.split())
    assert "decode Decoding a JPEG file as jobs do, which also look at its header" in shown
    (row,) = bench.run("decode", Setting(repeat=1))
    assert row.name == "decode" and row.theirs > 0
    run(test, request)


def test_benches_are_listed_without_torch():
    script = "import sys; from bacl_platform import bench; print(len(bench.summaries()))"
    finished = subprocess.run(
        [sys.executable, "-c", f"{script}; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert finished.stdout.split() == [str(len(bench.names())), "False"]


def test_plot_of_the_document_is_on_the_page_with_its_caption(
    add, request, planned, store, fill, tmp_path
):
    run(add("extending/adding-a-plot.md", plots, "ap_by_seed"), request)
    folder = tmp_path / "report"
    experiment_report.write(collect(planned("seeds=[0, 1]"), store, ""), folder, "")
    assert (folder / "ap_by_seed.png").read_bytes().startswith(b"\x89PNG")
    caption = "Where lines cross, one seed does not tell which variant is better."
    markdown, page = ((folder / f"report.{kind}").read_text("utf-8") for kind in ("md", "html"))
    assert f"![AP of each seed](ap_by_seed.png)\n\n{caption}" in markdown
    assert f"<figcaption>{caption}</figcaption>" in page


def test_plot_of_the_document_is_left_out_where_it_does_not_apply(add, planned, store, fill):
    add("extending/adding-a-plot.md", plots, "ap_by_seed")
    plan = planned()
    fill(plan.jobs, {("features", 0): 0.1, ("bacl", 0): 0.3, ("softmax", 0): 0.2})
    report = collect(plan, store, "")
    files = [picture.file for picture in registry.pictures(registry.Page.RESULTS, report)]
    assert "ap_by_group.png" in files and "ap_by_seed.png" not in files
