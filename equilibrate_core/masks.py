"""AMA: which response tokens a preference loss may look at (ALGORITHMS in docs; arXiv 2502.11555).

token rewards and costs -> token scores -> segment means -> boolean masks. The masks are data: no
gradient flows into them, policy and reference share them.
"""

# B = pairs in the batch, T = response tokens, S = segments of a response
from typing import Literal

import torch
from torch import Tensor

Credit = Literal["value", "delta"]
Score = Literal["by_dimension", "combined"]
Side = Literal["chosen", "rejected"]


def token_credit(values_BT: Tensor, initial_B: Tensor, *, credit: Credit) -> Tensor:
    """What each token is credited with, shape (B, T).

    `value` reads the scorer's head as it is; `delta` takes v_t - v_{t-1}, v_0 being the value at
    the last prompt token.
    """
    if credit == "value":
        return values_BT
    previous_BT = torch.cat([initial_B[:, None], values_BT[:, :-1]], dim=1)
    return values_BT - previous_BT


def token_scores(
    rewards_BT: Tensor,
    costs_BT: Tensor,
    is_harmless_B: Tensor,
    *,
    score: Score,
    cost_weight: float,
) -> Tensor:
    """Score of each token, shape (B, T), higher is better; lambda is `cost_weight`.

    `by_dimension`: -c on harmless pairs, r - lambda max(c, 0) on helpful pairs. `combined`:
    r - lambda c everywhere (static shaping, for comparison).
    """
    if score == "combined":
        return rewards_BT - cost_weight * costs_BT
    helpful_BT = rewards_BT - cost_weight * costs_BT.clamp(min=0)
    return torch.where(is_harmless_B[:, None], -costs_BT, helpful_BT)


def segment_means(scores_BT: Tensor, response_mask_BT: Tensor, segment_ids_BT: Tensor) -> Tensor:
    """Mean score of the segment each token belongs to, shape (B, T); 0 outside the response."""
    ids_BT = torch.where(response_mask_BT, segment_ids_BT, 0)
    weights_BT = response_mask_BT.to(scores_BT.dtype)
    num_segments = int(ids_BT.max().item()) + 1 if ids_BT.numel() else 1
    zeros_BS = scores_BT.new_zeros(scores_BT.shape[0], num_segments)
    sums_BS = zeros_BS.scatter_add(1, ids_BT, torch.where(response_mask_BT, scores_BT, 0.0))
    sizes_BS = zeros_BS.scatter_add(1, ids_BT, weights_BT)
    means_BS = sums_BS / sizes_BS.clamp(min=1)
    return means_BS.gather(1, ids_BT) * weights_BT


def message_masks(
    scores_BT: Tensor,
    response_mask_BT: Tensor,
    segment_ids_BT: Tensor,
    *,
    side: Side,
    baseline: float | Tensor,
    min_kept: float,
    first_difference_B: Tensor | None = None,
) -> Tensor:
    """Boolean mask of the tokens that count, shape (B, T).

    Chosen keeps segments whose mean score is above `baseline`, rejected those below it; all tokens
    of a segment share one bit. `min_kept` keeps at least that share of a response's tokens where
    it has two segments or more: highest segments first on the chosen side, lowest first on the
    rejected. `baseline` is a number or a tensor that broadcasts to (B, 1). On the rejected side
    no token before `first_difference_B` (position where the two answers part) is ever kept: a
    common opening cancels in DPO and must not be punished in the chosen answer too.
    """
    if not 0.0 <= min_kept <= 1.0:
        raise ValueError(f"min_kept is a share between 0 and 1, not {min_kept}")
    means_BT = segment_means(scores_BT, response_mask_BT, segment_ids_BT)
    if isinstance(baseline, Tensor) and baseline.ndim == 1:
        baseline = baseline[:, None]
    allowed_BT = response_mask_BT
    if side == "rejected" and first_difference_B is not None:
        positions_T = torch.arange(scores_BT.shape[1], device=scores_BT.device)
        allowed_BT = allowed_BT & (positions_T >= first_difference_B[:, None])
    above_BT = means_BT > baseline if side == "chosen" else means_BT < baseline
    mask_BT = above_BT & allowed_BT
    order = 1.0 if side == "chosen" else -1.0
    rows = [
        _with_minimum(mask_T, order * means_T, allowed_T, ids_T, response_T, min_kept)
        for mask_T, means_T, allowed_T, ids_T, response_T in zip(
            mask_BT, means_BT, allowed_BT, segment_ids_BT, response_mask_BT, strict=True
        )
    ]
    return torch.stack(rows) if rows else mask_BT


def random_masks(mask_BT: Tensor, allowed_BT: Tensor, generator: torch.Generator) -> Tensor:
    """Masks with as many kept tokens per row as `mask_BT`, drawn at random from `allowed_BT`.

    The control that tells the message-wise choice from its side effect, a smaller sum.
    """
    noise_BT = torch.rand(mask_BT.shape, generator=generator).to(mask_BT.device)
    noise_BT = noise_BT.masked_fill(~allowed_BT, -1.0)
    rank_BT = noise_BT.argsort(dim=1, descending=True).argsort(dim=1)
    return (rank_BT < mask_BT.sum(dim=1, keepdim=True)) & allowed_BT


def _with_minimum(
    mask_T: Tensor,
    merit_T: Tensor,
    allowed_T: Tensor,
    ids_T: Tensor,
    response_T: Tensor,
    min_kept: float,
) -> Tensor:
    wanted = min_kept * int(response_T.sum())
    if int(mask_T.sum()) >= wanted or ids_T[response_T].unique().numel() < 2:
        return mask_T
    num_segments = int(ids_T[response_T].max()) + 1
    zeros_S = merit_T.new_zeros(num_segments)
    sizes_S = zeros_S.scatter_add(0, ids_T[allowed_T], torch.ones_like(merit_T[allowed_T]))
    merits_S = zeros_S.scatter(0, ids_T[response_T], merit_T[response_T])
    merits_S = merits_S.masked_fill(sizes_S == 0, -torch.inf)
    order_S = merits_S.argsort(descending=True, stable=True)
    before_S = sizes_S[order_S].cumsum(0) - sizes_S[order_S]
    kept_S = torch.zeros_like(sizes_S, dtype=torch.bool)
    kept_S[order_S] = before_S < wanted
    return mask_T | (kept_S[ids_T.clamp(max=num_segments - 1)] & allowed_T)
