"""Ids of whole columns, equal to what `records.prompt_id` and `records.pair_id` give row by row.

Columns of texts in, columns of the same length out, null where there was no text. All but the
digests themselves leaves Python's lock to other threads.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.import_data.lines import Codes, Places, places

BLANK, QUOTE, BACKSLASH = b' "\\'
FIRST_PRINTED = 32
"""Codes below it are control characters, six of which count as space."""
FIRST_LEAD = 0xC2
"""From here on a code begins a character beyond ASCII."""
IS_SPACE = np.array([chr(code).isspace() and code < 128 for code in range(256)])
"""What `str.split` takes for space, by its code."""
_WIDE = [chr(code).encode() for code in range(128, 0x3001) if chr(code).isspace()]
WIDE_SPACES = np.array([int.from_bytes(code.ljust(3, b"\0")) for code in _WIDE])
"""All space beyond ASCII as numbers of three codes, of which two may count."""
DIGEST_BYTES, ID_BYTES = 32, 12


def normal_texts(column: pa.StringArray) -> pa.StringArray:
    """As `records.normalise_text` for each text."""
    codes, bounds = _codes(column)
    wide = _texts_at(bounds, _wide_spaces(codes))
    odd = np.union1d(wide, _texts_at(bounds, _odd_blanks(codes, bounds)))
    if not len(odd):
        return column
    some = column.take(pa.array(odd))
    if len(wide):
        blanked = pl.Series(values=column.take(pa.array(wide))).str.replace_all(r"\s", " ")
        some = _replaced(some, np.searchsorted(odd, wide), blanked.to_arrow().cast(pa.string()))
    return _replaced(column, odd, _folded(some))


def prompt_ids(normal: pa.StringArray) -> pa.StringArray:
    """Ids of the prompts that consist of one user turn each, of their normal texts."""
    return _digests(('[["user","', normal, '"]]'), lambda text: [["user", text]])


def pair_ids(
    prompts: pa.StringArray,
    chosen: pa.StringArray,
    rejected: pa.StringArray,
    dimensions: pa.StringArray,
) -> pa.StringArray:
    """Ids of the pairs, of the ids of their prompts and the normal texts of the answers."""
    between = '","'
    parts = ('["', prompts, between, chosen, between, rejected, between, dimensions, '"]')
    return _digests(parts, lambda *values: values)


def answer_keys(prompts: pa.StringArray, answers: pa.StringArray) -> list[int]:
    """A number for each answer to a prompt: the same for the same normalised text, in one run."""
    parts = pl.DataFrame({"prompt": prompts, "answer": normal_texts(answers)})
    return parts.select(pl.concat_str("prompt", "answer").hash()).to_series().to_list()


def _digests(
    parts: tuple[pa.StringArray | str, ...], value: Callable[..., Sequence[Any]]
) -> pa.StringArray:
    """As `records.digest` of each value that the columns among the parts give.

    The parts are how JSON writes it where no character is escaped.
    """
    columns = [part for part in parts if isinstance(part, pa.Array)]
    joined = pc.binary_join_element_wise(*parts, "", null_handling="replace")
    texts = joined.cast(pa.binary()).to_pylist()
    escaped = np.unique(np.concatenate([_escaped(column) for column in columns]))
    rows = zip(*(column.take(pa.array(escaped)).to_pylist() for column in columns), strict=True)
    for place, row in zip(escaped.tolist(), rows, strict=True):
        texts[place] = msgspec.json.encode(value(*row))
    sha256 = hashlib.sha256
    digests = b"".join([sha256(text).digest() for text in texts])
    starts = np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES)[:, :ID_BYTES]
    bounds = np.arange(len(texts) + 1, dtype=np.int32) * (2 * ID_BYTES)
    return _texts(starts.tobytes().hex().encode(), bounds)


def _escaped(column: pa.StringArray) -> Places:
    """Numbers of the texts of which JSON escapes a character."""
    codes, bounds = _codes(column)
    is_escaped = codes == QUOTE
    is_escaped |= codes == BACKSLASH
    is_escaped |= codes < FIRST_PRINTED
    return _texts_at(bounds, places(is_escaped))


def _codes(column: pa.StringArray) -> tuple[Codes, Places]:
    """The texts in UTF-8, and where each begins and the last one ends."""
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    codes = np.frombuffer(data or b"", np.uint8)[bounds[0] : bounds[-1]]
    return codes, (bounds - bounds[0]).astype(np.int64)


def _texts(codes: Codes | bytes, bounds: NDArray[np.integer]) -> pa.StringArray:
    offsets = pa.py_buffer(bounds.astype(np.int32))
    return pa.StringArray.from_buffers(len(bounds) - 1, offsets, pa.py_buffer(codes))


def _texts_at(bounds: Places, of_codes: Places) -> Places:
    """Numbers of the texts that have a code at one of these places."""
    return np.unique(np.searchsorted(bounds, of_codes, side="right") - 1)


def _odd_blanks(codes: Codes, bounds: Places) -> Places:
    """Where ASCII has space that normalising changes, and some that it does not."""
    is_blank = codes == BLANK
    is_odd = codes < FIRST_PRINTED
    is_odd[1:] |= is_blank[1:] & is_blank[:-1]
    starts, ends = bounds[:-1], bounds[1:]
    has_text = ends > starts
    edges = np.concatenate([starts[has_text], ends[has_text] - 1])
    return np.append(places(is_odd), edges[is_blank[edges]])


def _wide_spaces(codes: Codes) -> Places:
    """Where space beyond ASCII begins."""
    found = places(codes >= FIRST_LEAD)
    first = codes[found]
    found = found[(first == FIRST_LEAD) | ((first >= 0xE1) & (first <= 0xE3))]
    if not len(found):
        return found
    last = len(codes) - 1
    first, second, third = (codes[np.minimum(found + i, last)].astype(np.int64) for i in range(3))
    third[first == FIRST_LEAD] = 0  # a character of two codes
    return found[np.isin(first << 16 | second << 8 | third, WIDE_SPACES)]


def _folded(column: pa.StringArray) -> pa.StringArray:
    """The texts with one blank for each run of ASCII space, and none at their ends."""
    codes, bounds = _codes(column)
    is_space = IS_SPACE[codes]
    follows = np.append(True, is_space)[:-1]  # the rest of a run, or of a text's beginning
    follows[bounds[:-1][bounds[1:] > bounds[:-1]]] = True
    is_kept = ~(is_space & follows)
    kept = np.where(is_space, np.uint8(BLANK), codes)[is_kept]
    bounds = np.append(0, np.cumsum(is_kept))[bounds]
    has_text = bounds[1:] > bounds[:-1]
    ends_blank = np.zeros(len(column), dtype=bool)
    ends_blank[has_text] = kept[bounds[1:][has_text] - 1] == BLANK
    bounds_after = bounds - np.append(0, np.cumsum(ends_blank))
    return _texts(np.delete(kept, bounds[1:][ends_blank] - 1), bounds_after)


def _replaced(column: pa.StringArray, numbers: Places, texts: pa.StringArray) -> pa.StringArray:
    mask = np.zeros(len(column), dtype=bool)
    mask[numbers] = True
    return pc.replace_with_mask(column, pa.array(mask), texts)
