"""Mask previews: the tokens of a few training pairs with their scores and what the mask kept.

mask_previews.json of the policy -> tokens ready to be coloured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.write_report.examples import MAX_PROMPT_CHARACTERS
from components.write_report.formats import shortened

MAX_PREVIEWS = 6
MAX_TOKENS = 300
MAX_PROMPT_BYTES = 4000
MAX_TOKEN_BYTES = 40
"""A token is a few bytes, but vocabularies have some of a hundred spaces or dashes."""


@dataclass(frozen=True)
class Token:
    """One response token; strength is |score| relative to the preview's largest."""

    text: str
    score: float
    strength: float
    kept: bool


@dataclass(frozen=True)
class Side:
    """The chosen or the rejected answer."""

    name: str
    tokens: tuple[Token, ...]
    num_kept: int
    num_tokens: int


@dataclass(frozen=True)
class Preview:
    """One training pair."""

    id: str
    prompt: str
    sides: tuple[Side, ...]


def read_previews(content: Mapping[str, Any]) -> list[Preview]:
    """Previews of the policy's file, whether it holds a list or {"previews": [...]}."""
    rows = content.get("previews", content.get("rows", []))
    return [to_preview(row) for row in rows[:MAX_PREVIEWS]]


def to_preview(row: Mapping[str, Any]) -> Preview:
    """One pair's plain values, ready to be coloured."""
    sides = {name: row.get(name) or [] for name in ("chosen", "rejected")}
    scores = [abs(float(token["score"])) for tokens in sides.values() for token in tokens]
    largest = max(scores, default=0.0) or 1.0
    return Preview(
        id=str(row.get("id", "")),
        prompt=shortened(str(row.get("prompt", "")), MAX_PROMPT_BYTES, MAX_PROMPT_CHARACTERS),
        sides=tuple(_side(name, tokens, largest) for name, tokens in sides.items()),
    )


def _side(name: str, tokens: Sequence[Mapping[str, Any]], largest: float) -> Side:
    shown = tuple(
        Token(
            text=shortened(str(token["token"]), MAX_TOKEN_BYTES).replace("\n", "⏎\n"),
            score=float(token["score"]),
            strength=abs(float(token["score"])) / largest,
            kept=bool(token["kept"]),
        )
        for token in tokens[:MAX_TOKENS]
    )
    return Side(name, shown, sum(bool(token["kept"]) for token in tokens), len(tokens))
