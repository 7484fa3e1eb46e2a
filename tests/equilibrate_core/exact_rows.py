"""The conversations as token ids, as our code and as TRL's collator take them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from equilibrate_core.batches import PaddedBatch
from equilibrate_core.chat import encode_answer
from equilibrate_core.logps import span_mask
from tests.conversations import Conversation

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Example:
    """One conversation with its two answers."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


def examples(tokenizer: Any, talks: Sequence[Conversation]) -> list[Example]:
    rows: list[Example] = []
    for messages, *answers in talks:
        chosen, rejected = (encode_answer(tokenizer, messages, answer) for answer in answers)
        assert chosen.prompt_ids == rejected.prompt_ids
        rows.append(Example(chosen.prompt_ids, chosen.response_ids, rejected.response_ids))
    return rows


def padded(rows: list[Example], *, shared: bool) -> tuple[PaddedBatch, torch.Tensor]:
    """Chosen rows, then rejected ones, and which of their tokens are responses."""
    firsts = [row.prompt_ids + row.chosen_ids for row in rows]
    seconds = [row.prompt_ids + row.rejected_ids for row in rows]
    starts = [len(row.prompt_ids) for row in rows] * 2
    batch = (
        PaddedBatch.of_pairs(firsts, seconds, pad_id=0, device=CPU)
        if shared
        else PaddedBatch.of([*firsts, *seconds], pad_id=0, device=CPU)
    )
    ends = [len(ids) for ids in [*firsts, *seconds]]
    return batch, span_mask(starts, ends, batch.input_ids_NL.shape[1])
