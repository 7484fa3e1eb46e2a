"""Which question is asked about which answer, and what a judgement says as a verdict.

prompts + generations -> tasks; tasks + judgements -> Verdict rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.judge_responses.config import JudgeResponsesConfig
from equilibrate_core.errors import DataError
from equilibrate_core.judge import Judgement
from equilibrate_core.judge_question import Parts, Question
from equilibrate_core.records import Generation, LabelledPrompt, Message, Verdict, digest
from equilibrate_core.verdict_labels import REFUSAL_LABELS, SAFETY_LABELS

JudgedKind = Literal["safety", "refusal", "preference"]
Order = Literal["first", "second"]

PROMPTS = Path(__file__).parent / "prompts"
QUESTIONS: dict[JudgedKind, Question] = {
    "safety": Question.load(PROMPTS / "safety_v1.md", field="safety", labels=SAFETY_LABELS),
    "refusal": Question.load(PROMPTS / "refusal_v1.md", field="refusal", labels=REFUSAL_LABELS),
    "preference": Question.load(
        PROMPTS / "preference_v1.md", field="better", labels=("A", "B", "tie")
    ),
}
# What the judge's choice means for the verdict's own generation, by its position.
OUTCOMES: dict[Order, dict[str, str]] = {
    "first": {"A": "win", "B": "loss", "tie": "tie"},
    "second": {"A": "loss", "B": "win", "tie": "tie"},
}
NO_OTHER = "no answer of the other model to compare with"
TRUNCATED = "[answer cut at max_tokens] "


@dataclass(frozen=True)
class Task:
    """One question about one answer."""

    kind: JudgedKind
    generation: Generation
    parts: Parts | None
    """What the judge sees; None when there is nothing to compare with."""
    other: Generation | None = None
    order: Order | None = None


def plan(
    config: JudgeResponsesConfig,
    prompts: Mapping[str, LabelledPrompt],
    generations: Sequence[Generation],
    others: Mapping[str, Generation] | None,
) -> list[Task]:
    """All questions to ask, in the generations' order; `others` maps prompt ids to answers.

    Harmful prompts: safety. Benign ones: refusal, and safety if configured. Suites that hold both
    (XSTest and its like): refusal of the harmful ones too, so that refusing the bad can be told
    from refusing everything. Prompts that are neither: preference in both orders, when there is
    another model's answers.
    """
    contrasted = _contrasted_suites(prompts, generations)
    tasks: list[Task] = []
    for generation in generations:
        prompt = prompts.get(generation.prompt_id)
        if prompt is None:
            raise DataError(
                f"generation {generation.id} answers prompt {generation.prompt_id}, which is not "
                "among the prompts; give the prompts it was generated from"
            )
        if prompt.is_harmful is None:
            tasks += _compared(prompt, generation, others) if others is not None else []
        elif prompt.is_harmful:
            tasks.append(answer_task("safety", generation))
            if generation.suite in contrasted:
                tasks.append(answer_task("refusal", generation))
        else:
            tasks.append(answer_task("refusal", generation))
            if config.safety_of_benign:
                tasks.append(answer_task("safety", generation))
    return tasks


def answer_task(kind: JudgedKind, answer: Generation) -> Task:
    """The question about the safety or the refusal of one answer."""
    return Task(kind, answer, {"CONVERSATION": answer.messages, "ANSWER": answer.response})


def comparisons(
    generation: Generation, other: Generation, references: Sequence[str] = ()
) -> list[Task]:
    """The question which of two answers helps more, in both orders."""
    shared: dict[str, str | Sequence[Message]] = {"CONVERSATION": generation.messages}
    if references:
        shared["REFERENCE ANSWER"] = "\n\n".join(references)
    ours, theirs = generation.response, other.response
    return [
        Task("preference", generation, {**shared, "ANSWER A": a, "ANSWER B": b}, other, order)
        for order, a, b in (("first", ours, theirs), ("second", theirs, ours))
    ]


def verdict(task: Task, judgement: Judgement | None, judge: str) -> Verdict:
    """The row that a judgement of a task becomes; None stands for a question nobody could ask."""
    label = judgement.label if judgement else None
    if label is not None and task.order is not None:
        label = OUTCOMES[task.order][label]
    rationale = judgement.rationale if judgement else ""
    if task.generation.finish_reason == "length":
        rationale = TRUNCATED + rationale
    other_id = task.other.id if task.other else None
    return Verdict(
        id=digest([task.generation.id, task.kind, other_id, task.order, judge]),
        generation_id=task.generation.id,
        other_generation_id=other_id,
        order=task.order,
        kind=task.kind,
        label=label,
        rationale=rationale,
        status="unscored" if label is None else "scored",
        error=judgement.error if judgement else NO_OTHER,
        judge=judge,
    )


def _contrasted_suites(
    prompts: Mapping[str, LabelledPrompt], generations: Sequence[Generation]
) -> set[str]:
    """Suites with harmful and with benign prompts."""
    kinds: dict[str, set[bool | None]] = {}
    for generation in generations:
        prompt = prompts.get(generation.prompt_id)
        if prompt is not None:
            kinds.setdefault(generation.suite, set()).add(prompt.is_harmful)
    return {suite for suite, found in kinds.items() if {True, False} <= found}


def _compared(
    prompt: LabelledPrompt, generation: Generation, others: Mapping[str, Generation]
) -> list[Task]:
    other = others.get(generation.prompt_id)
    if other is None:
        return [Task("preference", generation, None, order=order) for order in OUTCOMES]
    return comparisons(generation, other, prompt.references)
