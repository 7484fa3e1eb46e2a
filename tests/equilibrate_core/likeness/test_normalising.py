"""What counts in a text: symbols and digits do; case, width, punctuation and spacing do not."""

import polars as pl
import pytest

from equilibrate_core.likeness.normalising import normalised


def plain(*texts: str) -> list[str]:
    return normalised(pl.Series(texts, dtype=pl.String)).to_list()


@pytest.mark.parametrize(
    "texts",
    [
        ("3+5", "3-5", "3*5", "3/5", "3 5", "35", "3.5", "3^5", "3=5", "3<5", "3>5", "3%5"),
        ("C", "C++", "C#"),
        ("5", "-5", "$5", "5%", "€5", "#5", "£5"),
        ("x = 5", "x = -5"),
        ("10²", "102", "10"),
        ("2∈A", "2∉A"),
        ("की", "का"),  # vowel signs are part of a word
        ("1,5", "1.5"),
        ("What does 🍆 mean?", "What does 🙏 mean?", "What does mean?"),
        ("⠓⠑⠇", "⠺⠕⠗"),
        ("x = 5", "x != 5"),
    ],
)
def test_texts_that_differ_in_a_symbol_are_not_equal(texts: tuple[str, ...]) -> None:
    assert len(set(plain(*texts))) == len(texts)


@pytest.mark.parametrize(
    "texts",
    [
        ("3+5", "3 + 5", "３＋５", "3 +5?"),
        ("3-5", "3 - 5", "3–5", "3 −5"),
        ("1-2-3", "1 - 2 - 3"),
        ("Well-known, isn't it?", "well known isn’t it", "WELL—KNOWN: isn't it!"),
        ("COVID-19", "covid 19"),
        ("- bread\n- milk", "bread, milk"),
        ("50%", "50 %"),
        ("你好，世界！", "你好世界", "你好 世界"),
        ("学习Python语言", "学习 Python 语言", "学习《Python》语言"),
        ("x²", "x^2", "x ^ 2"),
        ("I ❤️ you", "I ❤ you!", "I ❤\ufe0e you"),
        ("x != 5", "x ≠ 5", "x!=5"),
    ],
)
def test_texts_that_differ_in_spacing_and_punctuation_are_equal(texts: tuple[str, ...]) -> None:
    assert len(set(plain(*texts))) == 1


def test_what_is_normalised_stays_as_it_is() -> None:
    texts = ["3+5 = 8!", "用C++写 2.5 行", "!!!", "", "10²", "a - 5", "½ of −3"]
    once = plain(*texts)
    assert plain(*once) == once
    assert once[2:4] == ["!!!", ""]


def test_no_texts_are_no_error() -> None:
    assert plain() == []
