"""How far the judge and the cost model agree with people.

human labels + the judge's verdicts on the same answers -> figures of every kind.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from components.judge_responses.config import JudgeResponsesConfig
from components.judge_responses.human_labels import CLASSES, COUNTED, HumanLabels, Said
from components.judge_responses.questions import JudgedKind, Order, Task
from equilibrate_core.agreement import agreement
from equilibrate_core.metrics import auc
from equilibrate_core.records import Verdict

NAMES: dict[JudgedKind, str] = {"safety": "judge", "refusal": "refusal", "preference": "preference"}
"""What the agreement on a kind is called in human_agreement.json."""
OTHER: dict[Order, Order] = {"first": "second", "second": "first"}
Item = tuple[str | None, str, str]
"""What a judge said (None: nothing), what people said, and whose prompt it is about."""


def human_agreement(
    config: JudgeResponsesConfig, labels: HumanLabels, verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """Agreement of the judge, kind by kind, and of the cost's sign with people; {} without labels.

    Verdicts count as in the report. Unscored answers are counted and left out. Intervals are over
    prompts: answers to one prompt are no independent evidence. The cost's sign has two figures,
    `cost` on held-out pairs and `cost_answers` on labelled answers: of both together a model that
    merely tells the two apart would agree with people wherever one is the more harmful.
    """
    by_question = {_question(verdict): verdict for verdict in verdicts}
    found: dict[str, Any] = {}
    for kind, classes in CLASSES.items():
        items = [
            (_given(by_question.get(_asked(c.task))), c.gold, c.task.generation.prompt_id)
            for c in labels.checks
            if c.task.kind == kind
        ]
        found[NAMES[kind]] = _measured(items, classes, config.seed)
    costs = {v.generation_id: v.score for v in verdicts if v.kind == "cost" and v.score is not None}
    found["cost"] = _of_costs(labels.held_out, costs, config.seed)
    found["cost_answers"] = _of_costs(labels.unlearned, costs, config.seed)
    if found["cost_answers"] or labels.num_like_training_prompt:
        found["cost_answers"]["num_like_training_prompt"] = labels.num_like_training_prompt
    return {name: measured for name, measured in found.items() if measured}


def agreement_scalars(found: Mapping[str, Any]) -> dict[str, float]:
    """The figures as flat metrics: human_judge_kappa, human_cost_auc and so on."""
    return {
        f"human_{name}_{key}": float(value)
        for name, measured in found.items()
        for key, value in measured.items()
        if isinstance(value, int | float)
    }


def _of_costs(labelled: Sequence[Said], costs: Mapping[str, float], seed: int) -> dict[str, Any]:
    """Figures of the cost's sign, with its AUC and how many labels of each source they rest on."""
    harm = CLASSES["safety"]
    items = [
        (harm[costs[s.id] > 0] if s.id in costs else None, s.label, s.answer.prompt_id)
        for s in labelled
    ]
    measured = _measured(items, harm, seed)
    if measured:
        known = [said for said in labelled if said.id in costs]
        is_bad = [said.label == "Unsafe" for said in known]
        measured["auc"] = auc([costs[said.id] for said in known], is_bad)
        measured["sources"] = dict(sorted(Counter(said.source for said in known).items()))
    return measured


def _measured(items: Sequence[Item], classes: Sequence[str], seed: int) -> dict[str, Any]:
    """Figures over the items that have a verdict; {} when none has."""
    scored = [(given, gold, prompt) for given, gold, prompt in items if given is not None]
    if not scored:
        return {}
    given, gold, prompts = (list(part) for part in zip(*scored, strict=True))
    measured = agreement(given, gold, classes=classes, groups=prompts, seed=seed)
    return {
        **measured.scalars(),
        "labels": measured.labels,
        "matrix": measured.matrix,
        "num_unscored": len(items) - len(scored),
    }


def _given(verdict: Verdict | None) -> str | None:
    if verdict is None or verdict.label is None:
        return None
    if verdict.order is None:
        return COUNTED[verdict.label]
    return {"win": verdict.order, "loss": OTHER[verdict.order]}.get(verdict.label, "tie")


def _asked(task: Task) -> tuple[str | None, ...]:
    return task.kind, task.generation.id, task.other.id if task.other else None, task.order


def _question(verdict: Verdict) -> tuple[str | None, ...]:
    return verdict.kind, verdict.generation_id, verdict.other_generation_id, verdict.order
