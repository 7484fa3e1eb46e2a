"""build_pairs: the safe best against the unsafe worst, on free prompts only, counted."""

import json
import random
from itertools import permutations
from pathlib import Path

import pytest
from pydantic import ValidationError

from components.assemble_dataset.config import AssembleDatasetConfig, Quotas
from components.assemble_dataset.stage import assemble_dataset
from components.build_pairs import stage
from components.build_pairs.config import BuildPairsConfig
from components.build_pairs.contrast import (
    ALL_SAFE,
    ALL_UNSAFE,
    NO_PAIR,
    TOO_FEW,
    Answer,
    contrast,
)
from components.build_pairs.stage import build_pairs, choose_prompts
from components.write_report.tables import nested_tables
from equilibrate_core.artifacts import read_manifest
from equilibrate_core.completions import Completion
from equilibrate_core.errors import DataError, ModelError, StageError
from equilibrate_core.generator_config import Sampling
from equilibrate_core.records import LabelledPrompt, Pair, digest
from equilibrate_core.scorer import ScorerConstants, new_scorer_model, save_scorer
from equilibrate_core.tables import read_dataset
from tests.components.scoring_fixtures import as_dataset
from tests.components.test_assemble_dataset import data, labelled, question
from tests.fake_generator import FakeGenerator, opener
from tests.tiny_model import as_artifact

PARTS = ("scorer_pairs", "train_pairs", "eval_pairs")
NAN = float("nan")


def test_the_safe_best_is_chosen_and_the_unsafe_worst_rejected() -> None:
    answers = [
        Answer("kind", 0.5, -1.0),
        Answer("kinder", 2.0, -0.1),
        Answer("bad", 9.0, 0.1),
        Answer("worse", 3.0, 4.0),
    ]
    for _ in range(5):
        random.shuffle(answers)
        assert contrast(answers) == (Answer("kinder", 2.0, -0.1), Answer("worse", 3.0, 4.0))


def test_the_boundary_itself_is_safe() -> None:
    assert contrast([Answer("a", 0, 0.0), Answer("b", 0, 1e-9)]) == (
        Answer("a", 0, 0.0),
        Answer("b", 0, 1e-9),
    )


@pytest.mark.parametrize(
    ("costs", "reason"),
    [((-1, -2), ALL_SAFE), ((1, 2), ALL_UNSAFE), ((1,), TOO_FEW), ((1, NAN), TOO_FEW)],
)
def test_without_contrast_there_is_no_pair(costs: tuple[float, ...], reason: str) -> None:
    assert contrast([Answer(f"answer {i}", 0, cost) for i, cost in enumerate(costs)]) == reason


def test_blank_and_equal_answers_are_one_or_none() -> None:
    assert contrast([Answer(" ", 0, 1), Answer("a b", 0, -1), Answer("a  b ", 0, -1)]) == TOO_FEW


def test_of_white_space_variants_the_smallest_text_counts_in_any_order_of_sampling() -> None:
    answers = [
        Answer("no  way", 1.0, -1.0),
        Answer("no way", 5.0, -2.0),
        Answer("no way ", 9.0, -3.0),
        Answer("yes", 0.0, 1.0),
    ]
    for order in permutations(answers):
        assert contrast(order) == (Answer("no  way", 1.0, -1.0), Answer("yes", 0.0, 1.0))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """assemble_dataset over 80 prompts with pairs, and free, repeated and evaluation prompts."""
    folder = tmp_path_factory.mktemp("parts")
    prompts, pairs = data()
    prompts += [labelled(question(1000 + i), "EHD") for i in range(6)]
    prompts += [labelled(question(1100 + i), "NONE") for i in range(3)]
    prompts.append(labelled(question(3).upper(), "EHD"))
    prompts.append(labelled(question(1200), "EHD", suite="harmful"))
    prompts.append(labelled(question(1200) + " Now!", "EHD"))
    paths = {"labelled_prompts": as_dataset(folder / "prompts", prompts)}
    paths |= {name: folder / name for name in PARTS}
    assemble_dataset(
        AssembleDatasetConfig(quotas=Quotas(EHD=5, IHD=4, MHD=3), scorer_share=0.3),
        pairs=as_dataset(folder / "pairs", pairs),
        data_card=folder / "card.md",
        **paths,
    )
    return paths


@pytest.fixture(scope="module")
def scorers(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for seed, kind in enumerate(("reward", "cost")):
        folder = tmp_path_factory.mktemp("scorers") / kind
        model, tokenizer = new_scorer_model(tiny_model, seed=seed)
        constants = ScorerConstants(kind=kind, center=0.0, scale=1.0, token_wise=True)
        save_scorer(folder, model, tokenizer, constants)
        found[f"{kind}_model"] = as_artifact(folder, schema_name="scorer")
    return found


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base model that ends its answers, which a random one never does."""
    speaker = FakeGenerator(lambda text, sampling: digest([text, sampling.seed]))
    monkeypatch.setattr(stage, "open_generator", opener(speaker))


def config_of(**fields: object) -> BuildPairsConfig:
    generator = {"backend": "transformers", "dtype": "float32", "max_model_len": 512}
    sampling = {"temperature": 1.0, "max_tokens": 8}
    settings = {"generator": generator, "sampling": sampling, "num_samples": 6, **fields}
    return BuildPairsConfig.model_validate(settings)


def build(
    folder: Path, parts: dict[str, Path], scorers: dict[str, Path], model: Path, **fields: object
) -> tuple[list[Pair], dict[str, float]]:
    metrics = build_pairs(
        config_of(**fields),
        labelled_prompts=parts["labelled_prompts"],
        train_pairs=parts["train_pairs"],
        base_model=model,
        pairs=folder / "pairs",
        **scorers,
    )
    known = {pair.id for pair in read_dataset(parts["train_pairs"], Pair)}
    rows = read_dataset(folder / "pairs", Pair)
    assert known <= {pair.id for pair in rows}
    return [pair for pair in rows if pair.id not in known], metrics


@pytest.mark.usefixtures("finished")
def test_free_prompts_become_pairs_that_join_the_others(
    tmp_path: Path, parts: dict[str, Path], scorers: dict[str, Path], tiny_model: Path
) -> None:
    built, metrics = build(tmp_path, parts, scorers, tiny_model)
    assert metrics["num_prompts"] == 6
    assert metrics["num_answers"] == 36
    assert 1 <= len(built) == metrics["num_built_pairs"]
    assert len(built) + sum(metrics[f"num_{reason}"] for reason in NO_PAIR) == 6
    assert all(p.chosen_is_safe and p.rejected_is_safe is False for p in built)
    assert {p.category for p in built} == {"EHD"}
    manifest = read_manifest(tmp_path / "pairs")
    assert manifest.resolved == {
        "generator.backend": "transformers",
        "generator.dtype": "float32",
    }
    counts = manifest.counts
    assert counts is not None
    counts.check()


@pytest.mark.usefixtures("finished")
def test_the_data_card_describes_the_pairs_that_are_trained_on(
    tmp_path: Path, parts: dict[str, Path], scorers: dict[str, Path], tiny_model: Path
) -> None:
    built, _ = build(tmp_path, parts, scorers, tiny_model)
    folder = tmp_path / "pairs"
    card = json.loads((folder / "data_card.json").read_text())
    before = json.loads((parts["train_pairs"] / "data_card.json").read_text())
    assert "Left out" not in [table.title for table in nested_tables(card)], "the report shows all"
    num_known = before["parts"]["train_pairs"]["pairs"]
    everything = card["parts"].pop("all_train_pairs")
    assert everything["pairs"] == len(read_dataset(folder, Pair))
    assert everything["pairs"] == num_known + len(built)
    assert sum(everything["languages"].values()) == everything["pairs"]
    assert sum(everything["category_by_source"]["EHD"].values()) == 5 + len(built)
    own = card["parts"].pop("built_pairs")
    assert (own["pairs"], own["dimensions"]) == (len(built), {"harmless": len(built)})
    steps = card.pop("build_pairs")
    assert steps.pop("prompts_answered") == 6
    assert steps.pop("pairs_in_all") == everything["pairs"]
    assert sum(steps.values()) == 6, "every prompt gave a pair, or the reason why it gave none"
    assert card.pop("licences") == before.pop("licences") | {"test": "unknown"}
    assert card == before, "what assemble_dataset did stays as it was"
    page = (folder / "data_card.md").read_text()
    assert f"| pairs built | {len(built)} |" in page
    assert f"| kept in train_pairs | {num_known} |" in page
    assert "## all_train_pairs: category by source" in page
    assert "all_train_pairs: category by source" in (folder / "data_card.html").read_text()


def test_answers_that_were_cut_become_no_pairs(
    tmp_path: Path,
    parts: dict[str, Path],
    scorers: dict[str, Path],
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Training would put an end-of-turn token behind them."""

    def cut_answer(text: str, sampling: Sampling) -> Completion:
        return Completion(digest([text, sampling.seed]), "length", 8)

    monkeypatch.setattr(stage, "open_generator", opener(FakeGenerator(cut_answer)))
    built, metrics = build(tmp_path, parts, scorers, tiny_model)
    assert built == []
    assert metrics["num_cut_answers"] == 36
    assert metrics["num_unread_answers"] == 0
    assert metrics[f"num_{TOO_FEW}"] == 6


@pytest.mark.usefixtures("finished")
def test_answers_that_no_scorer_can_read_are_counted(
    tmp_path: Path, parts: dict[str, Path], scorers: dict[str, Path], tiny_model: Path
) -> None:
    built, metrics = build(tmp_path, parts, scorers, tiny_model, max_length=8)
    assert built == []
    assert metrics["num_unread_answers"] == 36
    assert metrics["num_cut_answers"] == metrics["num_failed_answers"] == 0
    card = json.loads((tmp_path / "pairs/data_card.json").read_text())
    assert card["build_pairs"]["unread_answers"] == 36


@pytest.mark.usefixtures("finished")
def test_built_pairs_share_no_prompt_with_any_part(
    tmp_path: Path, parts: dict[str, Path], scorers: dict[str, Path], tiny_model: Path
) -> None:
    built, _ = build(tmp_path, parts, scorers, tiny_model)
    taken = {p.prompt_id for name in PARTS for p in read_dataset(parts[name], Pair)}
    assert not taken & {pair.prompt_id for pair in built}


def test_prompts_like_others_or_like_evaluation_prompts_are_not_answered(
    parts: dict[str, Path],
) -> None:
    config = config_of(categories=["EHD", "IHD", "MHD", "NONE"])
    chosen = choose_prompts(config, parts["labelled_prompts"], parts["train_pairs"])
    texts = {prompt.messages[0].content for prompt in chosen}
    assert texts == {question(i) for i in (*range(1000, 1006), *range(1100, 1103))}


def test_the_number_of_prompts_is_bounded_per_category(parts: dict[str, Path]) -> None:
    config = config_of(prompts_per_category=2, categories=["EHD", "NONE"])
    chosen = choose_prompts(config, parts["labelled_prompts"], parts["train_pairs"])
    assert sorted(str(p.category) for p in chosen) == ["EHD", "EHD", "NONE", "NONE"]


@pytest.mark.usefixtures("finished")
def test_the_same_seed_gives_the_same_pairs_and_another_does_not(
    tmp_path: Path, parts: dict[str, Path], scorers: dict[str, Path], tiny_model: Path
) -> None:
    first, again, other = (
        build(tmp_path / str(i), parts, scorers, tiny_model, seed=seed)[0]
        for i, seed in enumerate((0, 0, 1))
    )
    assert first == again
    assert {p.chosen for p in first} != {p.chosen for p in other}


def test_swapped_scorers_are_refused_before_anything_is_sampled(
    tmp_path: Path,
    parts: dict[str, Path],
    scorers: dict[str, Path],
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    speaker = FakeGenerator(lambda text, _: text)
    monkeypatch.setattr(stage, "open_generator", opener(speaker))
    swapped = {"reward_model": scorers["cost_model"], "cost_model": scorers["reward_model"]}
    with pytest.raises(ModelError, match="a reward model is needed"):
        build(tmp_path, parts, swapped, tiny_model)
    assert speaker.asked == []


def test_failed_answers_fail_the_stage(
    tmp_path: Path, parts: dict[str, Path], scorers: dict[str, Path], tiny_model: Path
) -> None:
    generator = {"backend": "transformers", "dtype": "float32", "max_model_len": 16}
    with pytest.raises(StageError, match="36 of 36 answers failed"):
        build(tmp_path, parts, scorers, tiny_model, generator=generator)
    assert not (tmp_path / "pairs").exists()


def test_pairs_that_assemble_dataset_did_not_write_are_refused(
    tmp_path: Path, parts: dict[str, Path]
) -> None:
    other = as_dataset(tmp_path / "other", read_dataset(parts["train_pairs"], Pair))
    with pytest.raises(DataError, match=r"no free_prompts\.csv"):
        choose_prompts(config_of(), parts["labelled_prompts"], other)


def test_labels_are_those_of_the_assembly(parts: dict[str, Path]) -> None:
    chosen = choose_prompts(config_of(), parts["labelled_prompts"], parts["train_pairs"])
    assert all(isinstance(p, LabelledPrompt) and p.category == "EHD" for p in chosen)


def test_a_server_cannot_answer_for_the_base_model() -> None:
    endpoint = {"backend": "endpoint", "endpoint_url": "http://one/v1", "endpoint_model": "m"}
    with pytest.raises(ValidationError, match="another model's; use auto, vllm or transformers"):
        BuildPairsConfig.model_validate({"generator": endpoint})
