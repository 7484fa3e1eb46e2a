"""Exact divergence of a policy from its reference, over the whole vocabulary, in bounded memory."""

# K = tokens, V = vocabulary, D = hidden size
from collections.abc import Callable

import torch
from torch import Tensor

KL_CHUNK = 128
"""Tokens whose vocabularies are held at a time: bounds memory to about 6 x chunk x V floats."""


def kl_divergence(policy_KV: Tensor, reference_KV: Tensor) -> Tensor:
    """KL(policy || reference) in nats of every token's next-token distribution, shape (K,).

    Inputs are logits; sum over v of p(v) (log p(v) - log q(v)), in at least float32.
    """
    exact = torch.float64 if policy_KV.dtype == torch.float64 else torch.float32
    policy_KV = policy_KV.to(exact).log_softmax(dim=-1)
    reference_KV = reference_KV.to(exact).log_softmax(dim=-1)
    return (policy_KV.exp() * (policy_KV - reference_KV)).sum(dim=-1)


def summed_kl(
    policy_KD: Tensor,
    reference_KD: Tensor,
    policy_head: Callable[[Tensor], Tensor],
    reference_head: Callable[[Tensor], Tensor],
) -> float:
    """Sum over tokens of `kl_divergence`, from hidden states, a chunk of tokens at a time."""
    total = 0.0
    for start in range(0, len(policy_KD), KL_CHUNK):
        part = slice(start, start + KL_CHUNK)
        kl_K = kl_divergence(policy_head(policy_KD[part]), reference_head(reference_KD[part]))
        total += float(kl_K.sum(dtype=torch.float64))
    return total
