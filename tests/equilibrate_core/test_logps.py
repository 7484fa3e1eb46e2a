"""Per-token log-probs against the model's own logits and by hand; test_trl_equality has TRL's."""

from pathlib import Path
from typing import Any

import pytest
import torch

from equilibrate_core.batches import PaddedBatch
from equilibrate_core.chat import encode_answer
from equilibrate_core.logps import ROWS, VOCABULARY_CHUNK, _ChosenLogps, span_mask, token_logps
from equilibrate_core.models import load_causal_lm, load_tokenizer
from equilibrate_core.records import Message

ANSWERS = ("Mix flour.", "I cannot help with that, but I can tell you how to stay safe.", "否。")


@pytest.fixture(params=["tiny_model", "tiny_llama3"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def sequences(tokenizer: Any) -> tuple[list[list[int]], list[int]]:
    ask = (Message(role="user", content="How do I bake bread?"),)
    encoded = [encode_answer(tokenizer, ask, answer) for answer in ANSWERS]
    return [e.prompt_ids + e.response_ids for e in encoded], [len(e.prompt_ids) for e in encoded]


def response_logps(model: Any, ids: list[list[int]], starts: list[int], pad_id: int) -> Any:
    batch = PaddedBatch.of(ids, pad_id=pad_id, device=torch.device("cpu"))
    wanted = span_mask(starts, [len(row) for row in ids], batch.input_ids_NL.shape[1])
    return token_logps(model, batch, wanted)


def test_each_token_is_predicted_from_the_position_before_it(folder: Path) -> None:
    model = load_causal_lm(folder, dtype="float64")
    ids, starts = sequences(load_tokenizer(folder))
    row, start = ids[1], starts[1]
    logps = response_logps(model, [row], [start], 0)[0]
    logits = model(torch.tensor([row])).logits[0].detach()
    for t in range(len(row)):
        if t < start:
            assert logps[t] == 0
        else:
            by_hand = logits[t - 1, row[t]] - logits[t - 1].exp().sum().log()
            assert logps[t].item() == pytest.approx(by_hand.item(), abs=1e-10)


def test_padding_changes_nothing(folder: Path) -> None:
    model = load_causal_lm(folder, dtype="float64")
    ids, starts = sequences(load_tokenizer(folder))
    together = response_logps(model, ids, starts, 0)
    for n, row in enumerate(ids):
        alone = response_logps(model, [row], [starts[n]], 0)[0]
        torch.testing.assert_close(together[n, : len(row)], alone, atol=1e-9, rtol=0)
        assert not together[n, len(row) :].any()


def test_log_softmax_is_float32_under_bfloat16_weights(folder: Path) -> None:
    model = load_causal_lm(folder, dtype="bfloat16")
    ids, starts = sequences(load_tokenizer(folder))
    assert response_logps(model, ids, starts, 0).dtype == torch.float32


def test_chunks_of_the_vocabulary_projection_do_not_show(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_causal_lm(folder, dtype="float64")
    ids, starts = sequences(load_tokenizer(folder))
    whole = response_logps(model, ids, starts, 0)
    whole.sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    assert VOCABULARY_CHUNK > 7
    monkeypatch.setattr("equilibrate_core.logps.VOCABULARY_CHUNK", 7)
    chunked = response_logps(model, ids, starts, 0)
    chunked.sum().backward()
    torch.testing.assert_close(chunked, whole, atol=1e-12, rtol=0)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-9, rtol=0)


def test_position_zero_cannot_be_wanted(folder: Path) -> None:
    model = load_causal_lm(folder)
    ids, _ = sequences(load_tokenizer(folder))
    with pytest.raises(ValueError, match="position 0"):
        response_logps(model, ids[:1], [0], 0)


@pytest.mark.parametrize(("num_tokens", "num_calls"), [(7, 1), (8, 3), (21, 5)])
def test_every_chunk_but_the_last_is_computed_again_for_the_backward_pass(
    folder: Path, monkeypatch: pytest.MonkeyPatch, num_tokens: int, num_calls: int
) -> None:
    model = load_causal_lm(folder)
    row = list(range(20, 20 + num_tokens + 1))
    response_logps(model, [row], [1], 0)  # the first call of all asks whether the head is plain
    calls: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda *_: calls.append(1))
    monkeypatch.setattr("equilibrate_core.logps.VOCABULARY_CHUNK", 7)
    response_logps(model, [row], [1], 0).sum().backward()
    assert len(calls) == num_calls


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 0.0)]
)
def test_the_gradient_of_chosen_log_probs_is_autograds_own(
    dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    num_tokens = 2 * ROWS + 3
    weights_K = torch.randn(num_tokens, dtype=torch.float64).to(max_with_float32(dtype))
    targets_K = torch.randint(50, (num_tokens,))
    start = torch.randn(num_tokens, 50).mul(3).to(dtype)
    found, expected = start.clone().requires_grad_(), start.clone().requires_grad_()
    logps_K = _ChosenLogps.apply(found * 1, targets_K)  # the gradient takes a result's place
    table_KV = expected.to(max_with_float32(dtype)).log_softmax(-1)
    by_hand_K = table_KV.gather(-1, targets_K[:, None])[:, 0]
    torch.testing.assert_close(logps_K, by_hand_K, atol=4e-6, rtol=0)
    (logps_K * weights_K).sum().backward()
    (by_hand_K * weights_K).sum().backward()
    # In bfloat16 the gradient is rounded once, at the end, as autograd rounds it.
    last_place = 2.0**-8 * expected.grad.abs() if dtype == torch.bfloat16 else 0.0
    assert ((found.grad - expected.grad).abs() <= last_place + tolerance).all()
    assert torch.equal(found.detach(), start)


def max_with_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
