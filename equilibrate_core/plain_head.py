"""Whether a model's logits are its head's projection and nothing else, told by numbers.

a causal language model -> True where hidden states and the head alone give its logits. Names of
config fields cannot tell: each model family invents one of its own for scaling or capping them.
"""

# L = length of the probe, D = hidden size, V = vocabulary
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from equilibrate_core.batches import PaddedBatch, padding_mask

LENGTH = 4
LARGEST_LOGIT = 50.0
"""Of the probe: beyond every soft cap (Gemma 2 has 30), which small logits would not show."""
TOLERANCE = 1e-3
"""Largest difference that counts as rounding, as a share of the largest logit."""
_found: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def has_plain_head(model: Any) -> bool:
    """Whether logits are a projection of the hidden states, found out once per model.

    It runs the model: ask for the first time before ZeRO-3 shards it.
    """
    if model not in _found:
        _found[model] = _probe(model)
    return _found[model]


@torch.no_grad()
def _probe(model: Any) -> bool:
    """Put hidden states of our own in the place of the body's, and compare what becomes of them."""
    head = model.get_output_embeddings()
    if head is None:
        return False
    hidden: list[Tensor] = []

    def replace(body: nn.Module, arguments: Any, output: Any) -> Any:
        hidden.append(_probing(head, output.last_hidden_state))
        output.last_hidden_state = hidden[0]
        return output

    hook = getattr(model, model.base_model_prefix).register_forward_hook(replace)
    try:
        probe = PaddedBatch.of([[0] * LENGTH], pad_id=0, device=model.device)
        logits_1LV = model(
            input_ids=probe.input_ids_NL, attention_mask=padding_mask(model, probe), use_cache=False
        ).logits.float()
    finally:
        hook.remove()
    expected_1LV = head(hidden[0]).float()
    if logits_1LV.shape != expected_1LV.shape:
        return False
    difference = (logits_1LV - expected_1LV).abs().max()
    return bool(difference <= TOLERANCE * expected_1LV.abs().max())


def _probing(head: nn.Module, hidden_1LD: Tensor) -> Tensor:
    """Hidden states of the same shape whose logits are large."""
    drawn_1LD = torch.randn(hidden_1LD.shape, generator=torch.Generator().manual_seed(0))
    drawn_1LD = drawn_1LD.to(hidden_1LD)
    largest = head(drawn_1LD).abs().max().clamp(min=1e-6)
    return drawn_1LD * (LARGEST_LOGIT / largest).to(hidden_1LD.dtype)
