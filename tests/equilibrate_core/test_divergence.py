"""KL divergence: a hand-worked value, an invariant, and chunks that change nothing."""

import math

import pytest
import torch

from equilibrate_core import divergence
from equilibrate_core.divergence import kl_divergence, summed_kl


def test_kl_of_three_quarters_against_a_half_by_hand() -> None:
    policy = torch.tensor([[0.75, 0.25]], dtype=torch.float64).log()
    reference = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kl_divergence(policy, reference).item() == pytest.approx(expected, abs=1e-12)
    back = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert kl_divergence(reference, policy).item() == pytest.approx(back, abs=1e-12)


def test_a_constant_on_all_logits_changes_nothing() -> None:
    torch.manual_seed(0)
    policy, reference = torch.randn(2, 5, 7, dtype=torch.float64)
    moved = kl_divergence(policy + 3.0, reference - 1.0)
    torch.testing.assert_close(moved, kl_divergence(policy, reference))


def test_chunks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    policy, reference = torch.randn(2, 10, 4, dtype=torch.float64)
    head = torch.nn.Linear(4, 9).double().requires_grad_(False)
    whole = kl_divergence(head(policy), head(reference)).sum().item()
    monkeypatch.setattr(divergence, "KL_CHUNK", 3)
    assert summed_kl(policy, reference, head, head) == pytest.approx(whole, abs=1e-12)
