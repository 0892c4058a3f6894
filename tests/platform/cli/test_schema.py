"""`bacl schema`: what it writes, and the methods that a user brings."""

import json

from foreign import METHOD, forgotten
from typer.testing import CliRunner

from bacl_platform.cli.main import app


def schema_by(*words):
    result = CliRunner().invoke(app, ["schema", *words])
    return result.exit_code, result.output


def test_schema_is_written_to_the_standard_output_or_a_file(tmp_path):
    code, output = schema_by("sweep")
    assert code == 0 and json.loads(output)["title"] == "BACL sweep"
    file = tmp_path / "sweep.json"
    assert schema_by("sweep", "--out", str(file)) == (0, "")
    assert file.read_text(encoding="utf-8") == output


def test_methods_that_a_file_imports_are_in_its_schema(tiny):
    tiny.with_name("my_losses.py").write_text(METHOD)
    file = tiny.with_name("mine.yaml")
    file.write_text("base: tiny.yaml\nimports: [my_losses]\n")
    with forgotten():
        code, output = schema_by("--file", str(file))
    assert code == 0
    options = json.loads(output)["$defs"]["Smoothed"]["properties"]
    assert options["smoothing"]["description"] == "Share of a target that all classes have alike."
    assert options["method"]["const"] == "smoothed"
    assert "Smoothed" not in json.loads(schema_by()[1])["$defs"]


def test_folder_that_is_not_there_is_told(tmp_path):
    code, output = schema_by("--out", str(tmp_path / "absent" / "schema.json"))
    assert code == 1 and "absent" in output
