"""Pairs in and out: only what choosing needs is read, the chosen rows are copied as they are.

pairs artifact -> a narrow frame; positions of the chosen rows -> dataset artifacts.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from equilibrate_core.artifacts import Counts, StageRun
from equilibrate_core.languages import scripts
from equilibrate_core.records import Pair
from equilibrate_core.tables import TableWriter, dataset_draft, dataset_files, gather_rows

ROWS_PER_PASS = 200_000
"""Whole rows held in memory at once while they are copied."""
CONTENT = ("messages", "chosen", "rejected", "chosen_is_safe", "rejected_is_safe")
Parts = Mapping[str, pl.DataFrame]


def read_pairs(artifact: Path) -> pl.DataFrame:
    """One row per pair: position, ids, dimension, source, flags, hashes, lengths, script."""
    last = pl.col("messages").list.last().struct.field("content")
    prefers_unsafe = ~pl.col("chosen_is_safe") & pl.col("rejected_is_safe")
    script = last.map_batches(scripts, return_dtype=pl.String, is_elementwise=True)
    return (
        pl.scan_parquet(dataset_files(artifact), row_index_name="position")
        .select(
            "position",
            "id",
            "prompt_id",
            "dimension",
            "source",
            first=_identity(pl.col("chosen")).hash(),
            second=_identity(pl.col("rejected")).hash(),
            prefers_unsafe=prefers_unsafe.fill_null(False),
            content=pl.struct(*CONTENT).hash(),
            chosen_chars=pl.col("chosen").str.len_chars(),
            rejected_chars=pl.col("rejected").str.len_chars(),
            prompt_chars=last.str.len_chars(),
            script=script,
        )
        .collect(engine="streaming")
    )


def write_parts(
    run: StageRun,
    artifact: Path,
    destinations: Mapping[str, Path],
    parts: Parts,
    counts: Mapping[str, Counts],
    extra: Mapping[str, Mapping[str, str]],
) -> None:
    """Write each part as a dataset sorted by id, its rows copied from the pairs artifact."""
    with ExitStack() as stack:
        drafts = {
            name: stack.enter_context(dataset_draft(run, path, Pair))
            for name, path in destinations.items()
        }
        for name, draft in drafts.items():
            with TableWriter(draft.path, Pair) as writer:
                for start in range(0, max(len(parts[name]), 1), ROWS_PER_PASS):
                    writer.write(_rows(artifact, parts[name].slice(start, ROWS_PER_PASS)))
            draft.rows = writer.num_rows
            draft.counts = counts[name]
            for file, text in extra.get(name, {}).items():
                (draft.path / file).write_text(text, encoding="utf-8")


def read_examples(artifact: Path, part: pl.DataFrame, per_category: int) -> list[Pair]:
    """The first few pairs of each category, by id, with what they say."""
    if not per_category:
        return []
    labelled = part.filter(pl.col("category").is_not_null())
    few = labelled.sort("category", "id").group_by("category", maintain_order=True)
    return [Pair.model_validate(r) for r in _rows(artifact, few.head(per_category)).to_pylist()]


def _rows(artifact: Path, part: pl.DataFrame) -> pa.Table:
    table = gather_rows(artifact, Pair, part["position"].to_numpy())
    category = pc.cast(part["category"].to_arrow(), pa.string())
    index = table.schema.get_field_index("category")
    return table.set_column(index, table.schema.field(index), category)


def _identity(text: pl.Expr) -> pl.Expr:
    """Text as it counts for identity: outer and repeated white space folded, case kept."""
    return text.str.replace_all(r"\s+", " ").str.strip_chars()
