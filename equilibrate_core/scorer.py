"""Reward and cost models: a language model with a scalar head, read at the end-of-turn token.

On disk a scorer is a standard Hugging Face sequence-classification directory (num_labels 1) plus
`scorer.json` with the constants that normalise its values.
"""

# N = sequences in the batch, L = padded length
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from equilibrate_core.batches import PaddedBatch, hidden_states
from equilibrate_core.chat import Encoded, encode_answer, end_of_turn_id
from equilibrate_core.errors import ModelError, TemplateRefusal
from equilibrate_core.models import (
    DTYPES,
    Attention,
    Precision,
    attention_options,
    autocast,
    check_model_folder,
    device,
    device_map,
    load_pretrained,
    load_tokenizer,
    without_dropout,
)
from equilibrate_core.records import Message

ScorerKind = Literal["reward", "cost"]
SCORER_FILE = "scorer.json"


class ScorerConstants(BaseModel):
    """What normalises a scorer's values: (value - center) / scale."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: ScorerKind
    center: float
    """Mean over the calibration rows for rewards; exactly 0 for costs, whose 0 is the boundary."""
    scale: float
    """Standard deviation (rewards) or root mean square (costs) over the calibration rows."""
    token_wise: bool
    """Whether intermediate values were trained and so mean something."""


@dataclass(frozen=True)
class Scorer:
    """A loaded scorer."""

    model: Any
    tokenizer: Any
    constants: ScorerConstants


def new_scorer_model(
    base_model: Path, *, seed: int, dtype: str = "float32", attention: Attention = "sdpa"
) -> tuple[Any, Any]:
    """Base model with a fresh scalar head, drawn from `seed`, and its tokenizer with a true pad.

    transformers reads a classifier's value at the last token that is not padding: with pad equal
    to end-of-turn it would read the token before it, so another pad token is chosen and saved.
    """
    tokenizer = load_tokenizer(base_model)
    tokenizer.pad_token = pad_token(tokenizer)
    torch.manual_seed(seed)
    model = load_pretrained(
        base_model,
        AutoModelForSequenceClassification.from_pretrained,
        num_labels=1,
        dtype=DTYPES[dtype],
        device_map=device_map(device()),
        use_safetensors=True,
        trust_remote_code=False,
        **attention_options(base_model, attention),
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    scalar_head(model)
    return without_dropout(model), tokenizer


def pad_token(tokenizer: Any) -> str:
    """A pad token other than end-of-turn that the vocabulary already has.

    Pads are masked everywhere, so where no token is meant for them (Llama 3) or all such tokens are
    the end-of-turn (Granite) any other special token serves. Raises ModelError when there is none.
    """
    end_id = end_of_turn_id(tokenizer)
    usual = ("<|endoftext|>", "<|finetune_right_pad_id|>", "<|pad|>", "<pad>", "[PAD]")
    known = tokenizer.get_vocab()
    meant = (tokenizer.pad_token, *usual, tokenizer.unk_token, tokenizer.eos_token)
    special = [str(t) for _, t in sorted(tokenizer.added_tokens_decoder.items()) if t.special]
    for token in (*meant, *(token for token in special if token != tokenizer.bos_token)):
        if token in known and tokenizer.convert_tokens_to_ids(token) != end_id:
            return token
    raise ModelError(
        f"{tokenizer.name_or_path or 'tokenizer'}: the tokenizer has no special token besides "
        "end-of-turn and BOS that could pad; take a model whose vocabulary has one"
    )


def scalar_head(model: Any) -> Any:
    """The linear head of a sequence classifier. Raises ModelError when it has another form."""
    head = getattr(model, "score", None)
    if head is None or head.out_features != 1:
        raise ModelError(f"{type(model).__name__} has no scalar head named 'score'")
    return head


def token_values(model: Any, batch: PaddedBatch, precision: Precision = "float32") -> Tensor:
    """Value read at every position, shape (N, L); padding holds no meaning.

    `bfloat16` runs the transformer under autocast; the head stays in the weights' own precision.
    """
    with autocast(precision):
        hidden = hidden_states(model, batch)
    head = scalar_head(model)
    values_NL = head(hidden.to(head.weight.dtype)).squeeze(-1)
    return values_NL if values_NL.dtype == torch.float64 else values_NL.float()


def save_scorer(folder: Path, model: Any, tokenizer: Any, constants: ScorerConstants) -> None:
    """Write a scorer as a Hugging Face directory with its constants."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / SCORER_FILE).write_text(constants.model_dump_json(indent=2) + "\n")


def load_scorer(folder: Path, *, dtype: str = "float32", attention: Attention = "sdpa") -> Scorer:
    """Load a scorer. Raises ModelError when the folder holds no scorer or an unusable pad token."""
    constants, tokenizer = _constants_and_tokenizer(folder)
    model = load_pretrained(
        folder,
        AutoModelForSequenceClassification.from_pretrained,
        dtype=DTYPES[dtype],
        device_map=device_map(device()),
        use_safetensors=True,
        trust_remote_code=False,
        **attention_options(folder, attention),
    )
    scalar_head(model)
    return Scorer(model.eval(), tokenizer, constants)


def check_scorer(folder: Path, kind: ScorerKind) -> None:
    """Raise ModelError when a folder can be no scorer of this kind; its weights are not read."""
    constants, _ = _constants_and_tokenizer(folder)
    if constants.kind != kind:
        raise ModelError(f"{folder}: a {constants.kind} model, but a {kind} model is needed")
    check_model_folder(folder)


def _constants_and_tokenizer(folder: Path) -> tuple[ScorerConstants, Any]:
    file = folder / SCORER_FILE
    if not file.is_file():
        raise ModelError(f"{folder}: not a scorer: it has no {SCORER_FILE}")
    try:
        constants = ScorerConstants.model_validate_json(file.read_text())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ModelError(
            f"{file}: not a scorer's constants: {where} {first['msg']}; train the scorer anew"
        ) from error
    tokenizer = load_tokenizer(folder)
    if tokenizer.pad_token_id in (None, end_of_turn_id(tokenizer)):
        raise ModelError(
            f"{folder}: pad token is missing or equals end-of-turn: the value would be misread; "
            "save another pad_token with the tokenizer, or train the scorer anew"
        )
    return constants, tokenizer


def normalise(values: Tensor, constants: ScorerConstants) -> Tensor:
    """Values on the scorer's own scale: rewards centred and scaled, costs scaled only."""
    return (values - constants.center) / constants.scale


def score_responses(
    scorer: Scorer,
    conversations: Sequence[Sequence[Message]],
    responses: Sequence[str],
    finished: Sequence[bool],
    *,
    batch_size: int,
    max_length: int,
) -> list[float]:
    """Normalised value of each answer, read at its last token.

    NaN where it is too long, or the chat template refuses the conversation.

    `finished` says whether the answer ended by itself: only then an end-of-turn token is read.
    """
    encoded: dict[int, Encoded] = {}
    rows = zip(conversations, responses, finished, strict=True)
    for row, (messages, response, done) in enumerate(rows):
        with suppress(TemplateRefusal):
            encoded[row] = encode_answer(scorer.tokenizer, messages, response, finished=done)
    values = [float("nan")] * len(responses)
    fitting = [row for row, answer in encoded.items() if _length(answer) <= max_length]
    fitting.sort(key=lambda row: _length(encoded[row]))
    for start in range(0, len(fitting), batch_size):
        batch = fitting[start : start + batch_size]
        found = _last_values(scorer, [encoded[row] for row in batch])
        for row, value in zip(batch, found, strict=True):
            values[row] = value
    return values


@torch.no_grad()
def _last_values(scorer: Scorer, rows: Sequence[Encoded]) -> list[float]:
    sequences = [row.prompt_ids + row.response_ids for row in rows]
    pad_id = scorer.tokenizer.pad_token_id
    batch = PaddedBatch.of(sequences, pad_id=pad_id, device=scorer.model.device)
    values_NL = normalise(token_values(scorer.model, batch), scorer.constants)
    lasts = batch.attention_mask_NL.sum(dim=1) - 1
    return values_NL.gather(1, lasts[:, None]).squeeze(1).tolist()


def _length(row: Encoded) -> int:
    return len(row.prompt_ids) + len(row.response_ids)
