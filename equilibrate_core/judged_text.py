"""Text that is judged, made harmless as data: fenced, its control tokens broken, cut to fit."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence

from equilibrate_core.records import Message

# Control tokens of the common chat formats. A zero-width space behind the first character takes
# their meaning, not their look. Full-width brackets and bars are taken for the narrow ones: many
# tokenizers normalise the former to the latter.
_LEFT, _RIGHT, _BAR = "[<\uff1c]", "[>\uff1e]", "[|\uff5c]"
_TAGS = (
    r"/?s",  # Llama 2, Mistral
    r"/?SYS",  # Llama 2
    r"/?(?:think|tool_call|tool_response)",  # Qwen
    r"(?:start|end)_of_(?:turn|image|audio)",  # Gemma
    r"(?:bos|eos|pad|unk|sop|eop|eoh|eoa|eod|mask)(?:_token)?",  # GLM, InternLM, Cohere
    r"(?:reserved|extra_id|special|unused)_?\d+",  # Baichuan, Nemotron
    r"seed:\w+",  # Seed
)
_BRACKETED = (
    r"INST|TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CONTENT|SYSTEM_PROMPT",  # Mistral
    r"MODEL_SETTINGS|THINK|IMG",  # Mistral
    r"g?MASK|sMASK",  # GLM
)
_MARKUP = re.compile(
    rf"(?:{_LEFT}|\[)(?={_BAR})|(?<={_BAR})(?={_RIGHT}|\])"  # <|…|>, DeepSeek, EXAONE's [|…|]
    rf"|{_LEFT}(?=(?:{'|'.join(_TAGS)}){_RIGHT})"
    rf"|\[(?=/?(?:{'|'.join(_BRACKETED)})\])"
    r"|\](?=~b\]|~!b\[)|\[(?=e~\[)",  # MiniMax
    re.IGNORECASE,
)
_LOOK_ALIKES = str.maketrans("\u0430\u0441\u0435\u0501\u0431\u0437\u043e\u0456oil", "aced6301011")
"""Cyrillic and Latin letters that look like hex digits."""


def break_markup(text: str) -> str:
    """`text` with a zero-width space inside everything that looks like a control token."""
    return _MARKUP.sub(lambda match: match.group() + "\u200b", text)


def fence_key(texts: Sequence[str]) -> str:
    """A short key that none of `texts` contains, the same for the same texts.

    Eight digits do: even one who searches for a text that holds its own key gets another, be it
    spelt with look-alikes or with invisible characters in between.
    """
    joined = "\0".join(texts)
    seen = _digits_seen(joined)
    key = _eight_digits(joined)
    while key in seen:
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


def _digits_seen(text: str) -> str:
    """The hex digits that a reader may see in `text`, everything else left out."""
    folded = unicodedata.normalize("NFKC", text).lower().translate(_LOOK_ALIKES)
    return re.sub(r"[^0-9a-f]+", "", folded)


def _eight_digits(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
