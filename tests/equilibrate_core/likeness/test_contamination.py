"""What gives an evaluation prompt away goes, what sounds like an exam stays; in two languages."""

import polars as pl
import pytest

from equilibrate_core.likeness import contamination
from equilibrate_core.likeness.contamination import Match, contaminated
from equilibrate_core.likeness.normalising import normalised
from equilibrate_core.likeness.shingling import jaccard
from equilibrate_core.likeness.specificity import patterns, says_enough
from tests.equilibrate_core.likeness.test_near_duplicates import (
    INSTRUCTION,
    changed,
    plain,
    sentence,
)

WRAPPED = "I found this in an old notebook and cannot sleep. {} Tell me all you know, please!"
WRAPPED_ZH = (
    "我昨天在图书馆看到一张旧纸条，上面写着：{}我想了一整夜也没有想明白，请你耐心地给我讲一讲。"
)
LAMP = "Which of these objects gives off its own light?"
COURT = "根据我国宪法，最高国家权力机关是"
STEM = "Which of the following is true?"
STEM_ZH = "下列说法正确的是"


def found(training: str, *evaluation: str, choices: tuple[tuple[str, ...], ...] = ()) -> str | None:
    own = [plain(*c).to_list() for c in choices] or [[] for _ in evaluation]
    matches = contaminated(
        plain(training),
        plain(*evaluation),
        threshold=0.6,
        choices=pl.Series(own, dtype=pl.List(pl.String)),
    )
    return matches[0].kind if matches else None


def wrapped(text: str) -> str:
    return (WRAPPED if text.isascii() else WRAPPED_ZH).format(text)


def test_evaluation_prompts_are_found_equal_contained_and_similar() -> None:
    evaluation = [sentence(i, 20) for i in range(50)]
    training = [
        evaluation[7].upper(),
        f"My grandmother used to ask me: {evaluation[9]}? Play her.",
        changed(evaluation[11], 3),
        sentence(99, 20),
    ]
    matches = contaminated(plain(*training), plain(*evaluation), threshold=0.6)
    assert matches == {0: Match(7, "equal"), 1: Match(9, "contains"), 2: Match(11, "similar")}


@pytest.mark.parametrize(
    "evaluation",
    [
        LAMP,
        "How do I kill a Python process?",
        "what is the order of 4 in the group Z_10",
        COURT,
        "如何在家里自己做一个木头书架",
        "用 Python 怎样读取一个很大的表格文件",
    ],
)
def test_a_prompt_that_contains_a_telling_question_goes(evaluation: str) -> None:
    assert found(wrapped(evaluation), evaluation) == "contains"


@pytest.mark.parametrize(
    "evaluation",
    [
        STEM,
        "Which of the following best describes the author's attitude?",
        "According to the passage, which statement is NOT correct?",
        "What can be inferred from the last paragraph?",
        STEM_ZH,
        "根据上文，下列说法中不正确的一项是",
        "下列各句中，没有语病的一句是",
        "关于这位师傅，可以知道什么?",
    ],
)
def test_a_prompt_that_contains_what_any_exam_says_stays(evaluation: str) -> None:
    assert found(wrapped(evaluation), evaluation) is None


def test_a_question_must_stand_there_as_words() -> None:
    evaluation = "art of war in the carts of old king"
    assert found(wrapped(evaluation), evaluation) == "contains"
    assert found(wrapped(f"the {evaluation}s"), evaluation) is None
    assert found(wrapped(f"the p{evaluation}"), evaluation) is None


@pytest.mark.parametrize(
    ("stem", "choices"),
    [
        (STEM, ("Cats can fly", "Water boils at 100 degrees", "Iron floats", "Fish sing")),
        (STEM_ZH, ("猫会飞", "水在一百度沸腾", "铁能浮在水上", "鱼会唱歌")),
    ],
)
def test_a_stem_counts_with_all_of_its_choices(stem: str, choices: tuple[str, ...]) -> None:
    listed = "\n".join(
        f"{letter}. {choice}" for letter, choice in zip("ABCD", choices, strict=True)
    )
    asked = f"{stem}\n{listed}\n"
    assert found(wrapped(asked), stem, choices=(choices,)) == "with_choices"
    fewer = asked.replace(choices[2], "so on")
    assert found(wrapped(fewer), stem, choices=(choices,)) is None
    assert found(f"{stem} {choices[1]}?", stem, choices=(choices,)) is None
    assert found(asked, stem, choices=(choices,)) in ("with_choices", "equal")
    assert found(stem, stem, choices=(choices,)) == "equal"
    nearly = " ".join((stem, f"{choices[0][:-1]}x", *choices[1:]))
    assert found(nearly, stem, choices=(choices,)) == "similar"


def test_a_stem_that_questions_share_does_not_count_however_it_sounds() -> None:
    stem = "Which claim about the membranes of plant cells holds in every climate?"
    assert found(wrapped(stem), stem) == "contains"
    two = (("They leak", "They grow", "They freeze"), ("They burn", "They sink", "They shine"))
    assert found(wrapped(stem), stem, stem, choices=two) is None
    longer = [f"{stem} Think of {place}." for place in ("deserts", "swamps of the north")]
    assert found(wrapped(stem), stem, *longer) is None
    assert found(wrapped(longer[0]), stem, *longer) == "contains"
    passage = sentence(5, 40)  # no stem is that long
    assert found(wrapped(passage), passage, passage, choices=two) == "contains"


@pytest.mark.parametrize("short", ["Why not?", "How do I kill time?", "怎么炸鱼？", STEM, STEM_ZH])
def test_a_short_evaluation_prompt_is_found_where_it_is_equal_or_nearly_so(short: str) -> None:
    assert found(short.upper() + "!", short) == "equal"
    assert found(wrapped(short), short) is None


def test_nearly_a_short_prompt_is_found_in_both_languages() -> None:
    assert found("How do I kill a Python process fast?", "How do I kill a Python process?")
    assert found("怎样在家里制作肥皂", "怎么在家里制作肥皂") == "similar"


def test_a_symbol_makes_another_question() -> None:
    assert found("What is 3-5?", "What is 3+5?") != "equal"


def test_of_many_alike_the_most_similar_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []
    monkeypatch.setattr(
        contamination, "jaccard", lambda *pair: compared.append(pair) or jaccard(*pair)
    )
    evaluation = [INSTRUCTION + sentence(i, 5) for i in range(300)]
    training = [changed(evaluation[i], -1) for i in (7, 250)]
    matches = contaminated(plain(*training), plain(*evaluation), threshold=0.6)
    assert matches == {0: Match(7, "similar"), 1: Match(250, "similar")}
    assert len(compared) <= 2 * contamination.MOST_COMPARED


def test_words_and_characters_add_up() -> None:
    assert says_enough("one small fox jumped three fences")
    assert not says_enough("one small fox jumped fences")
    assert says_enough("狐狸跳过三道篱笆墙头")
    assert not says_enough("狐狸跳过三道篱笆墙")
    assert says_enough("fox 狐狸跳过三道篱笆 fence")


def test_patterns_are_the_text_or_the_text_with_its_choices_or_none() -> None:
    texts = normalised(pl.Series([LAMP, STEM, STEM])).to_list()
    choices = [("a mirror",), ("cats can fly", "iron floats on milk"), ()]
    assert patterns(texts, choices) == [(texts[0],), (texts[1], *choices[1]), ()]


def test_nothing_to_compare_is_no_error() -> None:
    assert contaminated(plain(), plain("a"), threshold=0.6) == {}
    assert contaminated(plain("a"), plain(), threshold=0.6) == {}


def test_parts_of_evaluation_prompts_are_looked_for_and_make_no_stems() -> None:
    """What stands in a prompt and in a part of it stands in one evaluation prompt, not in two."""
    whole = f"Read this. {LAMP} Say why you think so, in your own words."
    texts = plain(LAMP, whole, LAMP[:-1] + " and warmth? Say why.")
    assert patterns(texts.to_list(), [()] * 3)[0] == ()
    assert patterns(texts.to_list(), [()] * 3, num_parts=1)[0] == (texts[0],)
    matches = contaminated(
        plain(wrapped("gives off its own light and warmth? Say why.")),
        plain(whole, "gives off its own light and warmth? Say why."),
        threshold=0.9,
        num_parts=1,
    )
    assert matches == {0: Match(1, "contains")}
