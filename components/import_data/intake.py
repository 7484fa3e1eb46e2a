"""Takes blocks of rows in: sets the bad ones aside and counts what became of each row."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.import_data.adapters import ADAPTERS
from components.import_data.blocks import Block, one_line
from components.import_data.config import Source
from components.import_data.identities import answer_keys
from components.import_data.ledgers import (
    CONFLICTING_PREFERENCE,
    FLAGS,
    Flags,
    Labels,
    PairLedger,
    PromptLedger,
    flags_of,
    labels_of,
)
from components.import_data.mapped_rows import MappedRows, selected
from components.import_data.rows import QuarantinedRow, RawRow, file_of, parsed, quarantined
from components.import_data.spool import Spool, TableSpool
from equilibrate_core.artifacts import Counts
from equilibrate_core.records import Prompt
from equilibrate_core.tables import arrow_schema

SIDES = ("chosen", "rejected")
LABELS = pa.schema([arrow_schema(Prompt).field(name) for name in Labels._fields])
MAX_REPEATED_AHEAD = 10
"""With more repeated prompts than this, files written ahead would hardly ever stay as they are."""
MAX_REASONS = 1000
"""Different reasons counted for a source; they may quote what the rows hold."""


@dataclass
class Intake:
    """Everything taken in so far. A row is read once and then kept, quarantined or dropped."""

    prompt_spool: TableSpool
    pair_spool: TableSpool
    quarantine_spool: Spool
    sources: dict[str, Counts] = field(default_factory=dict)
    """Input rows per source. A row of pairs is kept if any of its pairs is."""
    prompt_counts: Counts = field(default_factory=Counts)
    """Input rows by what became of their prompt."""
    pair_counts: Counts = field(default_factory=Counts)
    """Pairs, plus the quarantined rows of sources that hold pairs."""
    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    """Why rows of a source were quarantined, and how often."""

    def __post_init__(self) -> None:
        self.prompts = PromptLedger()
        self.pairs = PairLedger()
        self._ids: dict[tuple[str, str, str], tuple[str, ...]] = {}

    def take(self, source: Source, block: Block) -> None:
        """Take in a block of a source's rows."""
        self.sources.setdefault(source.name, Counts()).read += len(block.rows)
        self.prompt_counts.read += len(block.rows)
        problems = dict(block.problems)
        new_prompts, new_pairs = self._enter(source.name, block, problems)
        num_new = int(new_prompts.sum())
        self.prompt_counts.kept += num_new
        if not block.mapped.pairs.num_rows:
            self.sources[source.name].kept += num_new  # pairs: see `settled_pairs`
        self.prompt_spool.append(selected(block.mapped.prompts, new_prompts))
        self.pair_spool.append(selected(block.mapped.pairs, new_pairs))
        for place in sorted(problems):
            self._set_aside(source, parsed(block.rows[place]), problems[place])

    def settled_prompts(self) -> Iterator[pa.Table]:
        """All prompts, in order of first appearance."""
        for table in self.prompt_spool:
            if repeated := self._repeated(table["id"]):
                table = self._relabelled(table, repeated)
                self.prompt_spool.changed()
            yield table

    def settled_pairs(self) -> Iterator[pa.Table]:
        """All pairs that are kept; exhaust it before reading any count."""
        self.pairs.find_disputed(self._doubtful_pairs())
        for table in self.pair_spool:
            settled, is_kept = self._settle(table)
            if settled is not table:
                self.pair_spool.changed(from_here=not is_kept.all())
            table = settled
            rows = table["row"].to_numpy()
            kept_rows = _num_distinct(rows[is_kept])
            source = self.sources[table["source"][0].as_py()]
            _count(source, kept_rows, _num_distinct(rows) - kept_rows)
            _count(self.pair_counts, int(is_kept.sum()), int((~is_kept).sum()))
            yield selected(table, is_kept).drop_columns("row")

    def quarantine(self) -> Iterator[QuarantinedRow]:
        """The rows set aside, in order."""
        return map(QuarantinedRow.model_validate, self.quarantine_spool)

    def total(self) -> Counts:
        """Input rows of all sources together."""
        total = Counts()
        for counts in self.sources.values():
            total.read += counts.read
            total.kept += counts.kept
            total.quarantined += counts.quarantined
            for reason, number in counts.dropped.items():
                total.drop(reason, number)
        return total

    def _enter(
        self, source: str, block: Block, problems: dict[int, str]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which prompts and pairs of a block are new; rows that turn out bad join `problems`."""
        mapped = block.mapped
        num_prompts, num_pairs = mapped.prompts.num_rows, mapped.pairs.num_rows
        has_own_ids = mapped.source_ids.count(None) < num_prompts
        if not has_own_ids and self.prompts.add_new(mapped.prompts):
            self.pairs.add_new(mapped.pairs)
            self.pair_counts.read += num_pairs
            return np.ones(num_prompts, dtype=bool), np.ones(num_pairs, dtype=bool)
        if len(self.prompts.repeated) > MAX_REPEATED_AHEAD:
            self.prompt_spool.stop_ahead()
            self.pair_spool.stop_ahead()
        new_prompts: list[bool] = []
        new_pairs: list[bool] = []
        origin = source, file_of(block.rows)
        ids, labels = mapped.prompts["id"].to_pylist(), labels_of(mapped.prompts)
        by_row = _by_row(mapped, flags_of(mapped.pairs))
        rows = zip(mapped.places, ids, mapped.source_ids, labels, by_row, strict=True)
        for place, prompt, own_id, said, own_pairs in rows:
            if self._is_taken(origin, own_id, (prompt, *(pair for pair, _ in own_pairs))):
                problems[place] = one_line(f"duplicate id {own_id!r} with other content")
                new_prompts.append(False)
                new_pairs += [False] * len(own_pairs)
                continue
            reason = self.prompts.add(prompt, said, is_pair=bool(own_pairs))
            new_prompts.append(reason is None)
            if reason is not None:
                self.prompt_counts.drop(reason)
            if own_pairs:
                reasons = [self.pairs.add(pair, flags) for pair, flags in own_pairs]
                new_pairs += [each is None for each in reasons]
                reason = self._drop_pairs(reasons)
            if reason is not None:
                self.sources[source].drop(reason)
        return np.array(new_prompts, dtype=bool), np.array(new_pairs, dtype=bool)

    def _is_taken(
        self, origin: tuple[str, str], own_id: str | None, content: tuple[str, ...]
    ) -> bool:
        """Whether another row of the source's file has the same own id and other content.

        Per file: the shards of a folder often count from 0 each.
        """
        if own_id is None:
            return False
        return self._ids.setdefault((*origin, own_id), content) != content

    def _drop_pairs(self, reasons: list[str | None]) -> str | None:
        """Count a row's pairs that are dropped; why the row is, if none of its pairs is left."""
        self.pair_counts.read += len(reasons)
        for reason in filter(None, reasons):
            self.pair_counts.drop(reason)
        return None if None in reasons else reasons[0]

    def _settle(self, table: pa.Table) -> tuple[pa.Table, NDArray[np.bool_]]:
        """A block's pairs with all that is known of them now, and which of them are kept."""
        is_kept = np.ones(table.num_rows, dtype=bool)
        doubtful = self._repeated(table["prompt_id"])
        if not doubtful:
            return table, is_kept
        flags = [table[name].to_pylist() for name in FLAGS]
        part = table.take(doubtful)
        for i, pair, answers in zip(doubtful, part.to_pylist(), _answers(part), strict=True):
            sides = (pair["prompt_id"], pair["chosen"], pair["rejected"], pair["dimension"])
            is_kept[i] = not self.pairs.is_contradicted(*sides)
            flags[0][i], flags[1][i] = self.pairs.settled(pair["id"], answers)
        for name, values in zip(FLAGS, flags, strict=True):
            place = table.schema.get_field_index(name)
            table = table.set_column(place, table.schema.field(place), pa.array(values, pa.bool_()))
        return table, is_kept

    def _relabelled(self, table: pa.Table, repeated: list[int]) -> pa.Table:
        """A block's prompts with all that is known now of those that came more than once."""
        labels = map(self.prompts.settled, table["id"].take(repeated).to_pylist())
        rows = [each._asdict() | {"metadata": list(each.metadata.items())} for each in labels]
        order = np.arange(table.num_rows)
        order[repeated] = table.num_rows + np.arange(len(repeated))
        changed = pa.Table.from_pylist(rows, schema=LABELS)
        columns = pa.concat_tables([table.select(LABELS.names), changed]).take(order)
        for name in LABELS.names:
            place = table.schema.get_field_index(name)
            table = table.set_column(place, table.schema.field(place), columns[name])
        return table

    def _repeated(self, prompts: pa.ChunkedArray) -> list[int]:
        """Where these are ids of prompts that came more than once: others may say more of them."""
        repeated = self.prompts.repeated
        if not repeated:
            return []
        return [place for place, prompt in enumerate(prompts.to_pylist()) if prompt in repeated]

    def _doubtful_pairs(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for table in self.pair_spool:
            if doubtful := self._repeated(table["prompt_id"]):
                part = table.take(doubtful)
                yield from zip(part["id"].to_pylist(), _answers(part), strict=True)

    def _set_aside(self, source: Source, row: RawRow, reason: str) -> None:
        bad = quarantined(source.name, row, reason)
        self.quarantine_spool.append(bad.model_dump())
        reasons = self.reasons.setdefault(source.name, Counter())
        if bad.reason in reasons or len(reasons) < MAX_REASONS:
            reasons[bad.reason] += 1
        self.sources[source.name].quarantined += 1
        self.prompt_counts.quarantined += 1
        if ADAPTERS[source.adapter].is_pairs:
            self.pair_counts.read += 1
            self.pair_counts.quarantined += 1


def _answers(pairs: pa.Table) -> Iterator[tuple[int, int]]:
    """Keys of each pair's chosen and rejected answer."""
    prompts, *answers = (pairs[name].combine_chunks() for name in ("prompt_id", *SIDES))
    chosen, rejected = (answer_keys(prompts, side) for side in answers)
    return zip(chosen, rejected, strict=True)


def _by_row(
    mapped: MappedRows, pairs: list[tuple[str, Flags]]
) -> Iterator[list[tuple[str, Flags]]]:
    """The pairs of each row."""
    ends = [*mapped.places, mapped.places[-1] + 1] if mapped.places else [0]
    starts = np.searchsorted(mapped.pairs["row"].to_numpy(), ends).tolist()
    return (pairs[start:end] for start, end in pairwise(starts))


def _num_distinct(ascending: NDArray[np.int64]) -> int:
    return int(np.count_nonzero(np.diff(ascending))) + (len(ascending) > 0)


def _count(counts: Counts, num_kept: int, num_contradicted: int) -> None:
    counts.kept += num_kept
    if num_contradicted:
        counts.drop(CONFLICTING_PREFERENCE, num_contradicted)
