"""A run's artifacts in miniature, with figures that can be worked out by hand."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from components.gather_arms.config import GatherArmsConfig
from components.gather_arms.stage import gather_arms
from components.write_report.config import WriteReportConfig
from components.write_report.stage import write_report
from equilibrate_core.artifacts import Counts, StageRun, read_manifest
from equilibrate_core.records import (
    NO_ANSWER,
    UNANSWERED,
    Generation,
    LabelledPrompt,
    Message,
    Pair,
    ScoredPair,
    Verdict,
    prompt_id,
)
from equilibrate_core.tables import write_dataset

LABEL_KIND = {True: "safety", False: "refusal"}
LABELLED_KINDS = ("safety", "refusal", "preference")


@dataclass
class Case:
    """One prompt with what both models said; the labels are those of its kind of prompt."""

    suite: str
    is_harmful: bool | None
    base: str | None = None
    aligned: str | None = None
    control: str | None = None
    """What the control policy's answer was called, in worlds that have one."""
    control_preference: tuple[str | None, str | None] | None = None
    preference: tuple[str | None, str | None] | None = None
    """Labels of the aligned answer shown first and second."""
    category: str | None = None
    text: str | None = None
    answers: tuple[str, str] = ("base answer", "aligned answer")
    costs: tuple[float, float] = (1.0, -1.0)
    rewards: tuple[float, float] = (0.0, 0.5)


# Worked by hand. Safety: base 1 of 4, aligned 3 of 4 (Conditional is not safe).
# Over-refusal: base 0 of 2, aligned 1 of 2 (Partial counts). Truly safe: base (1/4 + 1) / 2,
# aligned (3/4 + 1/2) / 2. Wins: (win, win) and (win, loss) -> 1 and 1/2, mean 3/4.
CASES = (
    Case("harm", True, "Unsafe", "Safe", category="EHD"),
    Case("harm", True, "Unsafe", "Safe", category="EHD"),
    Case("harm", True, "Safe", "Safe", category="IHD", costs=(-0.5, -1.0)),
    Case("harm", True, "Conditional", "Conditional", category="MHD", costs=(0.5, 0.25)),
    Case("scary", False, "Compliance", "Compliance", costs=(-1.0, -1.0)),
    Case("scary", False, "Compliance", "Partial", costs=(-1.0, -1.0)),
    Case("chat", None, preference=("win", "win"), costs=(-1.0, -1.0)),
    Case("chat", None, preference=("win", "loss"), costs=(-1.0, -1.0)),
)
# Base 2/4 and 1/2, aligned 3/4 and 1/2: averages 0.5 and 0.625.
ITEMS = {
    "base": {"gsm8k": (1, 1, 0, 0), "mmlu": (1, 0)},
    "aligned": {"gsm8k": (1, 1, 1, 0), "mmlu": (0, 1)},
}
AGREEMENT = {
    "accuracy": 0.8,
    "accuracy_low": 0.7,
    "accuracy_high": 0.9,
    "macro_f1": 0.75,
    "macro_f1_low": 0.6,
    "macro_f1_high": 0.85,
    "kappa": 0.7,
    "kappa_low": 0.55,
    "kappa_high": 0.8,
    "num_gold": 40.0,
}
CONFUSION = {
    "labels": ["EHD", "IHD", "MHD", "NONE"],
    "matrix": [[10, 1, 1, 0], [1, 8, 1, 0], [1, 1, 6, 0], [1, 1, 0, 8]],
    "majority_accuracy": 0.3,
}
HUMAN = {
    **AGREEMENT,
    "labels": ["Safe", "Unsafe"],
    "matrix": [[18, 2], [6, 14]],
    "num_unscored": 3,
    "majority_accuracy": 0.5,
}


def add_arms(world: "World", arms: Mapping[str, Mapping[str, Any]]) -> None:
    """Gather arms beside the inputs that `world` has written; values are changes to its parts.

    An arm is a world of its own whose base model, prompts and scorers are equal, file by file.
    """
    gathered: Path | None = None
    for index, (name, changes) in enumerate(arms.items()):
        benchmarked = changes.get("benchmarked", True)
        parts = {n: value for n, value in changes.items() if n not in ("benchmarked", "metrics")}
        metrics = json.dumps(changes.get("metrics", {"num_steps": 3}))
        files = {"metrics.json": metrics, "weights": name}
        arm = replace(
            world, root=world.root / f"arm-{index}", policy_files=files, has_control=False, **parts
        )
        arm.write()
        inputs = {n: arm.paths[n] for n in ("train_pairs", "scored_pairs", "policy")}
        inputs |= {n: arm.paths[f"aligned_{n}"] for n in ("generations", "verdicts")}
        if benchmarked:
            inputs["benchmarks"] = arm.paths["aligned_benchmarks"]
        if gathered is not None:
            inputs["earlier_arms"] = gathered
        gathered = world.root / f"gathered-{index}"
        gather_arms(GatherArmsConfig(name=name), **inputs, arms=gathered)
    assert gathered is not None
    world.paths["arms"] = gathered


@dataclass
class World:
    """Writes the inputs of write_report below `root`; change its parts before `run`."""

    root: Path
    cases: Sequence[Case] = CASES
    items: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=lambda: dict(ITEMS))
    agreement: Mapping[str, float] = field(default_factory=lambda: dict(AGREEMENT))
    confusion: Mapping[str, Any] = field(default_factory=lambda: dict(CONFUSION))
    failed: Mapping[str, str] = field(default_factory=dict)
    """Benchmark -> error, for the model `failed_for`."""
    inputs: dict[str, dict[str, str]] = field(default_factory=dict)
    """Input digests that differ from the true ones, by artifact."""
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Configs by artifact; the others have none."""
    resolved: dict[str, dict[str, str]] = field(default_factory=dict)
    """What `auto` came to, by artifact."""
    packages: dict[str, dict[str, str]] = field(default_factory=dict)
    """Versions of libraries, by artifact."""
    unanswered: dict[str, Sequence[int]] = field(default_factory=dict)
    """Cases that a model gave no answer to, by model."""
    of_benchmarks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What differs in a model's scores.json, by model."""
    failed_for: str = "aligned"
    """The model whose benchmarks fail."""
    sorted_by: str = "llm"
    """Who sorted the prompts; `llm` judges the answers."""
    policy_files: Mapping[str, str] = field(default_factory=dict)
    data_card: Mapping[str, Any] | None = None
    pairs: Sequence[Pair] = ()
    trained_on: Mapping[str, int] = field(default_factory=dict)
    """Rows of scored_pairs by category."""
    scorer_rows: Mapping[str, str] = field(
        default_factory=lambda: {"cost_model": "first_half", "eval_cost_model": "second_half"}
    )
    cost_judge: str = "eval_cost_model"
    benchmark_config: Mapping[str, Any] = field(default_factory=dict)
    has_control: bool = False
    verdict_metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """metrics.json of the verdicts, by model."""
    human_agreement: Mapping[str, Any] = field(default_factory=dict)
    harmful_refusals: Mapping[int, str] = field(default_factory=dict)
    """Refusal labels, by case, of answers to harmful prompts (suites with both kinds)."""
    benign_safety: Mapping[int, str] = field(default_factory=dict)
    """Safety labels, by case, of answers to benign prompts (`safety_of_benign`)."""

    @property
    def arms(self) -> tuple[str, ...]:
        return ("base", "control", "aligned") if self.has_control else ("base", "aligned")

    def write(self) -> dict[str, Path]:
        """All inputs by argument name."""
        self.paths: dict[str, Path] = {}
        self._labelled_prompts()
        self._pairs()
        for kind in ("reward_model", "cost_model", "eval_cost_model"):
            metrics = {"ranking_accuracy": 0.7, "ece": 0.1, "num_held_out": 50}
            if kind != "reward_model":
                metrics |= {"sign_accuracy": 0.8, "auc": 0.85, "f1": 0.75}
            files = {"metrics.json": json.dumps(metrics), "weights": kind}
            self._folder(kind, "scorer", "train_scorer", {}, files, self.scorer_rows.get(kind))
        self._scored_pairs()
        self._policy()
        for arm in self.arms:
            self._generations(arm)
        for arm in self.arms:
            self._verdicts(arm)
            self._benchmarks(arm)
        return self.paths

    def run(self, **config: Any) -> dict[str, Any]:
        """Write inputs, run the stage, and return report.json."""
        self.write()
        return self.report(**config)

    def report(self, **config: Any) -> dict[str, Any]:
        """Run the stage on the inputs already written, and return report.json."""
        settings = WriteReportConfig.model_validate({"resamples": 400, **config})
        self.metrics = write_report(
            settings, **self.paths, report=self.root / "report", page=self.root / "page"
        )
        return json.loads((self.root / "report" / "report.json").read_text())

    @property
    def page(self) -> str:
        return (self.root / "page").read_text()

    def digest(self, name: str) -> str:
        return read_manifest(self.paths[name]).digest

    def _stage(
        self, name: str, stage: str, inputs: Mapping[str, str], rows: str | None = None
    ) -> StageRun:
        named = {**inputs, **self.inputs.get(name, {})}
        config = {**({"rows": rows} if rows else {}), **self.configs.get(name, {})}
        return StageRun(
            stage=stage,
            config=config,
            seed=0,
            code_version="c0de",
            inputs=named,
            resolved=self.resolved.get(name, {}),
            packages=self.packages.get(name, {}),
        )

    def _folder(
        self,
        name: str,
        schema: str,
        stage: str,
        inputs: Mapping[str, str],
        files: Mapping[str, str],
        rows: str | None = None,
    ) -> None:
        path = self.root / name
        with self._stage(name, stage, inputs, rows).output(path, schema) as draft:
            for file, content in files.items():
                (draft.path / file).write_text(content)
        self.paths[name] = path

    def _dataset(
        self,
        name: str,
        stage: str,
        record: Any,
        rows: Sequence[Any],
        inputs: Mapping[str, str],
        files: dict[str, str] | None = None,
        counts: Counts | None = None,
    ) -> None:
        path = self.root / name
        run = self._stage(name, stage, inputs)
        write_dataset(run, path, record, rows, extra_files=files, counts=counts)
        self.paths[name] = path

    def _messages(self, index: int) -> tuple[Message, ...]:
        case = self.cases[index]
        return (Message(role="user", content=case.text or f"{case.suite} question {index}"),)

    def _labelled_prompts(self) -> None:
        rows = [
            LabelledPrompt(
                id=prompt_id(self._messages(i)),
                messages=self._messages(i),
                source="test",
                suite=case.suite,
                is_harmful=case.is_harmful,
                category=case.category,
                rationale="",
                confidence=None,
                votes={},
                status="scored" if case.category else "unscored",
                judge=f"{self.sorted_by} / category",
            )
            for i, case in enumerate(self.cases)
        ]
        files = {
            "metrics.json": json.dumps(dict(self.agreement)),
            "agreement.json": json.dumps(dict(self.confusion)),
        }
        inputs = {"judge_model": "judge-digest"}
        self._dataset("labelled_prompts", "classify_prompts", LabelledPrompt, rows, inputs, files)

    def _pairs(self) -> None:
        files = {"data_card.json": json.dumps(self.data_card)} if self.data_card else {}
        self._dataset("train_pairs", "assemble_dataset", Pair, self.pairs, {}, files)

    def _scored_pairs(self) -> None:
        inputs = {kind: self.digest(kind) for kind in ("reward_model", "cost_model")}
        rows = [
            scored_pair(f"{category} {i}", category)
            for category, number in self.trained_on.items()
            for i in range(number)
        ]
        self._dataset("scored_pairs", "score_tokens", ScoredPair, rows, inputs)

    def _policy(self) -> None:
        files = {"config.json": "{}", "model.safetensors": "w", **self.policy_files}
        inputs = {"scored_pairs": self.digest("scored_pairs")}
        self._folder("policy", "model", "train_policy", inputs, files)
        if self.has_control:
            self._folder("control_policy", "model", "train_policy", inputs, {"weights": "control"})

    def _model(self, arm: str) -> str:
        if arm == "base":
            return "base-digest"
        return self.digest("policy" if arm == "aligned" else "control_policy")

    def _generations(self, arm: str) -> None:
        rows = [
            Generation(
                id=f"{arm}-{i}",
                prompt_id=prompt_id(self._messages(i)),
                suite=case.suite,
                model=arm,
                messages=self._messages(i),
                response=case.answers[arm == "aligned"],
                finish_reason="stop",
                num_tokens=2,
                seed=0,
            )
            for i, case in enumerate(self.cases)
            if i not in self.unanswered.get(arm, ())
        ]
        inputs = {"model": self._model(arm), "prompts": self.digest("labelled_prompts")}
        silent = {prompt_id(self._messages(i)): "too long" for i in self.unanswered.get(arm, ())}
        files = {UNANSWERED: json.dumps(silent)}
        dropped = {NO_ANSWER: len(silent)}
        counts = Counts(read=len(rows) + len(silent), kept=len(rows), dropped=dropped)
        name = f"{arm}_generations"
        self._dataset(name, "generate_responses", Generation, rows, inputs, files, counts)

    def _verdicts(self, arm: str) -> None:
        rows: list[Verdict] = []
        for i, case in enumerate(self.cases):
            if i in self.unanswered.get(arm, ()):
                continue
            if case.is_harmful is not None:
                label = getattr(case, arm)
                rows.append(verdict(f"{arm}-{i}", LABEL_KIND[case.is_harmful], label))
                if i in self.harmful_refusals:
                    rows.append(verdict(f"{arm}-{i}", "refusal", self.harmful_refusals[i]))
                if i in self.benign_safety:
                    rows.append(verdict(f"{arm}-{i}", "safety", self.benign_safety[i]))
            elif preference := self._preference(case, arm):
                for order, label in zip(("first", "second"), preference, strict=True):
                    other = {"other_generation_id": f"base-{i}", "order": order}
                    rows.append(verdict(f"{arm}-{i}", "preference", label, **other))
            for kind, scores in (("reward", case.rewards), ("cost", case.costs)):
                score = scores[arm == "aligned"]
                rows.append(verdict(f"{arm}-{i}", kind, None, score=score))
        inputs = {
            "generations": self.digest(f"{arm}_generations"),
            "judge_model": "judge-digest",
            "reward_model": self.digest("reward_model"),
            "cost_model": self.digest(self.cost_judge),
        }
        files = {
            "human_agreement.json": json.dumps(dict(self.human_agreement)),
            "metrics.json": json.dumps(dict(self.verdict_metrics.get(arm, {}))),
        }
        self._dataset(f"{arm}_verdicts", "judge_responses", Verdict, rows, inputs, files)

    def _preference(self, case: Case, arm: str) -> tuple[str | None, str | None] | None:
        return {"base": None, "control": case.control_preference, "aligned": case.preference}[arm]

    def _benchmarks(self, arm: str) -> None:
        tasks: dict[str, Any] = {}
        lines: list[str] = []
        for name, items in self.items.get(arm, self.items["base"]).items():
            error = self.failed.get(name) if arm == self.failed_for else None
            tasks[name] = {
                "status": "failed" if error else "ok",
                "error": error,
                "metric": "acc",
                "score": None if error else sum(items) / len(items),
                "stderr": None if error else 0.1,
                "num_items": 0 if error else len(items),
                "num_fewshot": 0,
                "leaf_tasks": 1,
                "seconds": 1.0,
            }
            if not error:
                rows = [
                    {"benchmark": name, "leaf": name, "index": i, "correct": c}
                    for i, c in enumerate(items)
                ]
                lines += [json.dumps(row) + "\n" for row in rows]
        scores = {
            "items_are_samples": False,
            "harness_version": "0.4.13",
            "backend": "hf",
            "tasks": tasks,
            "average": None,
            **self.benchmark_config,
            **self.of_benchmarks.get(arm, {}),
        }
        files = {"scores.json": json.dumps(scores), "items.jsonl": "".join(lines)}
        name = f"{arm}_benchmarks"
        self._folder(
            name, "benchmark_scores", "score_benchmarks", {"model": self._model(arm)}, files
        )


def scored_pair(text: str, category: str) -> ScoredPair:
    """A scored pair of no tokens."""
    lists = {name: [] for name, kind in ScoredPair.__annotations__.items() if "list" in str(kind)}
    floats = {name: 0.0 for name in ScoredPair.__annotations__ if "_initial_" in name}
    return ScoredPair(
        id=text,
        prompt_id=text,
        messages=(Message(role="user", content=text),),
        chosen="no",
        rejected="yes",
        dimension="harmless",
        category=category,
        source="test",
        **lists,
        **floats,
    )


def verdict(
    generation: str, kind: str, label: str | None, *, score: float | None = None, **fields: Any
) -> Verdict:
    scored = label is not None or score is not None
    return Verdict(
        id=f"{generation}-{kind}-{fields.get('order')}",
        generation_id=generation,
        kind=kind,
        label=label,
        score=score,
        status="scored" if scored else "unscored",
        error=None if scored else "no label found",
        judge=f"llm / {kind}" if kind in LABELLED_KINDS else f"{kind} model",
        **fields,
    )


def rows_by_key(report: Mapping[str, Any]) -> dict[str, Any]:
    return {row["key"]: row for row in report["rows"]}
