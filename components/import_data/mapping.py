"""From one parsed row to records: the adapter's table applied, every value checked.

Raises RowError, with the field and what was expected, for a row that cannot be used.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.import_data.adapters import VALUES, Adapter, Row
from components.import_data.config import Source
from components.import_data.rows import RowError, is_unicode
from equilibrate_core.records import (
    LabelledAnswer,
    Message,
    Pair,
    Prompt,
    labelled_answer_id,
    normalise_text,
    pair_id,
    prompt_id,
)

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Mapped:
    """What one row became; `source_id` is the dataset's own id, where it has one."""

    prompt: Prompt
    pairs: tuple[Pair, ...]
    source_id: str | None


def map_row(source: Source, adapter: Adapter, row: Row) -> Mapped:
    """Records of one row. A row's own value yields to the source's, an adapter's to the row's."""
    shaped = adapter.reshape(row) if adapter.reshape else [row]
    values = [_values(source, adapter, each) for each in shaped]
    prompt = _prompt(source, adapter, shaped[0], values[0])
    pairs = tuple(_pair(prompt, each) for each in values) if adapter.is_pairs else ()
    own = values[0].get("id")
    return Mapped(prompt, pairs, None if own is None else str(own))


def map_answer(source: Source, adapter: Adapter, row: Row) -> LabelledAnswer:
    """The labelled answer of one row."""
    (shaped,) = adapter.reshape(row) if adapter.reshape else [row]
    values = _values(source, adapter, shaped)
    messages, answer = _messages(values["prompt"], None), _checked("answer", values["answer"])
    prompt, is_safe, refusal = prompt_id(messages), values.get("is_safe"), values.get("refusal")
    if is_safe is None and refusal is None:
        raise RowError("no label: neither 'is_safe' nor 'refusal' is given")
    return LabelledAnswer(
        id=labelled_answer_id(prompt, answer, is_safe, refusal),
        prompt_id=prompt,
        messages=messages,
        answer=answer,
        is_safe=is_safe,
        refusal=refusal,
        source=source.name,
    )


def _values(source: Source, adapter: Adapter, row: Row) -> Row:
    given = overrides(source)
    values = dict(adapter.constants)
    for name, path in field_paths(source, adapter).items():
        if name in given:
            continue
        value = _lookup(row, path, required=not path.endswith("?") and name not in values)
        if value is not None:
            values[name] = _meaning(name, path, value)
    return {**values, **given}


def overrides(source: Source) -> Mapping[str, Any]:
    """Our fields whose value the source's config gives for all of its rows."""
    values = {
        "label": source.is_harmful,
        "suite": source.suite,
        "dimension": source.dimension,
        "category": source.category,
    }
    return {name: value for name, value in values.items() if value is not None}


def field_paths(source: Source, adapter: Adapter) -> Mapping[str, str]:
    """Our field → path of the column in this source's rows.

    Whether a row may lack it is the adapter's to say: a `?` in the config says nothing.
    """
    mapped = {
        name: column.removesuffix("?") + ("?" if adapter.fields[name].endswith("?") else "")
        for name, column in source.fields.items()
    }
    return {**adapter.fields, **mapped}


def _lookup(row: Row, path: str, *, required: bool) -> Any:
    """Value at a path; None for an optional one that is absent, null or blank."""
    options = path.removesuffix("?").split("|")
    for option in options:
        value = _descend(row, option)
        blank = isinstance(value, str) and not value.strip()
        if value is not None and not (blank and not required):
            return value
    if required:
        raise RowError(f"field {' or '.join(map(repr, options))} is missing")
    return None


def _descend(value: Any, path: str) -> Any:
    if isinstance(value, dict) and value.get(path) is not None:
        return value[path]  # a column may itself be called a.b
    for part in path.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit():
            value = value[int(part)] if int(part) < len(value) else None
        else:
            return None
    return value


def _meaning(name: str, path: str, value: Any) -> Any:
    """What a closed field's value means (category, label, …); other fields' values as they are."""
    if name not in VALUES:
        return value
    if isinstance(value, bool) and bool in map(type, VALUES[name].values()):
        return value
    key = str(value).strip()
    found = VALUES[name].get(key, VALUES[name].get(key.lower()))
    if found is None or not isinstance(value, str | int):
        known = ", ".join(VALUES[name])
        field = path.removesuffix("?")
        raise RowError(f"unknown {name} {value!r:.80} in {field!r}; expected one of {known}")
    return found


def _prompt(source: Source, adapter: Adapter, row: Row, values: Row) -> Prompt:
    messages = _messages(values["prompt"], values.get("context"))
    metadata = {"language": values.get("language")}
    for item in adapter.metadata:
        name, _, path = item.partition("=")
        metadata[name] = _descend(row, path or name)
    return Prompt(
        id=prompt_id(messages),
        messages=messages,
        source=source.name,
        gold_category=values.get("category"),
        suite=values.get("suite"),
        is_harmful=values.get("label"),
        references=_references(values.get("references")),
        metadata={
            name: _checked(name, str(value))
            for name, value in metadata.items()
            if value is not None and str(value).strip()
        },
    )


def _pair(prompt: Prompt, values: Row) -> Pair:
    chosen, rejected = (_checked(side, values[side]) for side in ("chosen", "rejected"))
    if normalise_text(chosen) == normalise_text(rejected):
        raise RowError("chosen and rejected are the same answer")
    return Pair(
        id=pair_id(prompt.id, chosen, rejected, values["dimension"]),
        prompt_id=prompt.id,
        messages=prompt.messages,
        chosen=chosen,
        rejected=rejected,
        chosen_is_safe=values.get("chosen_is_safe"),
        rejected_is_safe=values.get("rejected_is_safe"),
        dimension=values["dimension"],
        category=prompt.gold_category,
        source=prompt.source,
    )


def _messages(prompt: Any, context: Any) -> tuple[Message, ...]:
    """A text as one user turn, or a list of {role, content}: system?, user, assistant, …, user."""
    if not isinstance(prompt, list):
        text = _checked("prompt", prompt)
        if context is not None:
            text = f"{text}\n\n{_checked('context', context)}"
        return (Message(role="user", content=text),)
    turns: list[Message] = []
    for index, turn in enumerate(prompt):
        role = turn.get("role") if isinstance(turn, dict) else None
        if role not in ROLES:
            raise RowError(f"turn {index} of the prompt has role {role!r:.80}; expected {ROLES}")
        turns.append(Message(role=role, content=_checked(f"turn {index}", turn.get("content"))))
    spoken = [turn.role for turn in turns[turns[:1] != [] and turns[0].role == "system" :]]
    if spoken != ["user", "assistant"] * (len(spoken) // 2) + ["user"]:
        raise RowError("the prompt's turns do not alternate from user to user")
    return tuple(turns)


def _references(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    items = value if isinstance(value, list) else [value]
    return tuple(_checked("references", item) for item in items if item not in (None, ""))


def _checked(name: str, value: Any) -> str:
    if not isinstance(value, str):
        kind = "missing" if value is None else f"{type(value).__name__}, expected text"
        raise RowError(f"field {name!r} is {kind}")
    if not value.strip():
        raise RowError(f"field {name!r} is empty")
    if not is_unicode(value):
        raise RowError(f"field {name!r} is not valid Unicode (a lone surrogate)")
    return value
