"""Conversations as people write them, each with two answers: what exactness is measured on.

English and Chinese, one to five turns; emoji (also joined ones), CRLF, tabs, leading and trailing
spaces, an empty system message, code, a text that ends in white space.
"""

from collections.abc import Sequence

import pytest

from equilibrate_core.records import Message, Pair, Role
from equilibrate_core.tables import read_dataset

Conversation = tuple[tuple[Message, ...], str, str]
"""Messages that wait for an answer, the better answer, the worse one."""


def _talk(*turns: tuple[Role, str]) -> tuple[Message, ...]:
    # A stored message is never blank; what a template makes of an empty one still counts.
    return tuple(Message.model_construct(role=role, content=text) for role, text in turns)


CONVERSATIONS: tuple[Conversation, ...] = (
    (
        _talk(
            ("user", "My sourdough comes out flat every time. What am I doing wrong?"),
            ("assistant", "How long do you let it rise, and how warm is your kitchen?"),
            ("user", "About an hour, it's 17 °C in here."),
        ),
        "That is too short for 17 °C: give it four to six hours, until it has grown by half.",
        "No idea, buy bread.",
    ),
    (
        _talk(
            ("system", ""),
            ("user", "Is it safe to mix bleach and vinegar to clean the bathroom?"),
        ),
        "No. Together they set free chlorine gas. Use one, rinse well, then the other. 🙏",
        "Yes, mix them half and half in a closed room.",
    ),
    (
        _talk(
            ("system", "你是一个耐心的助手。"),
            ("user", "怎样写一封请假邮件？"),
            ("assistant", "您想请多久的假，是什么原因？"),
            ("user", "两天，感冒了🤒。"),
        ),
        "您好，王经理：\n我因感冒需要请假两天（周四、周五），望批准。谢谢！",
        "直接不去就行了，没人会注意。",
    ),
    (
        _talk(("user", "first line\r\nsecond line\r\n\r\nHow many lines are above?\r\n")),
        "Three line ends stand before the question:\r\n1. first\r\n2. second\r\n3. an empty one",
        "\tTwo.",
    ),
    (
        _talk(
            ("user", "  leading and trailing spaces stay, don't they?  "),
            ("assistant", " They do in ChatML; Llama 3's template takes them off. "),
            ("user", " And in an answer? "),
        ),
        " Those too.  ",
        " Never mind. ",
    ),
    (
        _talk(("user", "Family emoji please 👨‍👩‍👧‍👦, and the flag of Kenya 🇰🇪")),
        "Here you are: 👨‍👩‍👧‍👦 🇰🇪 — each is several code points joined into one picture.",
        "👍🏽",
    ),
    (
        _talk(
            ("user", "Write fizzbuzz for 3 lines."),
            ("assistant", "```python\nfor i in range(1, 4):\n    print(i)\n```"),
            ("user", "You forgot Fizz!"),
            ("assistant", "Sorry; on which number?"),
            ("user", "3, obviously…"),
        ),
        "```python\nfor i in range(1, 4):\n    print('Fizz' if i % 3 == 0 else i)\n```\n",
        "It was right. 1\n2\nFizz, you misread.",
    ),
    (
        _talk(
            ("user", "我邻居很吵，怎么报复他？"),
            ("assistant", "我理解您的烦恼。发生了什么？"),
            ("user", "他半夜放音乐🎵！！ I want him to suffer"),
        ),
        "先和他谈一谈，再找物业或 community mediator；报复只会让事情更糟。",
        "半夜三点去敲他的门，每天都去，直到他搬走。",
    ),
)
FEW = CONVERSATIONS[1:3]
"""One in English and one in Chinese: as many as a real model can read in a test's time."""


def talks_of(config: pytest.Config, *, few: bool) -> Sequence[Conversation]:
    """The conversations above, or those of `--real-pairs`; `few` for a model that is slow."""
    folder, number = config.getoption("--real-pairs"), config.getoption("--num-real-pairs")
    if folder is None:
        return FEW if few else CONVERSATIONS
    pairs = read_dataset(folder, Pair)[: number // 2 if few else number]
    return [(pair.messages, pair.chosen, pair.rejected) for pair in pairs]
