"""README: what a stranger reads first is short, and its links lead somewhere."""

import re

import pytest
from pages import ROOT

README = ROOT / "README.md"


def test_readme_has_at_most_900_words():
    assert 300 < len(README.read_text(encoding="utf-8").split()) <= 900


def test_readme_shows_both_ways_to_count_average_precision():
    text = README.read_text(encoding="utf-8")
    assert "AP-Fixed" in text and "docs/guides/evaluating.md#metrics" in text


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_to_files_and_headings(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    links = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    assert links
    for target in links:
        path, _, anchor = target.partition("#")
        found = ROOT / path if path else ROOT / name
        assert found.exists(), f"{name}: there is no {path}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in headings}
            assert anchor in anchors, f"{name}: {path} has no heading #{anchor}"
