"""Blocks worked out from two lengths, against those torch finds by looking at every position."""

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, create_mask

from equilibrate_core.batches import PaddedBatch, SharedRows
from equilibrate_core.block_masks import BLOCK

CPU = torch.device("cpu")
# Tokens of the common opening, and of what follows it in the first and in the second answer.
PARTS = {
    "one block": [(3, 5, 7)],
    "a block to the token": [(20, 50, 58), (1, 1, 1)],
    "answers over blocks": [(100, 300, 200), (128, 128, 128), (5, 400, 3), (390, 2, 9)],
    "an answer that is the other's opening": [(200, 0, 150), (256, 130, 0), (128, 0, 128)],
    "hardly anything in common": [(0, 300, 200), (1, 129, 127)],
    "a rest that begins with a block": [(128, 256, 128), (256, 128, 1), (127, 257, 300)],
}


def shared(parts: list[tuple[int, int, int]]) -> SharedRows:
    firsts = [[1] * common + [2] * first for common, first, _ in parts]
    seconds = [[1] * common + [3] * second for common, _, second in parts]
    rows = PaddedBatch.of_pairs(firsts, seconds, pad_id=0, device=CPU).shared
    assert rows is not None and rows.common_P1.tolist() == [[common] for common, _, _ in parts]
    return rows


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_blocks_are_those_that_looking_at_every_position_finds(
    parts: list[tuple[int, int, int]],
) -> None:
    rows = shared(parts)
    num_rows, length = rows.input_ids_PM.shape
    found = rows.visible_blocks()
    looked_for = create_block_mask(found.mask_mod, num_rows, None, length, length, device="cpu")
    assert found.shape == looked_for.shape == (num_rows, 1, length, length)
    for name in tables(looked_for):
        assert torch.equal(getattr(found, name), getattr(looked_for, name)), name


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_positions_in_sight_are_those_of_the_mask(parts: list[tuple[int, int, int]]) -> None:
    rows = shared(parts)
    num_rows, length = rows.input_ids_PM.shape
    mask_mod = rows.visible_blocks().mask_mod
    visible = create_mask(mask_mod, num_rows, None, length, length, device="cpu")
    assert torch.equal(visible, rows.visible_P1MM())


def test_the_rest_of_the_first_answer_is_passed_over() -> None:
    rows = shared([(2 * BLOCK, 4 * BLOCK, 2 * BLOCK)])
    blocks = rows.visible_blocks()
    seen = blocks.kv_num_blocks + blocks.full_kv_num_blocks
    assert seen.tolist() == [[[1, 2, 3, 4, 5, 6, 3, 4]]]


def test_it_holds_numbers_of_blocks_not_of_positions() -> None:
    blocks = shared([(300, 400, 324)]).visible_blocks()
    assert max(getattr(blocks, name).numel() for name in tables(blocks)) == 8 * 8


def tables(blocks: BlockMask) -> list[str]:
    sides = [f"{full}{side}" for full in ("", "full_") for side in ("kv", "q")]
    names = [f"{side}_{what}" for side in sides for what in ("num_blocks", "indices")]
    assert all(isinstance(getattr(blocks, name), torch.Tensor) for name in names)
    return names
