"""AMA's masks: hand-worked examples and the invariants of the specification."""

import pytest
import torch
from torch import tensor

from equilibrate_core.masks import (
    message_masks,
    random_masks,
    segment_means,
    token_credit,
    token_scores,
)

SCORES = tensor([[2.0, -1.0, 0.0, 3.0, -4.0]])
EVERY = torch.ones(1, 5, dtype=torch.bool)
TOKENS = torch.arange(5)[None]


def mask(side: str, **options: object) -> list[bool]:
    settings: dict = {"baseline": 0.0, "min_kept": 0.0} | options
    return message_masks(SCORES, EVERY, TOKENS, side=side, **settings)[0].tolist()


def test_chosen_keeps_above_and_rejected_below_the_baseline() -> None:
    assert mask("chosen") == [True, False, False, True, False]
    assert mask("rejected") == [False, True, False, False, True]


def test_swapping_the_scores_swaps_the_sides() -> None:
    swapped = message_masks(-SCORES, EVERY, TOKENS, side="rejected", baseline=0.0, min_kept=0.0)
    assert swapped[0].tolist() == mask("chosen")


def test_a_baseline_moves_the_boundary() -> None:
    assert mask("chosen", baseline=2.5) == [False, False, False, True, False]
    assert mask("rejected", baseline=-2.0) == [False, False, False, False, True]


def test_all_tokens_of_a_segment_share_one_bit() -> None:
    segments = tensor([[0, 0, 0, 1, 1]])  # means 1/3 and -1/2
    kept = message_masks(SCORES, EVERY, segments, side="chosen", baseline=0.0, min_kept=0.0)
    assert kept[0].tolist() == [True, True, True, False, False]


def test_segment_means_ignore_padding() -> None:
    scores = tensor([[1.0, 3.0, 100.0]])
    response = tensor([[True, True, False]])
    means = segment_means(scores, response, tensor([[0, 0, 0]]))
    assert means[0].tolist() == [2.0, 2.0, 0.0]


def test_min_kept_adds_the_best_segments_of_each_side_first() -> None:
    assert mask("chosen", baseline=10.0, min_kept=0.3) == [True, False, False, True, False]
    assert mask("rejected", baseline=-10.0, min_kept=0.3) == [False, True, False, False, True]


def test_min_kept_does_not_apply_to_a_single_segment() -> None:
    one = torch.zeros(1, 5, dtype=torch.long)
    kept = message_masks(SCORES, EVERY, one, side="chosen", baseline=10.0, min_kept=0.5)
    assert not kept.any()


def test_rejected_keeps_nothing_before_the_answers_part() -> None:
    kept = mask("rejected", min_kept=1.0, first_difference_B=tensor([2]))
    assert kept == [False, False, True, True, True]
    assert mask("chosen", first_difference_B=tensor([2])) == mask("chosen")


def test_masks_do_not_depend_on_padding_or_batch_order() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(3, 8, generator=generator)
    lengths = [8, 3, 5]
    response = torch.arange(8) < tensor(lengths)[:, None]
    segments = (torch.arange(8) // 2).expand(3, -1)
    for side in ("chosen", "rejected"):
        options = {"side": side, "baseline": 0.0, "min_kept": 0.4}
        batch = message_masks(scores, response, segments, **options)
        turned = message_masks(scores.flip(0), response.flip(0), segments, **options).flip(0)
        assert torch.equal(batch, turned)
        for row, length in enumerate(lengths):
            alone = message_masks(
                scores[row : row + 1, :length],
                response[row : row + 1, :length],
                segments[row : row + 1, :length],
                **options,
            )
            assert torch.equal(batch[row, :length], alone[0])
            assert not batch[row, length:].any()


def test_a_share_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        mask("chosen", min_kept=1.5)


def test_delta_credit_starts_at_the_last_prompt_token() -> None:
    values, initial = tensor([[1.0, 4.0, 2.0]]), tensor([0.5])
    assert token_credit(values, initial, credit="delta")[0].tolist() == [0.5, 3.0, -2.0]
    assert token_credit(values, initial, credit="value") is values


def test_scores_follow_the_dimension() -> None:
    rewards, costs = tensor([[1.0, 2.0], [1.0, 2.0]]), tensor([[3.0, -3.0], [3.0, -3.0]])
    harmless = tensor([True, False])
    scores = token_scores(rewards, costs, harmless, score="by_dimension", cost_weight=0.5)
    assert scores.tolist() == [[-3.0, 3.0], [-0.5, 2.0]]
    combined = token_scores(rewards, costs, harmless, score="combined", cost_weight=0.5)
    assert combined.tolist() == [[-0.5, 3.5], [-0.5, 3.5]]


def test_combined_score_lets_a_helpful_but_harmful_segment_escape() -> None:
    # Why by_dimension is the default: reward 5 outweighs cost 2, so combined would spare it.
    rewards, costs = tensor([[5.0]]), tensor([[2.0]])
    kept = {
        score: bool(
            message_masks(
                token_scores(rewards, costs, tensor([True]), score=score, cost_weight=1.0),
                tensor([[True]]),
                tensor([[0]]),
                side="rejected",
                baseline=0.0,
                min_kept=0.0,
            )
        )
        for score in ("by_dimension", "combined")
    }
    assert kept == {"by_dimension": True, "combined": False}


def test_random_masks_keep_the_same_number_among_allowed_tokens() -> None:
    kept = tensor([[True, True, False, False, False, False]])
    allowed = tensor([[False, False, True, True, True, True]])
    drawn = {
        tuple(random_masks(kept, allowed, torch.Generator().manual_seed(s))[0].tolist())
        for s in range(20)
    }
    assert all(sum(row) == 2 and not any(row[:2]) for row in drawn)
    assert len(drawn) > 1
