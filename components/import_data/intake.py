"""Takes rows in one by one: maps them, sets the bad ones aside, and counts what became of each."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

from pydantic import ValidationError

from components.import_data.adapters import ADAPTERS
from components.import_data.config import Source
from components.import_data.ledgers import CONFLICTING_PREFERENCE, PairLedger, PromptLedger
from components.import_data.mapping import Mapped, map_row
from components.import_data.rows import QuarantinedRow, RawRow, RowError, quarantined
from components.import_data.spool import Spool
from equilibrate_core.artifacts import Counts
from equilibrate_core.records import Pair, Prompt


@dataclass
class Intake:
    """Everything taken in so far. A row is read once and then kept, quarantined or dropped."""

    pair_spool: Spool
    quarantine_spool: Spool
    sources: dict[str, Counts] = field(default_factory=dict)
    """Input rows per source. A row of pairs is kept if any of its pairs is."""
    prompt_counts: Counts = field(default_factory=Counts)
    """Input rows by what became of their prompt."""
    pair_counts: Counts = field(default_factory=Counts)
    """Pairs, plus the quarantined rows of sources that hold pairs."""

    def __post_init__(self) -> None:
        self.prompts = PromptLedger()
        self.pairs = PairLedger(self.pair_spool)
        self._ids: dict[tuple[str, str], tuple[str, ...]] = {}
        self._row = 0

    def take(self, source: Source, row: RawRow) -> None:
        """Take in one row of a source."""
        counts = self.sources.setdefault(source.name, Counts())
        counts.read += 1
        self.prompt_counts.read += 1
        self._row += 1
        try:
            mapped = self._mapped(source, row)
        except (RowError, ValidationError) as error:
            self._set_aside(source, row, " ".join(str(error).split()))
            return
        prompt_reason = self.prompts.add(mapped.prompt, is_pair=bool(mapped.pairs))
        _count(self.prompt_counts, prompt_reason)
        if mapped.pairs:
            self._take_pairs(counts, mapped.pairs)
        else:
            _count(counts, prompt_reason)

    def settled_prompts(self) -> Iterator[Prompt]:
        """All prompts, in order of first appearance."""
        return self.prompts.settled()

    def settled_pairs(self) -> Iterator[Pair]:
        """All pairs that are kept; exhaust it before reading any count."""
        for _, group in groupby(self.pairs.settled(), key=lambda item: item[0]):
            items = list(group)
            source = self.sources[items[0][1].source]
            kept = [pair for _, pair, reason in items if reason is None]
            _count(source, None if kept else CONFLICTING_PREFERENCE)
            for _, pair, reason in items:
                _count(self.pair_counts, reason)
                if reason is None:
                    yield pair

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

    def _mapped(self, source: Source, row: RawRow) -> Mapped:
        if row.value is None:
            raise RowError(row.problem)
        mapped = map_row(source, ADAPTERS[source.adapter], row.value)
        if mapped.source_id is not None:
            content = (mapped.prompt.id, *(pair.id for pair in mapped.pairs))
            known = self._ids.setdefault((source.name, mapped.source_id), content)
            if known != content:
                raise RowError(f"duplicate id {mapped.source_id!r} with other content")
        return mapped

    def _set_aside(self, source: Source, row: RawRow, reason: str) -> None:
        bad = quarantined(source.name, row, reason)
        self.quarantine_spool.append(bad.model_dump())
        self.sources[source.name].quarantined += 1
        self.prompt_counts.quarantined += 1
        if ADAPTERS[source.adapter].is_pairs:
            self.pair_counts.read += 1
            self.pair_counts.quarantined += 1

    def _take_pairs(self, counts: Counts, pairs: tuple[Pair, ...]) -> None:
        """Enter a row's pairs; the row itself is counted now only if none of them is left."""
        reasons = [self.pairs.add(self._row, pair) for pair in pairs]
        self.pair_counts.read += len(pairs)
        for reason in reasons:
            if reason is not None:
                self.pair_counts.drop(reason)
        if None not in reasons:
            counts.drop(str(reasons[0]))


def _count(counts: Counts, reason: str | None) -> None:
    if reason is None:
        counts.kept += 1
    else:
        counts.drop(reason)
