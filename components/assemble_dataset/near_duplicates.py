"""Near-duplicate prompts, English and Chinese: MinHash candidates, verified by exact Jaccard.

texts -> clusters of indices, independent of the texts' order up to numbering.
"""

import unicodedata
from collections.abc import Iterator, Sequence

from rensa import RMinHash, RMinHashLSH

SHINGLE = 5
NUM_PERMUTATIONS = 128
NUM_BANDS = 32
"""32 bands of 4 rows: a pair of Jaccard 0.8 meets in a band with probability 1 - 5e-8, one of 0.6
with 0.99."""


def shingles(text: str) -> frozenset[str]:
    """Character 5-grams of the normalised text: width, case, punctuation and spacing ignored."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(c if c.isalnum() else " " for c in folded)
    plain = " ".join(kept.split()) or folded
    return frozenset(plain[i : i + SHINGLE] for i in range(max(len(plain) - SHINGLE + 1, 1)))


def near_duplicates(texts: Sequence[str], *, jaccard: float) -> Iterator[tuple[int, int, float]]:
    """Pairs i < j of texts whose exact Jaccard similarity is at least `jaccard`."""
    sets = [shingles(text) for text in texts]
    sketches = RMinHash.from_token_sets([sorted(s) for s in sets], NUM_PERMUTATIONS, 0)
    index = RMinHashLSH(jaccard, NUM_PERMUTATIONS, NUM_BANDS)
    for j, sketch in enumerate(sketches):
        for i in sorted(index.query(sketch)):
            similarity = len(sets[i] & sets[j]) / len(sets[i] | sets[j])
            if similarity >= jaccard:
                yield i, j, similarity
        index.insert(j, sketch)


def clusters(num_texts: int, links: Sequence[tuple[int, int]]) -> list[int]:
    """Cluster number of every text: the smallest index among those it is linked with."""
    parent = list(range(num_texts))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in links:
        low, high = sorted((root(i), root(j)))
        parent[high] = low
    return [root(i) for i in range(num_texts)]
