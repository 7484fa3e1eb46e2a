"""Two answers in one row give what two rows give: hidden states, log-probs, values, gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from components.train_policy.config import AmaConfig
from components.train_policy.masking import policy_row
from components.train_scorer.objective import ScorerRow
from equilibrate_core.batches import PaddedBatch, can_share, hidden_states, padding_mask
from equilibrate_core.chat import encode_answer
from equilibrate_core.logps import span_mask, token_logps
from equilibrate_core.models import load_causal_lm, load_tokenizer
from equilibrate_core.plain_head import has_plain_head
from equilibrate_core.records import Message, ScoredPair
from equilibrate_core.scorer import new_scorer_model, token_values

CPU = torch.device("cpu")
PAIRS = (
    ("How do I bake bread?", "Mix flour.", "I cannot help with that, but I can tell you."),
    ("Hi", "Yes, the answer is long and it goes on for a while.", "Yes, the answer is no."),
    ("Is it safe?", "否。", "No."),
    ("Same start", "The answer is yes", "The answer is yes."),
)


@pytest.fixture(params=["tiny_model", "tiny_llama3"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def encoded(tokenizer: Any) -> tuple[list[list[int]], list[list[int]], list[int]]:
    firsts, seconds, starts = [], [], []
    for prompt, first, second in PAIRS:
        ask = (Message(role="user", content=prompt),)
        a, b = encode_answer(tokenizer, ask, first), encode_answer(tokenizer, ask, second)
        firsts.append(a.prompt_ids + a.response_ids)
        seconds.append(b.prompt_ids + b.response_ids)
        starts.append(len(a.prompt_ids))
    return firsts, seconds, starts


def both(tokenizer: Any) -> tuple[PaddedBatch, PaddedBatch, torch.Tensor]:
    firsts, seconds, starts = encoded(tokenizer)
    apart = PaddedBatch.of([*firsts, *seconds], pad_id=0, device=CPU)
    together = PaddedBatch.of_pairs(firsts, seconds, pad_id=0, device=CPU)
    ends = [len(ids) for ids in [*firsts, *seconds]]
    return apart, together, span_mask(starts * 2, ends, apart.input_ids_NL.shape[1])


def test_shared_rows_are_used_and_hold_fewer_tokens(folder: Path) -> None:
    model = load_causal_lm(folder)
    apart, together, _ = both(load_tokenizer(folder))
    assert can_share(model) and together.shared is not None
    assert together.shared.input_ids_PM.numel() < apart.input_ids_NL.numel()


def test_the_rows_of_both_trainings_know_how_many_tokens_a_pass_computes_for_them(
    folder: Path,
) -> None:
    firsts, seconds, starts = encoded(load_tokenizer(folder))
    for first, second, start in zip(firsts, seconds, starts, strict=True):
        shared = PaddedBatch.of_pairs([first], [second], pad_id=0, device=CPU).shared
        assert shared is not None
        num_tokens = shared.input_ids_PM.shape[1]
        apart = PaddedBatch.of([first, second], pad_id=0, device=CPU).input_ids_NL.numel()
        pair = scored(first[:start], first[start:], second[start:])
        for row in (
            ScorerRow(first, second, (start, start), 1, -1),
            policy_row(pair, AmaConfig()),
        ):
            assert row.shared_length == num_tokens
            assert row.length == apart


def scored(prompt: list[int], chosen: list[int], rejected: list[int]) -> ScoredPair:
    """A pair of these tokens with figures of nought."""
    sides: dict[str, Any] = {}
    for side, ids in (("chosen", chosen), ("rejected", rejected)):
        noughts = [0.0] * len(ids)
        sides |= {side: "a", f"{side}_token_ids": ids, f"{side}_segment_ids": list(range(len(ids)))}
        sides |= {f"{side}_{name}": noughts for name in ("rewards", "costs", "reference_logps")}
        sides |= {f"{side}_initial_{name}": 0.0 for name in ("reward", "cost")}
    return ScoredPair.model_validate(
        {
            "id": "1", "prompt_id": "1", "messages": [{"role": "user", "content": "q"}],
            "dimension": "harmless", "source": "s", "prompt_token_ids": prompt, **sides,
        }
    )  # fmt: skip


def test_the_second_answer_goes_on_where_the_common_opening_ends() -> None:
    shared = PaddedBatch.of_pairs([[7, 1, 2]], [[7, 3]], pad_id=0, device=CPU).shared
    assert shared is not None
    assert shared.input_ids_PM.tolist() == [[7, 1, 2, 3]]
    assert shared.position_ids_PM.tolist() == [[0, 1, 2, 1]]
    visible = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]]
    assert shared.visible_P1MM().long().tolist() == [[visible]]


def test_a_batch_holds_nothing_that_grows_with_the_square_of_its_length() -> None:
    """A model that cannot share a row must not pay for the mask of one."""
    firsts, seconds = [[1] * 300], [[1] * 200 + [2] * 100]
    shared = PaddedBatch.of_pairs(firsts, seconds, pad_id=0, device=CPU).shared
    assert shared is not None and shared.input_ids_PM.shape == (1, 400)
    assert all(part.numel() <= 2 * 400 for part in vars(shared).values())


def test_a_shared_row_gives_every_token_the_hidden_state_it_has_alone(folder: Path) -> None:
    model = load_causal_lm(folder, dtype="float64")
    apart, together, _ = both(load_tokenizer(folder))
    real = apart.attention_mask_NL.bool()
    torch.testing.assert_close(
        hidden_states(model, together)[real], hidden_states(model, apart)[real], atol=1e-9, rtol=0
    )


def test_the_second_answer_does_not_see_the_first(folder: Path) -> None:
    model = load_causal_lm(folder, dtype="float64")
    firsts, seconds, _ = encoded(load_tokenizer(folder))
    before = hidden_states(model, PaddedBatch.of_pairs(firsts, seconds, pad_id=0, device=CPU))
    firsts = [[*ids[:-2], 5, 6] for ids in firsts]
    after = hidden_states(model, PaddedBatch.of_pairs(firsts, seconds, pad_id=0, device=CPU))
    for n, ids in enumerate(seconds, start=len(firsts)):
        torch.testing.assert_close(after[n, : len(ids)], before[n, : len(ids)])


def test_log_probs_and_gradients_are_those_of_separate_rows(folder: Path) -> None:
    model = load_causal_lm(folder, dtype="float64")
    gradients = []
    for batch, wanted in ((b, w) for *bs, w in [both(load_tokenizer(folder))] for b in bs):
        model.zero_grad()
        logps = token_logps(model, batch, wanted)
        signs = torch.where(torch.arange(len(logps)) < len(PAIRS), 1.0, -0.5)
        (logps.sum(dim=1) * signs).sum().backward()
        gradients.append([logps.detach(), *(p.grad.clone() for p in model.parameters())])
    torch.testing.assert_close(gradients[1][0], gradients[0][0], atol=1e-9, rtol=0)
    for apart, together in zip(*gradients, strict=True):
        # The library's norms run in float32 whatever the model does: 1e-9 is out of reach here.
        assert (together - apart).norm() <= 1e-6 * apart.norm()


def test_scorer_values_are_those_of_separate_rows(folder: Path) -> None:
    model, tokenizer = new_scorer_model(folder, seed=0, dtype="float64")
    apart, together, wanted = both(tokenizer)
    torch.testing.assert_close(
        token_values(model, together)[wanted], token_values(model, apart)[wanted], atol=1e-9, rtol=0
    )


def test_a_model_with_a_sliding_window_is_not_shared(folder: Path) -> None:
    model = load_causal_lm(folder, dtype="float64")
    apart, together, _ = both(load_tokenizer(folder))
    model.config.sliding_window = 4
    assert not can_share(model)
    real = apart.attention_mask_NL.bool()
    torch.testing.assert_close(
        hidden_states(model, together)[real], hidden_states(model, apart)[real]
    )
    assert padding_mask(model, apart) is apart.attention_mask_NL


def test_rows_of_one_answer_need_no_mask_and_so_may_take_the_flash_kernel(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_causal_lm(folder, dtype="float64")
    apart, together, _ = both(load_tokenizer(folder))
    calls = spied_attention(monkeypatch)
    hidden_states(model, apart)
    assert calls == [(None, True)] * len(model.model.layers)
    calls.clear()
    hidden_states(model, together)
    assert [is_causal for _, is_causal in calls] == [False] * len(model.model.layers)
    assert all(torch.equal(mask, together.shared.visible_P1MM()) for mask, _ in calls)


def test_without_a_mask_real_tokens_have_the_states_and_gradients_they_have_with_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_causal_lm(folder, dtype="float64")
    apart, _, wanted = both(load_tokenizer(folder))
    real = apart.attention_mask_NL.bool()
    assert not real.all()

    def found() -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        model.zero_grad()
        logps = token_logps(model, apart, wanted)
        logps.sum().backward()
        gradients = [p.grad.clone() for p in model.parameters()]
        return hidden_states(model, apart)[real].detach(), logps.detach(), gradients

    without = found()
    monkeypatch.setattr(
        "equilibrate_core.batches.padding_mask", lambda _, batch: batch.attention_mask_NL
    )
    calls = spied_attention(monkeypatch)
    with_mask = found()
    assert all(mask is not None for mask, _ in calls)
    torch.testing.assert_close(without[:2], with_mask[:2], atol=1e-9, rtol=0)
    for a, b in zip(without[2], with_mask[2], strict=True):
        assert (a - b).norm() <= 1e-9 * b.norm()


def test_families_not_known_to_us_are_told_of_padding(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_causal_lm(tiny_model)
    assert has_plain_head(model)
    apart, _, wanted = both(load_tokenizer(tiny_model))
    monkeypatch.setattr("equilibrate_core.batches.SHARING_MODELS", frozenset({"mistral"}))
    calls = spied_attention(monkeypatch)
    token_logps(model, apart, wanted)
    assert calls and all(mask is not None for mask, _ in calls)


def spied_attention(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Tensor | None, bool]]:
    """Mask and `is_causal` of every later call of torch's attention."""
    calls: list[tuple[torch.Tensor | None, bool]] = []
    original = functional.scaled_dot_product_attention

    def spy(*args: Any, **options: Any) -> torch.Tensor:
        calls.append((options["attn_mask"], options["is_causal"]))
        return original(*args, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", spy)
    return calls
