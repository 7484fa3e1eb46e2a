"""Labelled answers on their way in: judges are checked against them, and nothing learns from them.

rows of a source -> LabelledAnswer rows, each once; bad rows go where all others go.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import chain

from pydantic import ValidationError

from components.import_data.adapters import ADAPTERS
from components.import_data.blocks import one_line
from components.import_data.config import Source
from components.import_data.intake import Intake
from components.import_data.ledgers import EXACT_DUPLICATE
from components.import_data.mapping import map_answer
from components.import_data.rows import AnyRow, RowError, Rows, parsed, quarantined
from equilibrate_core.artifacts import Counts
from equilibrate_core.records import LabelledAnswer


class Answers:
    """Labelled answers in order of appearance; what people read and labelled fits into memory.

    One answer may have several rows with other labels: who uses them decides what a dispute means.
    """

    def __init__(self) -> None:
        self._rows: dict[str, LabelledAnswer] = {}
        self.counts = Counts()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> list[LabelledAnswer]:
        """The answers taken in."""
        return list(self._rows.values())

    def take(self, intake: Intake, source: Source, blocks: Iterable[Rows]) -> None:
        """Take in a source's rows; `intake` has the counts of all sources and the quarantine."""
        for row in chain.from_iterable(blocks):
            tallies = (intake.sources[source.name], self.counts)
            for counts in tallies:
                counts.read += 1
            try:
                answer = _mapped(source, row)
            except (RowError, ValidationError) as error:
                _set_aside(intake, source, row, one_line(str(error)))
                self.counts.quarantined += 1
                continue
            is_new = self._rows.setdefault(answer.id, answer) is answer
            for counts in tallies:
                counts.kept += is_new
                if not is_new:
                    counts.drop(EXACT_DUPLICATE)


def _mapped(source: Source, row: AnyRow) -> LabelledAnswer:
    raw = parsed(row)
    if raw.value is None:
        raise RowError(raw.problem)
    return map_answer(source, ADAPTERS[source.adapter], raw.value)


def _set_aside(intake: Intake, source: Source, row: AnyRow, reason: str) -> None:
    bad = quarantined(source.name, parsed(row), reason)
    intake.quarantine_spool.append(bad.model_dump())
    intake.reasons.setdefault(source.name, Counter())[bad.reason] += 1
    intake.sources[source.name].quarantined += 1
