"""A judge's question: its versioned prompt, the fenced text it is about, and how answers are read.

Judged texts -> the judge's prompt; a completion -> a label, or why it is no verdict.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equilibrate_core.completions import Completion, JsonSchema
from equilibrate_core.judge_config import JudgeConfig
from equilibrate_core.judged_text import conversation_text, cut_middle, fence, fence_key
from equilibrate_core.records import Message, storable_text

Parts = Mapping[str, str | Sequence[Message]]
"""What is judged, by the name its fence carries: `CONVERSATION`, `ANSWER`, …"""


@dataclass(frozen=True)
class Question:
    """A versioned prompt and the labels it can be answered with."""

    id: str
    """File name of the prompt without suffix, e.g. category_v1."""
    field: str
    """Name of the verdict's field in the judge's JSON."""
    labels: tuple[str, ...]
    template: str
    """Instructions with one `{{format}}` and, near the end, one `{{judged}}`: what comes before
    the judged text is equal for all rows and computed once."""

    @classmethod
    def load(cls, path: Path, *, field: str, labels: Sequence[str]) -> "Question":
        """Question whose template is the Markdown file at `path`."""
        template = path.read_text(encoding="utf-8").strip()
        for slot in ("{{judged}}", "{{format}}"):
            if template.count(slot) != 1:
                raise ValueError(f"{path}: needs exactly one {slot}")
        return cls(path.stem, field, tuple(labels), template)


def render(
    question: Question, parts: Parts, config: JudgeConfig, max_chars: int
) -> tuple[Message, bool]:
    """The judge's prompt, each part fenced and cut to `max_chars`, and whether any was cut."""
    raw = [v if isinstance(v, str) else "\n".join(m.content for m in v) for v in parts.values()]
    key = fence_key(raw)
    fenced: list[str] = []
    was_cut = False
    for name, value in parts.items():
        text = value if isinstance(value, str) else conversation_text(value, key)
        was_cut = was_cut or len(text) > max_chars
        fenced.append(fence(name, cut_middle(text, max_chars), key))
    # The judged text goes in last: were it to hold a slot's name, nothing would replace it.
    content = question.template.replace("{{format}}", answer_format(question, config))
    content = content.replace("{{judged}}", "\n\n".join(fenced))
    return Message(role="user", content=content), was_cut


def answer_format(question: Question, config: JudgeConfig) -> str:
    """How the judge is told to answer."""
    if not config.rationale:
        labels = ", ".join(question.labels)
        return f"Answer with exactly one of these words and nothing else: {labels}."
    example = f'{{"rationale": "…", "{question.field}": "{"|".join(question.labels)}"}}'
    return (
        f"Answer with one JSON object and nothing else: {example}. The rationale comes first, is "
        f"in English and has at most {config.rationale_chars} characters."
    )


def verdict_schema(question: Question, rationale_chars: int) -> JsonSchema:
    """JSON schema of a verdict with its reason."""
    return {
        "type": "object",
        "properties": {
            "rationale": {"type": "string", "maxLength": rationale_chars},
            question.field: {"type": "string", "enum": list(question.labels)},
        },
        "required": ["rationale", question.field],
        "additionalProperties": False,
    }


def read_verdict(
    question: Question, completion: Completion, config: JudgeConfig
) -> tuple[str, str]:
    """Label and rationale of a completion. Raises ValueError saying why it is no verdict."""
    if completion.error is not None:
        raise ValueError(completion.error)
    text = completion.text.strip()
    if not config.rationale:
        if text in question.labels:
            return text, ""
        if completion.finish_reason == "length":
            raise ValueError(_cut(config))
        raise ValueError(f"not one of the labels: {text[:80]!r}")
    if completion.finish_reason == "length":
        raise ValueError(_cut(config))
    try:
        answer = json.loads(text, object_pairs_hook=_unique_keys, strict=False)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error}): {text[:80]!r}") from error
    if not isinstance(answer, dict) or set(answer) != {"rationale", question.field}:
        raise ValueError(f"not an object of rationale and {question.field}: {text[:80]!r}")
    label, rationale = answer[question.field], answer["rationale"]
    if not isinstance(rationale, str) or label not in question.labels:
        raise ValueError(f"{question.field} is none of {list(question.labels)}: {text[:80]!r}")
    return label, storable_text(rationale.strip()[: config.rationale_chars])


def is_verdict(question: Question, completion: Completion, config: JudgeConfig) -> bool:
    """Whether `read_verdict` accepts the completion."""
    try:
        read_verdict(question, completion, config)
    except ValueError:
        return False
    return True


def _cut(config: JudgeConfig) -> str:
    return f"the verdict did not end within {config.max_tokens} tokens; raise max_tokens"


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a field occurs twice")
    return dict(pairs)
