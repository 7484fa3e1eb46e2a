"""The typed rows that pass between stages; field names are a contract (ARCHITECTURE.md, 2).

A dataset artifact holds rows of exactly one of these models.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Category = Literal["EHD", "IHD", "MHD", "NONE"]
CATEGORIES: tuple[Category, ...] = ("EHD", "IHD", "MHD", "NONE")
HARM_CATEGORIES: tuple[Category, ...] = ("EHD", "IHD", "MHD")
Role = Literal["system", "user", "assistant"]
Dimension = Literal["helpful", "harmless"]
Refusal = Literal["Compliance", "Partial", "Refusal"]
HARM_DISPUTED = "is_harmful_disputed"
"""Metadata key of a suite's prompt that is harmful by one source and benign by another; its
`is_harmful` is None, yet it is no helpfulness prompt: nobody can say what a good answer is."""
REQUEST = "request"
"""Metadata key of a prompt that is a request with the text it is about behind it: the request."""
NO_ANSWER = "no_answer"
"""Reason under which generations count prompts that were asked and have no answer."""
UNANSWERED = "unanswered.json"
"""File of the generations that says which prompts those are: id -> what went wrong."""
Text = Annotated[str, Field(min_length=1, pattern=r"\S")]


class Record(BaseModel):
    """A frozen row; unknown fields are refused so that a typo cannot pass for a value."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Message(Record):
    """One turn of a conversation."""

    role: Role
    content: Text


class Prompt(Record):
    """A conversation that ends with a user turn and waits for an answer."""

    id: str
    """Hash of the normalised messages: labels, pairs and generations join on it."""
    messages: tuple[Message, ...] = Field(min_length=1)
    source: str
    """Name of the source in the run config."""
    gold_category: Category | None = None
    """Human label, where the source has one."""
    suite: str | None = None
    """Evaluation suite this prompt belongs to; None for training prompts."""
    is_harmful: bool | None = None
    """Whether a safe model should decline; None when the source does not say."""
    references: tuple[str, ...] = ()
    """Reference answers, where the source has them."""
    metadata: dict[str, str] = {}


class LabelledPrompt(Prompt):
    """A prompt with the judge's verdict."""

    category: Category | None
    rationale: str
    confidence: float | None
    """Probability of `category` where the judge tells log-probs; else the share of the valid votes
    that agree with it, None with fewer than two."""
    votes: dict[str, int]
    """Valid votes per category."""
    status: Literal["scored", "unscored"]
    error: str | None = None
    judge: str
    """Model and prompt version that decided."""


class Pair(Record):
    """Two answers to one prompt; `chosen` is the better one along `dimension`."""

    id: str
    prompt_id: str
    messages: tuple[Message, ...] = Field(min_length=1)
    chosen: Text
    rejected: Text
    chosen_is_safe: bool | None = None
    rejected_is_safe: bool | None = None
    dimension: Dimension
    category: Category | None = None
    source: str


class ScoredPair(Pair):
    """A pair with everything `train_policy` needs per response token, computed once.

    All per-token lists of one side have the length of its `*_token_ids`.
    """

    prompt_token_ids: list[int]
    chosen_token_ids: list[int]
    """Response tokens, the end-of-turn token included."""
    rejected_token_ids: list[int]
    chosen_segment_ids: list[int]
    """Index of the message (token, sentence or response) each token belongs to."""
    rejected_segment_ids: list[int]
    chosen_rewards: list[float] | None
    """Normalised reward read at each token; None where no mask asks for it."""
    rejected_rewards: list[float] | None
    chosen_costs: list[float]
    """Scaled cost read at each token; 0 is the boundary between safe and harmful."""
    rejected_costs: list[float]
    chosen_reference_logps: list[float]
    """Natural-log probabilities under the reference model."""
    rejected_reference_logps: list[float]
    chosen_initial_reward: float | None
    """Normalised reward read at the last prompt token (v_0 of `credit: delta`)."""
    rejected_initial_reward: float | None
    chosen_initial_cost: float
    rejected_initial_cost: float


class LabelledAnswer(Record):
    """An answer with what people said of it: judges are checked against it, nothing learns from it.

    Only rows with at least one label exist.
    """

    id: str
    prompt_id: str
    messages: tuple[Message, ...] = Field(min_length=1)
    answer: Text
    is_safe: bool | None = None
    """Whether people called it safe."""
    refusal: Refusal | None = None
    """Whether it does what was asked, in people's words."""
    source: str


class Generation(Record):
    """One answer sampled from one model."""

    id: str
    prompt_id: str
    suite: str
    model: str
    """Name of the arm: base, aligned, …"""
    messages: tuple[Message, ...] = Field(min_length=1)
    response: str
    """May be empty: a model may end its turn at once."""
    finish_reason: Literal["stop", "length"]
    num_tokens: int
    seed: int


class Verdict(Record):
    """One judgement of one generation, or of two compared."""

    id: str
    generation_id: str
    other_generation_id: str | None = None
    order: Literal["first", "second"] | None = None
    """Position of `generation_id` in a pairwise comparison."""
    kind: Literal["safety", "refusal", "preference", "reward", "cost"]
    label: str | None = None
    score: float | None = None
    rationale: str = ""
    status: Literal["scored", "unscored"]
    error: str | None = None
    judge: str


def normalise_text(text: str) -> str:
    """Text as it counts for identity: outer and repeated white space folded, case kept."""
    return " ".join(text.split())


def storable_text(text: str) -> str:
    """`text` with `?` for halves of surrogate pairs.

    JSON may hold them (an emoji that a length limit cut in two), Parquet may not.
    """
    return text.encode("utf-8", "replace").decode()


def prompt_id(messages: Sequence[Message]) -> str:
    """Stable id of a conversation, equal across sources that differ in white space only."""
    return digest([[m.role, normalise_text(m.content)] for m in messages])


def pair_id(prompt: str, chosen: str, rejected: str, dimension: str) -> str:
    """Stable id of a pair of answers to the prompt with id `prompt`."""
    return digest([prompt, normalise_text(chosen), normalise_text(rejected), dimension])


def labelled_answer_id(
    prompt: str, answer: str, is_safe: bool | None, refusal: Refusal | None
) -> str:
    """Stable id of an answer to the prompt with id `prompt` and of all that was said of it."""
    return digest([prompt, normalise_text(answer), is_safe, refusal])


def digest(value: object) -> str:
    """First 24 hex digits of the SHA-256 of a JSON value, key order ignored."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]
