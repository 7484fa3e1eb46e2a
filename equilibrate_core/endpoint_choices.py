"""A choice asked from a server: wrapped into an object where servers want one at the root.

choices -> the object's schema and the tokens it may take; a completion -> the bare choice.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from equilibrate_core.completions import Completion, JsonSchema, failed

CHOICE_FIELD = "answer"
SPARE_TOKENS = 16  # white space that a grammar allows between the marks, and the end of the turn
MALFORMED = (
    *(ValueError, KeyError, IndexError, TypeError, AttributeError),
    *(OverflowError, RecursionError),  # 1e999 tokens, a thousand brackets
)
"""What reading a server's JSON can raise when it is not laid out as it should be."""
LENGTHS = ("minLength", "maxLength")


def choices_schema(choices: Sequence[str]) -> JsonSchema:
    """An object with one of `choices`: servers want an object at the root."""
    return {
        "type": "object",
        "properties": {CHOICE_FIELD: {"type": "string", "enum": list(choices)}},
        "required": [CHOICE_FIELD],
        "additionalProperties": False,
    }


def choice_tokens(choices: Sequence[str]) -> int:
    """Tokens within which the object ends in any tokenizer, since none is shorter than a byte.

    It ends by itself: room that is not needed costs nothing.
    """
    # Escaped, a character takes at least as many bytes as in UTF-8.
    longest = max(len(json.dumps({CHOICE_FIELD: choice})) for choice in choices)
    return longest + SPARE_TOKENS


def unwrap_choice(completion: Completion, choices: Sequence[str], max_tokens: int) -> Completion:
    """The bare choice out of an object of `choices_schema`, or a failed completion."""
    if completion.error is not None:
        return completion
    try:
        answer = json.loads(completion.text)
        choice = answer[CHOICE_FIELD] if set(answer) == {CHOICE_FIELD} else None
    except MALFORMED:
        choice = None
    return _one_of(choices, choice, completion, max_tokens)


def bare_choice(completion: Completion, choices: Sequence[str], max_tokens: int) -> Completion:
    """The choice of a server that answers with it alone, or a failed completion."""
    if completion.error is not None:
        return completion
    return _one_of(choices, completion.text.strip(), completion, max_tokens)


def _one_of(
    choices: Sequence[str], choice: Any, completion: Completion, max_tokens: int
) -> Completion:
    if isinstance(choice, str) and choice in choices:
        return replace(completion, text=choice)
    if completion.finish_reason == "length":
        return failed(cut_answer(max_tokens, completion.text))
    return failed(f"the answer is none of {list(choices)}: {completion.text[:80]!r}")


def unfenced(text: str) -> str:
    """What a Markdown fence holds that is all of a text: free models like to write JSON so."""
    fenced = re.fullmatch(r"\s*```\w*\n(.*?)\n?```\s*", text, re.DOTALL)
    return fenced[1] if fenced and "```" not in fenced[1] else text


def cut_answer(max_tokens: int, text: str) -> str:
    """What to do about an answer that its token limit cut before it was one."""
    return (
        f"the answer did not end within {max_tokens} tokens; raise max_tokens (a model that "
        f"thinks first needs hundreds): {text[:80]!r}"
    )


def without_lengths(schema: Any) -> Any:
    """The schema without minLength and maxLength, which strict servers refuse."""
    if isinstance(schema, dict):
        return {k: without_lengths(v) for k, v in schema.items() if k not in LENGTHS}
    return [without_lengths(v) for v in schema] if isinstance(schema, list) else schema
