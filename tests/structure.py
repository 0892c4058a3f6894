"""How the packages are built: which room imports which, and where that runs against the layers.

    python tests/structure.py          # of this checkout; --root takes another
    python tests/structure.py --all    # also which import each arrow between rooms is

A room is a folder or a module right below `bacl` or `platform/bacl_platform`. Imports inside
functions count; those for type checkers alone are told apart. It ends with status 1 where an import
runs upwards or rooms import each other in a circle.
"""

import argparse
import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGES = {"bacl": "bacl", "bacl_platform": "platform/bacl_platform"}
"""Where each package is."""
LAYERS = (
    ("cli",),
    ("bench",),
    ("tools", "tune"),
    ("report", "run"),
    ("analysis", "tracking", "train"),
    ("plan",),
    ("spec", "store"),
)
"""The platform's rooms from the top. Each imports from lower layers alone, not from its own."""
LEAVES = ("console", "redaction", "texts")
"""Rooms of the platform that all may import, and that import none."""
ENTRIES = ("__main__",)
"""Rooms of the platform above all layers."""


@dataclass(frozen=True)
class Import:
    """One name that a module imports from a module of the packages.

    name: None where the module itself is imported. typing: for type checkers alone.
    """

    by: str
    line: int
    of: str
    name: str | None
    typing: bool

    def __str__(self) -> str:
        what = f"{self.of}: {self.name}" if self.name else self.of
        return f"{self.by}:{self.line} imports {what}"


def modules(root: Path) -> dict[str, Path]:
    """The dotted names of all modules of the packages in a checkout, and their files."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join((package, *parts))] = path
    if not found:
        raise SystemExit(f"{root}: expected a checkout with {' and '.join(PACKAGES.values())}")
    return found


def room(module: str) -> str:
    """The folder or module right below its package; the package itself for its `__init__`."""
    return ".".join(module.split(".")[:2])


def imports(module: str, path: Path, known: Iterable[str]) -> Iterator[Import]:
    """What a module imports from the `known` modules. Relative imports are not expected."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for node, typing in _statements(tree, typing=False):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in known:
                    yield Import(module, node.lineno, alias.name, None, typing)
        elif node.level:
            raise SystemExit(f"{path}:{node.lineno}: expected no relative import")
        else:
            for alias in node.names:
                if (part := f"{node.module}.{alias.name}") in known:
                    yield Import(module, node.lineno, part, None, typing)
                elif node.module in known:
                    yield Import(module, node.lineno, str(node.module), alias.name, typing)


def _statements(node: ast.AST, typing: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """All import statements below a node, and whether they are under `if TYPE_CHECKING`."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node, typing
    guarded: list[ast.stmt] = []
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        guarded = node.body
    for child in ast.iter_child_nodes(node):
        yield from _statements(child, typing or child in guarded)


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """The groups of rooms that reach each other (Tarjan), lower groups before higher ones."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(one: str) -> None:
        index[one] = low[one] = len(index)
        stack.append(one)
        for other in sorted(arrows[one]):
            if other not in index:
                visit(other)
                low[one] = min(low[one], low[other])
            elif other in stack:
                low[one] = min(low[one], index[other])
        if low[one] == index[one]:
            start = stack.index(one)
            groups.append(sorted(stack[start:]))
            del stack[start:]

    for one in sorted(arrows):
        if one not in index:
            visit(one)
    return groups


def floors(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Rooms by how long the longest path of imports below them is; a circle counts as one room."""
    groups = circles(arrows)
    height: dict[str, int] = {}
    for group in groups:  # what they import comes before them
        below = [height[other] for one in group for other in arrows[one] if other not in group]
        height |= dict.fromkeys(group, max(below, default=-1) + 1)
    return [
        sorted(one for one in height if height[one] == n) for n in range(max(height.values()) + 1)
    ]


def _layer(one: str) -> int | None:
    """How high a room is to stand, from 0 at the bottom; None for what has no place."""
    package, _, name = one.partition(".")
    if package == "bacl":
        return 0
    if name in LEAVES or not name:
        return 1
    for number, names in enumerate(reversed(LAYERS), 2):
        if name in names:
            return number
    return len(LAYERS) + 2 if name in ENTRIES else None


def upward(found: Iterable[Import]) -> Iterator[tuple[str, Import]]:
    """Imports between rooms that do not run to a lower layer, with `up`, `sideways` or `of a leaf`.

    A room of the platform may import all of `bacl`, and `bacl` nothing of the platform.
    """
    for one in found:
        by, of = room(one.by), room(one.of)
        if by == of or (by.startswith("bacl.") and of.partition(".")[0] == "bacl"):
            continue
        here, there = _layer(by), _layer(of)
        if here is None or there is None or of == "bacl_platform":
            continue
        if here == 1 and there:
            yield "of a leaf", one
        elif here < there:
            yield "up", one
        elif here == there:
            yield "sideways", one


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="structure.py", description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="a checkout")
    parser.add_argument("--all", action="store_true", help="tell every import between rooms")
    asked = parser.parse_args(words)
    known = modules(asked.root)
    found = [one for name, path in known.items() for one in imports(name, path, known)]
    between = [one for one in found if room(one.by) != room(one.of)]
    wrong = False
    for package in PACKAGES:
        inside = {room(name): set[str]() for name in known if name.partition(".")[0] == package}
        reasons: dict[tuple[str, str], list[Import]] = defaultdict(list)
        for one in between:
            if room(one.of) in inside and room(one.by) in inside:
                reasons[room(one.by), room(one.of)].append(one)
        for (by, of), ways in reasons.items():
            if not all(way.typing for way in ways):
                inside[by].add(of)
        rooms = floors(inside)
        print(f"{package}: {len(inside)} rooms on {len(rooms)} floors")
        for number, names in reversed(list(enumerate(rooms, 1))):
            print(f"  {number:2} {', '.join(_short(name) for name in names)}")
        knots = [group for group in circles(inside) if len(group) > 1]
        print(f"  {len(knots)} circles, imports for type checkers left out")
        for group in knots:
            wrong = True
            print(f"    {', '.join(_short(name) for name in group)}")
            for (by, of), ways in sorted(reasons.items()):
                if by in group and of in group:
                    print(f"      {_short(by)} -> {_short(of)}: {_told(ways)}")
        if asked.all:
            for (by, of), ways in sorted(reasons.items()):
                print(f"  {_short(by)} -> {_short(of)}: {_told(ways)}")
    homeless = sorted({_short(one) for one in map(room, known) if _layer(one) is None})
    if homeless:
        print(f"{len(homeless)} rooms that no layer has: {', '.join(homeless)}")
    against = list(upward(between))
    print(f"{len(against)} imports against the layers")
    for kind, one in sorted(against, key=lambda pair: (pair[0], str(pair[1]))):
        wrong = True
        print(f"  {kind}: {one}{' (for type checkers)' * one.typing}")
    return int(wrong)


def _short(one: str) -> str:
    return one.partition(".")[2] or f"{one} itself"


def _told(ways: list[Import]) -> str:
    """What one room takes of another, by module."""
    names: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for way in ways:
        name = (way.name or "(the module)") + " (for type checkers)" * way.typing
        names[way.by, way.of][name] = None
    return "; ".join(f"{by} takes {of}: {', '.join(of_it)}" for (by, of), of_it in names.items())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
