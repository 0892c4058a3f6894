"""The page of the command line."""

import re

from pages import ROOT


def test_page_has_every_variable_that_the_code_reads():
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    table = set(re.findall(r"`(BACL_\w+)`", page))
    files = [*(ROOT / "bacl").rglob("*.py"), *(ROOT / "platform").rglob("*.py")]
    code = "\n".join(file.read_text(encoding="utf-8") for file in files)
    assert table == set(re.findall(r"\bBACL_[A-Z_]+\b", code))
