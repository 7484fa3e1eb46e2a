"""Conversations as token ids: rendered once by the model's own chat template, split by offsets.

messages + answer -> prompt ids and response ids. Training, scoring, judging and generation all
come through here, so that they see identical ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any

from jinja2.exceptions import TemplateError

from equilibrate_core.errors import ModelError, TemplateRefusal
from equilibrate_core.records import Message

Tokenizer = Any
"""A transformers fast tokenizer with a chat template (its stubs are too loose to name)."""

TEMPLATE_DATE = date(2024, 7, 26)
"""The day that templates are told. Some write today's into the system turn: the same row would have
other token ids tomorrow than those that were scored or trained on. Llama 3.1's own fallback."""
DATED: dict[str, Any] = {
    "date_string": TEMPLATE_DATE.strftime("%d %b %Y"),  # Llama 3.1 and 3.2
    "strftime_now": TEMPLATE_DATE.strftime,  # whoever asks for the clock itself, e.g. Granite
}
"""Arguments of every `apply_chat_template`."""

_SENTINEL = "EQUILIBRATE-SENTINEL"


@dataclass(frozen=True)
class Encoded:
    """Token ids of one conversation with one answer."""

    prompt_ids: list[int]
    """Everything up to and including the assistant header."""
    response_ids: list[int]
    """Everything the assistant wrote, its end-of-turn token included when it finished."""
    response_text: str
    """The rendered answer, without the end-of-turn token."""
    response_ends: list[int]
    """For every response token the end of its characters in `response_text`; the end-of-turn
    token stands at the text's end."""


def encode_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation that waits for an answer: what a generator is given."""
    return _tokenize(tokenizer, _render(tokenizer, messages, add_generation_prompt=True))[0]


def encode_answer(
    tokenizer: Tokenizer, messages: Sequence[Message], answer: str, *, finished: bool = True
) -> Encoded:
    """Token ids of a conversation with `answer`, tokenised as one text.

    A token that holds characters of both prompt and answer counts as the answer's first. With
    `finished` False (an answer cut by a length limit) no end-of-turn token is added.
    Raises TemplateRefusal when the template does not render the conversation or rewrites its prompt
    once an answer is there, and ModelError when it rewrites any prompt.
    """
    prompt = _render(tokenizer, messages, add_generation_prompt=True)
    turns = [*messages, Message.model_construct(role="assistant", content=answer)]
    text = _render(tokenizer, turns, add_generation_prompt=False)
    if not text.startswith(prompt):
        problem = (
            "the chat template renders a prompt differently once an answer follows; "
            "use a template whose generation prompt is a prefix of the full conversation"
        )
        if _rewrites_all(tokenizer):
            raise ModelError(problem)
        roles = ", ".join(m.role for m in messages)
        raise TemplateRefusal(f"of a conversation of {roles} {problem}, or leave such rows out")
    end_token = end_of_turn(tokenizer)
    end = text.rfind(end_token)
    if end < len(prompt):
        raise ModelError(f"the chat template does not close an answer with {end_token!r}")
    text = text[: end + len(end_token)] if finished else text[:end]
    ids, offsets = _tokenize(tokenizer, text)
    first = next((i for i, (_, stop) in enumerate(offsets) if stop > len(prompt)), len(ids))
    limit = end - len(prompt)
    return Encoded(
        prompt_ids=ids[:first],
        response_ids=ids[first:],
        response_text=text[len(prompt) : end],
        response_ends=[min(stop - len(prompt), limit) for _, stop in offsets[first:]],
    )


def end_of_turn(tokenizer: Tokenizer) -> str:
    """The token with which the template closes an assistant turn, e.g. `<|im_end|>`.

    Raises ModelError when the tokenizer has no chat template or closes turns by plain text.
    """
    return _end_of_turn(tokenizer)


def end_of_turn_id(tokenizer: Tokenizer) -> int:
    """Token id of `end_of_turn`."""
    return int(tokenizer.convert_tokens_to_ids(end_of_turn(tokenizer)))


@lru_cache(maxsize=8)
def _end_of_turn(tokenizer: Tokenizer) -> str:
    turns = [Message(role="user", content="x"), Message(role="assistant", content=_SENTINEL)]
    tail = _render(tokenizer, turns, add_generation_prompt=False).partition(_SENTINEL)[2]
    found = [(tail.find(token), token) for token in _special_tokens(tokenizer) if token in tail]
    if not found:
        raise ModelError("the chat template closes an assistant turn with no special token")
    return min(found)[1]


@lru_cache(maxsize=8)
def _rewrites_all(tokenizer: Tokenizer) -> bool:
    """Whether even a lone question reads differently with an answer behind it.

    Some templates write the system's text into the last user turn only while nothing follows it.
    """
    question = [Message(role="user", content="x")]
    answered = [*question, Message(role="assistant", content=_SENTINEL)]
    prompt = _render(tokenizer, question, add_generation_prompt=True)
    return not _render(tokenizer, answered, add_generation_prompt=False).startswith(prompt)


def break_tokens(text: str, tokens: Sequence[str]) -> str:
    """`text` with a zero-width space inside every occurrence of a special token.

    Text that a user or a model wrote must not close a turn or open another one.
    """
    for token in tokens:
        if token in text:
            text = text.replace(token, token[0] + "\u200b" + token[1:])
    return text


@lru_cache(maxsize=8)
def _special_tokens(tokenizer: Tokenizer) -> tuple[str, ...]:
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    tokens = {*tokenizer.all_special_tokens, *added}
    return tuple(sorted((token for token in tokens if len(token) > 1), key=len, reverse=True))


def _render(
    tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool
) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            f"{tokenizer.name_or_path or 'tokenizer'}: the tokenizer has no chat template; give an "
            "instruct model, or add chat_template.jinja to its folder"
        )
    special = _special_tokens(tokenizer)
    turns = [{"role": m.role, "content": break_tokens(m.content, special)} for m in messages]
    try:
        return tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=add_generation_prompt, **DATED
        )
    except TemplateError as error:
        roles = ", ".join(m.role for m in messages)
        raise TemplateRefusal(
            f"{tokenizer.name_or_path or 'tokenizer'}: its chat template refuses a conversation of "
            f"{roles}: {error}; leave such rows out, or give chat_template.jinja another template"
        ) from error


def _tokenize(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    # The template writes its own BOS where the model wants one: adding special tokens here would
    # give two.
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return list(encoded["input_ids"]), list(encoded["offset_mapping"])
