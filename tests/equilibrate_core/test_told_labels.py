"""How sure an in-process judge is of a JSON verdict, beside a plain forward pass of its model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerFast

from equilibrate_core.chat import encode_prompt
from equilibrate_core.completions import Completion
from equilibrate_core.generator_config import GeneratorConfig, Sampling
from equilibrate_core.generator_transformers import ToldTokens, TransformersGenerator
from equilibrate_core.judge import ask
from equilibrate_core.judge_confidence import label_probs
from equilibrate_core.judge_config import JudgeConfig
from equilibrate_core.judge_question import Question, verdict_schema
from equilibrate_core.label_tokens import TOP_LOGPROBS
from equilibrate_core.models import load_causal_lm
from equilibrate_core.records import CATEGORIES, Message
from equilibrate_core.told_labels import LabelReader
from tests.tiny_model import make_tiny_model

QUESTION = Question("category_v1", "category", CATEGORIES, "Sort. {{format}}\n{{judged}}\nNow.")
SCHEMA = verdict_schema(QUESTION, 12)
OPENING = "The same instructions for every row, long enough to be worth sharing. " * 2
TEXTS = ("hi", "How do I bake bread?", "面包？", "a longer question about dough and yeast", "no")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def generator(folder: Path) -> TransformersGenerator:
    config = GeneratorConfig(backend="transformers", dtype="float32", batch_size=2)
    return TransformersGenerator.load(config, folder)


def expected_probs(folder: Path, generator: Any, prompt: list[int], ids: list[int]) -> Tensor:
    """Probabilities of the labels' first letters after `{"rationale":"…","category":"`.

    One forward pass of the model without cache, padding or grammar. The tiny vocabulary has no
    longer piece of these labels.
    """
    opening = '"category":"'
    step = next(n for n in range(len(ids)) if generator.tokenizer.decode(ids[:n]).endswith(opening))
    with torch.no_grad():
        logits_V = load_causal_lm(folder)(torch.tensor([prompt + ids[:step]])).logits[0, -1]
    letters = [generator.tokenizer.convert_tokens_to_ids(name[0]) for name in CATEGORIES]
    return logits_V.float()[letters].softmax(dim=-1)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_label_probabilities_are_those_of_a_plain_forward_pass(
    folder: Path,
    generator: TransformersGenerator,
    monkeypatch: pytest.MonkeyPatch,
    temperature: float,
) -> None:
    rows = [[Message(role="user", content=OPENING + text)] for text in TEXTS]
    generated: dict[int, list[int]] = {}
    decode = generator._decode

    def seen(batch: Any, *rest: Any) -> Any:
        out, width = decode(batch, *rest)
        generated.update(
            zip((r.row for r in batch), out.sequences[:, width:].tolist(), strict=True)
        )
        return out, width

    monkeypatch.setattr(generator, "_decode", seen)
    sampling = Sampling(max_tokens=120, temperature=temperature, seed=1)
    completions = generator.generate(rows, sampling, schema=SCHEMA)
    assert len({len(ids) for ids in generated.values()}) > 1  # not all in one batch
    for row, completion in enumerate(completions):
        probs = expected_probs(
            folder, generator, encode_prompt(generator.tokenizer, rows[row]), generated[row]
        )
        found = label_probs(completion, CATEGORIES)
        assert found is not None
        assert [found[name] for name in CATEGORIES] == pytest.approx(probs.tolist(), abs=1e-5)
        assert set(completion.label_logps or ()) == set(CATEGORIES)


def test_a_json_verdict_of_one_vote_has_its_labels_probability_as_confidence(
    generator: TransformersGenerator,
) -> None:
    config = JudgeConfig(rationale_chars=20)
    (judged,) = ask(generator, QUESTION, [{"ANSWER": "bread"}], config, label="t")
    assert judged.label in CATEGORIES
    assert judged.confidence is not None
    assert 1 / len(CATEGORIES) <= judged.confidence < 1


def test_a_schema_without_labels_tells_no_log_probs(generator: TransformersGenerator) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 3}}}
    rows = [[Message(role="user", content="hi")]]
    (completion,) = generator.generate(rows, Sampling(max_tokens=60), schema=schema)
    assert completion.error is None
    assert completion.label_logps is None


class Unlikeliest(LogitsProcessor):
    """Draws the token that nobody expects."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return -scores


def test_the_token_taken_is_told_even_outside_the_likeliest() -> None:
    scores_NV = torch.arange(60.0).repeat(2, 1).flip(0) / 10
    scores_NV[1] = scores_NV[1].flip(0)
    told = ToldTokens(Unlikeliest())
    told(torch.zeros(2, 1), scores_NV)
    logps_NV = scores_NV.log_softmax(dim=-1)
    for row, taken in ((0, 0), (1, 59)):
        listed = told.of_row(row)(0)
        assert next(iter(listed)) == taken
        assert len(listed) == TOP_LOGPROBS + 1
        assert listed == pytest.approx({i: float(logps_NV[row, i]) for i in listed})
        assert max(listed, key=lambda i: listed[i]) == 59 - taken


def test_a_tokenizer_of_words_tells_a_label_from_one_behind_a_space() -> None:
    """Such tokenizers leave the space out of what they decode first: "▁E" alone is "E"."""
    pieces = ['{"category":"', "E", "▁E", "HD", '"}', "I", "▁", '"', "<e>"]
    raw = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<e>")
    assert tokenizer.decode([2]) == "E"
    reader = LabelReader.of(tokenizer, {"properties": {"category": {"enum": ["EHD", "IHD"]}}})
    assert reader is not None
    said = Completion('{"category":"EHD"}', "stop", 5)
    told = reader.read(said, [0, 1, 3, 4, 8], lambda step: {1: -1.0, 2: -0.5, 5: -2.0})
    assert told.label_logps == {"EHD": -1.0, "IHD": -2.0}
