"""Text that is judged, made harmless as data: fenced, its control tokens broken, cut to fit."""

import hashlib
import re
from collections.abc import Sequence

from equilibrate_core.records import Message

# Control tokens of the common chat formats: <|…|>, DeepSeek's full-width bars, the tags of Llama 2,
# Gemma, Mistral, GLM and Qwen. A zero-width space behind the first character takes their meaning,
# not their look.
_MARKUP = re.compile(
    r"<(?=[|\uff5c])|(?<=[|\uff5c])(?=>)"
    r"|<(?=/?s>|<SYS>>|</SYS>>|(?:start|end)_of_turn>|(?:bos|eos|pad|unk|sop|eop)>)"
    r"|<(?=/?(?:think|tool_call|tool_response)>)"
    r"|\[(?=/?(?:INST|TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS|SYSTEM_PROMPT|g?MASK|sMASK)\])",
    re.IGNORECASE,
)


def break_markup(text: str) -> str:
    """`text` with a zero-width space inside everything that looks like a control token."""
    return _MARKUP.sub(lambda match: match.group() + "\u200b", text)


def fence_key(texts: Sequence[str]) -> str:
    """A short key that none of `texts` contains, the same for the same texts.

    Eight digits do: even one who searches for a text that holds its own key gets another.
    """
    joined = "\0".join(texts)
    key = _eight_digits(joined)
    while key in joined.lower():
        key = _eight_digits(key + joined)
    return key


def fence(name: str, text: str, key: str) -> str:
    """`text` between two lines that only this key can write."""
    return f"<<<{name} {key}>>>\n{break_markup(text)}\n<<<END {name} {key}>>>"


def conversation_text(messages: Sequence[Message], key: str) -> str:
    """A conversation as plain text; the key marks its turns, so that no turn can fake another."""
    if len(messages) == 1:
        return messages[0].content
    return "\n".join(f"[{m.role} {key}]\n{m.content}" for m in messages)


def cut_middle(text: str, max_chars: int) -> str:
    """`text`, or its first and last parts around a note of how much was cut."""
    if len(text) <= max_chars:
        return text
    head, tail = (max_chars + 1) // 2, max_chars // 2
    cut = len(text) - head - tail
    return f"{text[:head]}\n[… {cut} characters cut …]\n{text[len(text) - tail :]}"


def _eight_digits(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
