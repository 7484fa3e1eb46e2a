"""The losses against hand-worked values, invariants and gradients."""

import math

import pytest
import torch
from torch import tensor

from equilibrate_core.losses import (
    adpo_loss,
    cost_loss,
    dpo_loss,
    harm_sign,
    masked_sum,
    position_mean,
    reward_loss,
    reward_loss_per_value,
)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def random_pairs(batch: int = 3, chosen: int = 5, rejected: int = 7) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = [(batch, chosen), (batch, rejected)] * 2
    return [-torch.rand(s, generator=generator, dtype=torch.float64) for s in shapes]


def test_dpo_loss_equals_the_hand_worked_value() -> None:
    # chosen gains 2 nats, rejected loses 1: gap 3, beta 0.1 -> -ln sigmoid(0.3)
    loss = dpo_loss(tensor([-8.0]), tensor([-6.0]), tensor([-10.0]), tensor([-5.0]), beta=0.1)
    assert loss.item() == pytest.approx(-math.log(sigmoid(0.3)), abs=1e-7)


def test_dpo_loss_is_ln_2_when_policy_equals_reference() -> None:
    chosen, rejected = tensor([-8.0, -3.0]), tensor([-6.0, -9.0])
    assert dpo_loss(chosen, rejected, chosen, rejected, beta=0.5).item() == tensor(2.0).log().item()


def test_label_smoothing_mixes_the_two_orders() -> None:
    arguments = tensor([-8.0]), tensor([-6.0]), tensor([-10.0]), tensor([-5.0])
    loss = dpo_loss(*arguments, beta=0.1, label_smoothing=0.2)
    expected = -0.8 * math.log(sigmoid(0.3)) - 0.2 * math.log(sigmoid(-0.3))
    assert loss.item() == pytest.approx(expected, abs=1e-7)


def test_all_ones_masks_give_dpo() -> None:
    policy_w, policy_l, reference_w, reference_l = random_pairs()
    masks = torch.ones_like(policy_w, dtype=torch.bool), torch.ones_like(policy_l, dtype=torch.bool)
    adpo = adpo_loss(policy_w, policy_l, reference_w, reference_l, *masks, beta=0.1)
    sums = [x.sum(-1) for x in (policy_w, policy_l, reference_w, reference_l)]
    assert adpo.item() == pytest.approx(dpo_loss(*sums, beta=0.1).item(), abs=1e-15)


def test_masked_token_changes_neither_loss_nor_gradient() -> None:
    policy_w, policy_l, reference_w, reference_l = random_pairs()
    mask_w, mask_l = torch.rand_like(policy_w) > 0.5, torch.rand_like(policy_l) > 0.5
    mask_w[0, 2] = False
    policy_w.requires_grad_()
    before = adpo_loss(policy_w, policy_l, reference_w, reference_l, mask_w, mask_l, beta=0.1)
    before.backward()
    assert policy_w.grad is not None
    assert policy_w.grad[0, 2] == 0
    changed = policy_w.detach().clone()
    changed[0, 2] = float("nan")
    after = adpo_loss(changed, policy_l, reference_w, reference_l, mask_w, mask_l, beta=0.1)
    assert after.item() == before.item()


def test_empty_masks_give_ln_2_and_zero_gradient() -> None:
    policy_w, policy_l, reference_w, reference_l = random_pairs()
    policy_w.requires_grad_()
    none_w, none_l = torch.zeros_like(policy_w).bool(), torch.zeros_like(policy_l).bool()
    loss = adpo_loss(policy_w, policy_l, reference_w, reference_l, none_w, none_l, beta=0.1)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-15)
    assert policy_w.grad is not None
    assert torch.count_nonzero(policy_w.grad) == 0


def test_no_gradient_flows_into_the_masks() -> None:
    policy_w, policy_l, reference_w, reference_l = random_pairs()
    mask = torch.ones_like(policy_w, requires_grad=True)
    loss = adpo_loss(
        policy_w, policy_l, reference_w, reference_l, mask, torch.ones_like(policy_l), beta=0.1
    )
    assert not loss.requires_grad


def test_adpo_gradient_is_right() -> None:
    policy_w, policy_l, reference_w, reference_l = random_pairs()
    mask_w, mask_l = torch.rand_like(policy_w) > 0.3, torch.rand_like(policy_l) > 0.3
    for values in (policy_w, policy_l):
        values.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda w, v: adpo_loss(w, v, reference_w, reference_l, mask_w, mask_l, beta=0.1),
        (policy_w, policy_l),
    )


def test_reward_loss_equals_the_hand_worked_value() -> None:
    # -ln sigmoid(2 - (-1)) + 0.1 * (4 + 1) / 2
    loss = reward_loss(tensor([2.0]), tensor([-1.0]), regularization=0.1)
    assert loss.item() == pytest.approx(-math.log(sigmoid(3.0)) + 0.25, abs=1e-7)


def test_cost_loss_equals_the_hand_worked_value() -> None:
    # more harmful costs 2 and is harmful, less harmful costs -1 and is harmless
    loss = cost_loss(
        tensor([2.0]), tensor([-1.0]), tensor([1.0]), tensor([-1.0]), regularization=0.1
    )
    expected = -math.log(sigmoid(3.0)) - math.log(sigmoid(2.0)) - math.log(sigmoid(1.0)) + 0.25
    assert loss.item() == pytest.approx(expected, abs=1e-7)


def test_swapped_signs_make_the_cost_loss_worse() -> None:
    costs = tensor([2.0]), tensor([-1.0])
    right = cost_loss(*costs, tensor([1.0]), tensor([-1.0]), regularization=0.0)
    swapped = cost_loss(*costs, tensor([-1.0]), tensor([1.0]), regularization=0.0)
    assert right < swapped


def test_safe_answers_have_sign_minus_one() -> None:
    assert (harm_sign(is_safe=True), harm_sign(is_safe=False)) == (-1, 1)


def test_losses_are_means_over_pairs() -> None:
    one = reward_loss(tensor([2.0]), tensor([-1.0]), regularization=0.1)
    other = reward_loss(tensor([0.5]), tensor([1.0]), regularization=0.1)
    both = reward_loss(tensor([2.0, 0.5]), tensor([-1.0, 1.0]), regularization=0.1)
    assert both.item() == pytest.approx((one.item() + other.item()) / 2, abs=1e-7)


def test_sums_are_taken_in_float32_under_bfloat16() -> None:
    # bfloat16 has eight significant bits: it knows 256 and 258, and no 257.
    values = torch.ones(1, 257, dtype=torch.bfloat16)
    assert masked_sum(values, torch.ones(1, 257, dtype=torch.bool)).item() == 257.0


def test_position_mean_ignores_masked_positions_and_survives_none() -> None:
    values = tensor([[1.0, 3.0, 100.0], [5.0, 5.0, 5.0]])
    mask = tensor([[True, True, False], [False, False, False]])
    assert position_mean(values, mask).tolist() == [2.0, 0.0]


def test_the_token_wise_reward_loss_is_a_mean_of_losses_not_the_loss_of_means() -> None:
    better, worse = tensor([[2.0, 0.0]]), tensor([[-1.0, 1.0]])
    both = torch.ones(1, 2, dtype=torch.bool)
    losses = reward_loss_per_value(better, worse, regularization=0.0)
    expected = -(math.log(sigmoid(3.0)) + math.log(sigmoid(-1.0))) / 2
    assert position_mean(losses, both).item() == pytest.approx(expected, abs=1e-6)
    # Where no position is masked, the plain loss takes the same mean.
    assert reward_loss(better, worse, regularization=0.0).item() == pytest.approx(expected)
    of_means = reward_loss(
        position_mean(better, both), position_mean(worse, both), regularization=0.0
    )
    assert of_means.item() == pytest.approx(-math.log(sigmoid(1.0)), abs=1e-6)
