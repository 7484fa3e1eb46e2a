"""import_data: source URIs → `prompts`, `pairs`, `quarantine` and `labelled_answers`.

Every row is accounted for.

The prompts artifact also holds sources.json (licence, adapter, digests and counts per source) and
metrics.json, the pairs artifact a sources.json without digests and counts.
"""

import gc
import json
import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from components.import_data.answers import Answers
from components.import_data.blocks import mapped_blocks
from components.import_data.config import ANSWER_ADAPTERS, ImportDataConfig, Source
from components.import_data.intake import Intake
from components.import_data.ledgers import REASONS
from components.import_data.mapped_rows import PAIRS, PROMPTS
from components.import_data.rows import QuarantinedRow
from components.import_data.sources import Digests, combined_digest, read_source
from components.import_data.spool import Spool, TableSpool
from equilibrate_core.artifacts import Counts
from equilibrate_core.errors import ConfigError, DataError
from equilibrate_core.records import LabelledAnswer, Pair, Prompt
from equilibrate_core.stage import Metrics, stage_main, start_stage
from equilibrate_core.tables import write_dataset, write_tables

log = logging.getLogger(__name__)


def import_data(
    config: ImportDataConfig,
    *,
    prompts: Path,
    pairs: Path,
    quarantine: Path,
    labelled_answers: Path | None = None,
) -> Metrics:
    """Read every source through its adapter into prompts, pairs, answers and quarantined rows.

    Rows keep the order of the sources and of the rows in them. Every pair's prompt is also a
    prompt, and stays one when the pair is dropped. What is dropped and why: see `ledgers`. Raises
    DataError or StorageError for a source that cannot be read at all, DataError for one with more
    unusable rows than `max_quarantined_share`.
    """
    run = start_stage("import_data", config)
    _check_answers(config, labelled_answers)
    with TemporaryDirectory(prefix="import_data-") as name, _without_cycle_search():
        scratch = Path(name)
        with (
            TableSpool(scratch / "prompts", PROMPTS, Prompt) as first_seen,
            TableSpool(scratch / "pairs", PAIRS, Pair) as held,
            Spool(scratch / "quarantine") as bad,
        ):
            intake, answers = Intake(first_seen, held, bad), Answers()
            files: dict[str, Digests] = {}
            for index, source in enumerate(config.sources):
                folder = scratch / "sources" / str(index)
                files[source.name] = _take_source(intake, answers, source, folder)
                _check_quarantined(intake, source, config.max_quarantined_share)
            run = replace(run, inputs={name: combined_digest(each) for name, each in files.items()})
            set_aside = Counts(read=len(bad), kept=len(bad))
            write_dataset(run, quarantine, QuarantinedRow, intake.quarantine(), counts=set_aside)
            if labelled_answers is not None:
                write_dataset(
                    run, labelled_answers, LabelledAnswer, answers.rows, counts=answers.counts
                )
            num_pairs = write_tables(
                run,
                pairs,
                Pair,
                intake.settled_pairs(),
                counts=intake.pair_counts,
                extra_files={"sources.json": _json(_origins(config))},
                ready=held.ready_file,
            )
            metrics = _metrics(intake, num_pairs) | {"labelled_answers": float(len(answers))}
            if disputed := intake.prompts.num_disputed():
                log.warning("%d evaluation prompts with disputed is_harmful are left out", disputed)
            if disputed := intake.pairs.num_disputed():
                log.warning("%d answers are safe in one pair and unsafe in another", disputed)
            write_tables(
                run,
                prompts,
                Prompt,
                intake.settled_prompts(),
                counts=intake.prompt_counts,
                extra_files={
                    "metrics.json": _json(metrics),
                    "sources.json": _json(_source_report(config, intake, files)),
                },
                ready=first_seen.ready_file,
            )
    return metrics


@contextmanager
def _without_cycle_search() -> Generator[None]:
    """Millions of rows make no reference cycles; looking for them took half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _check_answers(config: ImportDataConfig, labelled_answers: Path | None) -> None:
    """Raise ConfigError when rows have nowhere to go."""
    names = [source.name for source in config.sources if source.adapter in ANSWER_ADAPTERS]
    if names and labelled_answers is None:
        raise ConfigError(
            f"import_data: {', '.join(names)} holds labelled answers; say where they go with "
            "--labelled_answers"
        )


def _take_source(intake: Intake, answers: Answers, source: Source, scratch: Path) -> Digests:
    digests: Digests = {}
    counts = intake.sources.setdefault(source.name, Counts())
    blocks = read_source(source, scratch, digests)
    if source.adapter in ANSWER_ADAPTERS:
        answers.take(intake, source, blocks)
    else:
        for block in mapped_blocks(source, blocks):
            intake.take(source, block)
    log.info("%s: %d rows read, %d quarantined", source.name, counts.read, counts.quarantined)
    if counts.read == counts.quarantined:
        log.warning(
            "%s: not one usable row in %s; see the quarantine for the reasons, or check that the "
            "adapter %r fits",
            source.name,
            source.uri,
            source.adapter,
        )
    return digests


def _check_quarantined(intake: Intake, source: Source, max_share: float) -> None:
    counts = intake.sources[source.name]
    if counts.quarantined <= max_share * counts.read:
        return
    ((reason, number),) = intake.reasons[source.name].most_common(1)
    raise DataError(
        f"{source.name}: {counts.quarantined} of {counts.read} rows "
        f"({counts.quarantined / counts.read:.1%}) of {source.uri} cannot be used, {number} of "
        f"them because: {reason:.200}; check that the adapter {source.adapter!r} (and fields) fits "
        f"the columns, or raise max_quarantined_share {max_share:g}"
    )


def _metrics(intake: Intake, num_pairs: int) -> Metrics:
    total = intake.total()
    total.check()
    return {
        "rows_read": float(total.read),
        "rows_kept": float(total.kept),
        "rows_quarantined": float(total.quarantined),
        "rows_dropped": float(sum(total.dropped.values())),
        **{f"dropped_{reason}": float(total.dropped.get(reason, 0)) for reason in REASONS},
        "prompts": float(len(intake.prompts)),
        "evaluation_prompts": float(intake.prompts.num_in_suites()),
        "disputed_evaluation_prompts": float(intake.prompts.num_disputed()),
        "pairs": float(num_pairs),
        "disputed_answers": float(intake.pairs.num_disputed()),
    }


def _origins(config: ImportDataConfig) -> dict[str, dict[str, str]]:
    return {
        source.name: source.model_dump(include={"uri", "licence", "adapter"})
        for source in config.sources
    }


def _source_report(
    config: ImportDataConfig, intake: Intake, files: dict[str, Digests]
) -> dict[str, Any]:
    report: dict[str, Any] = {}
    for source in config.sources:
        counts = intake.sources[source.name]
        counts.check()
        report[source.name] = {
            **_origins(config)[source.name],
            "files": files[source.name],
            "counts": counts.model_dump(),
        }
    return report


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


if __name__ == "__main__":
    raise SystemExit(stage_main(import_data, ImportDataConfig))
