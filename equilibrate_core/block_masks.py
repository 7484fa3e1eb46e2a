"""Which blocks of a row's attention flex attention computes, from the places of its two answers.

lengths of the first answer and of the common opening -> torch's BlockMask. torch's own
`create_block_mask` would look at every position of every row for every other one.
"""

# P = rows, M = padded length, I = blocks of a row as queries, J = the same blocks as keys
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128
"""Positions of a block, as torch has it."""


def answer_blocks(first_P1: Tensor, common_P1: Tensor, length: int) -> BlockMask:
    """Causal attention in which the second answer does not see the rest of the first one.

    `first_P1` is where the second answer begins, `common_P1` where the rest of the first one does.
    The rows are those of `SharedRows`.
    """
    starts_I1 = torch.arange(0, length, BLOCK, device=first_P1.device)[:, None]
    starts_1J = starts_I1.T
    first_P11, common_P11 = first_P1[:, None], common_P1[:, None]
    is_before_second_PI1 = starts_I1 < first_P11
    has_other_keys_P1J = (starts_1J < common_P11) | (starts_1J + BLOCK > first_P11)
    is_seen_PIJ = (starts_1J <= starts_I1) & (is_before_second_PI1 | has_other_keys_P1J)
    holds_second_PI1 = starts_I1 + BLOCK > first_P11
    holds_rest_P1J = starts_1J.maximum(common_P11) < (starts_1J + BLOCK).minimum(first_P11)
    # Of these no position is looked at again; one that goes past the row's end is none of them.
    is_whole_PIJ = (starts_1J < starts_I1) & (starts_I1 + BLOCK <= length)
    is_whole_PIJ = is_whole_PIJ & ~(holds_second_PI1 & holds_rest_P1J)
    first_P, common_P = first_P1.squeeze(1), common_P1.squeeze(1)

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        first, common = first_P[row], common_P[row]
        return (key <= query) & ~((query >= first) & (key >= common) & (key < first))

    return BlockMask.from_kv_blocks(
        *_listed(is_seen_PIJ & ~is_whole_PIJ),
        *_listed(is_whole_PIJ),
        BLOCK_SIZE=BLOCK,
        mask_mod=visible,
        seq_lengths=(length, length),
    )


def _listed(blocks_PIJ: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of keys each block of queries has, and which: those come first."""
    blocks_P1IJ = blocks_PIJ[:, None].int()
    order_P1IJ = blocks_P1IJ.argsort(dim=-1, descending=True, stable=True)
    return blocks_P1IJ.sum(dim=-1, dtype=torch.int32), order_P1IJ.int()
