"""The page of the proofs: what it says of one, and that the repository's is made from its files."""

import json

import page
import pytest

ROW = {
    "name": "stage2_8_float32",
    "ratio": 1.5,
    "limit": 1.3,
    "what": "8 variants",
    "ours": 150.0,
    "peer": "MMDetection",
    "theirs": 100.0,
    "unit": "ms",
    "parts": {"8 variants": {"backward": 3.0}, "MMDetection": {"backward": 2.0}},
}
CHAIN = {
    "table": {"bacl": {"AP": 4.2, "AP_r": None}},
    "seconds": {"stage 1": 12.5},
    "device": "cuda",
    "error": None,
}
TESTS = {"passed": 3, "failed": 0, "skipped": 1, "failures": [], "seconds": 9.0, "error": None}
PROOF = {
    "date": "2026-01-02 03:04 UTC",
    "card": "Card X",
    "memory_gib": 79.1,
    "driver": "580.1",
    "cuda": "13.0",
    "python": "3.12.1",
    "versions": {"torch": "2.11"},
    "commit": "abc1234",
    "small": False,
    "seconds": 321.0,
    "parts": {
        "right": {"tests": TESTS, "chain": {"cuda": CHAIN}, "seconds": 20.0},
        "waits": {
            "step": {
                "all methods": {
                    "bacl/methods/fasa.py:79 (add)": 2,
                    "mmdet/a.py:1 (f)": 3,
                    "mmcv/b.py:1 (f)": 4,
                }
            },
            "explained": {"bacl/methods/fasa.py:79 (add)": "Once an epoch."},
            "unexplained": [],
            "generators": {"all methods": {"cpu": 12, "cuda": 44}},
            "generator_us": 12.3,
            "memory": {"bytes": {"stage 1": 3e6, "stage 2": 1e6}, "what": "a step's peak"},
            "seconds": 5.0,
        },
        "fast": {
            "float32": [ROW],
            "profile": {
                "trace": "trace.json.gz",
                "operators": [{"name": "aten::a|b", "calls": 2, "ms": 1.5}],
            },
            "seconds": 7.0,
        },
        "benches": {"loss": "left out: the card's 8.0 GiB are too little (…)", "seconds": 1.0},
    },
}


def changed(part, **content):
    parts = {**PROOF["parts"], part: {**PROOF["parts"][part], **content}}
    return {**PROOF, "parts": parts}


def test_page_says_what_was_measured_where_and_beside_what(tmp_path):
    (tmp_path / "one.json").write_text(json.dumps(PROOF))
    lines = page.text(tmp_path).splitlines()
    for line in (
        "## Card X, 2026-01-02 03:04 UTC",
        "commit abc1234; memory 79.1 GiB; driver 580.1; CUDA 13.0; Python 3.12.1; torch 2.11; "
        "seconds in all 321.0.",
        "3 tests passed, 0 failed, 1 skipped in 9.0 s.",
        "Stage 1 and a bank of the platform on cuda (stage 1 12.5 s):",
        "| bacl | 4.2 |  |",
        "| `bacl/methods/fasa.py:79 (add)` | 2 | Once an epoch. |",
        "MMDetection's own: 7 at 2 places, all in the file.",
        "Generators of random numbers in a step: 12 on cpu and 44 on cuda for all methods.",
        "To make and seed one takes 12.3 µs.",
        "Memory, a step's peak: stage 1 3.0 MB, stage 2 1.0 MB.",
        "| stage2_8_float32: 8 variants | 150 ms | MMDetection | 100 ms | 1.500 | 1.3 | over |",
        "| backward | 3.0 | 2.0 |",
        "| `aten::a\\|b` | 2 | 1.5 |",
        "- loss: left out: the card's 8.0 GiB are too little (…)",
    ):
        assert line in lines, line


def test_page_has_the_newest_proof_first(tmp_path):
    for name, date in {"a": "2026-01-02 03:04 UTC", "b": "2026-01-01 03:04 UTC"}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({**PROOF, "date": date}))
    heads = [line for line in page.text(tmp_path).splitlines() if line.startswith("## ")]
    assert heads == ["## Card X, 2026-01-02 03:04 UTC", "## Card X, 2026-01-01 03:04 UTC"]


def test_page_of_the_repository_is_made_from_its_files():
    assert (page.RESULTS / "README.md").read_text(encoding="utf-8") == page.text(page.RESULTS)


def test_page_names_a_file_that_is_no_proof(tmp_path):
    (tmp_path / "one.json").write_text("{")
    with pytest.raises(ValueError, match=r"one\.json: expected a file that `make gpu` wrote"):
        page.text(tmp_path)


@pytest.mark.parametrize(
    ("part", "content", "problem"),
    [
        (
            "right",
            {"tests": {**TESTS, "failed": 1, "failures": [{"test": "t", "error": "1 != 2"}]}},
            "t: 1 != 2",
        ),
        ("right", {"tests": {**TESTS, "error": "no test ran"}}, "no test ran"),
        (
            "right",
            {"chain": {"cuda": {**CHAIN, "error": "it diverged"}}},
            "jobs on cuda: it diverged",
        ),
        (
            "waits",
            {"unexplained": ["bacl/detector/bank.py:1 (f)"]},
            "no reason is known for the wait at bacl/detector/bank.py:1 (f)",
        ),
        (
            "fast",
            {"left_out": "what was not done after 9 s"},
            "left out: what was not done after 9 s",
        ),
    ],
)
def test_proof_with_a_problem_is_none(part, content, problem):
    complete = changed("benches", loss=[ROW])
    assert page.proven(complete)
    parts = {**complete["parts"], part: {**complete["parts"][part], **content}}
    assert not page.proven({**complete, "parts": parts})
    assert page.problems(part, parts[part]) == [problem]
    assert page.summary(part, parts[part]).endswith(problem)
