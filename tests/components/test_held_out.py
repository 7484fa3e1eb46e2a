"""Held-out figures of the policy: exact KL, log-ratio, evaluation on the way, resumption."""

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from components.train_policy.config import LoraConfig, TrainPolicyConfig
from components.train_policy.stage import train_policy
from equilibrate_core.artifacts import read_manifest
from equilibrate_core.chat import encode_answer
from equilibrate_core.checkpoints import Checkpoints
from equilibrate_core.errors import DataError, Preempted
from equilibrate_core.models import load_causal_lm, load_tokenizer
from equilibrate_core.training import Trainer
from equilibrate_core.training_config import TrainingConfig
from tests.components.scored_pairs import answer_logps, scored_pair
from tests.components.scoring_fixtures import as_dataset, harm_pairs, make_pair
from tests.equilibrate_core.interrupted_runs import before

TRAINING = TrainingConfig(
    epochs=2,
    batch_size=4,
    micro_batch_size=2,
    learning_rate=3e-3,
    precision="float32",
    zero_stage=0,
    eval_every_steps=2,
)
EVAL = [make_pair(f"And {i}?", f"no no, not {i}", f"yes yes, do {i}") for i in range(3)]


@pytest.fixture(scope="module")
def data(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Scored pairs with the model's own reference log-probs, and held-out pairs."""
    model, tokenizer = load_causal_lm(tiny_model), load_tokenizer(tiny_model)
    scored = [scored_pair(pair, model, tokenizer) for pair in harm_pairs(12)]
    root = tmp_path_factory.mktemp("held_out")
    long = make_pair("Long?", "no " * 400, "yes")
    return {
        "scored_pairs": as_dataset(root / "scored", scored),
        "eval_pairs": as_dataset(root / "eval", [EVAL[0], long, *EVAL[1:]]),
        "base_model": tiny_model,
    }


def train(data: dict[str, Path], policy: Path, training: dict | None = None, **changes: Any) -> Any:
    settings: dict[str, Any] = {"training": TRAINING.model_copy(update=training or {})}
    settings["max_length"] = 256
    return train_policy(TrainPolicyConfig(**(settings | changes)), **data, policy=policy)


def by_hand(base: Path, policy: Path) -> tuple[float, float]:
    """Mean KL and mean log-ratio over the response tokens of the held-out pairs that fit."""
    old, new, tokenizer = load_causal_lm(base), load_causal_lm(policy), load_tokenizer(base)
    kl: list[float] = []
    ratios: list[float] = []
    for pair in EVAL:
        for text in (pair.chosen, pair.rejected):
            encoded = encode_answer(tokenizer, pair.messages, text)
            p, q = (answer_logps(m, encoded.prompt_ids, encoded.response_ids) for m in (new, old))
            kl += (p.exp() * (p - q)).sum(-1).tolist()
            ratios += [float((p - q)[t, i]) for t, i in enumerate(encoded.response_ids)]
    return sum(kl) / len(kl), sum(ratios) / len(ratios)


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)])
def test_kl_and_log_ratio_are_those_of_the_saved_policy_against_the_base(
    data: dict[str, Path], tmp_path: Path, lora: LoraConfig | None
) -> None:
    metrics = train(data, tmp_path / "policy", lora=lora)
    kl, ratio = by_hand(data["base_model"], tmp_path / "policy")
    assert kl > 1e-3
    assert metrics["held_out_kl"] == pytest.approx(kl, rel=1e-3)
    assert metrics["held_out_log_ratio"] == pytest.approx(ratio, rel=1e-3, abs=1e-5)
    assert 0 < metrics["share_kept"] <= 1
    assert metrics["first_step_loss"] == pytest.approx(math.log(2), abs=2e-6)
    log = [json.loads(x) for x in (tmp_path / "policy/training_log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in log if "held_out_kl" in r] == [2, 4, 6]
    assert log[-1]["held_out_kl"] == pytest.approx(metrics["held_out_kl"], rel=1e-6)
    assert (tmp_path / "policy/tensorboard/events.out.tfevents.training").stat().st_size > 500


def test_an_untrained_policy_has_no_divergence(data: dict[str, Path], tmp_path: Path) -> None:
    metrics = train(data, tmp_path / "policy", training={"learning_rate": 1e-12})
    assert metrics["held_out_kl"] == pytest.approx(0, abs=1e-7)
    assert metrics["held_out_log_ratio"] == pytest.approx(0, abs=1e-6)


def test_no_pass_of_an_evaluation_holds_more_than_the_settings_allow(
    data: dict[str, Path], tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(data["base_model"])
    answers = [(p, text) for p in EVAL + harm_pairs(12) for text in (p.chosen, p.rejected)]
    encoded = [encode_answer(tokenizer, p.messages, text) for p, text in answers]
    longest = max(len(e.prompt_ids) + len(e.response_ids) for e in encoded)
    sizes: list[int] = []

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, torch.nn.Embedding):
            sizes.append(inputs[0].numel())

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        wide = {"micro_batch_size": 8, "epochs": 1}
        alone = train(data, tmp_path / "alone", training=wide | {"micro_batch_tokens": 1})
        assert max(sizes) <= 2 * longest
        together = train(data, tmp_path / "together", training=wide)
        assert max(sizes) > 2 * longest
    finally:
        hook.remove()
    for name in ("held_out_kl", "held_out_loss", "held_out_log_ratio", "held_out_accuracy"):
        assert alone[name] == pytest.approx(together[name], rel=1e-3, abs=1e-6), name


def test_rows_too_long_are_counted_in_the_manifest(data: dict[str, Path], tmp_path: Path) -> None:
    train(data, tmp_path / "policy", training={"epochs": 1}, max_eval_pairs=2)
    counts = read_manifest(tmp_path / "policy").counts
    assert counts is not None
    assert counts.dropped == {"held_out_too_long": 1, "held_out_beyond_max_eval_pairs": 1}
    assert (counts.read, counts.kept) == (16, 14)


# DeepSpeed's ZeRO imports what torch calls deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("lora", "zero_stage"), [(None, 2), (LoraConfig(rank=4), 2)], ids=["full", "lora"]
)
def test_told_to_stop_and_started_again_equals_uninterrupted(
    data: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lora: LoraConfig | None,
    zero_stage: int,
) -> None:
    options: dict[str, Any] = {"lora": lora, "ama": {"baseline": "batch_mean"}}
    training: dict[str, Any] = {"zero_stage": zero_stage, "gradient_checkpointing": True}
    whole = train(data, tmp_path / "whole", training=training, **options)
    saved = training | {"checkpoint_uri": str(tmp_path / "checkpoints")}
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_if_due", Trainer._save_if_due)
        before(Trainer, "_save_if_due", 3, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Preempted, match="after step 3 of 6"):
            train(data, tmp_path / "policy", training=saved, **options)
    assert not (tmp_path / "policy").exists()
    if lora:
        (states,) = (tmp_path / "checkpoints").rglob("*model_states.pt")
        module = torch.load(states, weights_only=False)["module"]
        assert module
        assert all("lora_" in name for name in module), "frozen weights are saved, too"
    assert train(data, tmp_path / "policy", training=saved, **options) == whole
    weights = [(tmp_path / x / "model.safetensors").read_bytes() for x in ("whole", "policy")]
    assert weights[0] == weights[1]


def test_told_to_stop_while_the_last_checkpoint_is_written(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(data, tmp_path / "whole")
    saved = {"checkpoint_uri": str(tmp_path / "checkpoints")}
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", Checkpoints.save)
        before(Checkpoints, "save", 1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Preempted, match="after the last step, 6; the same command goes on"):
            train(data, tmp_path / "policy", training=saved)
    assert not (tmp_path / "policy").exists()
    assert train(data, tmp_path / "policy", training=saved) == whole


def test_all_masks_empty_is_one_clear_error(data: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"all \d+ pairs lost all tokens .* raise ama\.min_kept"
    ) as caught:
        train(data, tmp_path / "policy", ama={"baseline": 1e9, "min_kept": 0.0})
    assert "\n" not in str(caught.value)
