"""What docs/results.md is made of: experiments, and the tables that their variants are rows of.

Most train variants on stored features. Stage 1 is the experiment's own, with a sigmoid and with a
softmax classifier; each passes images once, and every classifier then trains on what was stored.
Features keep the last layer of a region alone: methods that read more of it, and tables of whole
detectors, are the study of `exact` training.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from bacl.method_settings.registry import METHODS
from bacl_platform.plan.trials import SweepFile
from bacl_platform.report.sweep_report import printed
from bacl_platform.spec.experiment import Paper
from bacl_platform.spec.paper_table import published
from bacl_platform.spec.yaml_files import read_with_bases

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SWEEPS = ("table3", "fig4", "table4", "table5", "table6", "table7", "table8", "table9")
READING = {
    "statistics of each rank": {"statistics": "per_rank"},
    "prototypes move first": {"moves": "before"},
    "both, as in the release": {"statistics": "per_rank", "moves": "before"},
}
"""Settings of hallucination by which the release differs, docs/method/departures.md."""


@dataclass(frozen=True)
class Row:
    """A row of a table: a variant, and the paper's points by metric where it prints the row."""

    label: str
    variant: str
    paper: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Rows whose gains are over the first one."""

    name: str
    title: str
    rows: list[Row]

    def row(self, label: str) -> Row:
        """The row with that label."""
        return next(row for row in self.rows if row.label == label)


@dataclass(frozen=True)
class Study:
    """An experiment as a file has it, and the tables of its variants."""

    title: str
    content: dict[str, Any]
    tables: list[Table]
    trained: str
    """How its rows were trained, in words."""
    left_out: list[str] = field(default_factory=list)
    """Variants that cannot train on stored features."""

    def table(self, name: str) -> Table:
        """The table of that name."""
        return next(table for table in self.tables if table.name == name)


def embedded() -> Study:
    """The embedded set: drawn shapes, 24 categories."""
    base = read_with_bases(EXPERIMENTS / "embedded" / "demo.yaml")
    return _study("The embedded set", "embedded-results", base, range(5), SWEEPS)


def exact() -> Study:
    """What stored features cannot give, trained on images: Table X, SimCal and Forest."""
    base = read_with_bases(EXPERIMENTS / "embedded" / "field.yaml")
    pipelines = read_with_bases(EXPERIMENTS / "embedded" / "pipelines.yaml")
    stages = {name: base["stages"][name] for name in ("representation", "softmax_representation")}
    stages["end_to_end"] = pipelines["stages"]["end_to_end"]
    stages["classifier"] = {
        **base["stages"]["classifier"],
        "variants": {"sce": {"method": "softmax"}, "bacl": {"method": "bacl"}},
    }
    for name, stage in base["stages"].items():
        if stage["kind"] == "classifier" and not all(
            storable(stage, settings) for settings in stage["variants"].values()
        ):
            stages[name] = stage
    source = Paper(file=str(EXPERIMENTS / "paper.yaml"), table="XIII", column="v0.5 R50")
    field_paper = dict(published(source, EXPERIMENTS / "paper.yaml", "variant").rows)
    table10 = SweepFile(EXPERIMENTS / "sweeps" / "embedded" / "table10.yaml")
    ends = {match["stage"]: points for match, points in printed(table10).rows}
    names = ("sce", "simcal", "forest_rcnn", "bacl")
    field_rows = [Row(name, name, field_paper.get(name, {})) for name in names]
    tables = [
        Table(
            "X",
            "training pipelines",
            [
                Row("end to end", "end_to_end", ends["end_to_end"]),
                Row("decoupled", "bacl", ends["classifier"]),
            ],
        ),
        Table("XIII", "methods that read more of a region", field_rows),
    ]
    trained = "every row is trained on images, those of Table XIII and `decoupled` over one stage 1"
    title = "The embedded set, trained on images"
    return Study(title, _on_one_core("embedded-exact", base, stages), tables, trained)


def recipe() -> Study:
    """Table I, the steps of the stage-1 recipe: whole detectors, trained on images."""
    base = read_with_bases(EXPERIMENTS / "embedded" / "field.yaml")
    first = base["stages"]["representation"]
    table, stages = of_steps(first)
    content = _on_one_core("embedded-recipe", base, {"representation": first, **stages})
    trained = "every row is a detector of its own"
    return Study("The embedded set's stage 1", content, [table], trained)


def _on_one_core(name: str, base: dict[str, Any], stages: dict[str, Any]) -> dict[str, Any]:
    """An experiment of `stages` on the data of `base`, whose jobs run side by side."""
    return {
        "name": name,
        "seeds": list(range(3)),
        "dataset": base["dataset"],
        "detector": base["detector"],
        "stages": {key: {**stage, "resources": {"cpus": 1}} for key, stage in stages.items()},
    }


def boards() -> Study:
    """Photographs of circuit boards, 32 categories; `BACL_DATA` is where they are."""
    base = read_with_bases(EXPERIMENTS / "boards.yaml")
    title = "Photographs: kinds of circuit boards"
    study = _study(title, "boards-results", base, range(3), SWEEPS, BOARDS)
    methods = ("softmax", "fcbl", "bacl")
    again = {_again(method): {"method": method} for method in methods}
    study.content["stages"]["on_images"] = {**base["stages"]["classifier"], "variants": again}
    rows = [Row(method, _again(method)) for method in methods]
    study.tables.append(Table("exact", "trained on images, not on stored features", rows))
    for steps in LONGER:
        stage, table = _longer(study.content["stages"]["paper"], steps)
        study.content["stages"][f"steps_{steps}"] = stage
        study.tables.append(table)
    return replace(study, trained=f"{study.trained}; the rows of `exact` are trained on images")


LONGER = (1000, 4000)
"""Steps of the classifier stage besides the 250 of the experiment, after which AP still rises."""


def _longer(bank: dict[str, Any], steps: int) -> tuple[dict[str, Any], Table]:
    """A bank of replayed classifiers that train for so many steps, and its table."""
    names = ("softmax", "bce", "fcbl", "bacl", "hallucination", "seesaw", "eqlv2", "class_balanced")
    own = {"hallucination": {"method": "bacl", "alpha": 0.0, "weight_term": "none"}}
    members = {f"{name}_{steps}": own.get(name, {"method": name}) for name in names}
    milestones = [steps * 7 // 10, steps * 9 // 10]
    schedule = {**bank["recipe"]["schedule"], "iterations": steps, "milestones": milestones}
    stage = {**bank, "variants": members, "recipe": {**bank["recipe"], "schedule": schedule}}
    rows = [Row(name, f"{name}_{steps}") for name in names]
    return stage, Table(f"{steps} steps", f"the classifier stage at {steps:,} steps", rows)


def _again(method: str) -> str:
    return f"{method}_on_images"


BOARDS = {"bags": {"bounds": [10, 30]}, "federated": {"trained": 8}}
"""Settings of the field's methods that follow the number of instances and of categories."""


def _study(
    title: str,
    name: str,
    base: dict[str, Any],
    seeds: range,
    sweeps: tuple[str, ...],
    settings: dict[str, dict[str, Any]] | None = None,
) -> Study:
    tables, variants = [], {}
    for sweep in sweeps:
        table, own = of_sweep(sweep)
        tables.append(table)
        variants |= own
    readings = {
        label: {"method": "bacl", "hallucination": options} for label, options in READING.items()
    }
    named = {label.replace(" ", "_").replace(",", ""): one for label, one in readings.items()}
    default = tables[0].rows[-1].variant
    rows = [Row("as here", default), *map(Row, readings, named)]
    tables.append(Table("readings", "what the release does otherwise", rows))
    field_rows, stages, left_out = of_field(base, default, settings or {})
    tables.append(Table("XIII", "the field's methods on one trunk", field_rows))
    first = {**base["stages"]["representation"], "resources": {"cpus": 1}}
    second = base["stages"]["classifier"]

    def bank(after: str, members: dict[str, Any], **recipe: Any) -> dict[str, Any]:
        made = {**second, "after": after, "variants": members}
        return {**made, "recipe": {**second["recipe"], "features": "replay", **recipe}}

    content = {
        **{key: value for key, value in base.items() if key not in ("baseline", "paper")},
        "name": name,
        "seeds": list(seeds),
        "stages": {
            "representation": first,
            "softmax_representation": {**first, "classifier": {"method": "softmax"}},
            "features": {"kind": "features", "after": "representation"},
            "softmax_features": {"kind": "features", "after": "softmax_representation"},
            "paper": bank("features", variants | named),
            **{
                stage: bank(after, members, **recipe)
                for stage, (after, members, recipe) in stages.items()
            },
        },
    }
    trained = (
        "stage 1 is trained anew for each, with a sigmoid and with a softmax classifier; all rows "
        "are replayed on what it stored; bags, acsl, disalign and loce go on from the softmax "
        "classifier, the others begin from new weights"
    )
    return Study(title, content, tables, trained, left_out)


STEPS = (
    "softmax",
    "sigmoid",
    "+ objectness",
    "+ twice the proposals",
    "+ half the weight decay",
    "+ Copy-Paste",
)


def of_steps(first: dict[str, Any]) -> tuple[Table, dict[str, Any]]:
    """Table I, the steps of the stage-1 recipe, and by name the stages of those that `first`, the
    fourth of them, is not."""
    file = SweepFile(EXPERIMENTS / "sweeps" / "embedded" / "table1.yaml")
    source = Paper(file=str(EXPERIMENTS / "paper.yaml"), table="I")
    theirs = published(source, file.path, "trial").rows
    rows, stages = [], {}
    steps = zip(STEPS, file.sweep.values(), theirs, strict=True)
    for place, (label, values, (_, points)) in enumerate(steps):
        trial = file.trial(values)
        stage = trial.experiment.stages[trial.stage].model_dump(mode="json", exclude_unset=True)
        if STEPS[place] == "+ twice the proposals":
            rows.append(Row(label, "representation", points))
            continue
        stages[f"step{place}"] = stage
        rows.append(Row(label, f"step{place}", points))
    return Table("I", "the steps of the stage-1 recipe", rows), stages


def of_sweep(name: str) -> tuple[Table, dict[str, Any]]:
    """The table that a sweep of the embedded set repeats, and its variants by name.

    Its first row is the paper's first, and Fig. 4's is the method without an indicator's margin.
    """
    file = SweepFile(EXPERIMENTS / "sweeps" / "embedded" / f"{name}.yaml")
    theirs = printed(file).rows if file.sweep.paper else ()
    rows, variants = [], {}
    for values in file.sweep.values():
        trial = file.trial(values)
        stage: Any = trial.experiment.stages[trial.stage]
        settings = stage.variants[trial.variant].model_dump(mode="json", exclude_defaults=True)
        variants[trial.variant] = settings
        paper = next((p for match, p in theirs if match.items() <= trial.varied.items()), {})
        rows.append(Row(trial.label, trial.variant, paper))
    number = name.removeprefix("table")
    title = _NUMBERS.get(number, "Fig. 4")
    return Table(title, _TITLES[title], rows), variants


_NUMBERS = {"3": "III", "4": "IV", "5": "V", "6": "VI", "7": "VII", "8": "VIII", "9": "IX"}
_TITLES = {
    "III": "margin, weight term and hallucination",
    "IV": "alpha of the margin",
    "V": "p_t of the weight term",
    "VI": "beta of hallucination",
    "VII": "c and m of hallucination",
    "VIII": "formulas of the confusion matrix",
    "IX": "conditions of the weight term",
    "Fig. 4": "long-term indicators",
}

Stages = dict[str, tuple[str, dict[str, Any], dict[str, Any]]]
"""By name: the features that a stage is after, its variants, and what of its recipe is its own."""


def of_field(
    base: dict[str, Any], bacl: str, changed: dict[str, dict[str, Any]]
) -> tuple[list[Row], Stages, list[str]]:
    """Rows, stages and what is left out of the methods as `experiments/embedded/field.yaml` has
    them, on the features of `base`.

    bacl: the variant that is the paper's method. changed: by variant, settings that are others
    for the data of `base`.
    """
    path = EXPERIMENTS / "embedded" / "field.yaml"
    content = read_with_bases(path)
    source = Paper(file=str(EXPERIMENTS / "paper.yaml"), table="XIII", column="v0.5 R50")
    paper = dict(published(source, path, "variant").rows)
    rows, stages, left_out = [], {}, []
    usual = base["stages"]["classifier"]["recipe"]
    for name, stage in content["stages"].items():
        if stage["kind"] != "classifier":
            continue
        members = {}
        for variant, settings in stage["variants"].items():
            if not storable(stage, settings):
                left_out.append(variant)
            elif settings == {"method": "bacl"}:
                rows.append(Row(variant, bacl, paper.get(variant, {})))
            else:
                members[variant] = {**settings, **changed.get(variant, {})}
                rows.append(Row(variant, variant, paper.get(variant, {})))
        sampling = {k: stage["recipe"][k] for k in _SAMPLING if k in stage["recipe"]}
        after = "softmax_features" if stage["after"].startswith("softmax") else "features"
        if members:
            stages[name] = (
                after,
                members,
                {k: v for k, v in sampling.items() if usual.get(k) != v},
            )
    return rows, stages, left_out


def storable(stage: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether a variant of a stage trains on what features keep, the last layer of proposals."""
    return METHODS[settings["method"]].reads == ("fc2",) and "proposal_nms" not in stage["recipe"]


_SAMPLING = ("sampler", "repeat_threshold")


def written(study: Study, folder: Path) -> Path:
    """The study's experiment as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{study.content['name']}.yaml"
    text = yaml.safe_dump(study.content, sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")
    return path
