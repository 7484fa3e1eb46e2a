"""score_tokens and train_policy: cached references, masks, controls, learning."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from components.score_tokens.config import ScoreTokensConfig
from components.score_tokens.stage import score_tokens
from components.score_tokens.token_means import token_means
from components.train_policy.config import AmaConfig, LoraConfig, TrainPolicyConfig
from components.train_policy.masking import (
    PolicyRow,
    batch_mean,
    dataset_mean,
    has_empty_mask,
    masked,
    policy_row,
    randomly_masked,
)
from components.train_policy.objective import PolicyObjective
from components.train_policy.stage import masked_rows, train_policy, training_rows
from components.train_scorer.config import TrainScorerConfig
from components.train_scorer.stage import train_scorer
from equilibrate_core.artifacts import Counts, read_manifest
from equilibrate_core.batches import PaddedBatch
from equilibrate_core.chat import encode_answer
from equilibrate_core.errors import ArtifactError, ConfigError, ModelError
from equilibrate_core.logps import span_mask, token_logps
from equilibrate_core.masks import Score
from equilibrate_core.models import load_causal_lm, load_tokenizer
from equilibrate_core.records import Pair, ScoredPair
from equilibrate_core.scorer import load_scorer, normalise, token_values
from equilibrate_core.tables import read_dataset
from equilibrate_core.training_config import TrainingConfig
from tests.components.scoring_fixtures import as_dataset, harm_pairs, make_pair
from tests.tiny_model import as_artifact, make_tiny_model

TRAINING = TrainingConfig(
    epochs=2,
    batch_size=8,
    micro_batch_size=4,
    learning_rate=3e-3,
    precision="float32",
    zero_stage=0,
    weight_decay=0.0,
)
FLOAT32 = ScoreTokensConfig(precision="float32", batch_size=5)


@pytest.fixture(scope="module")
def scored(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Scorers, scored pairs and held-out pairs, made by the stages themselves."""
    root = tmp_path_factory.mktemp("scored")
    helpful = [
        make_pair(f"What is {i}?", f"it is {i}, good", f"bad {i}", dimension="helpful")
        for i in range(8)
    ]
    long = [make_pair("Long?", "no " * 300, "yes")]
    pairs = as_dataset(root / "pairs", harm_pairs(16) + helpful + long)
    quick = TRAINING.model_copy(update={"epochs": 1})
    for kind in ("reward", "cost"):
        settings = TrainScorerConfig(kind=kind, held_out_share=0.2, training=quick, max_length=256)
        train_scorer(settings, pairs=pairs, base_model=tiny_model, scorer=root / kind)
    score_tokens(
        FLOAT32.model_copy(update={"max_length": 256}),
        pairs=pairs,
        reward_model=root / "reward",
        cost_model=root / "cost",
        reference_model=tiny_model,
        scored_pairs=root / "scored",
    )
    held_out = [make_pair(f"And {i}?", f"no no, not {i}", f"yes yes, do {i}") for i in range(6)]
    as_dataset(root / "eval", held_out)
    return {name: root / name for name in ("pairs", "reward", "cost", "scored", "eval")}


@pytest.fixture(scope="module")
def rewarded(
    scored: dict[str, Path], tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The scored pairs with the rewards of harmless ones, too."""
    path = tmp_path_factory.mktemp("rewarded") / "scored"
    return score(scored, tiny_model, path, rewards="all_pairs")


def score(inputs: dict[str, Path], reference: Path, path: Path, **changes: object) -> Path:
    """What score_tokens makes of the pairs under another setting."""
    score_tokens(
        FLOAT32.model_copy(update={"max_length": 256, **changes}),
        pairs=inputs["pairs"],
        reward_model=inputs["reward"],
        cost_model=inputs["cost"],
        reference_model=reference,
        scored_pairs=path,
    )
    return path


def train(scored: dict[str, Path], base: Path, policy: Path, **changes: object) -> dict:
    settings: dict = {"training": TRAINING}
    return train_policy(
        TrainPolicyConfig(**(settings | changes)),
        scored_pairs=scored["scored"],
        eval_pairs=scored["eval"],
        base_model=base,
        policy=policy,
    )


def test_reference_logps_are_the_models_own(scored: dict[str, Path], tiny_model: Path) -> None:
    model = load_causal_lm(tiny_model)
    for pair in read_dataset(scored["scored"], ScoredPair)[:3]:
        ids = pair.prompt_token_ids + pair.rejected_token_ids
        logits = model(torch.tensor([ids])).logits[0].detach().log_softmax(-1)
        start = len(pair.prompt_token_ids)
        by_hand = [logits[t - 1, ids[t]].item() for t in range(start, len(ids))]
        assert pair.rejected_reference_logps == pytest.approx(by_hand, abs=1e-4)


def test_token_costs_are_read_at_each_token_from_the_last_prompt_token_on(
    scored: dict[str, Path],
) -> None:
    scorer = load_scorer(scored["cost"])
    pair = read_dataset(scored["scored"], ScoredPair)[0]
    encoded = encode_answer(scorer.tokenizer, pair.messages, pair.chosen)
    ids = [encoded.prompt_ids + encoded.response_ids]
    batch = PaddedBatch.of(ids, pad_id=0, device=torch.device("cpu"))
    values = normalise(token_values(scorer.model, batch), scorer.constants)[0].tolist()
    start = len(encoded.prompt_ids)
    assert pair.chosen_initial_cost == pytest.approx(values[start - 1], abs=1e-5)
    assert pair.chosen_costs == pytest.approx(values[start:], abs=1e-5)
    assert pair.chosen_token_ids == encoded.response_ids


def test_long_pairs_are_dropped_and_counted(scored: dict[str, Path]) -> None:
    counts = read_manifest(scored["scored"]).counts
    assert counts is not None
    assert (counts.read, counts.kept, counts.dropped) == (25, 24, {"too_long": 1})


def test_a_swapped_scorer_is_refused(
    scored: dict[str, Path], tiny_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="a cost model, but a reward model is needed"):
        score_tokens(
            FLOAT32,
            pairs=scored["eval"],
            reward_model=scored["cost"],
            cost_model=scored["cost"],
            reference_model=tiny_model,
            scored_pairs=tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()


def test_a_scorer_of_another_tokenizer_is_refused(
    scored: dict[str, Path], tiny_llama3: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="its tokenizer differs"):
        score_tokens(
            FLOAT32,
            pairs=scored["eval"],
            reward_model=scored["reward"],
            cost_model=scored["cost"],
            reference_model=tiny_llama3,
            scored_pairs=tmp_path / "out",
        )


@pytest.mark.parametrize("loss", ["adpo", "dpo", "random_mask"])
def test_step_0_loss_is_ln_2_and_training_lowers_it(
    scored: dict[str, Path], tiny_model: Path, tmp_path: Path, loss: str
) -> None:
    metrics = train(scored, tiny_model, tmp_path / "policy", loss=loss)
    assert metrics["first_step_loss"] == pytest.approx(math.log(2), abs=2e-6)
    assert metrics["final_loss"] < math.log(2) - 0.01
    assert metrics["held_out_accuracy"] > 0.5
    log = [
        json.loads(x) for x in (tmp_path / "policy/training_log.jsonl").read_text().split("\n") if x
    ]
    assert [r["step"] for r in log] == [1, 2, 3, 4, 5, 6]
    load_causal_lm(tmp_path / "policy")


def test_in_bfloat16_the_policy_starts_at_its_cached_reference(
    scored: dict[str, Path], tiny_model: Path, tmp_path: Path
) -> None:
    score(scored, tiny_model, tmp_path / "scored", precision="bfloat16")
    training = TRAINING.model_copy(update={"precision": "bfloat16", "epochs": 1})
    changed = scored | {"scored": tmp_path / "scored"}
    metrics = train(changed, tiny_model, tmp_path / "policy", loss="dpo", training=training)
    assert metrics["first_step_loss"] == pytest.approx(math.log(2), abs=0.02)
    # Other rows together than when they were scored.
    pairs = read_dataset(tmp_path / "scored", ScoredPair)[::3]
    firsts = [p.prompt_token_ids + p.chosen_token_ids for p in pairs]
    seconds = [p.prompt_token_ids + p.rejected_token_ids for p in pairs]
    batch = PaddedBatch.of_pairs(firsts, seconds, pad_id=0, device=torch.device("cpu"))
    starts = [len(p.prompt_token_ids) for p in pairs] * 2
    ends = [len(ids) for ids in firsts + seconds]
    wanted = span_mask(starts, ends, batch.input_ids_NL.shape[1])
    with torch.no_grad():
        logps = token_logps(load_causal_lm(tiny_model), batch, wanted, "bfloat16")[wanted]
    cached = reference_logps(pairs)
    assert (logps - cached).abs().mean() <= 0.02
    in_float32 = reference_logps(read_dataset(scored["scored"], ScoredPair)[::3])
    assert (cached - in_float32).abs().max() > 1e-3, "bfloat16 was not used"


def reference_logps(pairs: list[ScoredPair]) -> torch.Tensor:
    """Cached log-probs of all chosen answers, then of all rejected ones."""
    chosen = [logp for pair in pairs for logp in pair.chosen_reference_logps]
    return torch.tensor(chosen + [x for pair in pairs for x in pair.rejected_reference_logps])


def test_reference_mismatch_would_show_at_step_0(
    scored: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    other = as_artifact(make_tiny_model(tmp_path_factory.mktemp("m") / "other", seed=5))
    # Rows that do not say whose log-probs they hold; where they do, training is refused.
    pairs = as_dataset(tmp_path / "scored", read_dataset(scored["scored"], ScoredPair))
    metrics = train(scored | {"scored": pairs}, other, tmp_path / "policy", loss="dpo")
    assert abs(metrics["first_step_loss"] - math.log(2)) > 0.01


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer.json", "model.safetensors"])
def test_reference_log_probs_of_an_altered_model_are_refused(
    scored: dict[str, Path], tiny_model: Path, tmp_path: Path, file: str
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other, ignore=shutil.ignore_patterns("manifest.json"))
    (other / file).write_bytes((other / file).read_bytes() + b" ")
    message = "reference log-probs are those of model .*; run score_tokens with this model"
    with pytest.raises(ArtifactError, match=message):
        train(scored, as_artifact(other), tmp_path / "policy")


def test_neither_row_order_nor_batches_change_the_scores(
    scored: dict[str, Path], tiny_model: Path, tmp_path: Path
) -> None:
    turned = as_dataset(tmp_path / "pairs", read_dataset(scored["pairs"], Pair)[::-1])
    score(scored | {"pairs": turned}, tiny_model, tmp_path / "scored", batch_size=16)
    before = {p.id: p for p in read_dataset(scored["scored"], ScoredPair)}
    after = read_dataset(tmp_path / "scored", ScoredPair)
    assert [p.id for p in after] == list(before)[::-1]
    for pair in after:
        for side in ("chosen", "rejected"):
            for name in ("rewards", "costs", "reference_logps"):
                found = getattr(pair, f"{side}_{name}")
                if name == "rewards" and pair.dimension == "harmless":
                    assert found is None
                    continue
                assert found == pytest.approx(getattr(before[pair.id], f"{side}_{name}"), abs=1e-4)


def test_references_of_another_precision_are_refused(
    scored: dict[str, Path], tiny_model: Path, tmp_path: Path
) -> None:
    training = TRAINING.model_copy(update={"precision": "bfloat16"})
    with pytest.raises(
        ConfigError,
        match=r"scored: its .* computed in float32, but training\.precision is bfloat16",
    ) as raised:
        train(scored, tiny_model, tmp_path / "policy", training=training)
    assert "set training.precision: float32, or run score_tokens with precision: bfloat16" in str(
        raised.value
    )
    assert not (tmp_path / "policy").exists()


def test_swapped_answers_invert_accuracy_and_rewards(
    scored: dict[str, Path], tiny_model: Path
) -> None:
    objective = PolicyObjective(load_causal_lm(tiny_model), beta=0.5, pad_id=0, precision="float32")
    pairs = read_dataset(scored["scored"], ScoredPair)[:6]
    # A reference that finds every second chosen answer likelier by far than the policy does.
    rows = [shifted(policy_row(p, AmaConfig()), 5.0 * (-1) ** i) for i, p in enumerate(pairs)]
    swapped = [replace(r, chosen=r.rejected, rejected=r.chosen) for r in rows]
    with torch.no_grad():
        straight, inverted = objective(rows), objective(swapped)
    assert straight["accuracy"].tolist() == [0.0, 1.0] * 3
    assert inverted["accuracy"].tolist() == [1.0, 0.0] * 3
    torch.testing.assert_close(straight["chosen_reward"], inverted["rejected_reward"])
    # -log sigmoid(x) and -log sigmoid(-x) differ by x
    margin = straight["chosen_reward"] - straight["rejected_reward"]
    torch.testing.assert_close(inverted["loss"] - straight["loss"], margin)


def shifted(row: PolicyRow, nats: float) -> PolicyRow:
    logps = row.chosen.reference_logps
    moved = [logps[0] + nats, *logps[1:]]
    return replace(row, chosen=replace(row.chosen, reference_logps=moved))


def test_all_shares_are_reported(scored: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    metrics = train(scored, tiny_model, tmp_path / "policy", ama=AmaConfig(min_kept=0.3))
    assert metrics["share_kept_chosen"] >= 0.3
    assert 0 < metrics["share_kept_rejected"] <= 1
    dpo = train(scored, tiny_model, tmp_path / "dpo", loss="dpo")
    assert dpo["share_kept_chosen"] == dpo["share_kept_rejected"] == 1.0


def test_the_random_control_keeps_the_same_share(scored: dict[str, Path]) -> None:
    pairs = read_dataset(scored["scored"], ScoredPair)
    ama = AmaConfig(min_kept=0.2)
    for index, pair in enumerate(pairs):
        row = masked(policy_row(pair, ama), ama, 0.0)
        control = randomly_masked(row, str(index))
        assert control.chosen.mask.sum() == row.chosen.mask.sum()
        assert control.rejected.mask.sum() == row.rejected.mask.sum()
        assert not control.rejected.mask[: row.first_difference].any()
        assert torch.equal(control.chosen.mask, randomly_masked(row, str(index)).chosen.mask)


@pytest.mark.parametrize("baseline", ["zero", "batch_mean"])
def test_the_random_control_draws_for_a_row_whatever_its_place(
    scored: dict[str, Path], tiny_model: Path, tmp_path: Path, baseline: str
) -> None:
    turned = as_dataset(tmp_path / "turned", read_dataset(scored["scored"], ScoredPair)[::-1])
    training = TRAINING.model_copy(update={"epochs": 1, "batch_size": 24, "micro_batch_size": 24})
    kept = []
    for name, pairs in (("straight", scored["scored"]), ("turned", turned)):
        train(
            scored | {"scored": pairs},
            tiny_model,
            tmp_path / name,
            loss="random_mask",
            ama=AmaConfig(baseline=baseline, min_kept=0.3),
            num_previews=24,
            training=training,
        )
        kept.append({p["id"]: kept_tokens(p) for p in previews(tmp_path / name)})
    assert len(kept[0]) > 12
    assert kept[0] == kept[1]


def previews(policy: Path) -> list[dict]:
    return json.loads((policy / "mask_previews.json").read_text())["previews"]


def kept_tokens(preview: dict) -> list[list[bool]]:
    return [[token["kept"] for token in preview[side]] for side in ("chosen", "rejected")]


def test_pairs_with_an_empty_mask_are_dropped_and_counted(
    scored: dict[str, Path], tmp_path: Path
) -> None:
    pairs = read_dataset(scored["scored"], ScoredPair)
    far = [1e6] * len(pairs[0].chosen_token_ids)  # so harmful that nothing of it is to be learned
    pairs[0] = pairs[0].model_copy(update={"chosen_costs": far})
    counts = Counts()
    settings = TrainPolicyConfig(ama=AmaConfig(baseline=-1e5, min_kept=0.0))
    for row in (rows := masked_rows(settings, as_dataset(tmp_path / "scored", pairs))):
        assert not row.rejected.mask.any()
    assert len(rows) == 24 and not rows[0].chosen.mask.any()
    settings = TrainPolicyConfig(ama=AmaConfig(baseline=-1e5, min_kept=0.1))
    nothing_left = pairs[0].model_copy(update={"chosen_segment_ids": [0] * len(far)})
    folder = as_dataset(tmp_path / "one", [nothing_left, *pairs[1:]])
    kept = training_rows(settings, folder, counts)
    assert [row.id for row in kept] == [pair.id for pair in pairs[1:]]
    assert counts.dropped == {"empty_mask": 1}
    counts.check()


@pytest.mark.parametrize("score", ["by_dimension", "combined"])
def test_dataset_mean_is_the_mean_over_all_response_tokens(
    scored: dict[str, Path], rewarded: Path, score: Score
) -> None:
    for folder in (scored["scored"], rewarded) if score == "by_dimension" else (rewarded,):
        pairs = read_dataset(folder, ScoredPair)
        means = json.loads((folder / "token_means.json").read_text())
        assert means == token_means(pairs)
        for credit in ("value", "delta"):
            ama = AmaConfig(credit=credit, score=score, cost_weight=0.7)
            rows = [policy_row(pair, ama) for pair in pairs]
            tokens = torch.cat([s.scores for r in rows for s in (r.chosen, r.rejected)])
            assert dataset_mean(ama, means) == pytest.approx(tokens.mean().item(), abs=1e-5)


def test_rewards_are_read_where_masks_depend_on_them_and_change_no_mask(
    scored: dict[str, Path], rewarded: Path
) -> None:
    lean, full = (read_dataset(folder, ScoredPair) for folder in (scored["scored"], rewarded))
    has_reward = {(p.dimension, p.chosen_rewards is not None) for p in lean}
    assert has_reward == {("harmless", False), ("helpful", True)}
    assert all(p.chosen_rewards and p.rejected_rewards for p in full)
    assert (
        json.loads((scored["scored"] / "metrics.json").read_text())["num_pairs_with_rewards"] == 8
    )
    for baseline in ("zero", "dataset_mean", "response_mean", "batch_mean"):
        settings = TrainPolicyConfig(ama=AmaConfig(baseline=baseline, credit="delta", min_kept=0.0))
        masks, scores = [], []
        for folder in (scored["scored"], rewarded):
            rows = masked_rows(settings, folder)
            sides = [side for row in rows for side in (row.chosen, row.rejected)]
            masks.append([side.mask.tolist() for side in sides])
            scores.append(torch.cat([side.scores for side in sides]))
        assert masks[0] == masks[1]
        # Batches of other rows together round differently.
        assert torch.allclose(scores[0], scores[1], atol=1e-5)


def test_a_score_that_needs_the_rewards_nobody_read_is_refused(
    scored: dict[str, Path], rewarded: Path, tiny_model: Path, tmp_path: Path
) -> None:
    combined = AmaConfig(score="combined")
    message = "16 of 24 pairs have no token rewards.*run score_tokens with rewards: all_pairs"
    with pytest.raises(ConfigError, match=message):
        train(scored, tiny_model, tmp_path / "policy", ama=combined)
    train(scored | {"scored": rewarded}, tiny_model, tmp_path / "policy", ama=combined)
    train(scored, tiny_model, tmp_path / "control", loss="dpo", ama=combined)


def test_pairs_without_use_for_the_reward_model_still_need_one(
    scored: dict[str, Path], tiny_model: Path, tmp_path: Path
) -> None:
    given = {"cost_model": scored["cost"], "reference_model": tiny_model, "pairs": scored["eval"]}
    score_tokens(FLOAT32, reward_model=scored["reward"], scored_pairs=tmp_path / "scored", **given)
    pairs = read_dataset(tmp_path / "scored", ScoredPair)
    assert [p.rejected_initial_reward for p in pairs] == [None] * 6


def test_batch_mean_does_not_depend_on_micro_batches(
    scored: dict[str, Path], tiny_model: Path, tmp_path: Path
) -> None:
    losses = []
    for size in (2, 8):
        training = TRAINING.model_copy(update={"micro_batch_size": size, "epochs": 1})
        metrics = train(
            scored,
            tiny_model,
            tmp_path / str(size),
            ama=AmaConfig(baseline="batch_mean"),
            training=training,
        )
        losses.append(metrics["final_loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_response_mean_keeps_nothing_of_a_response_of_one_segment(
    scored: dict[str, Path],
) -> None:
    ama = AmaConfig(baseline="response_mean")
    for pair in read_dataset(scored["scored"], ScoredPair):
        one = pair.model_copy(update={"chosen_segment_ids": [0] * len(pair.chosen_token_ids)})
        row = masked(policy_row(one, ama), ama, None)
        assert not row.chosen.mask.any() and row.rejected.mask.any()


def test_response_mean_over_whole_responses_is_refused(
    scored: dict[str, Path], tiny_model: Path, tmp_path: Path
) -> None:
    score_tokens(
        FLOAT32.model_copy(update={"segment": "response"}),
        pairs=scored["eval"],
        reward_model=scored["reward"],
        cost_model=scored["cost"],
        reference_model=tiny_model,
        scored_pairs=tmp_path / "scored",
    )
    with pytest.raises(ConfigError, match="compares a number with itself"):
        train(
            scored | {"scored": tmp_path / "scored"},
            tiny_model,
            tmp_path / "policy",
            ama=AmaConfig(baseline="response_mean"),
        )


def test_lora_is_merged_before_the_policy_leaves(
    scored: dict[str, Path], tiny_model: Path, tmp_path: Path
) -> None:
    metrics = train(scored, tiny_model, tmp_path / "policy", lora=LoraConfig(rank=4))
    assert metrics["first_step_loss"] == pytest.approx(math.log(2), abs=2e-6)
    assert metrics["final_loss"] < math.log(2)
    policy, base = load_causal_lm(tmp_path / "policy"), load_causal_lm(tiny_model)
    assert set(policy.state_dict()) == set(base.state_dict())
    moved = [k for k, v in policy.state_dict().items() if not torch.equal(v, base.state_dict()[k])]
    assert moved


def test_previews_name_every_token(
    scored: dict[str, Path], tiny_model: Path, tmp_path: Path
) -> None:
    train(scored, tiny_model, tmp_path / "policy", num_previews=2)
    first, _ = previews(tmp_path / "policy")
    tokens = "".join(t["token"] for t in first["chosen"])
    assert tokens.endswith("<|im_end|>")
    tokenizer = load_tokenizer(tiny_model)
    assert len(first["chosen"]) == len(tokenizer(tokens, add_special_tokens=False)["input_ids"])


def test_previews_under_batch_mean_show_the_masks_of_the_rows_batch(
    scored: dict[str, Path], tiny_model: Path, tmp_path: Path
) -> None:
    ama = AmaConfig(baseline="batch_mean")
    training = TRAINING.model_copy(update={"epochs": 1, "batch_size": 24})
    train(scored, tiny_model, tmp_path / "policy", ama=ama, num_previews=3, training=training)
    rows = [policy_row(pair, ama) for pair in read_dataset(scored["scored"], ScoredPair)]
    by_hand = [masked(row, ama, batch_mean(rows)) for row in rows]
    expected = [row for row in by_hand if not has_empty_mask(row)][:3]
    assert len(expected) == 3
    assert [kept_tokens(p) for p in previews(tmp_path / "policy")] == [
        [row.chosen.mask.tolist(), row.rejected.mask.tolist()] for row in expected
    ]
    assert not all(row.rejected.mask.all() for row in expected)


def test_an_unknown_loss_is_refused_by_the_config() -> None:
    with pytest.raises(ValidationError):
        TrainPolicyConfig(loss="ppo")
