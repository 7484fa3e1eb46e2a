"""One rule for what belongs together: near-duplicates and conversations that go on."""

import random
from itertools import pairwise, permutations

import polars as pl
import pytest

from equilibrate_core.likeness.prompt_groups import (
    conversations,
    drawn,
    group_of,
    groups_by_id,
    too_like,
)
from equilibrate_core.likeness.shingling import jaccard
from equilibrate_core.records import Message

Talk = tuple[str, tuple[Message, ...]]


def talk(name: str, *turns: str, system: str = "") -> Talk:
    roles = ("user", "assistant")
    said = [Message(role=roles[i % 2], content=text) for i, text in enumerate(turns)]
    before = [Message(role="system", content=system)] if system else []
    return name, (*before, *said)


def sentence(number: int, length: int = 12) -> str:
    rng = random.Random(number)
    return " ".join("".join(rng.choices("abcdefghij", k=6)) for _ in range(length))


def chained(number: int, length: int) -> list[str]:
    """Texts each of which is like the next one only."""
    words = sentence(number, 20 + 2 * length).split()
    texts = [" ".join(words[2 * i : 2 * i + 20]) for i in range(length)]
    assert all(jaccard(a, b) >= 0.8 for a, b in pairwise(texts))
    assert all(jaccard(a, b) < 0.8 for a, b in zip(texts, texts[2:], strict=False))
    return texts


def groups(*talks: Talk) -> dict[str, str]:
    return groups_by_id(conversations(talks))


def test_prompts_unlike_each_other_are_groups_of_their_own_by_their_own_name() -> None:
    assert groups(*(talk(f"p{i}", sentence(i)) for i in range(9))) == {
        f"p{i}": f"p{i}" for i in range(9)
    }


def test_near_duplicates_are_one_group_named_by_the_smallest_id() -> None:
    text = sentence(1)
    found = groups(
        talk("c", text),
        talk("b", text.upper() + "?!"),
        talk("d", text + " now"),
        talk("a", sentence(2)),
    )
    assert found == {"a": "a", "b": "b", "c": "b", "d": "b"}


def test_conversations_with_one_opening_are_one_group_whatever_follows() -> None:
    found = groups(
        talk("a", sentence(1)),
        talk("b", sentence(1).title() + ".", sentence(2), sentence(3)),
        talk("c", sentence(1), sentence(4), sentence(5), system="Be kind."),
        talk("d", sentence(2)),
    )
    assert found == {"a": "a", "b": "a", "c": "a", "d": "d"}


def test_conversations_whose_openings_are_near_duplicates_are_one_group() -> None:
    opening = sentence(1)
    first = talk("a", opening, sentence(2), sentence(3))
    second = talk("b", opening + " now", sentence(4), sentence(5))
    assert groups(first, second) == {"a": "a", "b": "a"}
    alone = group_of(conversations([first, second]), deduplicated=True)
    assert dict(alone.iter_rows()) == {"a": "a", "b": "a"}


def test_a_system_prompt_makes_no_group() -> None:
    found = groups(*(talk(f"p{i}", sentence(i), system=sentence(99, 90)) for i in range(5)))
    assert len(set(found.values())) == 5


@pytest.mark.parametrize("names", list(permutations("abc")))
def test_two_prompts_like_a_third_are_one_group_in_any_order(names: tuple[str, ...]) -> None:
    texts = chained(3, 3)
    found = groups(*(talk(name, text) for name, text in zip(names, texts, strict=True)))
    assert found == dict.fromkeys("abc", "a")


def test_groups_do_not_depend_on_the_order_of_the_prompts() -> None:
    talks = [talk(f"{i}", text) for i, text in enumerate(chained(5, 30))]
    talks += [talk(f"c{i}", sentence(i % 7), sentence(i), sentence(-i)) for i in range(20)]
    expected = groups(*talks)
    for seed in range(5):
        assert groups(*random.Random(seed).sample(talks, len(talks))) == expected


def test_no_prompts_have_no_groups() -> None:
    assert groups() == {}
    assert drawn({}, 3, str) == set()
    assert too_like(conversations([]), set(), set()) == set()


def test_whole_groups_are_drawn_in_the_order_given_up_to_the_number() -> None:
    found = {"a": "a", "b": "b", "c": "b", "d": "d", "e": "e", "f": "e"}
    assert drawn(found, 3, str) == {"a", "b", "c"}
    assert drawn(found, 2, str) == {"a", "d"}  # b would be one too many
    assert drawn(found, 2, lambda name: -ord(name)) == {"e", "f"}
    assert drawn(found, 0, str) == set()


def test_a_large_group_does_not_take_the_place_of_all_others() -> None:
    large = {f"x{i}": "x" for i in range(50)}
    assert drawn(large | {"y": "y", "z": "z", "w": "z"}, 1, lambda n: "xyz".index(n)) == {"y"}
    assert drawn(large | {"z": "z", "w": "z"}, 1, str) == {"z", "w"}
    assert drawn(large, 5, str) == set()


def test_what_groups_leave_of_a_chain_does_not_measure() -> None:
    texts = chained(7, 12)
    prompts = conversations(talk(f"{i:02}", text) for i, text in enumerate(texts))
    held_out = {f"{i:02}" for i in range(0, 12, 4)}
    learned = set(prompts["id"]) - held_out
    assert too_like(prompts, held_out, learned) == held_out
    assert too_like(prompts, {"00"}, {f"{i:02}" for i in range(2, 12)}) == set()


def test_a_prompt_that_holds_a_learned_one_word_for_word_does_not_measure() -> None:
    prompts = conversations(
        [
            talk("a", sentence(1)),
            talk("b", f"{sentence(2)} {sentence(1)} {sentence(3)}"),
            talk("c", sentence(4)),
        ]
    )
    assert too_like(prompts, {"b", "c"}, {"a"}) == {"b"}


@pytest.mark.parametrize("seed", range(4))
def test_no_held_out_prompt_is_like_a_learned_one_whatever_was_planted(seed: int) -> None:
    rng = random.Random(seed)
    texts = [text for i in range(12) for text in chained(100 * seed + i, rng.randint(1, 6))]
    texts += [sentence(1000 + i) for i in range(40)]
    rng.shuffle(texts)
    prompts = conversations(talk(f"{i:03}", text) for i, text in enumerate(texts))
    found = groups_by_id(prompts)
    held_out = drawn(found, len(texts) // 4, str)
    learned = set(found) - held_out
    held_out -= too_like(prompts, held_out, learned)
    assert len(held_out) > len(texts) // 6
    plain = dict(prompts.select("id", "text").iter_rows())
    assert max(jaccard(plain[a], plain[b]) for a in held_out for b in learned) < 0.8


def test_frames_of_records_hold_what_the_assembly_reads() -> None:
    frame = conversations([talk("a", "How?  I", "So.", "Why", system="Kind.")])
    expected = pl.DataFrame({"id": ["a"], "root": ["how i"], "text": ["how i so why"]})
    assert frame.equals(expected)
