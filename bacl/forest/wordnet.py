"""WordNet's nouns and their hypernyms, read from WordNet's own files (format: wndb(5WN)).

They are in Debian's package wordnet-base and in NLTK's corpus `wordnet`. NLTK's reader is not used:
it refuses Debian's folder, which lacks files unrelated to nouns, and it reads all of WordNet.
"""

import re
from pathlib import Path

from bacl.errors import UsageError

FILES = ("index.noun", "data.noun")


class Nouns:
    """The nouns of the WordNet in a folder; LVIS's synsets are of WordNet 3.0.

    Raises UsageError where the folder lacks the files or they have another format.
    """

    def __init__(self, folder: Path) -> None:
        try:
            index, self.data = ((folder / name).read_bytes() for name in FILES)
        except OSError as error:
            raise UsageError(
                f"{error.filename}: expected WordNet's {' and '.join(FILES)} in that folder, as "
                f"Debian's package wordnet-base has them, got: {error.strerror}"
            ) from None
        try:
            self.offsets = dict(_senses(line) for line in _lines(index))
            for offsets in self.offsets.values():
                for offset in offsets:
                    int(self.data[offset : offset + 8])
        except (ValueError, IndexError, UnicodeDecodeError):
            raise UsageError(
                f"{folder}: expected WordNet's {' and '.join(FILES)}, got files of another format "
                "or that do not fit each other"
            ) from None

    def path(self, synset: str) -> list[str] | None:
        """Hypernyms of a synset such as `dog.n.01`, from `entity` to itself, as unique names.

        Of several hypernyms the first listed is taken. None where WordNet lacks the synset.
        """
        parts = re.fullmatch(r"(?P<lemma>.+)\.n\.(?P<sense>\d+)", synset)
        offsets = self.offsets.get(parts["lemma"].lower(), []) if parts else []
        if not parts or not 1 <= int(parts["sense"]) <= len(offsets):
            return None
        names = []
        above: int | None = offsets[int(parts["sense"]) - 1]
        while above is not None:
            name, above = self._synset(above)
            names.append(name)
        return names[::-1]

    def _synset(self, offset: int) -> tuple[str, int | None]:
        """Name of the synset at a byte offset of the file, and the offset of its first hypernym, if
        any."""
        fields = self.data[offset : self.data.index(b"\n", offset)].decode().split()
        words = int(fields[3], 16)
        place = 4 + 2 * words
        pointers = fields[place + 1 : place + 1 + 4 * int(fields[place])]
        above = [
            int(target)
            for symbol, target in zip(pointers[::4], pointers[1::4])
            if symbol in ("@", "@i")  # hypernym, instance hypernym
        ]
        return f"{fields[4]} {offset:08d}", above[0] if above else None


def _lines(content: bytes) -> list[str]:
    """Lines of a WordNet file after its licence, whose lines begin with blanks."""
    return [line for line in content.decode().splitlines() if line and not line.startswith(" ")]


def _senses(line: str) -> tuple[str, list[int]]:
    """A lemma and the offsets of its synsets in the data file, the first sense first."""
    lemma, _, count, *others = line.split()
    return lemma, [int(offset) for offset in others[-int(count) :]]
