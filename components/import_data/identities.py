"""Ids of whole columns, equal to what `records.prompt_id` and `records.pair_id` give row by row."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import polars as pl

_SPACE = r"[\s\x1c-\x1f]{2,}|[^\S ]|[\x1c-\x1f]"
"""What `str.split` takes for space, but for the single blanks that stay as they are."""
_ODD = r"^ | $|  |[^\S ]|[\x1c-\x1f]"
"""What normalising changes."""

Texts = Sequence[str | None]


def normal_texts(texts: Texts) -> Texts:
    """As `records.normalise_text` for each text."""
    column = pl.Series(texts, dtype=pl.String)
    odd = column.str.contains(_ODD).fill_null(value=False)
    if not odd.any():
        return texts
    changed = column.filter(odd).str.replace_all(_SPACE, " ").str.strip_chars(" ")
    normal = list(texts)
    for place, text in zip(odd.arg_true().to_list(), changed.to_list(), strict=True):
        normal[place] = text
    return normal


def prompt_ids(texts: Texts) -> list[str]:
    """Ids of the prompts that consist of one user turn each, of their normal texts."""
    return _digests((("user", text),) for text in texts)


def pair_ids(
    prompts: Sequence[str], chosen: Texts, rejected: Texts, dimensions: Sequence[str]
) -> list[str]:
    """Ids of the pairs, of the ids of their prompts and the normal texts of the answers."""
    return _digests(zip(prompts, chosen, rejected, dimensions, strict=True))


def answer_keys(prompts: Sequence[str], answers: Texts) -> list[int]:
    """A number for each answer to a prompt: the same for the same normalised text, in one run."""
    parts = pl.DataFrame({"prompt": prompts, "answer": normal_texts(answers)})
    return parts.select(pl.concat_str("prompt", "answer").hash()).to_series().to_list()


def _digests(values: Iterable[Any]) -> list[str]:
    """As `records.digest` of each value, which holds no objects."""
    encode, sha256 = msgspec.json.Encoder().encode, hashlib.sha256
    return [sha256(encode(value)).hexdigest()[:24] for value in values]
