"""Compiled decoder layers compute what they did, for all lengths with few compilations."""

import os
import signal
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.utils import counters

from components.score_tokens.config import ScoreTokensConfig
from components.score_tokens.stage import score_tokens
from components.train_policy.config import LoraConfig, TrainPolicyConfig
from components.train_policy.stage import train_policy
from components.train_scorer.stage import train_scorer
from equilibrate_core.batches import PaddedBatch
from equilibrate_core.compiling import check_kernels, compile_layers
from equilibrate_core.errors import ConfigError, ModelError, Preempted
from equilibrate_core.logps import span_mask, token_logps
from equilibrate_core.models import load_causal_lm, load_tokenizer
from equilibrate_core.plain_head import has_plain_head
from equilibrate_core.records import ScoredPair
from equilibrate_core.scorer import load_scorer
from equilibrate_core.tables import read_dataset
from equilibrate_core.training import Trainer
from equilibrate_core.training_config import TrainingConfig
from tests.components.scored_pairs import scored_pair
from tests.components.scoring_fixtures import as_dataset, fresh_scorers, harm_pairs
from tests.equilibrate_core.interrupted_runs import before, config

# torch's own compiler imports what torch calls deprecated, and looks at what torch warns of.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:The .grad attribute of a Tensor"
)
# Pairs in the batch, tokens of their common opening, of the first answer's rest and the second's.
SHAPES = [(2, 5, 9, 20), (3, 40, 3, 7), (1, 6, 30, 8), (4, 11, 13, 60), (2, 90, 1, 1), (1, 3, 8, 2)]


@pytest.fixture(autouse=True)
def counted() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def loaded(folder: Path, *, checkpointing: bool) -> Any:
    model = load_causal_lm(folder).train()
    has_plain_head(model)
    if checkpointing:
        model.gradient_checkpointing_enable()
    return model


def logps_and_gradients(model: Any, pairs: int, common: int, *rests: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(common)
    firsts, seconds = (
        torch.randint(8, 300, (pairs, common + rest), generator=draw) for rest in rests
    )
    seconds[:, :common] = firsts[:, :common]
    rows = [*firsts.tolist(), *seconds.tolist()]
    batch = PaddedBatch.of_pairs(rows[:pairs], rows[pairs:], pad_id=0, device=torch.device("cpu"))
    ends = [len(row) for row in rows]
    wanted = span_mask([common] * len(rows), ends, batch.input_ids_NL.shape[1])
    model.zero_grad()
    logps = token_logps(model, batch, wanted)
    logps.sum(dim=1).mul(torch.linspace(1, -1, len(logps))).sum().backward()
    return [logps.detach(), *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_log_probs_and_gradients_are_those_of_layers_that_are_not_compiled(
    tiny_model: Path, checkpointing: bool
) -> None:
    plain, compiled = (loaded(tiny_model, checkpointing=checkpointing) for _ in range(2))
    names = list(compiled.state_dict())
    compile_layers(compiled)
    assert list(compiled.state_dict()) == names
    assert not counters["stats"], "compiled before there is a batch"
    for shape in SHAPES:
        expected, found = (logps_and_gradients(m, *shape) for m in (plain, compiled))
        torch.testing.assert_close(found[0], expected[0], atol=1e-4, rtol=0)
        for a, b in zip(found[1:], expected[1:], strict=True):
            assert (a - b).norm() <= 1e-4 * b.norm()
    # One code for both layers and six shapes, and one more for batches of one row.
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


def test_a_compiled_model_is_saved_as_any_other(tiny_model: Path, tmp_path: Path) -> None:
    model = load_causal_lm(tiny_model)
    model.save_pretrained(tmp_path / "plain")
    compile_layers(model)
    model.save_pretrained(tmp_path / "compiled")
    files = [sorted(f.name for f in (tmp_path / x).iterdir()) for x in ("plain", "compiled")]
    assert files[0] == files[1]
    for name in files[0]:
        assert (tmp_path / "plain" / name).read_bytes() == (
            tmp_path / "compiled" / name
        ).read_bytes()


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and differentiated as ever, but without the half minute that machine code takes."""
    quick = partialmethod(nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(nn.Module, "compile", quick)


# DeepSpeed's ZeRO imports what torch calls deprecated.
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.usefixtures("quickly")
def test_a_compiled_training_that_is_told_to_stop_goes_on_and_is_saved_as_any_other(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = as_dataset(tmp_path / "pairs", harm_pairs(10))
    settings = {"zero_stage": 2, "gradient_checkpointing": True, "eval_every_steps": 0}

    def train(name: str, **changes: Any) -> dict[str, Any]:
        inputs = {"pairs": pairs, "base_model": tiny_model}
        return train_scorer(config(**settings | changes), **inputs, scorer=tmp_path / name)

    plain = train("plain")
    compiled = train("compiled", compile=True)
    assert 1 <= counters["stats"]["unique_graphs"] <= 4
    assert compiled["final_loss"] == pytest.approx(plain["final_loss"], abs=1e-4)
    saved = {"compile": True, "checkpoint_uri": str(tmp_path / "checkpoints")}
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_if_due", Trainer._save_if_due)
        before(Trainer, "_save_if_due", 2, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Preempted, match="after step 2 of 4"):
            train("resumed", **saved)
    assert train("resumed", **saved) == compiled
    weights = [load_file(tmp_path / x / "model.safetensors") for x in ("compiled", "resumed")]
    assert weights[0].keys() == load_file(tmp_path / "plain/model.safetensors").keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    load_scorer(tmp_path / "compiled")


@pytest.mark.usefixtures("quickly")
def test_scores_of_compiled_models_are_those_of_models_that_are_not(
    tiny_model: Path, tmp_path: Path
) -> None:
    inputs = fresh_scorers(tmp_path, tiny_model) | {"reference_model": tiny_model}
    inputs["pairs"] = as_dataset(tmp_path / "pairs", harm_pairs(4))
    rows = []
    for compiles in (False, True):
        assert not counters["frames"]
        settings = ScoreTokensConfig(precision="float32", compile=compiles, rewards="all_pairs")
        score_tokens(settings, **inputs, scored_pairs=tmp_path / f"scored-{compiles}")
        rows.append(read_dataset(tmp_path / f"scored-{compiles}", ScoredPair))
    assert counters["stats"]["unique_graphs"] == 1, "three models have one kind of layers"
    for a, b in zip(*rows, strict=True):
        for name in ("chosen_rewards", "rejected_costs", "chosen_reference_logps"):
            assert getattr(b, name) == pytest.approx(getattr(a, name), abs=1e-4), name


@pytest.mark.usefixtures("quickly")
def test_adapters_inside_compiled_layers_are_merged_before_the_policy_leaves(
    tiny_model: Path, tmp_path: Path
) -> None:
    model, tokenizer = load_causal_lm(tiny_model), load_tokenizer(tiny_model)
    scored = [scored_pair(pair, model, tokenizer) for pair in harm_pairs(4)]
    inputs = {
        "scored_pairs": as_dataset(tmp_path / "scored", scored),
        "eval_pairs": as_dataset(tmp_path / "eval", harm_pairs(2)),
        "base_model": tiny_model,
    }

    def train(name: str, **changes: Any) -> dict[str, Any]:
        training = TrainingConfig(
            epochs=1, batch_size=2, learning_rate=3e-3, precision="float32", zero_stage=0, **changes
        )
        settings = TrainPolicyConfig(
            training=training, lora=LoraConfig(rank=4), max_kl_pairs=0, loss="dpo"
        )
        return train_policy(settings, **inputs, policy=tmp_path / name)

    plain, compiled = train("plain"), train("compiled", compile=True)
    assert counters["stats"]["unique_graphs"]
    for name in ("final_loss", "held_out_loss"):
        assert compiled[name] == pytest.approx(plain[name], abs=1e-4)
    base, policy = model.state_dict(), load_causal_lm(tmp_path / "compiled").state_dict()
    assert policy.keys() == base.keys()
    assert any(not torch.equal(policy[name], base[name]) for name in base)


def test_zero_3_is_refused_by_the_config() -> None:
    with pytest.raises(ValidationError, match="compile: true needs zero_stage 0, 1 or 2; under 3"):
        TrainingConfig(compile=True, zero_stage=3)
    assert TrainingConfig(compile=True, zero_stage=2).compile


def test_a_model_without_layers_known_to_us_is_one_clear_error() -> None:
    with pytest.raises(ModelError, match="compile: true finds no layers in Linear; leave"):
        compile_layers(nn.Linear(2, 2))


def test_without_a_compiler_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_kernels("sdpa", compiles=True, trains=True)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"compile: true needs a compiler.* no g\+\+; install"):
        check_kernels("sdpa", compiles=True, trains=True)
