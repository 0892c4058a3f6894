"""Trees of categories for Forest R-CNN's classifiers (Wu et al., 2020), and their file format.

A tree puts each category under one parent. The paper has three for LVIS v0.5, with 25, 50 and 108
parents; how its authors made them is not public. Here they are made as follows:

- *visual*: features h (after both shared FCs) of at most `most` ground-truth boxes of each category
  in training images, from the detector that a representation stage has trained; their mean, scaled
  to length 1; k-means over the categories.
- *geometric*: of all training boxes of a category the mean and the standard deviation of log(w / h)
  and of log(sqrt(w h) / sqrt(W H)), box w x h in an image W x H; each of the four standardised over
  the categories; k-means.
- *lexical*: WordNet's hypernyms of each category's synset. Beginning with a single parent, the
  parent of most categories (of equal ones the first by name) is divided into its kinds (hyponyms)
  in WordNet, until there are at least as many parents as wanted.

K-means starts from a fixed seed, ten times, and takes the best. Crowds are left out. Categories
without a training box share an additional parent in the first two trees, and categories whose
synset WordNet lacks share one in the third; it is not counted in the wanted number. The background
is in no tree.

C categories, P parents of a tree, numbered from 0 in the order in which they first occur.
"""

import heapq
import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bacl.datasets.index import Index
from bacl.errors import UsageError

SEED = 0
"""Seed of k-means."""
INITS = 10


def visual(means: NDArray[Any], parents: int) -> list[int]:
    """The parent of each category by its mean feature (C, D); NaN where it has no box."""
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    return cluster(means / np.where(lengths > 0, lengths, 1), parents)


def geometric(shapes: NDArray[Any], parents: int) -> list[int]:
    """The parent of each category by its `shapes` (C, 4); NaN where it has no box."""
    known = shapes[~np.isnan(shapes[:, 0])]
    spread = known.std(axis=0)
    return cluster((shapes - known.mean(axis=0)) / np.where(spread > 0, spread, 1), parents)


def shapes_of(index: Index, categories: int) -> NDArray[Any]:
    """Mean and deviation of log aspect ratio and log relative size of each category's boxes.

    Returns (C, 4): mean and standard deviation of log(w / h), then of log(sqrt(w h / (W H))).
    Deviations are 0 for a category with one box; all values are NaN for one without boxes.
    """
    labels, values = [], []
    for place in range(len(index)):
        entry = index.image(place)
        width, height = entry.boxes[~entry.crowd, 2:].T
        labels.append(entry.labels[~entry.crowd])
        size = np.log(width * height / (entry.width * entry.height)) / 2
        values.append(np.stack([np.log(width / height), size], axis=1))
    label = np.concatenate([np.zeros(0, dtype=int), *labels])
    value = np.concatenate([np.zeros((0, 2)), *values])
    found = np.full((categories, 4), np.nan)
    for category in np.unique(label):
        own = value[label == category]
        found[category] = np.stack([own.mean(axis=0), own.std(axis=0)], axis=1).ravel()
    return found


def cluster(points: NDArray[Any], parents: int) -> list[int]:
    """K-means of points (C, D) around at most `parents` centres; rows of NaN share a group."""
    from sklearn.cluster import KMeans

    known = ~np.isnan(points).any(axis=1)
    groups = np.full(len(points), -1)
    # equal points can have one centre only
    centres = min(parents, len(np.unique(points[known], axis=0)))
    means = KMeans(centres, n_init=INITS, random_state=SEED).fit(points[known])
    groups[known] = means.labels_
    return numbered(groups.tolist())


def lexical(paths: Sequence[Sequence[str] | None], parents: int) -> list[int]:
    """The parent of each category by its path of hypernyms in WordNet.

    paths: path of each category, as `bacl.forest.wordnet.Nouns.path` returns it; None where WordNet
        lacks the synset.
    """
    members = [number for number, path in enumerate(paths) if path is not None]
    # (-categories, name, depth, the categories): the next to be divided comes first
    divisible: list[tuple[int, str, int, list[int]]] = [(-len(members), "", -1, members)]
    whole: list[list[int]] = []
    while divisible and len(divisible) + len(whole) < parents:
        _, _, depth, inside = heapq.heappop(divisible)
        kinds: dict[str, list[int]] = {}
        for category in inside:
            path = paths[category]
            assert path is not None  # by `members`
            if depth + 1 < len(path):
                kinds.setdefault(path[depth + 1], []).append(category)
        for name, kind in kinds.items():
            heapq.heappush(divisible, (-len(kind), name, depth + 1, kind))
        # categories that are this kind itself, not a narrower one, stay together
        narrower = {category for kind in kinds.values() for category in kind}
        if rest := [category for category in inside if category not in narrower]:
            whole.append(rest)
    groups = [-1] * len(paths)
    for group, inside in enumerate([*whole, *(entry[-1] for entry in divisible)]):
        for category in inside:
            groups[category] = group
    return numbered(groups)


def numbered(groups: Sequence[Hashable]) -> list[int]:
    """Groups renumbered from 0 to P - 1 in the order in which they first occur."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(group, len(numbers)) for group in groups]


def write_trees(
    path: Path, names: Sequence[str], trees: Mapping[str, Sequence[int]], made: Mapping[str, Any]
) -> None:
    """Write trees of categories. names: in the order of labels. made: how the trees were made."""
    lines = ",\n".join(f"  {json.dumps(kind)}: {json.dumps(tree)}" for kind, tree in trees.items())
    path.write_text(
        f'{{\n "categories": {json.dumps(names, ensure_ascii=False)},\n'
        f' "trees": {{\n{lines}\n }},\n "made": {json.dumps(made, ensure_ascii=False)}\n}}\n',
        encoding="utf-8",
    )


def read_trees(path: str | Path, names: Sequence[str]) -> list[list[int]]:
    """Read the trees in a file: for each, the parents (C,) of the named categories, 0 to P - 1.

    The file may have further categories; parents of those alone are left out. Raises
    UsageError where there is no such file, it holds no trees, or lacks a category.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        categories, trees = list(content["categories"]), list(content["trees"].values())
        well_formed = all(isinstance(name, str) for name in categories) and all(
            len(tree) == len(categories) and all(type(parent) is int for parent in tree)
            for tree in trees
        )
    except FileNotFoundError:
        raise UsageError(
            f"{path}: expected trees of categories, got no such file: `bacl trees` makes it"
        ) from None
    except OSError as error:
        raise UsageError(f"{path}: expected a readable file, got: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        well_formed = False
    if not well_formed:
        raise UsageError(
            f"{path}: expected JSON with `categories` and `trees` that give each a parent's "
            "number, as `bacl trees` writes it, got something else"
        )
    if not trees:
        raise UsageError(f"{path}: trees: expected at least one, got none")
    places = {name: place for place, name in enumerate(categories)}
    if lacking := [name for name in names if name not in places]:
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        raise UsageError(
            f"{path}: categories: expected all of the dataset's, got none named "
            f"{', '.join(lacking[:5])}{more}"
        )
    return [numbered([tree[places[name]] for name in names]) for tree in trees]
