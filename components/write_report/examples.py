"""Answers side by side: a seeded, even draw from harmful, benign and helpfulness prompts.

evidence -> examples with both answers and what was said of them.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from components.write_report.formats import number, shortened
from components.write_report.inputs import Arm, Evidence
from equilibrate_core.records import Generation, Message, Verdict
from equilibrate_core.verdict_labels import SAFETY_LABELS

MAX_PROMPT_CHARACTERS = 1200
MAX_ANSWER_CHARACTERS = 1600
MAX_NAME_BYTES = 200
EXAMPLES_BYTES = 600_000
"""What all their texts may take of the page, in equal shares; up to about 20 examples the limits
above decide."""
GROUPS: dict[bool | None, str] = {True: "harmful", False: "benign", None: "helpfulness"}
NOT_SAFE = SAFETY_LABELS[1:]
TONES = {
    "Safe": "good",
    "Conditional": "middling",
    "Unsafe": "bad",
    "Compliance": "good",
    "Partial": "middling",
    "Refusal": "bad",
    "win": "good",
    "tie": "middling",
    "loss": "bad",
}


@dataclass(frozen=True)
class Badge:
    """One verdict in a word; tone is good, middling, bad or unscored."""

    text: str
    tone: str


@dataclass(frozen=True)
class Answer:
    """One model's answer as shown."""

    arm: str
    text: str
    was_cut: bool
    badges: tuple[Badge, ...]


@dataclass(frozen=True)
class Example:
    """One prompt with both answers."""

    group: str
    masked_for: str
    """Why its text opens on request only: a harmful prompt, an answer not judged safe or with a
    cost above 0; empty where it is open."""
    suite: str
    category: str | None
    prompt: str
    answers: tuple[Answer, ...]


def choose_examples(evidence: Evidence, number_shown: int, seed: int) -> list[Example]:
    """Up to `number_shown` prompts every model answered, the groups taking turns."""
    answers = {name: _first_answers(arm) for name, arm in evidence.arms.items()}
    verdicts = {name: _by_answer(arm) for name, arm in evidence.arms.items()}
    common = sorted(set.intersection(*(set(of_arm) for of_arm in answers.values())))
    random.Random(seed).shuffle(common)
    queues = [[p for p in common if evidence.prompts[p].is_harmful is h] for h in GROUPS]
    turns = chain.from_iterable(zip_longest(*queues))
    chosen = [prompt for prompt in turns if prompt is not None][:number_shown]
    order = list(GROUPS)
    chosen.sort(key=lambda p: order.index(evidence.prompts[p].is_harmful))
    share = EXAMPLES_BYTES // max(1, len(chosen) * (1 + len(answers)))
    return [_example(evidence, prompt, answers, verdicts, share) for prompt in chosen]


def conversation(messages: Sequence[Message]) -> str:
    """A prompt as text; roles are named only where there is more than the user's one turn."""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)


def _example(
    evidence: Evidence,
    prompt_id: str,
    answers: Mapping[str, Mapping[str, Generation]],
    verdicts: Mapping[str, Mapping[str, Sequence[Verdict]]],
    max_bytes: int,
) -> Example:
    prompt = evidence.prompts[prompt_id]
    said = [v for arm, found in verdicts.items() for v in found.get(answers[arm][prompt_id].id, ())]
    return Example(
        group=GROUPS[prompt.is_harmful],
        masked_for=_masked_for(bool(prompt.is_harmful), said),
        suite=shortened(answers["base"][prompt_id].suite, MAX_NAME_BYTES),
        category=prompt.gold_category or prompt.category,
        prompt=shortened(conversation(prompt.messages), max_bytes, MAX_PROMPT_CHARACTERS),
        answers=tuple(
            Answer(
                arm=arm,
                text=shortened(of_arm[prompt_id].response, max_bytes, MAX_ANSWER_CHARACTERS),
                was_cut=of_arm[prompt_id].finish_reason == "length",
                badges=tuple(_badge(v) for v in verdicts[arm].get(of_arm[prompt_id].id, ())),
            )
            for arm, of_arm in answers.items()
        ),
    )


def _masked_for(is_harmful: bool, said: Sequence[Verdict]) -> str:
    if is_harmful:
        return "a harmful prompt"
    if any(verdict.label in NOT_SAFE for verdict in said):
        return "not all judged safe"
    return "one at least with a cost above 0" if any(map(_is_costly, said)) else ""


def _is_costly(verdict: Verdict) -> bool:
    return verdict.kind == "cost" and (verdict.score or 0) > 0


def _first_answers(arm: Arm) -> dict[str, Generation]:
    found: dict[str, Generation] = {}
    for answer in arm.answers:
        found.setdefault(answer.prompt_id, answer)
    return found


def _by_answer(arm: Arm) -> dict[str, list[Verdict]]:
    found: dict[str, list[Verdict]] = {}
    for verdict in arm.verdicts:
        found.setdefault(verdict.generation_id, []).append(verdict)
    return found


def _badge(verdict: Verdict) -> Badge:
    where = f" shown {verdict.order}" if verdict.order else ""
    if verdict.status == "unscored":
        return Badge(f"{verdict.kind}{where}: unscored", "unscored")
    if verdict.label is not None:
        return Badge(
            f"{verdict.kind}{where}: {verdict.label}", TONES.get(verdict.label, "middling")
        )
    tone = "bad" if _is_costly(verdict) else "plain"
    return Badge(f"{verdict.kind} {number(verdict.score)}", tone)
