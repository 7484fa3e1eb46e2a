import json
import random
from pathlib import Path

import numpy as np
import pytest

from components.classify_prompts import panel
from components.classify_prompts.classifier import predict, split_prompts, train_head
from components.classify_prompts.config import ClassifierConfig, ClassifyPromptsConfig
from components.classify_prompts.embedding import Embedder
from components.classify_prompts.stage import classify_prompts
from equilibrate_core.artifacts import StageRun
from equilibrate_core.errors import StageError
from equilibrate_core.records import (
    CATEGORIES,
    LabelledPrompt,
    Message,
    Prompt,
    digest,
    prompt_id,
)
from equilibrate_core.tables import read_dataset, write_dataset
from tests.fake_generator import FakeGenerator, opener
from tests.tiny_model import as_artifact, make_tiny_model

CONFIG = ClassifierConfig(batch_size=4)


def made_up(num: int, *, gold: bool = True) -> list[Prompt]:
    """Prompts that any model can tell apart: those of EHD have b's, NONE z's, and a number each.

    A long run of one letter is one 5-gram, so that by far most of a prompt's are its own.
    """
    rows = []
    for i in range(num):
        letter, category = (("b", "EHD"), ("z", "NONE"))[i % 2]
        messages = (Message(role="user", content=f"{1000 + 37 * (i // 2)} {letter * 120}"),)
        rows.append(
            Prompt(
                id=prompt_id(messages),
                messages=messages,
                source="t",
                gold_category=category if gold else None,
            )
        )
    return rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_artifact(make_tiny_model(tmp_path_factory.mktemp("model") / "base"))


def label(rows: list[Prompt], model: Path, tmp_path: Path, **classifier: object):
    run = StageRun(stage="import_data", config={}, seed=0, code_version="x", inputs={})
    write_dataset(run, tmp_path / "prompts", Prompt, rows)
    config = ClassifyPromptsConfig.model_validate(
        {"judge": {"kind": "classifier"}, "classifier": {**CONFIG.model_dump(), **classifier}}
    )
    out = tmp_path / "out"
    metrics = classify_prompts(
        config, prompts=tmp_path / "prompts", judge_model=model, labelled_prompts=out
    )
    return metrics, read_dataset(out, LabelledPrompt)


def test_a_classifier_learns_from_gold_labels_and_is_measured_on_others(
    model: Path, tmp_path: Path
) -> None:
    rows = made_up(40)
    unlabelled = made_up(60, gold=False)[40:]
    metrics, labelled = label([*rows, *unlabelled], model, tmp_path)
    assert metrics["num_seed"] == 28
    assert metrics["num_gold_scored"] == 12
    assert metrics["macro_f1"] == 1.0
    assert [row.id for row in labelled] == [row.id for row in [*rows, *unlabelled]]
    by_gold = [row.judge for row in labelled].count("gold label")
    assert by_gold == 28
    learned = [row for row in labelled if row.judge != "gold label"]
    assert all("b" in row.messages[0].content or row.category == "NONE" for row in learned)
    assert all(row.confidence is not None and 0.5 <= row.confidence <= 1 for row in learned)
    assert {row.judge.split(",")[0] for row in learned} == {"classifier on 28 gold labels"}


def test_categories_without_seed_prompts_are_counted_and_warned_of(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = made_up(40)
    rare = (Message(role="user", content="a harbour of its own kind"),)
    rows.append(Prompt(id=prompt_id(rare), messages=rare, source="t", gold_category="IHD"))
    metrics, _ = label(rows, model, tmp_path, held_out_share=0.01)
    counted = {name: metrics[f"num_seed_{name}"] for name in CATEGORIES}
    assert counted["EHD"] + counted["NONE"] + counted["IHD"] == metrics["num_seed"]
    assert (counted["IHD"], counted["MHD"]) == (1, 0)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "IHD (1), MHD (0)" in warning
    assert "seed_labels" in warning


def verdict_on(prompt: str) -> str:
    """What a judge says that goes by the letters of the request."""
    judged = prompt.rsplit("<<<REQUEST", 1)[1]
    return f'{{"rationale": "r", "category": "{"IHD" if "bbb" in judged else "MHD"}"}}'


def test_a_classifier_learns_from_the_llm_judges_labels_of_a_seed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = FakeGenerator(lambda prompt, _: verdict_on(prompt))
    monkeypatch.setattr(panel, "open_generator", opener(generator))
    monkeypatch.setattr("equilibrate_core.generator.vllm_problem", lambda: "not here")
    rows = made_up(60, gold=False)
    metrics, labelled = label(rows, model, tmp_path, seed_labels="llm", seed_size=20)
    assert (metrics["num_seed"], len(generator.asked)) == (20, 20)
    assert "accuracy" not in metrics
    expected = ["IHD" if "bbb" in row.messages[0].content else "MHD" for row in labelled]
    assert [row.category for row in labelled] == expected
    assert sum(row.rationale == "r" for row in labelled) == 20


def test_seed_prompts_that_the_llm_judge_failed_on_are_given_to_the_head(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(prompt: str, _: object) -> str | Exception:
        if len(generator.asked) == 1:
            return RuntimeError("answered 500")
        return verdict_on(prompt)

    generator = FakeGenerator(judge)
    monkeypatch.setattr(panel, "open_generator", opener(generator))
    monkeypatch.setattr("equilibrate_core.generator.vllm_problem", lambda: "not here")
    rows = made_up(60, gold=False)
    metrics, labelled = label(rows, model, tmp_path, seed_labels="llm", seed_size=20)
    assert (metrics["num_seed"], metrics["num_failed_votes"]) == (19, 1)
    assert metrics["num_unscored"] == 0
    expected = ["IHD" if "bbb" in row.messages[0].content else "MHD" for row in labelled]
    assert [row.category for row in labelled] == expected


def test_no_prompt_is_on_both_sides_and_order_does_not_matter() -> None:
    rows = made_up(50)
    split = split_prompts(rows, CONFIG, seed=0)
    assert len(split.held_out) == 15
    assert not set(split.seed) & set(split.held_out)
    assert len(split.seed) + len(split.held_out) == 50
    backwards = split_prompts(rows[::-1], CONFIG, seed=0)
    assert {rows[i].id for i in split.seed} == {rows[::-1][i].id for i in backwards.seed}
    smaller = split_prompts(rows, CONFIG.model_copy(update={"seed_size": 10}), seed=0)
    assert set(smaller.seed) < set(split.seed)


def gold(*turns: str, category: str = "EHD") -> Prompt:
    roles = ("user", "assistant")
    messages = tuple(Message(role=roles[i % 2], content=t) for i, t in enumerate(turns))
    return Prompt(id=prompt_id(messages), messages=messages, source="t", gold_category=category)


def families(number: int) -> list[list[Prompt]]:
    """Families of a question, its near-duplicates, and a conversation that goes on from it."""
    made = []
    for i in range(number):
        words = [digest([i, k])[:6] for k in range(12)]
        text = " ".join(words)
        near = " ".join([*words[:11], "now"])
        longer = gold(text + "!", "Gladly: " + text, "And " + " ".join(words[::-1]))
        made.append([gold(text), gold(text.upper() + "?"), gold(near), longer])
    return made


@pytest.mark.parametrize("seed_labels", ["gold", "llm"])
@pytest.mark.parametrize("seed_size", [5000, 30])
def test_near_duplicates_and_continued_conversations_measure_nothing_they_taught(
    seed_labels: str, seed_size: int
) -> None:
    made = families(40)
    rows = [row for family in made for row in family]
    config = ClassifierConfig.model_validate({"seed_labels": seed_labels, "seed_size": seed_size})
    split = split_prompts(rows, config, seed=0)
    learned, measures = ({rows[i].id for i in part} for part in (split.seed, split.held_out))
    assert len(learned) == min(seed_size, 112)
    assert len(measures) >= 48
    for family in made:
        ids = {row.id for row in family}
        assert not (ids & learned and ids & measures)
    shuffled = random.Random(1).sample(rows, len(rows))
    again = split_prompts(shuffled, config, seed=0)
    assert {shuffled[i].id for i in again.seed} == learned
    assert {shuffled[i].id for i in again.held_out} == measures


def test_the_order_of_the_prompts_changes_no_label(model: Path, tmp_path: Path) -> None:
    """Labels that nothing in the texts tells: which penalty wins is a matter of the folds."""
    words = [[digest([i, k])[:4] for k in range(i % 7 + 2)] for i in range(90)]
    rows = [gold(" ".join(w), category=("EHD", "IHD", "NONE")[i % 3]) for i, w in enumerate(words)]
    found = []
    for seed in range(3):
        shuffled = random.Random(seed).sample(rows, len(rows))
        _, labelled = label(shuffled, model, tmp_path / str(seed), held_out_share=0.5)
        found.append({row.id: (row.category, row.confidence, row.judge) for row in labelled})
    assert found[0] == found[1] == found[2]


def test_the_time_of_training_is_a_metric_but_no_part_of_the_artifact(
    model: Path, tmp_path: Path
) -> None:
    metrics, _ = label(made_up(40), model, tmp_path)
    assert metrics["training_s"] > 0
    assert "training_s" not in json.loads((tmp_path / "out/metrics.json").read_text())


def test_features_do_not_depend_on_the_batch(model: Path) -> None:
    texts = ("a", "a much longer prompt about bread", "", "面包？")
    rows = [[Message.model_construct(role="user", content=text)] for text in texts]
    embedder = Embedder(model, CONFIG)
    together = embedder.embed(rows)
    alone = np.concatenate([embedder.embed([row]) for row in rows])
    assert together.shape == (4, 64)
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert embedder.embed([]).shape == (0, 64)


def test_a_seed_of_one_category_is_refused_with_the_mend() -> None:
    with pytest.raises(StageError, match="seed_labels to llm"):
        train_head(np.zeros((3, 2), dtype=np.float32), ["EHD"] * 3, CONFIG, 0)
    with pytest.raises(StageError, match="two categories"):
        train_head(np.zeros((0, 2), dtype=np.float32), [], CONFIG, 0)


def test_a_category_with_one_prompt_does_not_stop_the_training() -> None:
    draw = np.random.default_rng(0)
    labels = ["EHD"] * 6 + ["NONE"] * 6 + ["MHD"]
    centre = {"EHD": -3.0, "NONE": 3.0, "MHD": 0.0}
    features = np.array([[centre[x], 0.0] for x in labels]) + draw.normal(0, 0.1, (13, 2))
    head = train_head(features.astype(np.float32), labels, CONFIG, 0)
    far = np.array([[-3.0, 0.0], [3.0, 0.0]], dtype=np.float32)
    assert [category for category, _ in predict(head, far)] == ["EHD", "NONE"]
