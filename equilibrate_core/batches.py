"""Batches of token sequences and the one place that runs a transformer body over them.

token ids -> padded batch -> hidden states. Two answers to one prompt share a row, so that what
they have in common is computed once; nobody downstream can tell.
"""

# N = sequences in the batch, L = padded length, D = hidden size,
# P = pairs, M = padded length of a row that holds both answers of a pair
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from equilibrate_core.block_masks import answer_blocks

SHARING_MODELS = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo2", "granite"})
"""`model_type`s that are known to take a mask per query and positions that start again: dense
decoders with rotary positions. Others run one answer per row."""


@dataclass(frozen=True)
class SharedRows:
    """Rows that hold a common opening once, then the rest of the one and of the other sequence."""

    input_ids_PM: Tensor
    position_ids_PM: Tensor
    first_P1: Tensor
    """Tokens of the first sequence; the rest of the second one follows."""
    common_P1: Tensor
    """Tokens of the common opening."""
    source_NL: Tensor
    """Where in its row the token at (n, l) stands; rows are those of n modulo P."""

    def visible_P1MM(self) -> Tensor:
        """Boolean: which position (last axis) a query (axis before) may look at.

        P x M x M is the one thing here that grows with the square of the length: it is made where
        and when a model looks at it.
        """
        slots_M = torch.arange(self.input_ids_PM.shape[1], device=self.input_ids_PM.device)
        is_second_PM = slots_M >= self.first_P1
        # The rest of the first answer is behind the second one's back.
        is_rest_PM = (slots_M >= self.common_P1) & ~is_second_PM
        visible_PMM = slots_M <= slots_M[:, None]
        visible_PMM = visible_PMM & ~(is_second_PM[:, :, None] & is_rest_PM[:, None, :])
        return visible_PMM[:, None]

    def visible_blocks(self) -> BlockMask:
        """The same for flex attention, which passes over blocks that nobody may look at."""
        return answer_blocks(self.first_P1, self.common_P1, self.input_ids_PM.shape[1])


@dataclass(frozen=True)
class PaddedBatch:
    """Right-padded sequences; padding takes no part in anything."""

    input_ids_NL: Tensor
    attention_mask_NL: Tensor
    shared: SharedRows | None = None
    """The same tokens with common openings held once, for models that can."""

    @classmethod
    def of(
        cls, sequences: Sequence[Sequence[int]], *, pad_id: int, device: torch.device
    ) -> "PaddedBatch":
        """Pad on the right to the longest sequence, so that position t is t in every row."""
        mask_NL = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
        for row, ids in enumerate(sequences):
            mask_NL[row, : len(ids)] = 1
        return cls(_padded(sequences, pad_id).to(device), mask_NL.to(device))

    @classmethod
    def of_pairs(
        cls,
        firsts: Sequence[Sequence[int]],
        seconds: Sequence[Sequence[int]],
        *,
        pad_id: int,
        device: torch.device,
    ) -> "PaddedBatch":
        """All first sequences, then all second ones; what a pair has in common is computed once."""
        batch = cls.of([*firsts, *seconds], pad_id=pad_id, device=device)
        length = batch.input_ids_NL.shape[1]
        shared = _share(firsts, seconds, length, pad_id=pad_id, device=device)
        return cls(batch.input_ids_NL, batch.attention_mask_NL, shared)


def hidden_states(model: Any, batch: PaddedBatch) -> Tensor:
    """Last hidden state of every token, shape (N, L, D); those of padding mean nothing."""
    body = getattr(model, model.base_model_prefix)
    if batch.shared is None or not can_share(model):
        return body(
            input_ids=batch.input_ids_NL, attention_mask=padding_mask(model, batch), use_cache=False
        ).last_hidden_state
    rows = batch.shared
    hidden_PMD = body(
        input_ids=rows.input_ids_PM,
        attention_mask=rows.visible_blocks() if _is_flex(model) else rows.visible_P1MM(),
        position_ids=rows.position_ids_PM,
        use_cache=False,
    ).last_hidden_state
    num_rows, width = rows.input_ids_PM.shape
    row_N1 = (torch.arange(len(rows.source_NL), device=hidden_PMD.device) % num_rows)[:, None]
    return hidden_PMD.flatten(0, 1)[row_N1 * width + rows.source_NL]


def padding_mask(model: Any, batch: PaddedBatch) -> Tensor | BlockMask | None:
    """What the model must be told of padding when every answer has a row of its own.

    It stands on the right, where no token of a causal decoder looks: those known to us are told
    nothing, since torch's flash kernel takes no mask.
    """
    if not can_share(model):
        return batch.attention_mask_NL
    if not _is_flex(model):
        return None
    num_rows, length = batch.input_ids_NL.shape
    # As one answer that fills its row.
    lengths_N1 = torch.full((num_rows, 1), length, device=batch.input_ids_NL.device)
    return answer_blocks(lengths_N1, lengths_N1, length)


def can_share(model: Any) -> bool:
    """Whether the model's attention takes any mask, so that two answers may share a row."""
    attention = getattr(model.config, "_attn_implementation", None)
    return attention in ("sdpa", "flex_attention") and is_dense_decoder(model.config)


def is_dense_decoder(config: Any) -> bool:
    """Whether every layer of a family known to us looks at all tokens before, and at no others."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        config.model_type in SHARING_MODELS
        and kinds == {"full_attention"}
        and getattr(config, "sliding_window", None) is None
    )


def _is_flex(model: Any) -> bool:
    return model.config._attn_implementation == "flex_attention"


def _share(
    firsts: Sequence[Sequence[int]],
    seconds: Sequence[Sequence[int]],
    length: int,
    *,
    pad_id: int,
    device: torch.device,
) -> SharedRows:
    commons = [common_length(a, b) for a, b in zip(firsts, seconds, strict=True)]
    tails = list(zip(firsts, seconds, commons, strict=True))
    ids_PM = _padded([[*a, *b[common:]] for a, b, common in tails], pad_id)
    first_P1 = torch.tensor([[len(a)] for a in firsts])
    common_P1 = torch.tensor(commons)[:, None]
    slots_M = torch.arange(ids_PM.shape[1])
    is_second_PM = slots_M >= first_P1
    positions_PM = torch.where(is_second_PM, slots_M - first_P1 + common_P1, slots_M)
    slots_L = torch.arange(length).expand(len(firsts), -1)
    moved_PL = torch.where(slots_L < common_P1, slots_L, slots_L - common_P1 + first_P1)
    source_NL = torch.cat([slots_L, moved_PL]).clamp(max=ids_PM.shape[1] - 1)
    parts = (ids_PM, positions_PM, first_P1, common_P1, source_NL)
    return SharedRows(*(part.to(device) for part in parts))


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of tokens that both sequences begin with."""
    shorter = min(len(first), len(second))
    return next((i for i in range(shorter) if first[i] != second[i]), shorter)


def _padded(sequences: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    ids_NL = torch.full((len(sequences), max(map(len, sequences))), pad_id, dtype=torch.long)
    for row, ids in enumerate(sequences):
        ids_NL[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
    return ids_NL
