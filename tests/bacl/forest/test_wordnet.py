"""WordNet's nouns, read from a few in its own format."""

import pytest
from tiny_wordnet import write_wordnet

from bacl.errors import UsageError
from bacl.forest.wordnet import Nouns


@pytest.fixture
def folder(tmp_path):
    return write_wordnet(tmp_path / "wordnet")


@pytest.mark.parametrize(
    ("synset", "path"),
    [
        ("entity.n.01", ["entity"]),
        ("square.n.01", ["entity", "shape", "square"]),
        ("Square.n.1", ["entity", "shape", "square"]),
        ("circle.n.02", ["entity", "shape", "circle"]),
        ("circle.n.01", ["entity", "thing"]),
        ("star.n.01", ["entity", "thing", "star"]),
        ("sun.n.01", ["entity", "thing", "star", "sun"]),
    ],
)
def test_synset_is_of_the_kinds_above_it(folder, synset, path):
    found = Nouns(folder).path(synset)
    assert [name.split()[0] for name in found] == path


@pytest.mark.parametrize("synset", ["moon.n.01", "square.n.02", "square.n.00", "square.v.01", "x"])
def test_synset_that_wordnet_lacks_has_no_path(folder, synset):
    assert Nouns(folder).path(synset) is None


def test_folder_without_wordnet_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"index\.noun: expected WordNet's .* No such file"):
        Nouns(tmp_path)


def test_files_that_are_something_else_are_told(folder):
    whole = (folder / "data.noun").read_bytes()
    for name, content in (("data.noun", whole[:50]), ("index.noun", b"dog n\n")):
        write = folder / name
        before = write.read_bytes()
        write.write_bytes(content)
        with pytest.raises(UsageError, match="got files of another format"):
            Nouns(folder)
        write.write_bytes(before)
