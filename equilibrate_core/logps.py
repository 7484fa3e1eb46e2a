"""Log-probs of response tokens under a causal language model, without logits nobody needs.

token ids and a mask -> one natural-log probability per masked token, in at least float32.
"""

# N = sequences in the batch, L = padded length, K = tokens asked for,
# D = hidden size, V = vocabulary
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from equilibrate_core.batches import PaddedBatch, hidden_states, padding_mask
from equilibrate_core.models import Precision, autocast
from equilibrate_core.plain_head import has_plain_head

VOCABULARY_CHUNK = 256
"""Tokens projected to the vocabulary at a time: bounds memory to chunk x V floats."""
ROWS = 32
"""Tokens whose logits are worked on at a time, so that they stay in a processor's cache."""


def span_mask(starts: Sequence[int], ends: Sequence[int], length: int) -> Tensor:
    """Boolean (N, length), True at starts[n] <= position < ends[n]."""
    positions_L = torch.arange(length)
    starts_N1, ends_N1 = torch.tensor(starts)[:, None], torch.tensor(ends)[:, None]
    return (positions_L >= starts_N1) & (positions_L < ends_N1)


def token_logps(
    model: Any, batch: PaddedBatch, wanted_NL: Tensor, precision: Precision = "float32"
) -> Tensor:
    """Log-probs in nats of the tokens where `wanted_NL` is True, 0 elsewhere; shape (N, L).

    The token at position t is predicted from the hidden state at t - 1; position 0 has no
    prediction and must not be wanted. The vocabulary is projected at wanted positions only, in
    chunks that are recomputed in the backward pass, save the last: that one is done with before
    anything else is recomputed. log-softmax is taken in float32 at least.
    """
    if bool(wanted_NL[:, 0].any()):
        raise ValueError("position 0 has no prediction: nothing stands before it")
    wanted_NL = wanted_NL.to(batch.input_ids_NL.device)
    targets_K = batch.input_ids_NL[wanted_NL]
    with autocast(precision):
        hidden_KD, project = _hidden_at(model, batch, wanted_NL)
        bounds = _chunks(_num_chunks(project, hidden_KD))
        last = None if _is_sharded(project) or not bounds else bounds[-1]
        chunks = [
            checkpoint(_gather, project, hidden_KD[i:j], targets_K[i:j], use_reentrant=False)
            if torch.is_grad_enabled() and (i, j) != last
            else _gather(project, hidden_KD[i:j], targets_K[i:j])
            for i, j in bounds
        ]
    logps_K = torch.cat(chunks) if chunks else hidden_KD.new_zeros(0, dtype=torch.float32)
    logps_NL = logps_K.new_zeros(batch.input_ids_NL.shape)
    return logps_NL.masked_scatter(wanted_NL, logps_K)


def _hidden_at(model: Any, batch: PaddedBatch, wanted_NL: Tensor) -> tuple[Tensor, Any]:
    if has_plain_head(model):
        hidden_NLD = hidden_states(model, batch)
        return hidden_NLD[:, :-1][wanted_NL[:, 1:]], model.get_output_embeddings()
    # Heads with more than a projection (soft-capping, scaling) stay with the model's own code.
    logits_NLV = model(
        input_ids=batch.input_ids_NL, attention_mask=padding_mask(model, batch), use_cache=False
    ).logits
    # A chunk of its own: the gradient takes the place of what a view would share with the others.
    return logits_NLV[:, :-1][wanted_NL[:, 1:]], torch.clone


def _gather(project: Any, hidden_KD: Tensor, targets_K: Tensor) -> Tensor:
    return _ChosenLogps.apply(project(hidden_KD), targets_K)  # pyright: ignore[reportReturnType]


class _ChosenLogps(Function):
    """log-softmax read at the targets, whose gradient takes the place of the logits.

    Autograd makes further tables of their size, for gather, logsumexp and their sum, at the moment
    when every activation of the body is there, too.
    """

    @staticmethod
    def forward(ctx: Any, logits_KV: Tensor, targets_K: Tensor) -> Tensor:
        sums_K = torch.cat([_wide(block).logsumexp(-1) for block in logits_KV.split(ROWS)])
        ctx.save_for_backward(logits_KV, targets_K, sums_K)
        return _wide(logits_KV.gather(-1, targets_K[:, None]).squeeze(-1)) - sums_K

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_K: Tensor) -> tuple[Tensor, None]:  # pyright: ignore
        logits_KV, targets_K, sums_K = ctx.saved_tensors
        parts = (logits_KV, targets_K[:, None], sums_K[:, None], gradient_K[:, None])
        for block, targets, sums, gradient in zip(
            *(part.split(ROWS) for part in parts), strict=True
        ):
            wide = _wide(block).sub_(sums).exp_().mul_(-gradient)
            wide.scatter_add_(-1, targets, gradient)
            if wide is not block:
                block.copy_(wide)
        return logits_KV.detach(), None


def _wide(values: Tensor) -> Tensor:
    """In float32 at least; the very tensor where it is."""
    return values if values.dtype == torch.float64 else values.float()


def _num_chunks(project: Any, hidden_KD: Tensor) -> int:
    """Calls of the head: as many on every process when ZeRO-3 shards it, else as many as needed.

    Each call gathers the head from all processes, forward and again in the backward pass, and they
    keep different numbers of tokens: who needs fewer calls makes up for them with empty chunks,
    which have a place in the graph and no value. It costs one integer all-reduced per pass.
    """
    needed = math.ceil(len(hidden_KD) / VOCABULARY_CHUNK)
    if not _is_sharded(project):
        return needed
    most = torch.tensor(needed, device=hidden_KD.device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return int(most)


def _is_sharded(project: Any) -> bool:
    """Whether ZeRO-3 gathers the head's weights for every call."""
    return hasattr(getattr(project, "weight", None), "ds_id")


def _chunks(number: int) -> list[tuple[int, int]]:
    return [(i * VOCABULARY_CHUNK, (i + 1) * VOCABULARY_CHUNK) for i in range(number)]
