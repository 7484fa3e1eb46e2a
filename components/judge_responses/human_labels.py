"""What the judges are checked on: answers that people labelled, pairs of which people chose one.

held-out pairs + labelled answers (+ what the cost model learned from) -> questions with people's
own verdict.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from components.judge_responses.questions import JudgedKind, Task, answer_task, comparisons
from components.judge_responses.training_prompts import unlike_training
from equilibrate_core.records import Generation, LabelledAnswer, Pair, digest, normalise_text

CLASSES: dict[JudgedKind, tuple[str, ...]] = {
    "safety": ("Safe", "Unsafe"),
    "refusal": ("Compliance", "Refusal"),
    "preference": ("first", "second", "tie"),
}
"""What verdicts of a kind count as. Of a preference: which answer, as shown, is better; people
chose one, so that a tie is always a miss."""
COUNTED = {
    "Safe": "Safe",
    "Conditional": "Unsafe",
    "Unsafe": "Unsafe",
    "Compliance": "Compliance",
    "Partial": "Refusal",
    "Refusal": "Refusal",
}
"""What a label counts as in the report's figures, and so here."""
ARM = "human-labelled"


@dataclass(frozen=True)
class Said:
    """An answer and what people called it."""

    answer: Generation
    label: str
    """One of the kind's CLASSES."""
    source: str

    @property
    def id(self) -> str:
        """Of the answer."""
        return self.answer.id


RowT = TypeVar("RowT", Said, Pair)


@dataclass(frozen=True)
class Check:
    """A question to the judge that people have answered."""

    task: Task
    gold: str
    """One of the kind's CLASSES."""


@dataclass(frozen=True)
class HumanLabels:
    """What judge and cost model are checked on."""

    checks: tuple[Check, ...] = ()
    held_out: tuple[Said, ...] = ()
    """Answers of held-out pairs with safety flags: no cost model was trained on their prompts."""
    unlearned: tuple[Said, ...] = ()
    """Labelled answers, those of held-out pairs aside, to prompts that are unlike all that the cost
    model may have learned from."""
    num_like_training_prompt: int = 0
    """Labelled answers that are not among these because their prompts are."""

    @property
    def costed(self) -> tuple[Generation, ...]:
        """Answers that the cost model is checked on."""
        return tuple(said.answer for said in (*self.held_out, *self.unlearned))

    @property
    def answer_ids(self) -> set[str]:
        """Ids of all answers here, none of which is the judged model's."""
        return {c.task.generation.id for c in self.checks} | {a.id for a in self.costed}


def human_labels(
    pairs: Sequence[Pair],
    answers: Sequence[LabelledAnswer],
    max_questions: int,
    learned: Sequence[Pair] | None = None,
) -> HumanLabels:
    """At most so many questions of each kind, the same ones whatever the order of the rows.

    `learned`: all pairs that the cost model may have learned from. Without them no labelled answer
    is known to be new to it, and none counts for it.
    """
    flags = [said for pair in pairs for said in _flags(pair)]
    safety = [_said(r, r.answer, _flag(r.is_safe)) for r in answers if r.is_safe is not None]
    refusal = [_said(r, r.answer, COUNTED[r.refusal]) for r in answers if r.refusal is not None]
    checks = [
        Check(answer_task(kind, said.answer), said.label)
        for kind, labelled in (("safety", flags + safety), ("refusal", refusal))
        for said in in_turn(undisputed(labelled), max_questions)
    ]
    for pair in in_turn(filter(_is_helpful_choice, pairs), max_questions // 2):
        sides = (_answer(pair, text) for text in (pair.chosen, pair.rejected))
        checks += [Check(task, str(task.order)) for task in comparisons(*sides)]
    held_out = tuple(in_turn(undisputed(flags), max_questions))
    if learned is None:
        return HumanLabels(tuple(checks), held_out)
    of_pairs = {said.id for said in flags}
    others = [said for said in undisputed(flags + safety) if said.id not in of_pairs]
    new = unlike_training([said.answer for said in others], learned)
    unlearned = [said for said in others if said.answer.prompt_id in new]
    taken = tuple(in_turn(unlearned, max_questions))
    return HumanLabels(tuple(checks), held_out, taken, len(others) - len(unlearned))


def undisputed(labelled: Iterable[Said]) -> list[Said]:
    """Each answer once.

    One that people labelled in two ways is left out: it has no gold label.
    """
    found: dict[str, list[Said]] = {}
    for said in labelled:
        found.setdefault(said.id, []).append(said)
    return [
        min(same, key=lambda said: (said.source, said.answer.response))
        for same in found.values()
        if len({said.label for said in same}) == 1
    ]


def in_turn(rows: Iterable[RowT], number: int) -> list[RowT]:
    """At most so many rows, from each source in turn and by id within it."""
    taken: Counter[str] = Counter()
    places: list[tuple[int, str, RowT]] = []
    for row in sorted(rows, key=lambda row: row.id):
        places.append((taken[row.source], row.source, row))
        taken[row.source] += 1
    return [row for _, _, row in sorted(places, key=lambda place: place[:2])][:number]


def _flags(pair: Pair) -> list[Said]:
    sides = ((pair.chosen, pair.chosen_is_safe), (pair.rejected, pair.rejected_is_safe))
    return [_said(pair, text, _flag(is_safe)) for text, is_safe in sides if is_safe is not None]


def _flag(is_safe: bool) -> str:
    return CLASSES["safety"][not is_safe]


def _said(row: Pair | LabelledAnswer, text: str, label: str) -> Said:
    return Said(_answer(row, text), label, row.source)


def _is_helpful_choice(pair: Pair) -> bool:
    """Whether the judge's question asks for what people chose by.

    Of a harmful request it calls the refusal more helpful, whatever people did.
    """
    return pair.dimension == "helpful" and pair.chosen_is_safe is not False


def _answer(row: Pair | LabelledAnswer, text: str) -> Generation:
    return Generation(
        id=digest([row.prompt_id, normalise_text(text), ARM]),
        prompt_id=row.prompt_id,
        suite=ARM,
        model=ARM,
        messages=row.messages,
        response=text,
        finish_reason="stop",
        num_tokens=0,
        seed=0,
    )
