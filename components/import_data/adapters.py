"""The one mapping table: how each known dataset's columns become ours.

A path names a column; dots lead into nested values (`response.0`), `a|b` takes the first there is,
a trailing `?` marks an optional one. Code (`reshape`) stands only where a path cannot say it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from components.import_data.reshape import (
    both_dimensions,
    conversation_answers,
    first_user_turn,
    transcript_answers,
    unrecorded_request,
)
from equilibrate_core.records import REQUEST

Row = dict[str, Any]


@dataclass(frozen=True)
class Adapter:
    """One dataset's layout."""

    fields: Mapping[str, str]
    """Our field → path of the source's column."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Our field → value of every row, where the row has none."""
    metadata: tuple[str, ...] = ()
    """Columns (or `name=path`) that travel along in `Prompt.metadata`, as text."""
    reshape: Callable[[Row], list[Row]] | None = None
    """Turns a row into rows that paths can read; the columns in `metadata` survive it."""

    @property
    def is_pairs(self) -> bool:
        """Whether its rows hold two answers."""
        return "chosen" in self.fields


def _suite(name: str, *, is_harmful: bool) -> dict[str, Any]:
    return {"suite": name, "label": is_harmful}


def _helpful_suite(name: str) -> dict[str, Any]:
    # Nobody asks whether these are refused: answers are compared for helpfulness instead.
    return {"suite": name}


PAIR = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}

ADAPTERS: dict[str, Adapter] = {
    "equilibrate": Adapter({"prompt": "question_y", "category": "category", "id": "id"}),
    "pku_saferlhf": Adapter(
        {"prompt": "prompt", "chosen": "response.0", "rejected": "response.1"},
        {"dimension": "harmless", "chosen_is_safe": True, "rejected_is_safe": False},
    ),
    "pku_saferlhf_full": Adapter(
        {
            **PAIR,
            "dimension": "dimension",
            "chosen_is_safe": "chosen_is_safe",
            "rejected_is_safe": "rejected_is_safe",
        },
        reshape=both_dimensions,
    ),
    "hh_rlhf": Adapter(PAIR, {"dimension": "harmless"}, reshape=transcript_answers),
    "dpo_demo": Adapter(PAIR, {"dimension": "helpful"}, reshape=conversation_answers),
    "xstest": Adapter(
        {"prompt": "prompt", "label": "label", "id": "id?"},
        {"suite": "xstest"},
        ("type", "focus", "note"),
    ),
    "or_bench": Adapter(
        {"prompt": "prompt", "label": "label?"},
        _suite("or_bench", is_harmful=False),
        ("category",),
    ),
    "harmbench": Adapter(
        {"prompt": "Behavior", "context": "ContextString?", "id": "BehaviorID?"},
        _suite("harmbench", is_harmful=True),
        ("FunctionalCategory", "SemanticCategory", "Tags", f"{REQUEST}=Behavior"),
    ),
    "strongreject": Adapter(
        {"prompt": "forbidden_prompt"},
        _suite("strongreject", is_harmful=True),
        ("category", "source"),
    ),
    "beavertails_evaluation": Adapter(
        {"prompt": "prompt"},
        _suite("beavertails_evaluation", is_harmful=True),
        ("category",),
    ),
    "safe_rlhf_problem_83": Adapter(
        {"prompt": "prompt"},
        _suite("safe_rlhf_problem_83", is_harmful=True),
        ("category",),
    ),
    "simple_safety_tests": Adapter(
        {"prompt": "prompts_final|prompt", "id": "id?"},
        _suite("simple_safety_tests", is_harmful=True),
        ("harm_area", "category"),
    ),
    "mt_bench": Adapter(
        {"prompt": "turns.0|prompt.0", "references": "reference.0?", "id": "question_id?"},
        _helpful_suite("mt_bench"),
        ("category", "second_turn=turns.1"),
    ),
    # Its `output` is a baseline model's answer, good or bad: no reference to judge others by.
    "alpaca_eval": Adapter(
        {"prompt": "instruction"},
        _helpful_suite("alpaca_eval"),
        ("dataset", "generator", "baseline=output"),
    ),
    "wildchat": Adapter(
        {"prompt": "prompt", "language": "language?"},
        metadata=("model", "toxic", "conversation_id", "conversation_hash"),
        reshape=first_user_turn,
    ),
    "prompts": Adapter(
        {
            "prompt": "prompt",
            "id": "id?",
            "category": "category?",
            "label": "label?",
            "references": "references|reference?",
            "language": "language?",
        }
    ),
    "pairs": Adapter(
        {
            **PAIR,
            "id": "id?",
            "category": "category?",
            "language": "language?",
            "dimension": "dimension",
            "chosen_is_safe": "chosen_is_safe?",
            "rejected_is_safe": "rejected_is_safe?",
        }
    ),
    "answers": Adapter(
        {
            "prompt": "prompt",
            "answer": "answer|response",
            "is_safe": "is_safe?",
            "refusal": "refusal?",
        }
    ),
    "gptfuzz": Adapter(
        {"prompt": "prompt", "answer": "Response", "is_safe": "is_safe"},
        reshape=unrecorded_request,
    ),
    "pyrit_refusal": Adapter(
        {"prompt": "objective", "answer": "assistant_response", "refusal": "human_score"}
    ),
}

CATEGORY_VALUES = {
    "EHD": "EHD",
    "IHD": "IHD",
    "MHD": "MHD",
    "NONE": "NONE",
    "OTHER": "NONE",
    "No risk": "NONE",
}
LABEL_VALUES = {"safe": False, "unsafe": True}
FLAG_VALUES = {"true": True, "false": False, "1": True, "0": False}
DIMENSION_VALUES = {"helpful": "helpful", "harmless": "harmless"}
REFUSAL_VALUES = {
    "compliance": "Compliance",
    "partial": "Partial",
    "refusal": "Refusal",
    "false": "Compliance",
    "true": "Refusal",
    "0": "Compliance",
    "1": "Refusal",
    "1_full_compliance": "Compliance",  # these three are XSTest's
    "2_full_refusal": "Refusal",
    "3_partial_refusal": "Partial",
}
VALUES: dict[str, Mapping[str, Any]] = {
    "category": CATEGORY_VALUES,
    "label": LABEL_VALUES,
    "chosen_is_safe": FLAG_VALUES,
    "rejected_is_safe": FLAG_VALUES,
    "dimension": DIMENSION_VALUES,
    "is_safe": FLAG_VALUES,
    "refusal": REFUSAL_VALUES,
}
"""What the values of a closed field mean; `label` says whether a safe model should decline."""
