"""Ids of whole columns, equal to what `records.prompt_id` and `records.pair_id` give row by row."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

_SPACE = r"[\s\x1c-\x1f]{2,}|[^\S ]|[\x1c-\x1f]"
"""What `str.split` takes for space, but for the single blanks that stay as they are."""
_CONTROL, _NOT_LATIN = 32, 0xC2
"""Space other than the blank is below the one, or begins, in UTF-8, at or above the other."""

Texts = Sequence[str | None]


def normal_texts(texts: Texts, column: pa.StringArray) -> Texts:
    """As `records.normalise_text` for each text; `column` holds the same texts."""
    places = np.flatnonzero(_may_change(column))
    if not len(places):
        return texts
    some = pl.Series(values=column.take(places))
    normal = list(texts)
    changed = some.str.replace_all(_SPACE, " ").str.strip_chars(" ")
    for place, text in zip(places.tolist(), changed.to_list(), strict=True):
        normal[place] = text
    return normal


def _may_change(column: pa.StringArray) -> NDArray[np.bool_]:
    """False for texts that normalising leaves as they are: a regular expression takes longer."""
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int32)[: len(column) + 1]
    codes = np.frombuffer(data or b"", dtype=np.uint8)[: bounds[-1]]
    is_rare = np.zeros(len(codes) + 1, dtype=bool)  # one more: the last text may be empty
    np.greater_equal(codes - np.uint8(_CONTROL), _NOT_LATIN - _CONTROL, out=is_rare[:-1])
    texts = pl.Series(values=column).str
    blanks = texts.contains("  ", literal=True) | texts.starts_with(" ") | texts.ends_with(" ")
    may_change = np.logical_or.reduceat(is_rare, bounds[:-1])
    return may_change | blanks.fill_null(value=False).to_numpy()


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
    normal = normal_texts(answers, pa.array(answers, pa.string()))
    parts = pl.DataFrame({"prompt": prompts, "answer": normal})
    return parts.select(pl.concat_str("prompt", "answer").hash()).to_series().to_list()


def _digests(values: Iterable[Any]) -> list[str]:
    """As `records.digest` of each value, which holds no objects."""
    encode, sha256 = msgspec.json.Encoder().encode, hashlib.sha256
    return [sha256(encode(value)).hexdigest()[:24] for value in values]
