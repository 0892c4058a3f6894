"""`imports` of an experiment: methods, indicators and formats from its folder."""

import pytest
import yaml
from foreign import INDICATOR, METHOD, forgotten

from bacl.errors import UsageError
from bacl_platform.plan.planner import make_plan
from bacl_platform.spec.load import load
from bacl_platform.spec.yaml_files import data_paths


@pytest.fixture(autouse=True)
def outside():
    with forgotten():
        yield


@pytest.fixture
def mine(tiny, tmp_path):
    """An experiment file whose bank has a method of its folder beside the paper's."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "my_losses.py").write_text(METHOD)
    (folder / "my_indicator.py").write_text(INDICATOR)
    variants = {
        "smoothed": {"method": "smoothed", "smoothing": 0.2},
        "rarity": {"method": "fcbl", "indicator": "rarity"},
        "softmax": {"method": "softmax"},
    }
    path = folder / "mine.yaml"
    content = {
        "base": str(tiny),
        "imports": ["my_losses", "my_indicator"],
        "stages": {"heads": {"variants": variants}},
        "baseline": "softmax",
    }
    path.write_text(yaml.safe_dump(content))
    return path


def keys(path, prepared, store):
    _, heads = make_plan(load(path), prepared, store).jobs
    return heads.variant_keys


def test_plan_has_the_method_and_imports_it_wherever_the_job_trains(mine, prepared, store):
    experiment = load(mine)
    assert experiment.stages["heads"].variants["smoothed"].model_dump() == {
        "method": "smoothed",
        "smoothing": 0.2,
    }
    job = make_plan(experiment, prepared, store).jobs[1]
    assert job.config["custom_imports"]["imports"] == ["bacl.register", "my_losses", "my_indicator"]
    assert list(job.variants) == ["rarity", "smoothed", "softmax"]


def test_keys_follow_the_sources_of_what_a_variant_uses(mine, prepared, store):
    before = keys(mine, prepared, store)
    with (mine.parent / "my_losses.py").open("a") as file:
        file.write("# an edit\n")
    after = keys(mine, prepared, store)
    assert after["smoothed"] != before["smoothed"]
    assert after["rarity"] == before["rarity"] and after["softmax"] == before["softmax"]
    plain = mine.with_name("plain.yaml")
    content = yaml.safe_load(mine.read_text()) | {"imports": []}
    content["stages"]["heads"]["variants"] = {"softmax": {"method": "softmax"}}
    plain.write_text(yaml.safe_dump(content))
    assert keys(plain, prepared, store)["softmax"] == before["softmax"]


def test_dataset_format_of_the_folder_is_known(mine):
    (mine.parent / "my_format.py").write_text(
        "from bacl.datasets.formats import register\n\nregister('table')(print)\n"
    )
    files = "train: a, val: b, images: c"
    override = "imports=[my_losses, my_indicator, my_format]"
    assert load(mine, [override, f"dataset={{format: table, {files}}}"]).dataset.format == "table"
    with pytest.raises(UsageError) as error:
        load(mine, [f"dataset={{format: tabel, {files}}}"])
    assert str(error.value) == (
        f"{mine}: dataset.format: expected one of embedded, lvis, coco, table, lvis_v0.5, lvis_v1, "
        "coco_lt, got 'tabel' (did you mean `table`?)"
    )


def test_modules_beside_a_base_are_found(mine, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("base: mine/mine.yaml\nname: other\n")
    assert load(other).stages["heads"].variants["smoothed"].method == "smoothed"


def test_path_of_an_outside_method_is_from_the_folder_of_the_file_that_names_it(mine, tmp_path):
    (mine.parent / "my_losses.py").write_text(
        METHOD.replace(
            '    method: Literal["smoothed"]\n',
            '    method: Literal["smoothed"]\n    table: str\n    paths: ClassVar = ("table",)\n',
        ).replace("import Literal", "import ClassVar, Literal")
    )
    content = yaml.safe_load(mine.read_text())
    content["stages"]["heads"]["variants"]["smoothed"]["table"] = "table.csv"
    mine.write_text(yaml.safe_dump(content))
    other = tmp_path / "other.yaml"
    other.write_text("base: mine/mine.yaml\nname: other\n")
    for path in (other, mine):
        assert load(path).stages["heads"].variants["smoothed"].table == str(
            mine.parent / "table.csv"
        )
    assert data_paths(content) == {"stages.heads.variants.smoothed.table": "table.csv"}


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            "imports=[my_losses, no_such]",
            "imports.1: expected a module that Python finds, in {folder} or {base} or installed, "
            "got 'no_such'",
        ),
        ("imports=my_losses", "imports: expected a list, got 'my_losses'"),
        ("imports=[my_losses, my_indicator, 3]", "imports.2: expected the name of a module, got 3"),
        (
            "stages.heads.variants.smoothed.smothing=3",
            "stages.heads.variants.smoothed.smothing: unknown field, did you mean `smoothing`?",
        ),
        (
            "stages.heads.variants.smoothed.method=smothed",
            "stages.heads.variants.smoothed.method: expected one of acsl, ",
        ),
        (
            "stages.heads.variants.rarity.indicator=rarety",
            "stages.heads.variants.rarity.indicator: expected one of image_frequency, ",
        ),
    ],
)
def test_wrong_import_or_field_of_a_method_from_outside_is_told(mine, override, problem):
    with pytest.raises(UsageError) as error:
        load(mine, [override])
    folders = {"folder": mine.parent, "base": mine.parent.parent}
    told = str(error.value)
    assert told.startswith(f"{mine}: {problem.format(**folders)}")
    if "expected one of" in problem:
        assert "did you mean `smoothed`?" in told or "did you mean `rarity`?" in told
