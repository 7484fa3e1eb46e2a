"""The four losses, pure: tensors and floats in, a scalar out.

Every scalar is a mean over pairs. Log-probs are natural logs; sums and log-sigmoids are taken in
at least float32, whatever the model ran in.
"""

# B = pairs in the batch, T = response tokens (chosen and rejected may differ in T)
import torch
import torch.nn.functional as F
from torch import Tensor


def dpo_loss(
    policy_chosen_B: Tensor,
    policy_rejected_B: Tensor,
    reference_chosen_B: Tensor,
    reference_rejected_B: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean DPO loss over pairs (arXiv 2305.18290, eq. 7; cDPO where `label_smoothing` > 0).

    With gap = (log π(y_w) - log π_ref(y_w)) - (log π(y_l) - log π_ref(y_l)), w chosen, l rejected:

        L = mean_B[ -(1 - ε) log σ(β gap) - ε log σ(-β gap) ],   ε = label_smoothing

    Arguments are summed response log-probs in nats, shape (B,); `beta` is per nat. The result is a
    scalar in nats, ln 2 where policy and reference are equal (step 0).
    """
    gap_B = preference_gap(
        policy_chosen_B, policy_rejected_B, reference_chosen_B, reference_rejected_B
    )
    return preference_loss_per_pair(gap_B, beta=beta, label_smoothing=label_smoothing).mean()


def adpo_loss(
    policy_chosen_BT: Tensor,
    policy_rejected_BT: Tensor,
    reference_chosen_BT: Tensor,
    reference_rejected_BT: Tensor,
    chosen_mask_BT: Tensor,
    rejected_mask_BT: Tensor,
    *,
    beta: float,
) -> Tensor:
    """Mean ADPO loss over pairs: DPO over the tokens that the AMA masks keep (arXiv 2502.11555).

    With Δ_t = log π(y_t) - log π_ref(y_t) and M_t the mask, 1 where a token is kept:

        L = mean_B[ -log σ(β (Σ_t M^w_t Δ^w_t - Σ_t M^l_t Δ^l_t)) ]

    Per-token log-probs in nats and boolean masks, shape (B, T), T differing between chosen and
    rejected; `beta` is per nat, the result a scalar in nats. All-ones masks give DPO; empty masks
    give ln 2 and zero gradient. No gradient flows into the masks. The paper states the mask but no
    loss: this one masks policy and reference alike (ARCHITECTURE.md, 8).
    """
    return dpo_loss(
        masked_sum(policy_chosen_BT, chosen_mask_BT),
        masked_sum(policy_rejected_BT, rejected_mask_BT),
        masked_sum(reference_chosen_BT, chosen_mask_BT),
        masked_sum(reference_rejected_BT, rejected_mask_BT),
        beta=beta,
    )


def reward_loss(better_B: Tensor, worse_B: Tensor, *, regularization: float) -> Tensor:
    """Mean reward-model loss over pairs (Safe RLHF, eq. 5; Bradley-Terry plus mean of squares).

        L = mean_B[ -log σ(R_w - R_l) + μ (R_w² + R_l²) / 2 ],   μ = regularization

    Rewards of the better and the worse answer, without a unit, read at the last response token,
    shape (B,); the result is a scalar in nats. Token-wise, with values of shape (B, T), the loss is
    taken at every position and averaged afterwards: `reward_loss_per_value`, then `position_mean`.
    The loss of mean values would be another one, and says nothing of a single position.
    """
    return reward_loss_per_value(better_B, worse_B, regularization=regularization).mean()


def cost_loss(
    more_harmful_B: Tensor,
    less_harmful_B: Tensor,
    more_harmful_sign_B: Tensor,
    less_harmful_sign_B: Tensor,
    *,
    regularization: float,
) -> Tensor:
    """Mean cost-model loss over pairs (Safe RLHF, eq. 6, plus mean of squares).

    With w the more harmful answer and s its sign, +1 harmful and -1 harmless:

        L = mean_B[ -log σ(C_w - C_l) - log σ(s_w C_w) - log σ(s_l C_l) + μ (C_w² + C_l²) / 2 ]

    Costs, without a unit, at the last response token, and signs, all of shape (B,); C <= 0 means
    safe, μ is `regularization`, the result a scalar in nats. Token-wise: `cost_loss_per_value` over
    (B, T) with signs (B, 1), then `position_mean`. Datasets store the opposite flag (`is_safe`):
    `harm_sign` is the one place that converts.
    """
    return cost_loss_per_value(
        more_harmful_B,
        less_harmful_B,
        more_harmful_sign_B,
        less_harmful_sign_B,
        regularization=regularization,
    ).mean()


def harm_sign(is_safe: bool) -> int:
    """Sign of an answer in the cost loss: +1 harmful, -1 harmless."""
    return -1 if is_safe else 1


def masked_sum(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Sum over kept tokens, shape (B,), in at least float32; NaN behind the mask cannot leak."""
    kept_BT = torch.where(mask_BT.bool(), _wide(values_BT), 0.0)
    return kept_BT.sum(dim=-1)


def preference_gap(
    policy_chosen_B: Tensor,
    policy_rejected_B: Tensor,
    reference_chosen_B: Tensor,
    reference_rejected_B: Tensor,
) -> Tensor:
    """Policy's log-ratio gain on chosen minus that on rejected, in nats, shape (B,)."""
    return (_wide(policy_chosen_B) - _wide(reference_chosen_B)) - (
        _wide(policy_rejected_B) - _wide(reference_rejected_B)
    )


def preference_loss_per_pair(gap_B: Tensor, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """DPO loss of each pair from its gap in nats, shape (B,)."""
    return -(
        (1.0 - label_smoothing) * F.logsigmoid(beta * gap_B)
        + label_smoothing * F.logsigmoid(-beta * gap_B)
    )


def reward_loss_per_value(better: Tensor, worse: Tensor, *, regularization: float) -> Tensor:
    """Reward loss before the mean: elementwise over any shape."""
    better, worse = _wide(better), _wide(worse)
    squares = (better.square() + worse.square()) / 2
    return -F.logsigmoid(better - worse) + regularization * squares


def cost_loss_per_value(
    more_harmful: Tensor,
    less_harmful: Tensor,
    more_harmful_sign: Tensor,
    less_harmful_sign: Tensor,
    *,
    regularization: float,
) -> Tensor:
    """Cost loss before the mean: elementwise over any shape, signs broadcast."""
    more_harmful, less_harmful = _wide(more_harmful), _wide(less_harmful)
    return (
        reward_loss_per_value(more_harmful, less_harmful, regularization=regularization)
        - F.logsigmoid(more_harmful_sign * more_harmful)
        - F.logsigmoid(less_harmful_sign * less_harmful)
    )


def position_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over the masked positions of each pair, shape (B,); an empty row gives 0."""
    return masked_sum(values_BT, mask_BT) / mask_BT.sum(dim=-1).clamp(min=1)


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
