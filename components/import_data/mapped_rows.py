"""What the good rows of a block became, in columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.import_data.mapping import Mapped
from equilibrate_core.records import Pair, Prompt
from equilibrate_core.tables import arrow_schema

ROW = pa.field("row", pa.int64(), nullable=False)
"""Place of the row a pair came from in its block; a row may hold several pairs."""
PROMPTS = arrow_schema(Prompt)
PAIRS = arrow_schema(Pair).append(ROW)
MESSAGES = PROMPTS.field("messages").type
MAX_CUTS = 16
"""Rows left out of a table that may stay in so many parts, and one more."""


@dataclass(frozen=True)
class MappedRows:
    """Rows in the order of their block; the lists and `prompts` have one item a row."""

    places: Sequence[int]
    """Place of each row in its block."""
    source_ids: Sequence[str | None]
    """The dataset's own ids, where it has them."""
    prompts: pa.Table
    pairs: pa.Table
    """Pairs in the order of their rows; `row` says which."""


def from_records(mapped: Mapping[int, Mapped]) -> MappedRows:
    """Rows that were mapped one by one, by their places in the block."""
    prompts = [each.prompt.model_dump() for each in mapped.values()]
    pairs = [
        pair.model_dump() | {"row": place} for place, each in mapped.items() for pair in each.pairs
    ]
    return MappedRows(
        places=list(mapped),
        source_ids=[each.source_id for each in mapped.values()],
        prompts=pa.Table.from_pylist(prompts, schema=PROMPTS),
        pairs=pa.Table.from_pylist(pairs, schema=PAIRS),
    )


def merged(first: MappedRows, second: MappedRows) -> MappedRows:
    """Two parts of one block as one, in the order of the block."""
    if not second.places or not first.places:
        return first if first.places else second
    places = [*first.places, *second.places]
    order = sorted(range(len(places)), key=places.__getitem__)
    source_ids = [*first.source_ids, *second.source_ids]
    pairs = pa.concat_tables([first.pairs, second.pairs])
    by_row = np.argsort(pairs["row"].to_numpy(), kind="stable")
    return MappedRows(
        places=[places[i] for i in order],
        source_ids=[source_ids[i] for i in order],
        prompts=pa.concat_tables([first.prompts, second.prompts]).take(order),
        pairs=pairs.take(by_row),
    )


def selected(table: pa.Table, is_selected: NDArray[np.bool_]) -> pa.Table:
    """The rows that are selected; uncopied, where few are not."""
    left_out = np.flatnonzero(~is_selected)
    if not len(left_out):
        return table
    if len(left_out) > MAX_CUTS:
        return table.filter(pa.array(is_selected))
    bounds = pairwise([-1, *left_out.tolist(), table.num_rows])
    parts = [table.slice(start + 1, end - start - 1) for start, end in bounds]
    return pa.concat_tables([part for part in parts if part.num_rows] or [table.slice(0, 0)])
