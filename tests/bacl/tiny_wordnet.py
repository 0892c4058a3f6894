"""A WordNet of a few nouns, in WordNet's own format."""

KINDS = {  # lemma -> what it is a kind of, the first one first
    "entity": [],
    "shape": ["entity"],
    "thing": ["entity"],
    "square": ["shape"],
    "circle": ["shape"],
    "star": ["thing", "shape"],
    "sun": ["star"],
}
SENSES = {"circle": ["thing", "circle"]}
"""Lemmas with several senses, by the lemma whose synset each is."""


def write_wordnet(folder):
    """`index.noun` and `data.noun` in a new folder."""
    folder.mkdir()
    licence = "  1 A licence, as WordNet has one.  \n"
    symbols = {lemma: "@i" if lemma == "sun" else "@" for lemma in KINDS}

    def lines(offsets):
        for lemma, above in KINDS.items():
            pointers = [f"{symbols[lemma]} {offsets.get(one, 0):08d} n 0000" for one in above]
            pointers.append(f"~ {0:08d} n 0000")
            count = f"{len(pointers):03d} {' '.join(pointers)}"
            yield (
                lemma,
                f"{offsets.get(lemma, 0):08d} 03 n 02 {lemma} 0 also_{lemma} 1 {count} | x\n",
            )

    offsets, place = {}, len(licence)
    for lemma, line in lines({}):
        offsets[lemma] = place
        place += len(line)
    (folder / "data.noun").write_text(licence + "".join(line for _, line in lines(offsets)))
    index = []
    for lemma in KINDS:
        own = [f"{offsets[one]:08d}" for one in SENSES.get(lemma, [lemma])]
        index.append(f"{lemma} n {len(own)} 2 @ ~ {len(own)} 1 {' '.join(own)}  \n")
    (folder / "index.noun").write_text(licence + "".join(index))
    return folder
