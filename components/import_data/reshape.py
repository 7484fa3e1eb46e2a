"""Layouts that a column path cannot describe, one function each: a row in, plain rows out.

Raises RowError when the row is not laid out as its dataset promises.
"""

import re
from typing import Any

from components.import_data.rows import RowError

Row = dict[str, Any]
_TURN = re.compile(r"\n\n(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant", "human": "user", "gpt": "assistant"}
"""Names of the speakers in hh_rlhf and in ShareGPT-like conversations."""


def transcript_answers(row: Row) -> list[Row]:
    r"""hh_rlhf: two transcripts "\n\nHuman: … \n\nAssistant: …" that differ in the last answer."""
    chosen, rejected = (_turns(_text(row, side), side) for side in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise RowError("the two transcripts differ before their last turn")
    for side, turns in (("chosen", chosen), ("rejected", rejected)):
        if len(turns) < 2 or turns[-1]["role"] != "assistant":
            raise RowError(f"transcript {side!r} does not end with an assistant's answer")
    answers = {"chosen": chosen[-1]["content"], "rejected": rejected[-1]["content"]}
    return [{**row, "prompt": chosen[:-1], **answers}]


def conversation_answers(row: Row) -> list[Row]:
    """dpo_demo: `conversations` of {from, value} before `chosen` and `rejected` turns."""
    turns = _list(row, "conversations")
    messages = [_turn(turn, f"conversations[{i}]") for i, turn in enumerate(turns)]
    answers = {side: _turn(row.get(side), side)["content"] for side in ("chosen", "rejected")}
    return [{**row, "prompt": messages, **answers}]


def both_dimensions(row: Row) -> list[Row]:
    """PKU-SafeRLHF's full schema: one helpful and one harmless pair over the same two answers."""
    answers = [_text(row, "response_0"), _text(row, "response_1")]
    flags = [_flag(row, "is_response_0_safe"), _flag(row, "is_response_1_safe")]
    choices = {"helpful": "better_response_id", "harmless": "safer_response_id"}
    rows: list[Row] = []
    for dimension, name in choices.items():
        best = row.get(name)
        if type(best) is not int or best not in (0, 1):
            raise RowError(f"field {name!r} is {best!r:.80}; expected 0 or 1")
        rows.append(
            {
                **row,
                "dimension": dimension,
                "chosen": answers[best],
                "rejected": answers[1 - best],
                "chosen_is_safe": flags[best],
                "rejected_is_safe": flags[1 - best],
            }
        )
    return rows


def first_user_turn(row: Row) -> list[Row]:
    """WildChat: the first user turn of `conversation`."""
    for index, turn in enumerate(_list(row, "conversation")):
        if not isinstance(turn, dict):
            raise RowError(f"field 'conversation[{index}]' is not an object")
        if turn.get("role") == "user":
            return [{**row, "prompt": turn.get("content")}]
    raise RowError("field 'conversation' has no user turn")


def unrecorded_request(row: Row) -> list[Row]:
    """GPTFuzzer: the number of the request stands for its text; `label` 1 means harm, 0 none."""
    label = str(_present(row, "label")).strip()
    if label not in ("0", "1"):
        raise RowError(f"field 'label' is {label!r:.80}; expected 0 or 1")
    request = f"(Request {_present(row, 'question')}; its text was not recorded.)"
    return [{**row, "prompt": request, "is_safe": label == "0"}]


def _turns(transcript: str, side: str) -> list[Row]:
    opening, *parts = _TURN.split(transcript)
    if opening.strip() or not parts:
        raise RowError(f"transcript {side!r} does not begin with 'Human:' or 'Assistant:'")
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": ROLES[speaker], "content": text.strip()} for speaker, text in pairs]


def _turn(turn: Any, where: str) -> Row:
    if not isinstance(turn, dict) or not isinstance(turn.get("from"), str) or "value" not in turn:
        raise RowError(f"field {where!r} is not a turn with 'from' and 'value'")
    return {"role": ROLES.get(turn["from"], turn["from"]), "content": turn["value"]}


def _text(row: Row, name: str) -> str:
    value = _present(row, name)
    if not isinstance(value, str):
        raise RowError(f"field {name!r} is {type(value).__name__}; expected text")
    return value


def _flag(row: Row, name: str) -> bool:
    value = _present(row, name)
    if not isinstance(value, bool):
        raise RowError(f"field {name!r} is {value!r:.80}; expected true or false")
    return value


def _list(row: Row, name: str) -> list[Any]:
    value = _present(row, name)
    if not isinstance(value, list) or not value:
        raise RowError(f"field {name!r} is {type(value).__name__}; expected a list of turns")
    return value


def _present(row: Row, name: str) -> Any:
    if row.get(name) is None:
        raise RowError(f"field {name!r} is missing")
    return row[name]
