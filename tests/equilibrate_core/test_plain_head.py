"""Heads that are more than a projection are known by their numbers, whatever their config says."""

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    FalconH1Config,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
)

from equilibrate_core import plain_head
from equilibrate_core.batches import PaddedBatch
from equilibrate_core.logps import span_mask, token_logps
from equilibrate_core.plain_head import has_plain_head

SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8}
MORE_THAN_A_PROJECTION = {
    "a scaled one": GraniteConfig(**SMALL, logits_scaling=8.0),
    "one with a scale": CohereConfig(**SMALL, logit_scale=0.0625),
    "a soft-capped one": Gemma2Config(**SMALL, final_logit_softcapping=30.0),
    "one with a multiplier": FalconH1Config(**SMALL, **MAMBA, lm_head_multiplier=0.04),
}
PLAIN = {
    "Llama's": LlamaConfig(**SMALL),
    "tied to the embeddings": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "a scaled one by 1": GraniteConfig(**SMALL, logits_scaling=1.0),
    "one with a multiplier of 1": FalconH1Config(**SMALL, **MAMBA, lm_head_multiplier=1.0),
}


def model_of(config: Any, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


@pytest.mark.parametrize("name", MORE_THAN_A_PROJECTION)
def test_a_head_that_is_more_than_a_projection_keeps_the_models_own_logits(name: str) -> None:
    model = model_of(MORE_THAN_A_PROJECTION[name])
    assert not has_plain_head(model)
    ids = [5, 9, 30, 7, 7, 80]
    batch = PaddedBatch.of([ids], pad_id=0, device=torch.device("cpu"))
    with torch.no_grad():
        logps = token_logps(model, batch, span_mask([2], [6], 6))[0]
        own = model(torch.tensor([ids])).logits[0].double().log_softmax(dim=-1)
    assert logps.tolist()[2:] == pytest.approx([own[t - 1, ids[t]].item() for t in range(2, 6)])


@pytest.mark.parametrize("name", [*MORE_THAN_A_PROJECTION, *PLAIN])
def test_every_head_has_the_gradient_of_the_models_own_logits(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("equilibrate_core.logps.VOCABULARY_CHUNK", 2)
    model = model_of((MORE_THAN_A_PROJECTION | PLAIN)[name])
    ids = [5, 9, 30, 7, 7, 80]
    batch = PaddedBatch.of([ids], pad_id=0, device=torch.device("cpu"))
    token_logps(model, batch, span_mask([1], [6], 6)).sum().backward()
    ours = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
    model.zero_grad()
    table = model(input_ids=batch.input_ids_NL).logits[0, :-1].log_softmax(-1)
    table.gather(1, batch.input_ids_NL[0, 1:, None]).sum().backward()
    theirs = [weight.grad for weight in model.parameters() if weight.grad is not None]
    for mine, other in zip(ours, theirs, strict=True):
        # Norms compute in float32, whatever they are given.
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", PLAIN)
def test_a_head_that_is_a_projection_is_known_as_one(name: str) -> None:
    assert has_plain_head(model_of(PLAIN[name]))
    assert has_plain_head(model_of(PLAIN[name], torch.bfloat16))


def test_a_model_is_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    probed: list[Any] = []
    real = plain_head._probe
    monkeypatch.setattr(plain_head, "_probe", lambda m: probed.append(m) or real(m))
    models = [model_of(PLAIN["Llama's"]) for _ in range(2)]
    for model in [*models, *models]:
        assert has_plain_head(model)
    assert probed == models


def test_the_probe_leaves_nothing_in_the_model() -> None:
    model = model_of(PLAIN["Llama's"])
    ids = torch.tensor([[5, 9, 30]])
    before = model(ids).logits
    assert has_plain_head(model)
    assert torch.equal(model(ids).logits, before)
    assert all(p.grad is None for p in model.parameters())
