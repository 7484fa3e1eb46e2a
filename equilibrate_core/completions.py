"""What every generator takes and gives: conversations in, one completion each out, in order."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from equilibrate_core.chat import Tokenizer, encode_prompt, end_of_turn_id
from equilibrate_core.errors import TemplateRefusal
from equilibrate_core.generator_config import Sampling
from equilibrate_core.records import Message

Conversation = Sequence[Message]
JsonSchema = dict[str, Any]
OnDone = Callable[[int], None]
"""Told how many more rows are finished."""


@dataclass(frozen=True)
class Completion:
    """One answer, or why there is none."""

    text: str
    """Empty when `error` is set; special tokens are left out."""
    finish_reason: Literal["stop", "length"]
    num_tokens: int
    """Generated tokens, end-of-turn included; 0 where an endpoint does not say."""
    error: str | None = None
    """Why this row failed; its text then means nothing."""
    label_logps: dict[str, float] | None = None
    """Natural-log probability of each choice where the backend tells, not normalised over them."""
    label_bounds: dict[str, float] | None = None
    """Upper bounds of the same for the choices that the backend did not list."""


OnAnswer = Callable[[int, Completion], None]
"""Given each row's completion as soon as the backend has it: at once, or batch by batch."""


class Generator(Protocol):
    """A loaded model or a server that answers conversations."""

    name: str
    """The model as records should name it."""

    def generate(
        self,
        conversations: Sequence[Conversation],
        sampling: Sampling,
        *,
        schema: JsonSchema | None = None,
        choices: Sequence[str] | None = None,
        on_done: OnDone | None = None,
        on_answer: OnAnswer | None = None,
    ) -> list[Completion]:
        """Answer every conversation, in order; a row that fails carries its error.

        `schema` makes answers JSON of that schema, `choices` makes them one of these texts.
        Raises UserError when nothing can be answered at all (wrong key, unknown model).
        """
        ...

    def fits(self, conversation: Conversation, max_tokens: int) -> bool:
        """Whether the conversation leaves room for `max_tokens` (endpoints: not known, True)."""
        ...


@dataclass(frozen=True)
class Request:
    """One row as an in-process backend runs it."""

    row: int
    ids: list[int]
    """The prompt's token ids, the very ones that training sees."""
    seed: int


def failed(error: str) -> Completion:
    """A completion that says why there is none."""
    return Completion(text="", finish_reason="stop", num_tokens=0, error=error)


def encode_requests(
    tokenizer: Tokenizer,
    conversations: Sequence[Conversation],
    sampling: Sampling,
    *,
    max_model_len: int,
) -> tuple[list[Request], dict[int, Completion]]:
    """Requests for the rows that fit, and failed completions by row for those that do not.

    A conversation that the chat template refuses fails alone, too.
    """
    requests: list[Request] = []
    errors: dict[int, Completion] = {}
    room = max_model_len - sampling.max_tokens
    for row, conversation in enumerate(conversations):
        try:
            ids = encode_prompt(tokenizer, conversation)
        except TemplateRefusal as error:
            errors[row] = failed(str(error))
            continue
        if len(ids) > room:
            errors[row] = failed(
                f"prompt of {len(ids)} tokens: max_model_len {max_model_len} minus max_tokens "
                f"{sampling.max_tokens} leaves room for {room}"
            )
        else:
            requests.append(Request(row, ids, request_seed(sampling.seed, ids)))
    return requests, errors


def request_seed(seed: int, content: object) -> int:
    """Seed of one row in [0, 2^31), from the run's seed and the row's prompt alone."""
    sha = hashlib.sha256(f"{seed} {content}".encode()).digest()
    return int.from_bytes(sha[:4], "big") >> 1


def stop_ids(tokenizer: Tokenizer) -> list[int]:
    """Tokens that end an answer: the template's end-of-turn, and the model's end-of-text."""
    return sorted({end_of_turn_id(tokenizer), tokenizer.eos_token_id} - {None})


def completion_of(tokenizer: Tokenizer, ids: Sequence[int], stops: Sequence[int]) -> Completion:
    """Completion of generated ids; what follows the first stop token is ignored."""
    end = next((i for i, token in enumerate(ids) if token in stops), None)
    text = tokenizer.decode(ids[:end], skip_special_tokens=True)
    if end is None:
        return Completion(text=text, finish_reason="length", num_tokens=len(ids))
    return Completion(text=text, finish_reason="stop", num_tokens=end + 1)


def in_order(num_rows: int, done: dict[int, Completion]) -> list[Completion]:
    """Completions of rows 0 … num_rows - 1; a row nobody answered is a failed one."""
    return [done.get(row, failed("the backend gave no answer")) for row in range(num_rows)]
