"""Scorers: read at end-of-turn, standard directories, padding, normalisation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from equilibrate_core.batches import PaddedBatch
from equilibrate_core.chat import encode_answer, end_of_turn_id
from equilibrate_core.errors import ModelError
from equilibrate_core.models import load_tokenizer
from equilibrate_core.records import Message
from equilibrate_core.scorer import (
    ScorerConstants,
    load_scorer,
    new_scorer_model,
    pad_token,
    save_scorer,
    score_responses,
    token_values,
)

ASK = (Message(role="user", content="How do I bake bread?"),)
ANSWERS = ("Mix flour.", "I cannot help with that, but I can tell you how to stay safe.", "否。")
CONSTANTS = ScorerConstants(kind="reward", center=0.25, scale=2.0, token_wise=True)


@pytest.fixture(params=["tiny_model", "tiny_llama3"])
def base(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def saved(base: Path, folder: Path, seed: int = 0) -> tuple[Path, Any]:
    model, tokenizer = new_scorer_model(base, seed=seed, dtype="float64")
    save_scorer(folder, model, tokenizer, CONSTANTS)
    return folder, model


def test_value_equals_transformers_own_classifier_at_end_of_turn(
    base: Path, tmp_path: Path
) -> None:
    folder, _ = saved(base, tmp_path / "scorer")
    peer = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": ASK[0].content}, {"role": "assistant", "content": a}],
            tokenize=False,
        ).rstrip("\n")
        for a in ANSWERS
    ]
    inputs = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    theirs = peer(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.squeeze(-1)
    scorer = load_scorer(folder, dtype="float64")
    ours = score_responses(scorer, [ASK] * 3, ANSWERS, [True] * 3, batch_size=2, max_length=512)
    expected = (theirs.detach() - CONSTANTS.center) / CONSTANTS.scale
    torch.testing.assert_close(torch.tensor(ours, dtype=torch.float64), expected, atol=1e-9, rtol=0)


def test_pad_differs_from_end_of_turn_even_where_the_base_pads_with_it(
    tiny_model: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.pad_token = "<|im_end|>"
    assert pad_token(tokenizer) == "<|endoftext|>"
    folder, model = saved(tiny_model, tmp_path / "scorer")
    loaded = load_tokenizer(folder)
    assert loaded.pad_token_id == model.config.pad_token_id != end_of_turn_id(loaded)


def test_a_base_without_a_pad_token_takes_another_special_token(
    tiny_llama3: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(tiny_llama3)
    assert tokenizer.pad_token is None
    assert pad_token(tokenizer) == "<|end_of_text|>"
    folder, model = saved(tiny_llama3, tmp_path / "scorer")
    assert load_scorer(folder).tokenizer.pad_token == "<|end_of_text|>"
    assert model.config.pad_token_id == tokenizer.convert_tokens_to_ids("<|end_of_text|>")


def test_a_base_whose_every_named_token_ends_the_turn_takes_another_special_token() -> None:
    end, start = "<|end_of_text|>", "<|start_of_role|>"
    granite = special_tokenizer([end, start], bos=end, eos=end, pad_token=end, unk_token=end)
    assert pad_token(granite) == start


def test_a_base_with_no_special_token_to_spare_is_one_clear_error() -> None:
    bare = special_tokenizer(["<s>", "</s>"], bos="<s>", eos="</s>")
    with pytest.raises(ModelError, match="no special token besides end-of-turn and BOS"):
        pad_token(bare)


def special_tokenizer(tokens: list[str], *, bos: str, eos: str, **named: str) -> Any:
    """A tokenizer of these special tokens and the letter x, whose turns end with `eos`."""
    vocab = {"x": 0} | {token: i for i, token in enumerate(tokens, start=1)}
    raw = Tokenizer(BPE(vocab=vocab, merges=[]))
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=bos, eos_token=eos, **named)
    fast.add_special_tokens({"additional_special_tokens": tokens})
    fast.chat_template = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    return fast


def test_a_scorer_that_pads_with_end_of_turn_is_refused(base: Path, tmp_path: Path) -> None:
    folder, _ = saved(base, tmp_path / "scorer")
    tokenizer = load_tokenizer(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="the value would be misread; save another pad_token"):
        load_scorer(folder)


def test_a_batch_equals_its_rows_alone(base: Path, tmp_path: Path) -> None:
    folder, _ = saved(base, tmp_path / "scorer")
    scorer = load_scorer(folder, dtype="float64")
    options = {"max_length": 512}
    together = score_responses(scorer, [ASK] * 3, ANSWERS, [True] * 3, batch_size=3, **options)
    alone = score_responses(scorer, [ASK] * 3, ANSWERS, [True] * 3, batch_size=1, **options)
    assert together == pytest.approx(alone, abs=1e-9)


def test_a_cut_answer_is_read_at_its_last_token(base: Path, tmp_path: Path) -> None:
    folder, model = saved(base, tmp_path / "scorer")
    scorer = load_scorer(folder, dtype="float64")
    (value,) = score_responses(scorer, [ASK], ANSWERS[:1], [False], batch_size=1, max_length=512)
    encoded = encode_answer(scorer.tokenizer, ASK, ANSWERS[0], finished=False)
    ids = [encoded.prompt_ids + encoded.response_ids]
    raw = token_values(model, PaddedBatch.of(ids, pad_id=0, device=torch.device("cpu")))[0, -1]
    assert value == pytest.approx((raw.item() - 0.25) / 2.0, abs=1e-9)


def test_a_too_long_answer_has_no_value_and_hurts_no_other(base: Path, tmp_path: Path) -> None:
    folder, _ = saved(base, tmp_path / "scorer")
    scorer = load_scorer(folder, dtype="float64")
    answers = ("Mix.", "x " * 400)
    values = score_responses(scorer, [ASK] * 2, answers, [True] * 2, batch_size=2, max_length=200)
    assert values[0] == values[0]
    assert values[1] != values[1]


def test_a_conversation_that_the_template_refuses_has_no_value_and_hurts_no_other(
    base: Path, tmp_path: Path
) -> None:
    folder, _ = saved(base, tmp_path / "scorer")
    scorer = load_scorer(folder, dtype="float64")
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    scorer.tokenizer.chat_template = refusal + scorer.tokenizer.chat_template
    talks = [(Message(role="system", content="Be brief."), *ASK), ASK]
    options = {"max_length": 512, "batch_size": 2}
    values = score_responses(scorer, talks, ANSWERS[:2], [True] * 2, **options)
    alone = score_responses(scorer, [ASK], ANSWERS[1:2], [True], **options)
    assert values[0] != values[0]
    assert values[1:] == pytest.approx(alone, abs=1e-9)


def test_the_head_is_drawn_from_the_seed(tiny_model: Path, tmp_path: Path) -> None:
    weights = [
        saved(tiny_model, tmp_path / name, seed)[1].score.weight
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_saved_head_comes_back(tiny_model: Path, tmp_path: Path) -> None:
    folder, model = saved(tiny_model, tmp_path / "scorer")
    assert torch.equal(load_scorer(folder, dtype="float64").model.score.weight, model.score.weight)


def test_a_folder_without_constants_is_no_scorer(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"no scorer\.json"):
        load_scorer(tiny_model)
