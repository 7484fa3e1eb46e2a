"""Which texts hold others word for word, and that looking does not grow with what they share."""

import polars as pl
import pytest

from equilibrate_core.likeness import passages
from equilibrate_core.likeness.passages import standing_in

SHARED = "you are a patient librarian and answer in two or three friendly sentences"


@pytest.mark.parametrize("form", ["{0} about case {1}", "case {1} is what {0}"])
def test_prompts_of_one_template_are_not_all_held_against_each_other(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = [f"{i:04}" for i in range(300)]
    texts = [form.format(SHARED, number) for number in numbers]
    looks: list[str] = []
    stands_in = passages._stands_in

    def counted(part: str, text: str) -> bool:
        looks.append(part)
        return stands_in(part, text)

    monkeypatch.setattr(passages, "_stands_in", counted)
    found = list(standing_in(pl.Series(texts), [(text,) for text in texts]))
    assert found == [(i, i) for i in range(300)]
    assert len(looks) == 300


def test_a_text_is_found_by_its_end_where_others_begin_alike() -> None:
    wanted = [(f"{SHARED} of birds",), (f"{SHARED} of fish",), (f"all fish {SHARED}",)]
    texts = pl.Series([f"so {SHARED} of fish please", f"{SHARED} of fishes", f"all fish {SHARED}"])
    assert list(standing_in(texts, wanted)) == [(0, 1), (2, 2)]
