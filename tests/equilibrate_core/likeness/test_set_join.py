"""The exact join finds what comparing all with all finds; a bound that takes effect is told."""

import random

import numpy as np
import polars as pl
import pytest

from equilibrate_core.likeness import common_shingles, near_duplicates, set_join
from equilibrate_core.likeness.set_join import SetJoin
from equilibrate_core.likeness.shingling import jaccard

INSTRUCTION = "you are a kind assistant please answer the following question about "


def one_by_one(texts: list[str], threshold: float) -> list[int]:
    owner = [-1] * len(texts)
    for i, text in enumerate(texts):
        for j in range(i):
            if owner[j] < 0 and jaccard(text, texts[j]) >= threshold:
                owner[i] = j
                break
    return owner


def settled(texts: list[str], threshold: float) -> tuple[list[int], SetJoin]:
    join = SetJoin(pl.Series(texts), threshold)
    owner = np.full(len(texts), -1)
    near_duplicates._settle(join, np.arange(len(texts)), owner)
    return owner.tolist(), join


def corpus(kind: str, number: int) -> list[str]:
    rng = random.Random(kind)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 8))) for _ in range(60)]
    if kind == "chinese":
        return [
            "".join(rng.choices("天地玄黄宇宙洪荒日月盈昃", k=rng.randint(3, 9)))
            for _ in range(number)
        ]
    start = INSTRUCTION if kind == "templated" else ""
    return [start + " ".join(rng.choices(words, k=rng.randint(1, 6))) for _ in range(number)]


@pytest.mark.parametrize("kind", ["random", "templated", "chinese"])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("small", [False, True])
def test_the_join_decides_as_comparing_one_by_one_does(
    kind: str, threshold: float, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small:  # so that texts are searched in many parts
        monkeypatch.setattr(set_join, "TOGETHER", 40)
        monkeypatch.setattr(set_join, "AT_ONCE", 2000)
    texts = list(dict.fromkeys(corpus(kind, 250)))
    owner, join = settled(texts, threshold)
    assert owner == one_by_one(texts, threshold)
    assert not join.cut_short.any()


@pytest.mark.parametrize("most", [0, 20, 100])
def test_what_the_bound_hides_is_told(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common_shingles, "LOOKED_UP", most)
    monkeypatch.setattr(common_shingles, "FREELY_LOOKED_UP", 0)
    monkeypatch.setattr(common_shingles, "SHORTEST", 1)
    monkeypatch.setattr(set_join, "TOGETHER", 32)
    monkeypatch.setattr(set_join, "MOST_COMPARED", 2)
    texts = list(dict.fromkeys(corpus("templated", 400)))
    owner, join = settled(texts, 0.8)
    for i, found in enumerate(owner):
        staying = [j for j in range(i) if owner[j] < 0]
        alike = [j for j in staying if jaccard(texts[i], texts[j]) >= 0.8]
        assert found in alike if found >= 0 else (not alike or join.cut_short[i])
    if not most:
        assert join.cut_short.any()


def test_many_alike_are_compared_with_the_one_that_stays() -> None:
    numbers = random.Random(0).sample(range(100_000, 1_000_000), 3000)
    texts = [INSTRUCTION * 2 + str(number) for number in numbers]
    owner, join = settled(texts, 0.8)
    assert owner == [-1] + [0] * 2999
    assert join.num_compared < 40 * len(texts)


def test_a_shingle_too_common_still_leads_to_the_shortest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common_shingles, "FREELY_LOOKED_UP", 1)
    monkeypatch.setattr(set_join, "TOGETHER", 32)
    rng = random.Random(3)
    said = "".join(rng.choices("abcdefghijklmnop", k=124))
    short, *others = (
        said + "".join(rng.choices("qrstuvwxyz0123456789", k=k))
        for k in [8] + [28] * 600 + [14] * 100
    )
    assert jaccard(short, others[0]) < 0.8 <= jaccard(short, others[-1])
    assert jaccard(others[0], others[-1]) < 0.8 and jaccard(others[0], others[1]) < 0.8
    owner, _ = settled([short, *others], 0.8)
    assert owner == [-1] * 601 + [0] * 100
