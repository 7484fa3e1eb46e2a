"""Cutting a response into messages: tokens, sentences (English and Chinese) or the whole.

response text and the character each token ends at -> one segment index per token.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal

Segment = Literal["token", "sentence", "response"]

# A sentence ends at a line break, at Chinese end punctuation, or at . ! ? before white space;
# closing quotes and brackets go with it. An initial, a list number or a common abbreviation
# before the full stop does not end one.
_END = re.compile(
    r"(?:[。！？；]+|(?<!\b[A-Z])(?<!\b\d)(?<!\b\d\d)(?<!\b(?:Mr|Ms|Dr|vs))(?<!\b(?:Mrs|etc))"
    r"(?<!\be\.g)(?<!\bi\.e)[.!?…]+(?=[\"'”’)\]」』）]*(?:\s|$)))"
    r"[\"'”’)\]」』）]*(?:[ \t]*\n+)?|\n+"
)


def segment_ids(text: str, token_ends: Sequence[int], *, segment: Segment) -> list[int]:
    """Segment index of every token, starting at 0 and rising by at most 1 from token to token.

    `token_ends[t]` is the offset in `text` at which token t ends. A token that straddles two
    sentences belongs to the one it ends in.
    """
    if segment == "token":
        return list(range(len(token_ends)))
    if segment == "response":
        return [0] * len(token_ends)
    sentence_ends = _sentence_ends(text)
    return _densify([bisect_left(sentence_ends, end) for end in token_ends])


def _sentence_ends(text: str) -> list[int]:
    ends = [match.end() for match in _END.finditer(text)]
    return ends if ends and ends[-1] >= len(text) else [*ends, len(text)]


def _densify(ids: Sequence[int]) -> list[int]:
    index = {value: position for position, value in enumerate(sorted(set(ids)))}
    return [index[value] for value in ids]
