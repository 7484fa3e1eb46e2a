"""What the report reads: the answers, verdicts and scores of all models, checked for kinship.

verified artifacts -> Evidence; figures of another model or from other answers are refused here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.write_report.conditions import check_alike, check_conditions
from equilibrate_core.arms import ArmFacts, ArmFolder, arm_facts, read_arms
from equilibrate_core.artifacts import Manifest, read_manifest
from equilibrate_core.errors import DataError
from equilibrate_core.records import Generation, LabelledPrompt, Verdict
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


NOT_RUN = Benchmarks(tasks={}, items={}, are_samples=False, harness="")
"""Of an arm that was not benchmarked."""


@dataclass(frozen=True)
class Arm:
    """Everything measured on one model."""

    answers: tuple[Generation, ...]
    verdicts: tuple[Verdict, ...]
    benchmarks: Benchmarks


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
    prompts = read_dataset(paths["labelled_prompts"], LabelledPrompt)
    evidence = Evidence(
        prompts={prompt.id: prompt for prompt in prompts},
        base=_arm(paths, "base"),
        aligned=_arm(paths, "aligned"),
        manifests=manifests,
        metrics={name: _numbers(read_json(path / "metrics.json")) for name, path in paths.items()},
        human_labels=read_json(paths["base_verdicts"] / "human_agreement.json"),
        control=_arm(paths, "control") if "control_verdicts" in paths else None,
        **(_study(paths, manifests) if "arms" in paths else {}),
    )
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


def check_kinship(manifests: Mapping[str, Manifest]) -> None:
    """Raise DataError when an input names another parent than the one given beside it."""
    parents = [
        ("scored_pairs", "reward_model", "reward_model"),
        ("scored_pairs", "cost_model", "cost_model"),
        ("policy", "scored_pairs", "scored_pairs"),
        ("aligned_generations", "model", "policy"),
        ("aligned_benchmarks", "model", "policy"),
        ("base_generations", "prompts", "labelled_prompts"),
        ("aligned_generations", "prompts", "labelled_prompts"),
        ("base_verdicts", "generations", "base_generations"),
        ("aligned_verdicts", "generations", "aligned_generations"),
        ("aligned_verdicts", "other_generations", "base_generations"),
        ("control_policy", "scored_pairs", "scored_pairs"),
        ("control_generations", "model", "control_policy"),
        ("control_generations", "prompts", "labelled_prompts"),
        ("control_benchmarks", "model", "control_policy"),
        ("control_verdicts", "generations", "control_generations"),
        ("control_verdicts", "other_generations", "base_generations"),
    ]
    for child, argument, parent in parents:
        named = manifests[child].inputs.get(argument) if child in manifests else None
        if named is not None and named != manifests[parent].digest:
            raise DataError(
                f"{child} was made from {argument} {named[:12]}, but {parent} here is "
                f"{manifests[parent].digest[:12]}; give artifacts of one and the same run"
            )
    given = [
        manifests[f"base_{kind}"].inputs.get("model") for kind in ("generations", "benchmarks")
    ]
    if None not in given and given[0] != given[1]:
        raise DataError(
            f"base_generations come from model {given[0]:.12} and base_benchmarks from model "
            f"{given[1]:.12}; give artifacts of one and the same base model"
        )


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


def _arm(paths: Mapping[str, Path], name: str) -> Arm:
    parts = ("generations", "verdicts", "benchmarks")
    return _read_arm(*(paths[f"{name}_{part}"] for part in parts))


def _read_arm(generations: Path, verdicts: Path, benchmarks: Path | None) -> Arm:
    return Arm(
        answers=tuple(read_dataset(generations, Generation)),
        verdicts=tuple(read_dataset(verdicts, Verdict)),
        benchmarks=NOT_RUN if benchmarks is None else _benchmarks(benchmarks),
    )


def _study(paths: Mapping[str, Path], manifests: Mapping[str, Manifest]) -> dict[str, Any]:
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
        _check_arm(folder, own, manifests)
    return {"own": own, "studied": tuple(_studied(folder) for folder in folders)}


def _studied(folder: ArmFolder) -> StudiedArm:
    verdicts = folder.path / "verdicts"
    arm = _read_arm(folder.path / "generations", verdicts, folder.benchmarks)
    return StudiedArm(folder.facts, arm, read_manifest(verdicts))


def _check_arm(folder: ArmFolder, own: ArmFacts, manifests: Mapping[str, Manifest]) -> None:
    """Raise DataError unless an arm saw the same base model, prompts, judge and scorers."""
    answers = read_manifest(folder.path / "generations").inputs
    verdicts = read_manifest(folder.path / "verdicts").inputs
    own_verdicts = manifests["aligned_verdicts"].inputs
    compared = [
        ("base model", folder.facts.base_digest, own.base_digest),
        ("prompts", answers.get("prompts"), manifests["labelled_prompts"].digest),
        ("base answers", verdicts.get("other_generations"), manifests["base_generations"].digest),
        *(
            (name.replace("_", " "), verdicts.get(name), own_verdicts.get(name))
            for name in ("judge_model", "reward_model", "cost_model")
        ),
    ]
    for what, its, ours in compared:
        if its is not None and ours is not None and its != ours:
            raise DataError(
                f"arm {folder.facts.name}: its {what} is {its[:12]}, but the aligned model's is "
                f"{ours[:12]}; compare arms of one and the same run"
            )
    parts = ["generations", "verdicts", *(["benchmarks"] if folder.benchmarks else [])]
    for part in parts:
        made = read_manifest(folder.path / part)
        check_alike(part, f"arm {folder.facts.name}, {part}", made, manifests)


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
    )


def _numbers(values: Json) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
