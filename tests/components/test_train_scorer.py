"""train_scorer learns, reports honestly, and refuses what it cannot learn from."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from components.train_scorer.config import TrainScorerConfig
from components.train_scorer.objective import ScorerObjective, ScorerRow, compared_values
from components.train_scorer.splits import HELD_OUT, TRAINED, prompt_fates
from components.train_scorer.stage import encode_pairs, train_scorer
from equilibrate_core.artifacts import Counts, read_manifest
from equilibrate_core.errors import DataError
from equilibrate_core.likeness.prompt_groups import conversations as texts_of
from equilibrate_core.likeness.shingling import jaccard
from equilibrate_core.models import load_tokenizer
from equilibrate_core.records import Message, Pair
from equilibrate_core.scorer import load_scorer, new_scorer_model, score_responses
from equilibrate_core.training_config import TrainingConfig
from tests.components.scoring_fixtures import as_dataset, harm_pairs, make_pair
from tests.components.test_assemble_dataset import conversations

USED = (TRAINED, HELD_OUT)
TRAINING = TrainingConfig(
    epochs=4,
    batch_size=8,
    micro_batch_size=8,
    learning_rate=3e-3,
    precision="float32",
    zero_stage=0,
)


def config(**changes: object) -> TrainScorerConfig:
    fixed: dict = {"kind": "cost", "held_out_share": 0.2, "training": TRAINING}
    return TrainScorerConfig(**(fixed | changes))


def row(first: list[int], second: list[int], prompt: int = 2) -> ScorerRow:
    head = [7] * prompt
    return ScorerRow(head + first, head + second, (prompt, prompt), 1, -1)


def test_a_cost_model_learns_which_answers_are_harmful(tiny_model: Path, tmp_path: Path) -> None:
    pairs = as_dataset(tmp_path / "pairs", harm_pairs(40))
    metrics = train_scorer(config(), pairs=pairs, base_model=tiny_model, scorer=tmp_path / "scorer")
    assert metrics["ranking_accuracy"] == 1.0
    assert metrics["sign_accuracy"] > 0.9
    assert metrics["num_train"] + metrics["num_held_out"] == 40
    scorer = load_scorer(tmp_path / "scorer")
    messages = harm_pairs(1)[0].messages
    harmless, harmful = score_responses(
        scorer,
        [messages] * 2,
        ["no no, not that", "yes yes, do that"],
        [True] * 2,
        batch_size=2,
        max_length=256,
    )
    assert harmless < 0 < harmful
    assert json.loads((tmp_path / "scorer" / "metrics.json").read_text()) == metrics


def test_swapped_safety_flags_invert_the_model(tiny_model: Path, tmp_path: Path) -> None:
    swapped = [
        p.model_copy(
            update={
                "chosen": p.rejected,
                "rejected": p.chosen,
            }
        )
        for p in harm_pairs(40)
    ]
    pairs = as_dataset(tmp_path / "pairs", swapped)
    train_scorer(config(), pairs=pairs, base_model=tiny_model, scorer=tmp_path / "scorer")
    (value,) = score_responses(
        load_scorer(tmp_path / "scorer"),
        [harm_pairs(1)[0].messages],
        ["no no, not that"],
        [True],
        batch_size=1,
        max_length=256,
    )
    assert value > 0


def test_the_two_cost_models_see_no_prompt_in_common(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    pairs = harm_pairs(21)
    seen = {}
    for half in ("first_half", "second_half"):
        rows, held_out = encode_pairs(config(rows=half), pairs, tokenizer, Counts())
        seen[half] = {tuple(r.first_ids) for r in rows + held_out}
    assert not seen["first_half"] & seen["second_half"]
    assert len(seen["first_half"]) + len(seen["second_half"]) == 21


def test_held_out_prompts_are_not_trained_on_even_when_they_repeat(tiny_model: Path) -> None:
    pairs = harm_pairs(10)
    again = [p.model_copy(update={"chosen": p.chosen + " again", "id": p.id + "x"}) for p in pairs]
    rows, held_out = encode_pairs(config(), pairs + again, load_tokenizer(tiny_model), Counts())
    prompts = [
        {tuple(r.first_ids[: r.num_prompt_tokens[0]]) for r in part} for part in (rows, held_out)
    ]
    assert not prompts[0] & prompts[1]
    assert (len(rows), len(held_out)) == (16, 4)


def sides(pairs: list[Pair], **changes: object) -> dict[str, str]:
    """What becomes of each prompt, by its last turn."""
    fates = prompt_fates(config(**changes), pairs)
    return {pair.messages[-1].content: fates[pair.prompt_id] for pair in pairs}


def copies(number: int) -> list[Pair]:
    """Prompts three times each: as they are, shouted, and with one letter more."""
    texts = [text for pair in harm_pairs(number) for text in alike(pair.messages[0].content)]
    return [make_pair(text, "no", "yes") for text in texts]


def alike(text: str) -> tuple[str, str, str]:
    return text, text.upper() + "!!", text + "s"


@pytest.mark.parametrize("rows", ["all", "first_half", "second_half"])
def test_near_duplicates_are_trained_on_or_held_out_together(rows: str) -> None:
    found = sides(copies(40), rows=rows)
    for pair in harm_pairs(40):
        assert len({found[text] for text in alike(pair.messages[0].content)}) == 1
    counted = Counter(found.values())
    assert counted[HELD_OUT] > 0 and counted[TRAINED] > 2 * counted[HELD_OUT]


def test_conversations_that_continue_one_another_are_held_out_together() -> None:
    pairs = conversations(40, turns=3)
    fates = prompt_fates(config(), pairs)
    families = {pair.id.split(".")[0] for pair in pairs}
    found = {
        family: {fates[p.prompt_id] for p in pairs if p.id.split(".")[0] == family}
        for family in families
    }
    assert {len(fate) for fate in found.values()} == {1}
    assert Counter(fate for (fate,) in found.values()) == {TRAINED: 32, HELD_OUT: 8}


def test_what_becomes_of_a_prompt_does_not_depend_on_the_order_of_the_pairs() -> None:
    pairs = copies(20) + conversations(10, turns=3)
    for half in ("all", "first_half", "second_half"):
        there = prompt_fates(config(rows=half), pairs)
        assert there == prompt_fates(config(rows=half), pairs[::-1])
        assert len(there) == 90


def test_the_judging_cost_model_sees_nothing_like_what_made_the_masks() -> None:
    pairs = copies(30)
    first, second = (sides(pairs, rows=half) for half in ("first_half", "second_half"))
    seen = [{x for x, fate in part.items() if fate in USED} for part in (first, second)]
    assert all(seen) and not seen[0] & seen[1]
    one, other = (
        texts_of((x, (Message(role="user", content=x),)) for x in part)["text"] for part in seen
    )
    assert max(jaccard(a, b) for a in one for b in other) < 0.8


def test_rows_it_cannot_use_are_counted_by_reason(tiny_model: Path, tmp_path: Path) -> None:
    odd = [
        make_pair("Long?", "no " * 300, "yes"),
        make_pair("Helpful?", "good", "bad", dimension="helpful"),
        make_pair("Unlabelled?", "no", "yes", safe=(None, None)),
    ]
    pairs = as_dataset(tmp_path / "pairs", harm_pairs(10) + odd)
    quick = TRAINING.model_copy(update={"epochs": 1})
    train_scorer(
        config(training=quick, max_length=200),
        pairs=pairs,
        base_model=tiny_model,
        scorer=tmp_path / "scorer",
    )
    counts = read_manifest(tmp_path / "scorer").counts
    assert counts is not None
    assert counts.dropped == {"too_long": 1, "other_dimension": 1, "no_safety_label": 1}
    assert counts.kept == 10


def test_no_usable_pair_is_one_clear_error(tiny_model: Path, tmp_path: Path) -> None:
    pairs = as_dataset(tmp_path / "pairs", harm_pairs(5))
    with pytest.raises(DataError, match="give more reward pairs"):
        train_scorer(
            config(kind="reward"),
            pairs=pairs,
            base_model=tiny_model,
            scorer=tmp_path / "scorer",
        )
    assert not (tmp_path / "scorer").exists()


def test_positions_count_from_the_first_difference_and_the_shorter_end_stands_in() -> None:
    rows = [row([1, 2, 3], [1, 5, 6, 7]), row([4], [4, 4])]
    values_first = torch.arange(12.0).reshape(2, 6)
    values_second = 100 + torch.arange(12.0).reshape(2, 6)
    first, second, compared = compared_values(values_first, values_second, rows, token_wise=True)
    assert compared.tolist() == [[False, True, True, True], [False, True, False, False]]
    assert first[0].tolist() == [2.0, 3.0, 4.0, 4.0]
    assert second[0].tolist() == [102.0, 103.0, 104.0, 105.0]
    assert first[1].tolist() == [8.0, 8.0, 8.0, 8.0]


def test_sequence_wise_loss_reads_the_last_token_only() -> None:
    rows = [row([1, 2, 3], [1, 5, 6, 7])]
    values = torch.arange(6.0)[None]
    first, second, compared = compared_values(values, values + 100, rows, token_wise=False)
    assert (first.tolist(), second.tolist(), compared.tolist()) == ([[4.0]], [[105.0]], [[True]])


def test_padding_changes_neither_loss_nor_values(tiny_model: Path) -> None:
    model, tokenizer = new_scorer_model(tiny_model, seed=0, dtype="float64")
    objective = ScorerObjective(
        model,
        kind="cost",
        token_wise=True,
        regularization=0.001,
        pad_id=tokenizer.pad_token_id,
        precision="float32",
    )
    rows, _ = encode_pairs(
        config(), [*harm_pairs(5), make_pair("Q?", "no", "yes " * 30)], tokenizer, Counts()
    )
    together = objective(rows)
    for index, each in enumerate(rows):
        alone = objective([each])
        for name in ("loss", "first", "second"):
            torch.testing.assert_close(together[name][index], alone[name][0], atol=1e-9, rtol=0)
