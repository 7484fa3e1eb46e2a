"""Training prompts that give an evaluation prompt away: as a whole, or in one of their user turns.

training and evaluation prompts -> the reason on those that go, and a count by suite and rule. They
give it away by all of it or by a part: a turn of its user, or its request without the context.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from components.assemble_dataset.config import AssembleDatasetConfig
from equilibrate_core.likeness.contamination import KINDS, Match, contaminated
from equilibrate_core.likeness.normalising import normalised
from equilibrate_core.likeness.specificity import says_enough
from equilibrate_core.records import REQUEST
from equilibrate_core.tables import dataset_files

CONTAMINATED = "contaminated"


def parts_of_evaluation(artifact: Path) -> pl.DataFrame:
    """Suite and normalised text of what the evaluation prompts are made of: turns and requests.

    Each once, and none that says little: of two conversations that begin with "Hi" neither gives
    the other away.
    """
    role, content = (pl.element().struct.field(name) for name in ("role", "content"))
    turns = pl.col("messages").list.eval(pl.when(role == "user").then(content))
    found = (
        pl.scan_parquet(dataset_files(artifact))
        .filter(pl.col("suite").is_not_null())
        .select("suite", text=pl.concat_list(turns, pl.col("metadata").map.get(REQUEST)))
        .collect()
        .explode("text")
        .drop_nulls()
    )
    plain = found.with_columns(normalised(found["text"]))
    once = plain.sort("suite", "text").unique("text", keep="first", maintain_order=True)
    return once.filter(pl.Series(map(says_enough, once["text"]), dtype=pl.Boolean))


def decontaminate(
    training: pl.DataFrame,
    evaluation: pl.DataFrame,
    parts: pl.DataFrame,
    config: AssembleDatasetConfig,
) -> tuple[pl.DataFrame, dict[str, dict[str, int]]]:
    """The training prompts with `reason`, and how many go by the suite they give away, and how.

    `parts`: see `parts_of_evaluation`.
    """
    parts = parts.join(evaluation, on="text", how="anti")
    evaluation = pl.concat([evaluation, parts], how="diagonal").with_columns(
        pl.col("choices").fill_null([])
    )
    # One search for conversations and their turns: where there are none it costs nothing more.
    turns = _turns(training)
    texts = training["text"]
    found = contaminated(
        texts if turns.is_empty() else pl.concat([texts, turns["turn"]]),
        evaluation["text"],
        threshold=config.contamination_jaccard,
        choices=evaluation["choices"],
        num_parts=len(parts),
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
