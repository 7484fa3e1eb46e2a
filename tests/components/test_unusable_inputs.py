"""Inputs that a training stage cannot use end in one clear line: what, where, how to mend it."""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.score_tokens.config import ScoreTokensConfig
from components.score_tokens.stage import _encode as encode_pairs
from components.score_tokens.stage import score_tokens
from components.train_policy.config import TrainPolicyConfig
from components.train_policy.held_out import held_out_rows
from components.train_policy.stage import train_policy
from components.train_scorer.config import TrainScorerConfig
from components.train_scorer.stage import train_scorer
from equilibrate_core.artifacts import Counts, read_manifest
from equilibrate_core.errors import EquilibrateError
from equilibrate_core.records import Message, Pair, ScoredPair, pair_id, prompt_id
from equilibrate_core.scorer import ScorerConstants, ScorerKind, new_scorer_model, save_scorer
from equilibrate_core.tables import write_dataset
from equilibrate_core.training_config import TrainingConfig
from tests.components.scoring_fixtures import RUN, harm_pairs, make_pair
from tests.tiny_model import as_artifact, merging_tokenizer

TRAINING = TrainingConfig(
    epochs=1, batch_size=4, micro_batch_size=4, precision="float32", zero_stage=0
)
World = dict[str, Path]


def dataset(path: Path, rows: Sequence[Pair]) -> Path:
    write_dataset(RUN, path, Pair, rows)
    return path


def scorer(folder: Path, base: Path, kind: ScorerKind) -> Path:
    folder.mkdir()
    constants = ScorerConstants(kind=kind, center=0.0, scale=1.0, token_wise=True)
    save_scorer(folder, *new_scorer_model(base, seed=0), constants)
    return as_artifact(folder, schema_name="scorer")


def altered(base: Path, folder: Path, change: Callable[[Path], None]) -> Path:
    """A copy of a model artifact with something changed in it, sealed anew."""
    schema = read_manifest(base).schema_name
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("manifest.json"))
    change(folder)
    return as_artifact(folder, schema_name=schema)


def without_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def with_other_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("\n", "  "))


def without_system(folder: Path) -> None:
    """As Gemma's template does."""
    path = folder / "chat_template.jinja"
    refusal = "{{- raise_exception('System role not supported') -}}"
    head = f"{{%- if messages[0]['role'] == 'system' -%}}{refusal}{{%- endif -%}}"
    path.write_text(head + path.read_text())


def with_system(pair: Pair) -> Pair:
    messages = (Message(role="system", content="Be brief."), *pair.messages)
    prompt = prompt_id(messages)
    named = pair_id(prompt, pair.chosen, pair.rejected, pair.dimension)
    return pair.model_copy(update={"id": named, "prompt_id": prompt, "messages": messages})


def with_nan(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[:] = torch.nan
    save_file(weights, path, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def world(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Sound inputs of all three stages, and two that no stage can use."""
    root = tmp_path_factory.mktemp("world")
    world = {
        "base": tiny_model,
        "pairs": dataset(root / "pairs", harm_pairs(6)),
        "none": dataset(root / "none", []),
        "long": dataset(root / "long", [make_pair(f"{i}?", "no " * 300, "yes") for i in range(3)]),
        "reward": scorer(root / "reward", tiny_model, "reward"),
        "cost": scorer(root / "cost", tiny_model, "cost"),
    }
    score(world, root / "scored")
    write_dataset(RUN, root / "unscored", ScoredPair, [])
    return world | {"scored": root / "scored", "unscored": root / "unscored"}


def score(world: World, target: Path, **changes: str) -> Any:
    w = {name: world[changes.get(name, name)] for name in ("pairs", "reward", "cost", "base")}
    return score_tokens(
        ScoreTokensConfig(precision="float32", max_length=128),
        pairs=w["pairs"],
        reward_model=w["reward"],
        cost_model=w["cost"],
        reference_model=w["base"],
        scored_pairs=target,
    )


def train_a_scorer(world: World, target: Path, **changes: str) -> Any:
    w = {name: world[changes.get(name, name)] for name in ("pairs", "base")}
    return train_scorer(
        TrainScorerConfig(kind="cost", held_out_share=0.3, max_length=128, training=TRAINING),
        pairs=w["pairs"],
        base_model=w["base"],
        scorer=target,
    )


def train_a_policy(world: World, target: Path, **changes: str) -> Any:
    w = {name: world[changes.get(name, name)] for name in ("scored", "pairs", "base")}
    return train_policy(
        TrainPolicyConfig(loss="dpo", max_length=128, training=TRAINING),
        scored_pairs=w["scored"],
        eval_pairs=w["pairs"],
        base_model=w["base"],
        policy=target,
    )


def refused(stage: Callable[..., Any], world: World, target: Path, **changes: str) -> str:
    """The one line with which a stage refuses its inputs; nothing is left behind."""
    with pytest.raises(EquilibrateError) as caught:
        stage(world, target, **changes)
    assert "\n" not in str(caught.value)
    assert not target.exists()
    return str(caught.value)


def test_the_inputs_that_are_altered_below_are_sound(world: World, tmp_path: Path) -> None:
    train_a_scorer(world, tmp_path / "scorer")
    train_a_policy(world, tmp_path / "policy")
    assert (tmp_path / "scorer").is_dir() and (tmp_path / "policy").is_dir()


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        (score, {"pairs": "none"}, "score_tokens: none of 0 pairs .* or give more pairs"),
        (
            score,
            {"pairs": "long"},
            "score_tokens: none of 3 pairs .*'too_long': 3.* raise max_length 128",
        ),
        (train_a_scorer, {"pairs": "none"}, "cost model: 0 rows .* of 0 pairs .*; give more cost"),
        (train_a_scorer, {"pairs": "long"}, "cost model: 0 rows .*'too_long': 3.*max_length 128"),
        (train_a_policy, {"scored": "unscored"}, r"train policy \(dpo\): no rows .*; loosen the"),
        (train_a_policy, {"pairs": "none"}, "none of 0 eval pairs .* or give more eval pairs"),
        (
            train_a_policy,
            {"pairs": "long"},
            "none of 3 eval pairs .*'held_out_too_long': 3.*; raise max_length 128",
        ),
    ],
)
def test_no_data_and_only_long_data(
    world: World, tmp_path: Path, stage: Callable[..., Any], changes: dict, message: str
) -> None:
    assert re.search(message, refused(stage, world, tmp_path / "out", **changes))


@pytest.mark.parametrize("stage", [score, train_a_scorer, train_a_policy])
def test_a_model_without_a_chat_template(
    world: World, tmp_path: Path, stage: Callable[..., Any]
) -> None:
    bare = altered(world["base"], tmp_path / "bare", without_template)
    # Scored pairs that do not say whose they are: another model's would be refused first.
    world = world | {"base": bare, "scored": world["unscored"]}
    message = refused(stage, world, tmp_path / "out")
    assert message.startswith(f"{bare}: the tokenizer has no chat template; give an instruct model")


def test_a_scorer_of_another_chat_template(world: World, tmp_path: Path) -> None:
    other = altered(world["cost"], tmp_path / "cost", with_other_template)
    message = refused(score, world | {"cost": other}, tmp_path / "out")
    assert message == (
        f"{other}: its chat template differs from the reference model's; train the cost model on "
        "the same base model"
    )


def test_a_model_whose_weights_are_not_numbers(world: World, tmp_path: Path) -> None:
    broken = altered(world["base"], tmp_path / "base", with_nan)
    bad_scorer = altered(world["cost"], tmp_path / "cost", with_nan)
    message = refused(score, world | {"base": broken}, tmp_path / "out")
    assert message.startswith("score_tokens: reference log-probs: 12 of 12 answers have figures")
    message = refused(score, world | {"cost": bad_scorer}, tmp_path / "out")
    assert message.startswith("score_tokens: cost per token: 12 of 12 answers have figures")
    message = refused(train_a_scorer, world | {"base": broken}, tmp_path / "out")
    assert message.startswith("loss is not finite at step 1; lower learning_rate or use float32;")
    sources = world | {"base": broken, "scored": world["unscored"]}
    message = refused(train_a_policy, sources, tmp_path / "out")
    assert message.startswith("loss of 6 of 6 held-out rows is not finite; lower learning_rate")


def test_answers_that_merge_differently_with_the_prompt_are_dropped_and_counted() -> None:
    # "a:" and "yx" share a token, "a:" and "bx" do not: no prompt is common to both answers.
    pairs = [make_pair("a", "yx", "bx"), make_pair("a", "cx", "bx")]
    reason = "answers_merge_differently_with_the_prompt"
    counts = Counts()
    kept, answers = encode_pairs(ScoreTokensConfig(), pairs, merging_tokenizer(), counts)
    assert (kept, len(answers), counts.dropped) == (pairs[1:], 2, {reason: 1})
    counts = Counts()
    rows = held_out_rows(TrainPolicyConfig(), pairs, merging_tokenizer(), counts)
    assert (len(rows), counts.dropped) == (1, {f"held_out_{reason}": 1})


def test_rows_too_long_are_counted_in_every_manifest(world: World, tmp_path: Path) -> None:
    mixed = [*harm_pairs(6), *(make_pair(f"{i}?", "no", "yes " * 300) for i in range(2))]
    pairs = dataset(tmp_path / "pairs", mixed)
    for stage, reason in (
        (score, "too_long"),
        (train_a_scorer, "too_long"),
        (train_a_policy, "held_out_too_long"),
    ):
        stage(world | {"pairs": pairs}, tmp_path / stage.__name__)
        counts = read_manifest(tmp_path / stage.__name__).counts
        assert counts is not None
        assert counts.dropped == {reason: 2}
        counts.check()


def test_rows_that_the_template_refuses_are_dropped_counted_and_named(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unfit = [with_system(pair) for pair in harm_pairs(2)]
    strict = world | {
        name: altered(world[name], tmp_path / name, without_system)
        for name in ("base", "reward", "cost")
    }
    strict["pairs"] = dataset(tmp_path / "pairs", [*unfit, *harm_pairs(6)])
    strict["scored"] = tmp_path / "score"
    for stage, reason in (
        (score, "template_refuses"),
        (train_a_scorer, "template_refuses"),
        (train_a_policy, "held_out_template_refuses"),
    ):
        caplog.clear()
        stage(strict, tmp_path / stage.__name__)
        counts = read_manifest(tmp_path / stage.__name__).counts
        assert counts is not None
        assert counts.dropped == {reason: 2}
        counts.check()
        named = [r.getMessage() for r in caplog.records if "is dropped" in r.getMessage()]
        assert len(named) == 1 and unfit[0].id in named[0]
        assert "System role not supported" in named[0]
    only = strict | {"pairs": dataset(tmp_path / "unfit", unfit)}
    for stage in (score, train_a_scorer, train_a_policy):
        assert "template_refuses': 2" in refused(stage, only, tmp_path / "out")
