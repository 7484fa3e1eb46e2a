import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from equilibrate_core.chat import encode_prompt
from equilibrate_core.generator_config import GeneratorConfig, Sampling
from equilibrate_core.generator_transformers import TransformersGenerator
from equilibrate_core.label_tokens import (
    SMALLEST_PROB,
    bounds_in_json,
    first_tokens,
    label_completion,
    logps_in_json,
)
from equilibrate_core.models import load_causal_lm, load_tokenizer
from equilibrate_core.records import CATEGORIES, Message
from equilibrate_core.verdict_labels import REFUSAL_LABELS, SAFETY_LABELS
from tests.tiny_model import make_tiny_model, tiny_tokenizer

SCHEMA = {
    "type": "object",
    "properties": {
        "rationale": {"type": "string"},
        "category": {"type": "string", "enum": ["EHD", "IHD", "NONE"]},
    },
}


@pytest.mark.parametrize("labels", [CATEGORIES, SAFETY_LABELS, REFUSAL_LABELS, ("A", "B", "tie")])
def test_every_label_of_every_question_can_be_told_by_one_token(labels: tuple[str, ...]) -> None:
    tokenizer = tiny_tokenizer()
    found = first_tokens(tokenizer, labels)
    assert found is not None
    assert set(found.values()) == set(labels)
    assert all(label.startswith(tokenizer.decode([token])) for token, label in found.items())


def test_labels_that_begin_alike_cannot_be_told_by_one_token() -> None:
    assert first_tokens(tiny_tokenizer(), ["zqa", "zqb"]) is None


def test_a_one_token_verdict_is_the_likeliest_beginning(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "model")
    config = GeneratorConfig(backend="transformers", dtype="float32", max_model_len=512)
    generator = TransformersGenerator.load(config, folder)
    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    rows = [[Message(role="user", content=text)] for text in ("hi", "a longer question", "面包？")]
    opening = "The same instructions for every row, long enough to be worth sharing. " * 2
    rows += [[Message(role="user", content=opening + text)] for text in ("one", "another one")]
    completions = generator.generate(rows, Sampling(max_tokens=5), choices=CATEGORIES)
    letters = {name: tokenizer.convert_tokens_to_ids(name[0]) for name in CATEGORIES}
    for row, completion in zip(rows, completions, strict=True):
        ids = torch.tensor([encode_prompt(tokenizer, row)])
        with torch.no_grad():
            logps = model(ids).logits[0, -1].log_softmax(-1)
        # The tiny vocabulary holds no longer piece of these labels than their first letters.
        expected = {name: float(logps[token]) for name, token in letters.items()}
        assert completion.label_logps == pytest.approx(expected, abs=1e-4)
        assert completion.text == max(expected, key=lambda name: expected[name])
        assert (completion.num_tokens, completion.finish_reason) == (1, "stop")


def test_drawn_labels_follow_their_probabilities_and_their_seed() -> None:
    logps = {"A": math.log(0.6), "B": math.log(0.3), "C": math.log(0.1)}
    warm = Sampling(temperature=1.0)
    drawn = [label_completion(logps, warm, seed).text for seed in range(4000)]
    shares = {label: number / 4000 for label, number in Counter(drawn).items()}
    assert shares == pytest.approx({"A": 0.6, "B": 0.3, "C": 0.1}, abs=0.03)
    assert drawn == [label_completion(logps, warm, seed).text for seed in range(4000)]
    assert label_completion(logps, Sampling(), 1).text == "A"


def tokens(*spelled: str, alternatives: dict[int, dict[str, float]]) -> list[dict]:
    return [
        {
            "token": text,
            "logprob": 0.0,
            "top_logprobs": [
                {"token": other, "logprob": math.log(prob)}
                for other, prob in alternatives.get(place, {text: 1.0}).items()
            ],
        }
        for place, text in enumerate(spelled)
    ]


def test_label_probabilities_are_read_where_the_verdict_begins() -> None:
    # "E" and "EH" both begin EHD; a token that opens the string with the label counts as well.
    apart = tokens(
        '{"rationale": "NONE', '", "category": "', "E", 'HD"}',
        alternatives={2: {"E": 0.5, "EH": 0.2, "I": 0.2, "x": 0.1}},
    )  # fmt: skip
    expected = {"EHD": math.log(0.7), "IHD": math.log(0.2)}
    assert logps_in_json(apart, SCHEMA) == pytest.approx(expected)
    merged = tokens(
        '{"rationale":"x","category":', '"N', 'ONE"}',
        alternatives={1: {'"N': 0.8, '"I': 0.1, '"EHD"': 0.1}},
    )  # fmt: skip
    expected = {"NONE": math.log(0.8), "IHD": math.log(0.1), "EHD": math.log(0.1)}
    assert logps_in_json(merged, SCHEMA) == pytest.approx(expected)


def test_without_the_field_there_are_no_label_probabilities() -> None:
    text = json.dumps({"other": "EHD"})
    for read in (logps_in_json, bounds_in_json):
        assert read(tokens(text, alternatives={}), SCHEMA) is None
        assert read([], SCHEMA) is None


def bounds(first: str, **listed: float) -> dict[str, float]:
    """Upper bounds of unlisted labels where `first` was taken among the `listed` tokens."""
    opening = '{"category": "'
    found = bounds_in_json(tokens(opening, first, '"}', alternatives={1: listed}), SCHEMA)
    assert found is not None
    return {label: math.exp(logp) for label, logp in found.items()}


def test_an_unlisted_label_is_no_likelier_than_its_tokens_could_be() -> None:
    # NONE could begin with N, NO, NON, NONE and NONE": five tokens of at most 0.01 each.
    assert bounds("E", E=0.6, I=0.2, x=0.01) == pytest.approx({"NONE": 0.05})
    # IHD and NONE share what the others leave.
    assert bounds("E", E=0.9, x=0.08) == pytest.approx({"IHD": 0.02, "NONE": 0.02})


def test_all_labels_listed_leave_nothing_to_bound() -> None:
    assert bounds("E", E=0.5, I=0.2, N=0.1) == {}


def test_the_token_that_was_taken_says_nothing_about_those_outside() -> None:
    # A grammar made the server take the unlikely I, which it then lists out of turn.
    assert bounds("I", x=0.5, E=0.02, I=1e-9) == pytest.approx({"NONE": 5 * 0.02})


def test_a_token_that_could_begin_two_labels_counts_for_both() -> None:
    schema = {"properties": {"category": {"enum": ["full yes", "full no", "part"]}}}
    listed = {1: {"full": 0.9, "part": 0.06, "x": 0.04}}
    found = bounds_in_json(tokens('{"category": "', "full", alternatives=listed), schema)
    assert found == pytest.approx({"full yes": math.log(0.9), "full no": math.log(0.9)}, abs=1e-5)


def test_rounding_leaves_no_label_without_a_bound() -> None:
    assert bounds("E", E=1.0, I=1e-5) == pytest.approx({"NONE": SMALLEST_PROB})


def test_the_label_that_was_taken_is_listed_even_outside_the_likeliest() -> None:
    outside = tokens('{"category": "', "I", alternatives={1: {"x": 0.7, "E": 0.1}})
    outside[1]["logprob"] = math.log(0.001)
    expected = {"EHD": math.log(0.1), "IHD": math.log(0.001)}
    assert logps_in_json(outside, SCHEMA) == pytest.approx(expected)
