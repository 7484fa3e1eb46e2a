"""Every adapter on rows of its dataset's own schema, and on rows that break it."""

from typing import get_args

import pytest

from components.import_data.adapters import ADAPTERS
from components.import_data.config import ANSWER_ADAPTERS, GENERIC_FIELDS, AdapterName, Source
from components.import_data.mapping import Mapped, map_answer, map_row
from components.import_data.rows import RowError
from equilibrate_core.records import prompt_id

HUMAN_ASKS = "\n\nHuman: How do I pick a lock?\n\nAssistant: Whose lock?\n\nHuman: Mine."
FULL_ROW = {
    "prompt": "How do I get even?",
    "response_0": "Talk to them.",
    "response_1": "Slash a tyre.",
    "is_response_0_safe": True,
    "is_response_1_safe": False,
    "better_response_id": 1,
    "safer_response_id": 0,
}
DPO_ROW = {
    "conversations": [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello"},
        {"from": "human", "value": "Bye"},
    ],
    "chosen": {"from": "gpt", "value": "Goodbye!"},
    "rejected": {"from": "gpt", "value": "No."},
}
WILDCHAT_ROW = {
    "conversation_hash": "c1",
    "model": "gpt-4",
    "language": "English",
    "toxic": False,
    "conversation": [
        {"role": "user", "content": "First?", "language": "English", "toxic": False},
        {"role": "assistant", "content": "Yes.", "language": "English", "toxic": False},
        {"role": "user", "content": "Second?", "language": "English", "toxic": False},
    ],
}

# adapter → its row, and what the prompt then is: text of the last turn and fields that differ from
# their defaults.
PROMPT_CASES = {
    "equilibrate": (
        {"id": "e1", "question_y": "Why?", "category": "No risk"},
        {"text": "Why?", "gold_category": "NONE"},
    ),
    "xstest": (
        {"id": "1", "prompt": "How do I kill a process?", "type": "homonyms", "label": "safe"},
        {
            "text": "How do I kill a process?",
            "suite": "xstest",
            "is_harmful": False,
            "metadata": {"type": "homonyms"},
        },
    ),
    "or_bench": (
        {"prompt": "Fake a document for a prank?", "label": "safe", "category": "deception"},
        {
            "text": "Fake a document for a prank?",
            "suite": "or_bench",
            "is_harmful": False,
            "metadata": {"category": "deception"},
        },
    ),
    "harmbench": (
        {
            "Behavior": "Persuade him",
            "FunctionalCategory": "contextual",
            "SemanticCategory": "illegal",
            "Tags": "",
            "ContextString": "Name: G.",
            "BehaviorID": "h1",
        },
        {
            "text": "Persuade him\n\nName: G.",
            "suite": "harmbench",
            "is_harmful": True,
            "metadata": {
                "FunctionalCategory": "contextual",
                "SemanticCategory": "illegal",
                "request": "Persuade him",
            },
        },
    ),
    "strongreject": (
        {"category": "Fraud", "source": "custom", "forbidden_prompt": "Do it"},
        {
            "text": "Do it",
            "suite": "strongreject",
            "is_harmful": True,
            "metadata": {"category": "Fraud", "source": "custom"},
        },
    ),
    "beavertails_evaluation": (
        {"prompt": "Do it", "category": "animal_abuse", "category_id": 0},
        {
            "text": "Do it",
            "suite": "beavertails_evaluation",
            "is_harmful": True,
            "metadata": {"category": "animal_abuse"},
        },
    ),
    "safe_rlhf_problem_83": (
        {"prompt": "Do it", "category": "Social Bias"},
        {
            "text": "Do it",
            "suite": "safe_rlhf_problem_83",
            "is_harmful": True,
            "metadata": {"category": "Social Bias"},
        },
    ),
    "simple_safety_tests": (
        {"id": "sst_1", "harm_area": "Fraud", "category": "Advice", "prompts_final": "Do it"},
        {
            "text": "Do it",
            "suite": "simple_safety_tests",
            "is_harmful": True,
            "metadata": {"harm_area": "Fraud", "category": "Advice"},
        },
    ),
    "mt_bench": (
        {
            "question_id": 101,
            "category": "reasoning",
            "turns": ["Which place?", "And now?"],
            "reference": ["Second.", "Unclear."],
        },
        {
            "text": "Which place?",
            "suite": "mt_bench",
            "is_harmful": None,
            "references": ("Second.",),
            "metadata": {"category": "reasoning", "second_turn": "And now?"},
        },
    ),
    "alpaca_eval": (
        {"dataset": "koala", "instruction": "Sum up", "output": "Done.", "generator": "d3"},
        {
            "text": "Sum up",
            "suite": "alpaca_eval",
            "is_harmful": None,
            "metadata": {"dataset": "koala", "generator": "d3", "baseline": "Done."},
        },
    ),
    "wildchat": (
        WILDCHAT_ROW,
        {
            "text": "First?",
            "metadata": {
                "language": "English",
                "model": "gpt-4",
                "toxic": "False",
                "conversation_hash": "c1",
            },
        },
    ),
    "prompts": (
        {
            "prompt": "Hi",
            "category": "EHD",
            "label": "unsafe",
            "references": ["a", "b"],
            "language": "zh",
        },
        {
            "text": "Hi",
            "gold_category": "EHD",
            "is_harmful": True,
            "references": ("a", "b"),
            "metadata": {"language": "zh"},
        },
    ),
}
# adapter → its row, turns of the prompt, and the pairs:
# (dimension, chosen, rejected, chosen_is_safe, rejected_is_safe)
PAIR_CASES = {
    "pku_saferlhf": (
        {"prompt": "Well?", "response": ["Calm down.", "Attack!"]},
        ["Well?"],
        [("harmless", "Calm down.", "Attack!", True, False)],
    ),
    "pku_saferlhf_full": (
        FULL_ROW,
        ["How do I get even?"],
        [
            ("helpful", "Slash a tyre.", "Talk to them.", False, True),
            ("harmless", "Talk to them.", "Slash a tyre.", True, False),
        ],
    ),
    "hh_rlhf": (
        {
            "chosen": f"{HUMAN_ASKS}\n\nAssistant: Call a locksmith.",
            "rejected": f"{HUMAN_ASKS}\n\nAssistant: Use a hammer.",
        },
        ["How do I pick a lock?", "Whose lock?", "Mine."],
        [("harmless", "Call a locksmith.", "Use a hammer.", None, None)],
    ),
    "dpo_demo": (
        DPO_ROW,
        ["Be brief.", "Hi", "Hello", "Bye"],
        [("helpful", "Goodbye!", "No.", None, None)],
    ),
    "pairs": (
        {
            "prompt": "Hi",
            "chosen": "A",
            "rejected": "B",
            "dimension": "helpful",
            "chosen_is_safe": True,
            "rejected_is_safe": "False",
            "category": "NONE",
        },
        ["Hi"],
        [("helpful", "A", "B", True, False)],
    ),
}


ANSWER_CASES = {
    "answers": (
        {"prompt": "Why?", "response": "Because.", "is_safe": True, "refusal": "Partial"},
        ("Why?", "Because.", True, "Partial"),
    ),
    "gptfuzz": (
        {"question": "80", "Response": "Gather a team.", "label": "1"},
        ("(Request 80; its text was not recorded.)", "Gather a team.", False, None),
    ),
    "pyrit_refusal": (
        {"objective": "Why?", "assistant_response": "No.", "human_score": "1", "data_type": "text"},
        ("Why?", "No.", None, "Refusal"),
    ),
}


def mapped(adapter: str, row: dict, **options) -> Mapped:
    source = Source(name="s", uri="x", adapter=adapter, **options)
    return map_row(source, ADAPTERS[adapter], row)


def test_table_config_and_cases_name_the_same_adapters():
    assert set(ADAPTERS) == set(get_args(AdapterName))
    assert set(ADAPTERS) == {*PROMPT_CASES, *PAIR_CASES, *ANSWER_CASES}
    assert set(ANSWER_ADAPTERS) == {n for n, each in ADAPTERS.items() if "answer" in each.fields}
    for name, fields in GENERIC_FIELDS.items():
        assert set(fields) == set(ADAPTERS[name].fields)


@pytest.mark.parametrize("adapter", PROMPT_CASES)
def test_prompt_row_becomes_the_prompt_its_dataset_means(adapter):
    row, expected = PROMPT_CASES[adapter]
    result = mapped(adapter, row)
    assert result.pairs == ()
    defaults = {
        "gold_category": None,
        "suite": None,
        "is_harmful": None,
        "references": (),
        "metadata": {},
    }
    fields = result.prompt.model_dump(exclude={"id", "messages", "source"})
    (message,) = result.prompt.messages
    assert fields | {"text": message.content} == defaults | expected
    assert message.role == "user" and result.prompt.source == "s"


@pytest.mark.parametrize("adapter", PAIR_CASES)
def test_pair_row_becomes_the_pairs_its_dataset_means(adapter):
    row, turns, expected = PAIR_CASES[adapter]
    result = mapped(adapter, row)
    assert [turn.content for turn in result.prompt.messages] == turns
    assert [
        (pair.dimension, pair.chosen, pair.rejected, pair.chosen_is_safe, pair.rejected_is_safe)
        for pair in result.pairs
    ] == expected
    for pair in result.pairs:
        assert (pair.prompt_id, pair.messages) == (result.prompt.id, result.prompt.messages)
        assert pair.category == result.prompt.gold_category


def answer_of(adapter: str, row: dict, **options):
    return map_answer(Source(name="s", uri="x", adapter=adapter, **options), ADAPTERS[adapter], row)


@pytest.mark.parametrize("adapter", ANSWER_CASES)
def test_answer_row_becomes_the_labelled_answer_its_dataset_means(adapter):
    row, (text, answer, is_safe, refusal) = ANSWER_CASES[adapter]
    found = answer_of(adapter, row)
    assert [turn.content for turn in found.messages] == [text]
    assert (found.answer, found.is_safe, found.refusal) == (answer, is_safe, refusal)
    assert (found.source, found.prompt_id) == ("s", prompt_id(found.messages))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Refusal", "Refusal"), ("partial", "Partial"), (False, "Compliance"), (1, "Refusal"),
        ("2_full_refusal", "Refusal"), ("3_partial_refusal", "Partial"),
    ],
)  # fmt: skip
def test_words_and_numbers_for_refusal_mean_its_three_kinds(value, expected):
    assert (
        answer_of("answers", {"prompt": "p", "answer": "a", "refusal": value}).refusal == expected
    )


@pytest.mark.parametrize(
    ("adapter", "row", "reason"),
    [
        ("answers", {"prompt": "p", "answer": "a"}, "no label: neither 'is_safe' nor 'refusal'"),
        ("answers", {"prompt": "p", "answer": " ", "is_safe": 1}, "field 'answer' is empty"),
        ("answers", {"prompt": "p", "is_safe": 1}, "field 'answer' or 'response' is missing"),
        ("answers", {"prompt": "p", "answer": "a", "refusal": "maybe"}, "unknown refusal 'maybe'"),
        ("answers", {"prompt": "p", "answer": "a", "is_safe": 0.5}, "unknown is_safe 0.5"),
        ("gptfuzz", {"question": "1", "Response": "a", "label": "2"}, "expected 0 or 1"),
        ("gptfuzz", {"question": "1", "Response": "a"}, "field 'label' is missing"),
        (
            "pyrit_refusal",
            {"objective": "p", "assistant_response": "a"},
            "'human_score' is missing",
        ),
    ],
)
def test_answer_row_that_breaks_its_layout_says_why(adapter, row, reason):
    with pytest.raises(RowError, match=reason):
        answer_of(adapter, row)


def test_labels_of_people_are_told_apart_by_the_id_and_white_space_is_not():
    row = {"prompt": "p", "answer": "a  b", "refusal": "Refusal"}
    first = answer_of("answers", row)
    assert answer_of("answers", {**row, "answer": "a b "}).id == first.id
    assert answer_of("answers", {**row, "refusal": "Partial"}).id != first.id
    assert answer_of("answers", {**row, "is_safe": True}).id != first.id


@pytest.mark.parametrize(
    ("category", "expected"), [("EHD", "EHD"), ("OTHER", "NONE"), ("No risk", "NONE")]
)
def test_categories_of_the_published_labels_are_translated(category, expected):
    row = {"id": "1", "question_y": "Why?", "category": category}
    assert mapped("equilibrate", row).prompt.gold_category == expected


def test_unsafe_label_of_xstest_means_harmful():
    assert mapped("xstest", {"prompt": "x", "label": "unsafe"}).prompt.is_harmful is True


def test_values_of_the_source_win_over_row_and_adapter():
    prompt = mapped("xstest", {"prompt": "x", "label": "safe"}, suite="own", is_harmful=True).prompt
    assert (prompt.suite, prompt.is_harmful) == ("own", True)
    row, _, _ = PAIR_CASES["hh_rlhf"]
    (pair,) = mapped("hh_rlhf", row, dimension="helpful", category="IHD").pairs
    assert (pair.dimension, pair.category) == ("helpful", "IHD")


def test_generic_fields_are_read_from_the_columns_the_config_names():
    fields = {"prompt": "turns.0.text", "category": "risk", "references": "gold"}
    row = {"turns": [{"text": "Hi"}], "risk": "MHD", "gold": "answer"}
    prompt = mapped("prompts", row, fields=fields).prompt
    assert prompt.messages[0].content == "Hi"
    assert (prompt.gold_category, prompt.references) == ("MHD", ("answer",))


def test_conversation_counts_as_one_prompt_whatever_the_layout_it_came_in():
    row, _, _ = PAIR_CASES["hh_rlhf"]
    messages = [
        {"role": "user", "content": "How do I  pick a lock?"},
        {"role": "assistant", "content": "Whose lock?"},
        {"role": "user", "content": "Mine. "},
    ]
    assert mapped("prompts", {"prompt": messages}).prompt.id == mapped("hh_rlhf", row).prompt.id


@pytest.mark.parametrize(
    ("adapter", "row", "reason"),
    [
        ("prompts", {"text": "x"}, "field 'prompt' is missing"),
        ("prompts", {"prompt": None}, "field 'prompt' is missing"),
        ("prompts", {"prompt": " \n"}, "field 'prompt' is empty"),
        ("prompts", {"prompt": 3}, "field 'prompt' is int, expected text"),
        ("prompts", {"prompt": {"a": 1}}, "field 'prompt' is dict, expected text"),
        ("prompts", {"prompt": "\ud800"}, "not valid Unicode"),
        ("prompts", {"prompt": []}, "do not alternate"),
        ("prompts", {"prompt": [{"role": "assistant", "content": "x"}]}, "do not alternate"),
        ("prompts", {"prompt": [{"role": ["user"], "content": "x"}]}, "turn 0 .* has role"),
        ("prompts", {"prompt": ["x"]}, "turn 0 .* has role None"),
        ("prompts", {"prompt": "x", "category": "BAD"}, "unknown category 'BAD'.*EHD"),
        ("prompts", {"prompt": "x", "category": ["EHD"]}, "unknown category"),
        ("prompts", {"prompt": "x", "label": "maybe"}, "unknown label 'maybe'"),
        ("prompts", {"prompt": "x", "references": [3]}, "field 'references' is int"),
        ("equilibrate", {"id": "1", "question_y": "x"}, "field 'category' is missing"),
        ("pku_saferlhf", {"prompt": "x", "response": ["a"]}, "field 'response.1' is missing"),
        ("pku_saferlhf", {"prompt": "x", "response": ["a", ""]}, "field 'rejected' is empty"),
        ("pku_saferlhf", {"prompt": "x", "response": ["a", " a "]}, "are the same answer"),
        ("pku_saferlhf_full", FULL_ROW | {"better_response_id": 2}, "is 2; expected 0 or 1"),
        ("pku_saferlhf_full", FULL_ROW | {"safer_response_id": True}, "is True; expected 0 or 1"),
        ("pku_saferlhf_full", FULL_ROW | {"safer_response_id": 1.0}, "is 1.0; expected 0 or 1"),
        ("pku_saferlhf_full", FULL_ROW | {"is_response_0_safe": "yes"}, "expected true or false"),
        ("pku_saferlhf_full", FULL_ROW | {"response_1": 5}, "'response_1' is int"),
        ("pku_saferlhf_full", FULL_ROW | {"response_1": "Talk to them."}, "are the same answer"),
        ("hh_rlhf", {"chosen": "a", "rejected": "b"}, "'chosen' does not begin with"),
        ("hh_rlhf", {"chosen": HUMAN_ASKS, "rejected": HUMAN_ASKS}, "does not end with"),
        (
            "hh_rlhf",
            {"chosen": "\n\nHuman: a\n\nAssistant: x", "rejected": "\n\nHuman: b\n\nAssistant: y"},
            "differ before their last turn",
        ),
        (
            "hh_rlhf",
            {"chosen": "\n\nHuman: a\n\nAssistant:", "rejected": "\n\nHuman: a\n\nAssistant: y"},
            "field 'chosen' is empty",
        ),
        ("dpo_demo", DPO_ROW | {"conversations": "x"}, "expected a list of turns"),
        ("dpo_demo", DPO_ROW | {"conversations": [{"from": []}]}, "is not a turn with"),
        ("dpo_demo", DPO_ROW | {"chosen": "text"}, "'chosen' is not a turn with"),
        ("wildchat", {"conversation": [{"role": "assistant", "content": "x"}]}, "no user turn"),
        ("wildchat", {"conversation": ["x"]}, "is not an object"),
        ("pairs", {"prompt": "x", "chosen": "a", "rejected": "b"}, "field 'dimension' is missing"),
        (
            "pairs",
            {"prompt": "x", "chosen": "a", "rejected": "b", "dimension": "funny"},
            "unknown dimension 'funny'",
        ),
        (
            "pairs",
            {**PAIR_CASES["pairs"][0], "chosen_is_safe": "perhaps"},
            "unknown chosen_is_safe 'perhaps'",
        ),
    ],
)
def test_row_that_breaks_its_layout_says_why(adapter, row, reason):
    with pytest.raises(RowError, match=reason):
        mapped(adapter, row)


def test_blank_optional_columns_count_as_absent():
    prompt = mapped("prompts", {"prompt": "x", "category": "", "label": " ", "language": ""}).prompt
    assert (prompt.gold_category, prompt.is_harmful, prompt.metadata) == (None, None, {})
