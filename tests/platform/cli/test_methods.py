"""Method cards: nobody should have to read code to know what an option does."""

import inspect
import re

import pytest
from foreign import METHOD, forgotten
from typer.testing import CliRunner

from bacl.method_settings.registry import METHODS
from bacl_platform.cli.main import app


def output_of(*words):
    result = CliRunner().invoke(app, ["methods", *words], env={"COLUMNS": "200"})
    return result.exit_code, " ".join(result.output.split())


def test_list_names_every_method_and_its_source():
    code, output = output_of()
    assert code == 0
    for name, method in METHODS.items():
        assert f" {name} " in output and method.source in output
        first = inspect.getdoc(method).split("\n\n")[0]
        assert first.endswith(".") and not re.search(r"\. [A-Z]", first)  # one sentence


@pytest.mark.parametrize("name", METHODS)
def test_card_tells_source_equations_options_and_open_points(name):
    method = METHODS[name]
    code, output = output_of("show", name)
    assert code == 0 and method.source and method.equations
    for text in (method.source, method.equations, *method.open_points):
        assert " ".join(text.split()) in output
    for field, info in method.model_fields.items():
        if field not in ("method", "hallucination"):
            assert info.description and f" {field} " in output


@pytest.mark.parametrize(
    "words",
    [
        *METHODS["fcbl"].open_points,
        "above 0.001",  # margin
        "all samples, background included",
        "16 patterns of signs, and one draw of magnitudes an image",
        "first sight sets its prototype and variance",
        "the best of foreground",
        "moves the indicator before the loss",
        "are of all ranks, and move after the step's features are drawn",
        "multiplies noise by the variance; its root is taken",
        "classifier goes on from stage 1's",
        "RPN and the box regressor train in stage 2",
        "scale jitter of 0.8 to 1.25",
    ],
)
def test_card_of_bacl_tells_what_differs_from_the_paper(words):
    code, output = output_of("show", "bacl")
    assert code == 0 and " ".join(words.split()) in output


def test_card_of_hallucination_has_its_options_by_their_paths():
    _, output = output_of("show", "bacl")
    assert "hallucination.samples 12 m: features made per drawn category." in output


def test_unknown_method_is_refused_with_those_there_are():
    code, output = output_of("show", "eqlv3")
    assert code != 0 and "eqlv2" in output and "'eqlv3'" in output


def test_methods_that_a_file_imports_have_cards(tiny):
    tiny.with_name("my_losses.py").write_text(METHOD)
    file = tiny.with_name("mine.yaml")
    file.write_text("base: tiny.yaml\nimports: [my_losses]\n")
    with forgotten():
        code, listed = output_of("--file", str(file))
        assert code == 0 and "a share of each target is all classes'" in listed
        code, card = output_of("show", "smoothed", "--file", str(file))
        assert code == 0 and "Share of a target that all classes have alike" in card
    code, told = output_of("show", "smoothed")
    assert code == 2 and "got 'smoothed'" in told
