"""The scorers' objective: Safe RLHF's pairwise losses, at the last token or token by token.

pairs of token ids -> per-pair loss and accuracies.
"""

# B = pairs in the batch, N = 2B sequences, L = padded length, T = compared positions
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from equilibrate_core.batches import PaddedBatch, common_length
from equilibrate_core.losses import (
    cost_loss_per_value,
    position_mean,
    reward_loss_per_value,
)
from equilibrate_core.models import Precision
from equilibrate_core.scorer import ScorerKind, token_values


@dataclass(frozen=True)
class ScorerRow:
    """Two answers to one prompt: better and worse, or more and less harmful for a cost model."""

    first_ids: list[int]
    """Prompt and answer of the better / more harmful side."""
    second_ids: list[int]
    num_prompt_tokens: tuple[int, int]
    first_sign: int
    """+1 harmful, -1 harmless; unused for rewards."""
    second_sign: int

    @property
    def length(self) -> int:
        """Tokens of both sides in rows of their own, as long as the longer one."""
        return 2 * max(len(self.first_ids), len(self.second_ids))

    @cached_property
    def shared_length(self) -> int:
        """Tokens of both sides where what they have in common is held once."""
        both = self.first_ids, self.second_ids
        return sum(map(len, both)) - common_length(*both)


class ScorerObjective(nn.Module):
    """Per-pair loss of a scorer."""

    def __init__(
        self,
        model: Any,
        *,
        kind: ScorerKind,
        token_wise: bool,
        regularization: float,
        pad_id: int,
        precision: Precision,
    ) -> None:
        super().__init__()
        self.model = model
        self.kind, self.token_wise = kind, token_wise
        self.regularization, self.pad_id = regularization, pad_id
        self.precision: Precision = precision

    def forward(self, rows: Sequence[ScorerRow]) -> dict[str, Tensor]:
        """Loss of every pair and the two values read at the end of the answers, shape (B,)."""
        batch = PaddedBatch.of_pairs(
            [row.first_ids for row in rows],
            [row.second_ids for row in rows],
            pad_id=self.pad_id,
            device=self.model.device,
        )
        first_BL, second_BL = token_values(self.model, batch, self.precision).chunk(2)
        first_BT, second_BT, compared_BT = compared_values(
            first_BL, second_BL, rows, token_wise=self.token_wise
        )
        loss_BT = self._loss(first_BT, second_BT, rows)
        return {
            "loss": position_mean(loss_BT, compared_BT),
            "first": first_BT[:, -1],
            "second": second_BT[:, -1],
        }

    def _loss(self, first_BT: Tensor, second_BT: Tensor, rows: Sequence[ScorerRow]) -> Tensor:
        if self.kind == "reward":
            return reward_loss_per_value(first_BT, second_BT, regularization=self.regularization)
        signs = [[row.first_sign, row.second_sign] for row in rows]
        signs_B2 = torch.tensor(signs, dtype=first_BT.dtype, device=first_BT.device)
        return cost_loss_per_value(
            first_BT,
            second_BT,
            signs_B2[:, :1],
            signs_B2[:, 1:],
            regularization=self.regularization,
        )


def compared_values(
    first_BL: Tensor, second_BL: Tensor, rows: Sequence[ScorerRow], *, token_wise: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Values of both sides at the positions that are compared, and which of them count.

    Response positions are aligned at the answer's first token. Past the end of an answer its last
    real value stands in, never a pad's; so the last column is every answer's final value.
    """
    first_lengths = [len(r.first_ids) - r.num_prompt_tokens[0] for r in rows]
    second_lengths = [len(r.second_ids) - r.num_prompt_tokens[1] for r in rows]
    width = max(first_lengths + second_lengths)
    first_BT = _response_values(
        first_BL, [r.num_prompt_tokens[0] for r in rows], first_lengths, width
    )
    second_BT = _response_values(
        second_BL, [r.num_prompt_tokens[1] for r in rows], second_lengths, width
    )
    if not token_wise:
        ones = torch.ones(len(rows), 1, dtype=torch.bool, device=first_BL.device)
        return first_BT[:, -1:], second_BT[:, -1:], ones
    starts_B1 = torch.tensor([[first_difference(r)] for r in rows])
    ends_B1 = torch.tensor(
        [[max(pair)] for pair in zip(first_lengths, second_lengths, strict=True)]
    )
    positions_T = torch.arange(width)
    compared_BT = (positions_T >= starts_B1) & (positions_T < ends_B1)
    return first_BT, second_BT, compared_BT.to(first_BL.device)


def first_difference(row: ScorerRow) -> int:
    """Response position at which the two answers part."""
    first = row.first_ids[row.num_prompt_tokens[0] :]
    second = row.second_ids[row.num_prompt_tokens[1] :]
    shorter = min(len(first), len(second))
    return next((t for t in range(shorter) if first[t] != second[t]), shorter)


def _response_values(
    values_BL: Tensor, starts: Sequence[int], lengths: Sequence[int], width: int
) -> Tensor:
    offsets_BT = torch.arange(width).expand(len(starts), -1)
    lasts_B1 = torch.tensor(lengths)[:, None] - 1
    index_BT = torch.tensor(starts)[:, None] + torch.minimum(offsets_BT, lasts_B1)
    return values_BL.gather(1, index_BT.to(values_BL.device))
