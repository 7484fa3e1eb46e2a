"""Which evaluation texts say enough to be looked for inside others: the stems of exams do not.

normalised evaluation texts and their choices -> for each what must stand in a training text, word
for word, for that to contain it:
- the text alone, if it has at least WORDS words or CHARACTERS characters (of Chinese, Japanese or
  Korean; shares of both add up), TELLING_WORDS or TELLING_CHARACTERS of them other than those
  exams are made of ("which of the following is true", 下列说法正确的是), and is no stem that
  questions share: the text of two with other choices, or part of SHARED evaluation texts with it.
  A text of LONG_WORDS or LONG_CHARACTERS is no stem;
- otherwise the text and all of its choices, if it has any and all together say enough;
- otherwise nothing: such a text is found where it is equal or similar alone.
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import polars as pl

from equilibrate_core.likeness.normalising import DENSE
from equilibrate_core.likeness.passages import standing_in

WORDS, CHARACTERS = 6, 10
TELLING_WORDS, TELLING_CHARACTERS = 3, 5
LONG_WORDS, LONG_CHARACTERS = 30, 50
SHARED = 3
LOOKED_AT = 400
"""Characters that are counted: what is longer is long."""
Parts = tuple[str, ...]
_WORDS = """
    a about above according all among an and answer any are as at author be been before below best
    between but by can choice choose complete consider context correct could describe described
    describes did do does each either every example except explain explains false find first
    following for from get give given has have he her his how i idea if in incorrect infer inferred
    into is it its last learn likely main mainly may me mean means mentioned more most must my no
    none not of on one only option options or other our out paragraph passage per phrase please
    probably problem question questions read reason refers same says select sentence sentences she
    should so solve some statement statements story such suggest suggests tell text than that the
    their them then there these they this those title to topic true two type under up us use used
    using was we were what when where whether which while who whom whose why will with word words
    would writer wrong you your
"""
EXAM_WORDS = frozenset(_WORDS.split())
EXAM_CHARACTERS = frozenset(
    "下列以下面上文中哪那些一个项句各种说法表述叙正确错误不是的有没关于对根据按照由可知道我们你他她它们"
    "这位句没语词字什么为怎样如何请问选择出题答案最符合属其而和与或且在了吗呢从本段短课作者认为主要内容意思理解能够"
)


def patterns(texts: Sequence[str], choices: Sequence[Parts], *, num_parts: int = 0) -> list[Parts]:
    """What must stand in a training text for each evaluation text; nothing for some.

    The last `num_parts` texts are parts of others: they do not count as texts that share a stem.
    """
    stems = _stems(texts, choices, len(texts) - num_parts)
    return [
        (text,)
        if says_enough(text) and text not in stems
        else ((text, *own) if own and says_enough(" ".join((text, *own))) else ())
        for text, own in zip(texts, choices, strict=True)
    ]


def says_enough(text: str) -> bool:
    """Whether a text is long enough, and says enough beside what any exam says."""
    words, characters, telling_words, telling_characters = _told(text)
    telling = telling_words / TELLING_WORDS + telling_characters / TELLING_CHARACTERS
    return words / WORDS + characters / CHARACTERS >= 1 and telling >= 1


def _is_long(text: str) -> bool:
    words, characters, *_ = _told(text)
    return len(text) > LOOKED_AT or words / LONG_WORDS + characters / LONG_CHARACTERS >= 1


@lru_cache(maxsize=100_000)
def _told(text: str) -> tuple[int, int, int, int]:
    """Words and dense characters in the beginning of a text, and how many of each are telling."""
    words = characters = telling_words = telling_characters = 0
    for token in text[:LOOKED_AT].split():
        if DENSE.match(token):
            characters += len(token)
            telling_characters += sum(character not in EXAM_CHARACTERS for character in token)
        elif token[0].isalnum():
            words += 1
            is_letter = len(token) == 1 and token.isalpha()
            telling_words += not is_letter and token not in EXAM_WORDS
    return words, characters, telling_words, telling_characters


def _stems(texts: Sequence[str], choices: Sequence[Parts], num_whole: int) -> set[str]:
    """Texts that several questions share, which are the first `num_whole`."""
    asked: dict[str, set[Parts]] = {}
    for text, own in zip(texts, choices, strict=True):
        asked.setdefault(text, set()).update([own] if own else [])
    short = [text for text in asked if not _is_long(text) and says_enough(text)]
    whole = list(dict.fromkeys(texts[:num_whole]))
    times: Counter[str] = Counter()
    for i, number in standing_in(pl.Series(whole, dtype=pl.String), [(text,) for text in short]):
        times[short[number]] += max(len(asked[whole[i]]), 1)
    return {text for text in short if len(asked[text]) > 1 or times[text] >= SHARED}
