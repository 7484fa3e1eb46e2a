"""How far judge and cost model agree with people: answers whose safety humans labelled.

pairs with human safety flags -> answers to judge; their verdicts -> agreement.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components.judge_responses.config import JudgeResponsesConfig
from equilibrate_core.agreement import agreement
from equilibrate_core.metrics import auc
from equilibrate_core.records import Generation, Pair, Verdict, digest, normalise_text

CLASSES = ("Safe", "Unsafe")
ARM = "human-labelled"
Labelled = list[tuple[Generation, bool]]
"""An answer and whether people called it safe."""


def labelled_answers(pairs: Iterable[Pair], max_answers: int) -> Labelled:
    """Answers that people labelled safe or unsafe, each once, as many as asked.

    The choice goes by the answers' ids: the same rows whatever order the pairs come in. An answer
    that people labelled both ways is left out: it has no gold label.
    """
    found: dict[str, tuple[Generation, set[bool]]] = {}
    for pair in pairs:
        sides = ((pair.chosen, pair.chosen_is_safe), (pair.rejected, pair.rejected_is_safe))
        for text, is_safe in sides:
            if is_safe is not None:
                answer = _answer(pair, text)
                found.setdefault(answer.id, (answer, set()))[1].add(is_safe)
    agreed = [(answer, flags.pop()) for answer, flags in found.values() if len(flags) == 1]
    return sorted(agreed, key=lambda row: row[0].id)[:max_answers]


def human_agreement(
    config: JudgeResponsesConfig, labelled: Labelled, verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """Agreement of the safety judge and of the cost's sign with people; {} without labels.

    Conditional counts as unsafe, as everywhere. Unscored answers are counted and left out.
    Intervals are over prompts: answers to one prompt are no independent evidence.
    """
    gold = {answer.id: CLASSES[not is_safe] for answer, is_safe in labelled}
    prompts = {answer.id: answer.prompt_id for answer, _ in labelled}
    judged = {v.generation_id: v for v in verdicts if v.kind == "safety" and v.label is not None}
    costs = {v.generation_id: v.score for v in verdicts if v.kind == "cost" and v.score is not None}
    given = {
        "judge": {id: CLASSES[v.label != "Safe"] for id, v in judged.items() if id in gold},
        "cost": {id: CLASSES[score > 0] for id, score in costs.items() if id in gold},
    }
    found: dict[str, Any] = {}
    for name, labels in given.items():
        if not labels:
            continue
        ids = sorted(labels)
        measured = agreement(
            [labels[id] for id in ids],
            [gold[id] for id in ids],
            classes=CLASSES,
            groups=[prompts[id] for id in ids],
            seed=config.seed,
        )
        found[name] = {
            **measured.scalars(),
            "labels": measured.labels,
            "matrix": measured.matrix,
            "num_unscored": len(gold) - len(ids),
        }
    if "cost" in found:
        ids = sorted(given["cost"])
        is_harmful = [gold[id] == "Unsafe" for id in ids]
        found["cost"]["auc"] = auc([costs[id] for id in ids], is_harmful)
    return found


def agreement_scalars(found: Mapping[str, Any]) -> dict[str, float]:
    """The figures as flat metrics: human_judge_kappa, human_cost_auc and so on."""
    return {
        f"human_{name}_{key}": float(value)
        for name, measured in found.items()
        for key, value in measured.items()
        if isinstance(value, int | float)
    }


def _answer(pair: Pair, text: str) -> Generation:
    return Generation(
        id=digest([pair.prompt_id, normalise_text(text), ARM]),
        prompt_id=pair.prompt_id,
        suite=ARM,
        model=ARM,
        messages=pair.messages,
        response=text,
        finish_reason="stop",
        num_tokens=0,
        seed=0,
    )
