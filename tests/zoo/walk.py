"""Every configuration of MMDetection's zoo as a bank: `make zoo`.

For each it builds the bank at a small width, takes a step and compares the bank with each variant
alone, or takes the sentence that refuses it. Configurations with the same model are tried once.
Prints a line for each, and a table at the end; exits with 1 where one fails in another way.

    python tests/zoo/walk.py [--json FILE] [PATTERN ...]
"""

import argparse
import fnmatch
import json
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

import steps

from bacl.detector import zoo
from bacl.detector.refusals import refusal
from bacl.errors import UsageError


def outcome(name):
    """(what became of a configuration, details)."""
    try:
        model = zoo.model_of(name)
    except UsageError as error:
        return "no model", str(error)
    if not model.get("roi_head"):
        return "not two-stage", refusal(model)
    if why := refusal(model):
        return "refused", why
    try:
        found = list(steps.differences(name))
    except Exception:
        return "failed", traceback.format_exc()
    if found == [steps.NOTHING]:  # FPG's numbers grow from level to level without its weights
        return "bank", "untrained, it detects nothing to compare"
    return ("differs", "; ".join(found)) if found else ("bank", "")


def content(name):
    """What a configuration's model is, as far as a step depends on it."""
    try:
        model = zoo.model_of(name)
    except UsageError:
        return name
    model.get("backbone", {}).pop("init_cfg", None)
    return json.dumps(model, sort_keys=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("patterns", nargs="*", default=["*"])
    parser.add_argument(
        "--json", type=Path, help="Results; what it has already is not tried again."
    )
    asked = parser.parse_args()
    names = [n for n in zoo.names() if any(fnmatch.fnmatch(n, p) for p in asked.patterns)]
    results = json.loads(asked.json.read_text()) if asked.json and asked.json.exists() else {}
    known = {content(name): found for name, found in results.items()}
    for number, name in enumerate(sorted(names), start=1):
        own, began = content(name), time.perf_counter()
        if own not in known:
            known[own] = outcome(name)
            seconds = time.perf_counter() - began
            what, why = known[own]
            print(f"{number}/{len(names)} {name}: {what} ({seconds:.1f} s) {why}", flush=True)
        results[name] = known[own]
        if asked.json:
            asked.json.write_text(json.dumps(results, indent=1))
    print()
    for what, count in Counter(what for what, _ in results.values()).most_common():
        print(f"{count:5} {what}")
    for why, count in Counter(why for what, why in results.values() if what == "refused").items():
        print(f"{count:5} refused: {why}")
    sys.exit(any(what in ("failed", "differs") for what, _ in results.values()))


if __name__ == "__main__":
    main()
