"""Training prompts that give an evaluation prompt away: as a whole, or in one of their user turns.

training and evaluation prompts -> the reason on those that go, and a count by suite and rule.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from components.assemble_dataset.config import AssembleDatasetConfig
from equilibrate_core.likeness.contamination import KINDS, Match, contaminated
from equilibrate_core.likeness.normalising import normalised

CONTAMINATED = "contaminated"


def decontaminate(
    training: pl.DataFrame, evaluation: pl.DataFrame, config: AssembleDatasetConfig
) -> tuple[pl.DataFrame, dict[str, dict[str, int]]]:
    """The training prompts with `reason`, and how many go by the suite they give away, and how."""
    # One search for conversations and their turns: where there are none it costs nothing more.
    turns = _turns(training)
    texts = training["text"]
    found = contaminated(
        texts if turns.is_empty() else pl.concat([texts, turns["turn"]]),
        evaluation["text"],
        threshold=config.contamination_jaccard,
        choices=evaluation["choices"],
    )
    matches = _by_conversation(found, len(training), turns["rows"].to_list())
    suites = evaluation["suite"].to_list()
    kinds: dict[str, Counter[str]] = {}
    for match in matches.values():
        kinds.setdefault(suites[match.evaluation], Counter())[match.kind] += 1
    hit = np.zeros(len(training), dtype=bool)
    hit[list(matches)] = True
    reason = pl.when(pl.lit(pl.Series(hit, dtype=pl.Boolean))).then(pl.lit(CONTAMINATED))
    table = {suite: dict(sorted(row.items())) for suite, row in sorted(kinds.items())}
    return training.with_columns(reason=reason), table


def _turns(training: pl.DataFrame) -> pl.DataFrame:
    """Every different user turn of the longer conversations, normalised, and the rows that have it.

    A short evaluation prompt is little of such a conversation, and may be all of a turn.
    """
    longer = training.select("turns").with_row_index("row").drop_nulls()
    each = longer.explode("turns").drop_nulls()
    plain = each.select("row", turn=normalised(each["turns"]))
    return plain.group_by("turn").agg(rows=pl.col("row").unique().sort()).sort("turn")


def _by_conversation(
    found: Mapping[int, Match], num_rows: int, rows_of_turns: Sequence[Sequence[int]]
) -> dict[int, Match]:
    """The match of every conversation: of its text and its turns, the one that counts first."""

    def rank(match: Match) -> tuple[int, int]:
        return KINDS.index(match.kind), match.evaluation

    matches = {i: match for i, match in found.items() if i < num_rows}
    for i in sorted(index for index in found if index >= num_rows):
        for row in rows_of_turns[i - num_rows]:
            matches[row] = min(matches.get(row, found[i]), found[i], key=rank)
    return matches
