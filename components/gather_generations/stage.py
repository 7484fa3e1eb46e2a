"""gather_generations: the answers of several tasks, put together as one task would have given them.

parts of one model's generations -> generations, with metrics.json and unanswered.json.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.gather_generations.config import GatherGenerationsConfig
from equilibrate_core.artifacts import Counts, Manifest, flat_fields, read_manifest
from equilibrate_core.errors import DataError, StageError
from equilibrate_core.generations import summarise
from equilibrate_core.records import NO_ANSWER, UNANSWERED, Generation
from equilibrate_core.stage import Metrics, stage_main, start_stage
from equilibrate_core.tables import read_dataset, write_dataset

WHOLE = {"shard": 0, "num_shards": 1}


def gather_generations(
    config: GatherGenerationsConfig,
    *,
    part_0: Path,
    part_1: Path,
    generations: Path,
    part_2: Path | None = None,
    part_3: Path | None = None,
    part_4: Path | None = None,
    part_5: Path | None = None,
    part_6: Path | None = None,
    part_7: Path | None = None,
) -> Metrics:
    """Put the parts of one model's answers together. In which order they are given is all one."""
    given = (part_0, part_1, part_2, part_3, part_4, part_5, part_6, part_7)
    parts = {f"part_{place}": path for place, path in enumerate(given) if path is not None}
    run = start_stage("gather_generations", config, **parts)
    manifests = {name: read_manifest(path) for name, path in parts.items()}
    check_parts(manifests, config.num_shards)
    rows = [row for path in parts.values() for row in read_dataset(path, Generation)]
    rows.sort(key=lambda row: (row.suite, row.prompt_id))
    counts = add_up([manifest.counts for manifest in manifests.values()])
    first = manifests["part_0"]
    num_prompts = counts.kept + counts.dropped[NO_ANSWER]
    check_failures(counts.dropped[NO_ANSWER], num_prompts, first.config["max_failed_share"])
    metrics = summarise(rows, num_prompts)
    unanswered: dict[str, str] = {}
    for path in parts.values():
        unanswered |= json.loads((path / UNANSWERED).read_text(encoding="utf-8"))
    # As one task would have described itself: write_report compares how models were asked.
    whole = replace(
        run,
        config=first.config | WHOLE,
        resolved=first.resolved,
        packages=first.packages,
        seed=first.seed,
        inputs=first.inputs | run.inputs,
    )
    write_dataset(
        whole,
        generations,
        Generation,
        rows,
        counts=counts,
        extra_files={
            "metrics.json": json.dumps(metrics, indent=2),
            UNANSWERED: json.dumps(unanswered, indent=2, sort_keys=True),
        },
    )
    return metrics


def check_parts(manifests: Mapping[str, Manifest], num_shards: int) -> None:
    """Raise DataError unless these are all parts of one and the same work, each once."""
    for name, manifest in manifests.items():
        found = manifest.config.get("num_shards")
        if found != num_shards:
            raise DataError(
                f"{name}: made with num_shards {found}, but {num_shards} parts are gathered; "
                f"give what generate_responses made with num_shards {num_shards}"
            )
    there = Counter(manifest.config["shard"] for manifest in manifests.values())
    missing = [shard for shard in range(num_shards) if shard not in there]
    doubled = [shard for shard, number in sorted(there.items()) if number > 1]
    if missing or doubled:
        raise DataError(
            f"of shards 0 to {num_shards - 1}, {missing} are missing and {doubled} are there "
            "more than once; give every part once"
        )
    first = dict(_work(manifests["part_0"]))
    for name, manifest in manifests.items():
        other = dict(_work(manifest))
        for field in sorted(first.keys() | other.keys()):
            if first.get(field) != other.get(field):
                raise DataError(
                    f"{name}: made with {field} {other.get(field)!r:.80}, but part_0 with "
                    f"{first.get(field)!r:.80}; generate all parts with one setting"
                )


def add_up(parts: Sequence[Counts | None]) -> Counts:
    """The counts of one task for all. Raises DataError where a part has none."""
    total = Counts()
    for counts in parts:
        if counts is None or NO_ANSWER not in counts.dropped:
            raise DataError("a part without counts: it is none of generate_responses's artifacts")
        total.read += counts.read
        total.kept += counts.kept
        for reason, number in counts.dropped.items():
            total.drop(reason, number)
    return total


def check_failures(num_failed: int, num_prompts: int, max_failed_share: float) -> None:
    """Raise StageError when too many prompts of all parts have no answer."""
    if num_failed > max_failed_share * num_prompts:
        raise StageError(
            f"gather_generations: {num_failed} of {num_prompts} prompts have no answer, more than "
            f"max_failed_share {max_failed_share:g} allows; the parts' logs say why"
        )


def _work(manifest: Manifest) -> Iterator[tuple[str, Any]]:
    """Everything that must be alike, by name."""
    yield "schema", (manifest.schema_name, manifest.schema_version)
    yield "code", manifest.code_version
    yield from manifest.inputs.items()
    yield from ((f"{name}, as run,", value) for name, value in manifest.resolved.items())
    yield from ((f"library {name}", version) for name, version in manifest.packages.items())
    yield from flat_fields({n: value for n, value in manifest.config.items() if n != "shard"})


if __name__ == "__main__":
    raise SystemExit(stage_main(gather_generations, GatherGenerationsConfig))
