"""Sentences in English and Chinese, and tokens that straddle them."""

import pytest

from equilibrate_core.segments import segment_ids


def sentences(text: str) -> list[str]:
    ids = segment_ids(text, range(1, len(text) + 1), segment="sentence")
    pieces: dict[int, str] = {}
    for character, index in zip(text, ids, strict=True):
        pieces[index] = pieces.get(index, "") + character
    return [piece.strip() for piece in pieces.values()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Ask Dr. Smith, e.g. today. Then rest.", ["Ask Dr. Smith, e.g. today.", "Then rest."]),
        ("1. Boil it.\n2. Eat.", ["1. Boil it.", "2. Eat."]),
        ("Pi is 3.14 now. Yes.", ["Pi is 3.14 now.", "Yes."]),
        ('He said "Stop." She did.', ['He said "Stop."', "She did."]),
        ("你好。请坐！要茶吗？好", ["你好。", "请坐！", "要茶吗？", "好"]),
        ("他说：“走吧。”我们走。", ["他说：“走吧。”", "我们走。"]),
        ("No end", ["No end"]),
    ],
)
def test_sentences_are_cut_where_a_reader_would(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_a_straddling_token_belongs_to_the_sentence_it_ends_in() -> None:
    # tokens: "Hi", ". Y", "es."
    assert segment_ids("Hi. Yes.", [2, 5, 8], segment="sentence") == [0, 1, 1]


def test_token_and_response_segments() -> None:
    assert segment_ids("a b c", [1, 3, 5], segment="token") == [0, 1, 2]
    assert segment_ids("a b c", [1, 3, 5], segment="response") == [0, 0, 0]


def test_the_end_of_turn_token_joins_the_last_sentence() -> None:
    assert segment_ids("A b. C d.", [4, 9, 9], segment="sentence") == [0, 1, 1]
