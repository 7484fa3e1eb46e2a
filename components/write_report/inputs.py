"""What the report reads: the answers, verdicts and scores of all models, checked for kinship.

verified artifacts -> Evidence; figures of another model or from other answers are refused here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.write_report.conditions import HARNESS, check_conditions, check_harness
from components.write_report.kinship import check_arm, check_kinship
from equilibrate_core.arms import ArmFacts, ArmFolder, arm_facts, read_arms
from equilibrate_core.artifacts import Manifest, read_manifest
from equilibrate_core.errors import DataError
from equilibrate_core.records import NO_ANSWER, UNANSWERED, Generation, LabelledPrompt, Verdict
from equilibrate_core.tables import read_dataset

Json = dict[str, Any]


@dataclass(frozen=True)
class Benchmarks:
    """One model's benchmark scores."""

    tasks: dict[str, Json]
    """Status, score, stderr, … by benchmark."""
    items: dict[str, dict[str, list[float]]]
    """Correctness by benchmark and question."""
    are_samples: bool
    harness: str
    left_out: tuple[str, ...] = ()
    """Benchmarks of the twelve that were not asked for."""
    scored_by: Mapping[str, str] = field(default_factory=dict)
    """Version and backend of the harness, where told."""


NOT_RUN = Benchmarks(tasks={}, items={}, are_samples=False, harness="")
"""Of an arm that was not benchmarked."""


@dataclass(frozen=True)
class Unanswered:
    """A prompt that a model was asked and gave no answer to; no verdict names its id."""

    id: str
    prompt_id: str
    suite: str
    is_harmful: bool | None


@dataclass(frozen=True)
class Arm:
    """Everything measured on one model."""

    answers: tuple[Generation, ...]
    verdicts: tuple[Verdict, ...]
    benchmarks: Benchmarks
    unanswered: tuple[Unanswered, ...] = ()

    @property
    def asked(self) -> tuple[Generation | Unanswered, ...]:
        """All that needs a verdict: answers, and prompts that got none."""
        return (*self.answers, *self.unanswered)


@dataclass(frozen=True)
class StudiedArm:
    """One other policy of a study."""

    facts: ArmFacts
    arm: Arm
    verdicts: Manifest
    """Of its verdicts: who judged."""


@dataclass(frozen=True)
class Evidence:
    """Everything the figures are computed from."""

    prompts: dict[str, LabelledPrompt]
    base: Arm
    aligned: Arm
    manifests: dict[str, Manifest]
    metrics: dict[str, dict[str, float]]
    """metrics.json of every input that has one."""
    human_labels: Json
    """Agreement of judge and evaluation cost model with human labels of other answers."""
    control: Arm | None = None
    """A policy trained otherwise on the same data, where the run has one."""
    own: ArmFacts | None = None
    """What the aligned model is, where a study sets others beside it."""
    studied: tuple[StudiedArm, ...] = ()
    """The other policies of a study."""

    @property
    def arms(self) -> dict[str, Arm]:
        """The models by name, the base first and the aligned one last."""
        control = {"control": self.control} if self.control else {}
        return {"base": self.base, **control, "aligned": self.aligned}


def read_evidence(paths: Mapping[str, Path]) -> Evidence:
    """Read the inputs of write_report by argument name. Raises DataError when they do not belong.

    The artifacts themselves were verified when the stage started.
    """
    manifests = {name: read_manifest(path) for name, path in paths.items()}
    check_kinship(manifests)
    check_conditions(manifests)
    rows = read_dataset(paths["labelled_prompts"], LabelledPrompt)
    prompts = {prompt.id: prompt for prompt in rows}
    evidence = Evidence(
        prompts=prompts,
        base=_arm(paths, "base", prompts),
        aligned=_arm(paths, "aligned", prompts),
        manifests=manifests,
        metrics={name: _numbers(read_json(path / "metrics.json")) for name, path in paths.items()},
        human_labels=read_json(paths["base_verdicts"] / "human_agreement.json"),
        control=_arm(paths, "control", prompts) if "control_verdicts" in paths else None,
        **(_study(paths, manifests, prompts) if "arms" in paths else {}),
    )
    for name, arm in evidence.arms.items():
        _check_harness(f"{name}_benchmarks", arm, evidence)
    for studied in evidence.studied:
        _check_harness(f"arm {studied.facts.name}, benchmarks", studied.arm, evidence)
    known = {f"{name}_generations": arm for name, arm in evidence.arms.items()}
    known |= {f"arm {studied.facts.name}": studied.arm for studied in evidence.studied}
    for name, arm in known.items():
        unknown = [g.id for g in arm.answers if g.prompt_id not in evidence.prompts]
        if unknown:
            raise DataError(
                f"{paths.get(name, name)}: {len(unknown)} answers (first {unknown[0]}) "
                "belong to no labelled prompt; give the prompts they were generated from"
            )
    return evidence


def read_json(path: Path) -> Json:
    """A JSON object, empty when the file is not there. Raises DataError when it is broken."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error
    return value if isinstance(value, dict) else {"rows": value}


def read_json_lines(path: Path) -> list[Json]:
    """The objects of a JSON Lines file, none when it is not there."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        return [json.loads(line) for line in lines if line.strip()]
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON Lines: {error}") from error


def _arm(paths: Mapping[str, Path], name: str, prompts: Mapping[str, LabelledPrompt]) -> Arm:
    parts = ("generations", "verdicts", "benchmarks")
    return _read_arm(*(paths[f"{name}_{part}"] for part in parts), prompts)


def _read_arm(
    generations: Path,
    verdicts: Path,
    benchmarks: Path | None,
    prompts: Mapping[str, LabelledPrompt],
) -> Arm:
    return Arm(
        answers=tuple(read_dataset(generations, Generation)),
        verdicts=tuple(read_dataset(verdicts, Verdict)),
        benchmarks=NOT_RUN if benchmarks is None else _benchmarks(benchmarks),
        unanswered=_unanswered(generations, prompts),
    )


def _unanswered(generations: Path, prompts: Mapping[str, LabelledPrompt]) -> tuple[Unanswered, ...]:
    """The prompts without an answer, as many as the manifest counts. Raises DataError otherwise."""
    counts = read_manifest(generations).counts
    number = counts.dropped.get(NO_ANSWER, 0) if counts else 0
    ids = read_json(generations / UNANSWERED)
    if len(ids) != number or not ids.keys() <= prompts.keys():
        raise DataError(
            f"{generations}: {number} prompts have no answer and {UNANSWERED} names {len(ids)}, "
            "or none of these prompts: so nobody can say which figures miss them; generate the "
            "answers again"
        )
    return tuple(
        Unanswered(i, i, prompts[i].suite or "", prompts[i].is_harmful) for i in sorted(ids)
    )


def _study(
    paths: Mapping[str, Path],
    manifests: Mapping[str, Manifest],
    prompts: Mapping[str, LabelledPrompt],
) -> dict[str, Any]:
    """The arms of a study, and what the aligned model is among them."""
    own = arm_facts(
        "aligned",
        train_pairs=manifests["train_pairs"],
        scored_pairs=paths["scored_pairs"],
        policy=manifests["policy"],
        training=_numbers(read_json(paths["policy"] / "metrics.json")),
    )
    folders = read_arms(paths["arms"])
    for folder in folders:
        check_arm(folder, own, manifests)
    return {"own": own, "studied": tuple(_studied(folder, prompts) for folder in folders)}


def _studied(folder: ArmFolder, prompts: Mapping[str, LabelledPrompt]) -> StudiedArm:
    verdicts = folder.path / "verdicts"
    arm = _read_arm(folder.path / "generations", verdicts, folder.benchmarks, prompts)
    return StudiedArm(folder.facts, arm, read_manifest(verdicts))


def _benchmarks(folder: Path) -> Benchmarks:
    scores = read_json(folder / "scores.json")
    if "tasks" not in scores:
        raise DataError(f"{folder / 'scores.json'}: no benchmark tasks; rerun score_benchmarks")
    items: dict[str, dict[str, list[float]]] = {}
    for item in read_json_lines(folder / "items.jsonl"):
        question = f"{item['leaf']}/{item.get('index', item.get('item'))}"
        of_task = items.setdefault(str(item["benchmark"]), {})
        of_task.setdefault(question, []).append(float(item["correct"]))
    return Benchmarks(
        tasks=scores["tasks"],
        items=items,
        are_samples=bool(scores.get("items_are_samples")),
        harness=f"lm-evaluation-harness {scores.get('harness_version', '')}".strip(),
        left_out=tuple(scores.get("left_out", ())),
        scored_by={name: scores[name] for name in HARNESS if name in scores},
    )


def _check_harness(name: str, arm: Arm, evidence: Evidence) -> None:
    check_harness(name, arm.benchmarks.scored_by, evidence.base.benchmarks.scored_by)


def _numbers(values: Json) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
