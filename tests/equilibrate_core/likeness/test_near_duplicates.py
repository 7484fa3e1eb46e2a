"""Near-duplicates: exact decisions, both languages, peers, degenerate texts."""

import random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equilibrate_core.likeness import sketches
from equilibrate_core.likeness.near_duplicates import duplicate_of, near_duplicates
from equilibrate_core.likeness.normalising import normalised
from equilibrate_core.likeness.shingling import (
    jaccard,
    shingle_hashes,
    shingle_offsets,
    shingles,
)


def plain(*texts: str) -> pl.Series:
    return normalised(pl.Series(texts, dtype=pl.String))


def owners(*texts: str, threshold: float = 0.8) -> list[int]:
    return duplicate_of(plain(*texts), threshold=threshold).tolist()


def sentence(number: int, length: int = 30) -> str:
    rng = random.Random(number)
    return " ".join("".join(rng.choices("abcdefghij", k=6)) for _ in range(length))


def changed(text: str, number: int) -> str:
    words = text.split()
    words[number % len(words)] = "zyzzy"
    return " ".join(words)


def test_case_width_and_punctuation_do_not_matter_in_either_language() -> None:
    found = owners(
        "如何在家里自己制作一个简单的木头书架？",
        "如何在家里自己制作一个简单的木头书架",
        "How do I Build a Shelf?",
        "ｈow do i build a shelf",
        "What is the tallest mountain?",
    )
    assert found == [-1, 0, -1, 2, -1]


def test_near_duplicate_chinese_is_found() -> None:
    text = "请问我应该怎样在家里用旧木板自己动手制作一个又结实又好看的书架，需要准备哪些工具和材料"
    assert owners(text, text + "呢", "今天的天气怎么样，适合出门散步吗") == [-1, 0, -1]


def test_similarity_is_the_exact_jaccard() -> None:
    assert jaccard("abcdefghij", "abcdefghijk") == pytest.approx(6 / 7)
    assert shingles("ab") == {"ab"}


def test_a_text_goes_only_if_it_is_like_one_that_stays() -> None:
    base = "".join(chr(97 + (i * i + i // 7) % 26) for i in range(60))
    chain = [base[i:] for i in range(0, 20, 2)]
    found = owners(*chain)
    assert len(set(found)) > 2  # one chain, but several stay
    for i, owner in enumerate(found):
        staying = [j for j in range(i) if found[j] == -1]
        alike = [j for j in staying if jaccard(chain[i], chain[j]) >= 0.8]
        assert (owner in alike) if owner >= 0 else not alike


def test_planted_duplicates_are_found_and_nothing_else() -> None:
    originals = [sentence(i) for i in range(300)]
    copies = [changed(text, i) for i, text in enumerate(originals)]
    assert min(jaccard(a, b) for a, b in zip(originals, copies, strict=True)) >= 0.8
    found = owners(*originals, *copies)
    assert found[:300] == [-1] * 300
    assert sum(owner == i for i, owner in enumerate(found[300:])) >= 297


def test_many_copies_of_one_text_leave_one() -> None:
    text = sentence(1, 60)
    found = owners(text, *(changed(text, i) for i in range(60)), *[text] * 20)
    assert found == [-1] + [0] * 80


def test_several_matrices_find_what_one_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [sentence(i) for i in range(200)] + [changed(sentence(i), i) for i in range(200)]
    whole = owners(*texts)
    monkeypatch.setattr(sketches, "SHINGLES_PER_MATRIX", 5_000)
    monkeypatch.setattr(sketches, "TEXTS_PER_CHUNK", 7)
    assert owners(*texts) == whole


LETTERS = st.one_of(
    st.characters(exclude_characters="\0\1", exclude_categories=["Cs"]), st.sampled_from("ab 木头")
)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(LETTERS, max_size=12), max_size=12))
def test_hashes_of_a_text_do_not_depend_on_its_neighbours(texts: list[str]) -> None:
    offsets = shingle_offsets(pl.Series(texts, dtype=pl.String)).astype(int)
    together = shingle_hashes(texts)
    assert len(together) == offsets[-1]
    for text, start, end in zip(texts, offsets, offsets[1:], strict=False):
        own = shingle_hashes([text])
        assert np.array_equal(together[start:end], own)
        assert len(set(own.tolist())) == len(shingles(text))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(max_size=20), max_size=30))
def test_no_text_breaks_it_and_equal_texts_go(texts: list[str]) -> None:
    folded = plain(*texts)
    found = duplicate_of(folded, threshold=0.8).tolist()
    for i, owner in enumerate(found):
        if owner >= 0:
            assert owner < i and found[owner] == -1
            assert jaccard(folded[i], folded[owner]) >= 0.8
        assert owner >= 0 or folded[i] not in folded[:i]


INSTRUCTION = (
    "You are the assistant of a small town library. Read the note of a visitor below with care, "
    "and answer it in two or three friendly sentences. The note says: "
)


def templated(number: int) -> list[str]:
    return [INSTRUCTION + sentence(i, 5) for i in range(number)]


@pytest.mark.parametrize("behind", [False, True])
def test_a_long_instruction_in_all_prompts_makes_no_more_comparisons(behind: bool) -> None:
    originals = templated(3000)
    copies = [changed(text, -1 - i % 5) for i, text in enumerate(originals[:300])]
    texts = originals + copies
    if behind:
        texts = [" ".join((text[len(INSTRUCTION) :], INSTRUCTION)) for text in texts]
    folded = plain(*texts)
    some = [jaccard(folded[i], folded[i + 1]) for i in range(100)]
    assert min(some) > 0.6 and max(some) < 0.75  # so nearly all meet in a band
    found = near_duplicates(folded, threshold=0.8)
    assert found.num_compared < len(texts)
    assert found.num_cut_short == 0
    assert found.owner[:3000].tolist() == [-1] * 3000
    met = [jaccard(folded[i], folded[3000 + i]) >= 0.8 for i in range(300)]
    assert sum(met) == 300
    assert found.owner[3000:].tolist() == list(range(300))


def test_one_character_of_a_short_chinese_prompt_may_differ() -> None:
    first, second = plain("如何在家里自己做一个木头书架", "如何在家里自己做一个木质书架")
    assert jaccard(first, second) >= 0.8
    assert duplicate_of(pl.Series([first, second]), threshold=0.8).tolist() == [-1, 0]
    assert jaccard(*plain("狗咬人", "人咬狗")) < 0.5
    assert jaccard(*plain("法国的首都在哪里", "德国的总理叫什么")) < 0.2


def test_shingles_of_dense_characters_are_they_and_their_pairs() -> None:
    assert shingles("木头") == {"木", "头", "木头"}
    assert shingles("用 c 写") == {"用", "用 ", " c \1", "c \1", " \1", "写"}
    assert shingles("用 c 写") != shingles("用 r 写")


def test_prompts_that_differ_in_a_symbol_are_not_one() -> None:
    pairs = [("What is C?", "What is C++?"), ("3+5=", "3-5="), ("1.5 apples", "15 apples")]
    for first, second in pairs:
        assert owners(first, second, threshold=1.0) == [-1, -1]


def test_nothing_to_compare_is_no_error() -> None:
    assert owners() == []
