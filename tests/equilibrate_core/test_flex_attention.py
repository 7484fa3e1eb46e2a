"""Flex attention gives what sdpa gives, row for row; where it is not possible, one clear line.

torch has no compiled backward pass of it for CPUs and refuses one. Its code for no compiler has
one, with whole score matrices: gradients are compared through that, and the compiled forward pass
shows that blocks may be passed over. tests/gpu has the compiled backward pass.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import GPT2Config, GPT2LMHeadModel

from components.score_tokens.config import ScoreTokensConfig
from components.score_tokens.stage import score_tokens
from components.train_policy.config import TrainPolicyConfig
from components.train_policy.stage import train_policy
from components.train_scorer.config import TrainScorerConfig
from components.train_scorer.stage import train_scorer
from equilibrate_core import block_masks
from equilibrate_core.batches import can_share, hidden_states
from equilibrate_core.compiling import check_kernels
from equilibrate_core.errors import ConfigError, ModelError
from equilibrate_core.logps import token_logps
from equilibrate_core.models import load_causal_lm, load_tokenizer
from equilibrate_core.records import ScoredPair
from equilibrate_core.scorer import new_scorer_model, token_values
from equilibrate_core.tables import read_dataset
from equilibrate_core.training_config import TrainingConfig
from tests.components.scored_pairs import scored_pair
from tests.components.scoring_fixtures import as_dataset, fresh_scorers, harm_pairs
from tests.equilibrate_core.interrupted_runs import config
from tests.equilibrate_core.ragged_pairs import RAGGED, Parts, batches

# torch's own compiler imports what torch calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
REFUSAL = "torch.nn.attention.flex_attention._validate_device"


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Flex attention as torch computes it without a compiler, backward pass included."""
    monkeypatch.setattr(REFUSAL, lambda *_: None)
    monkeypatch.setattr("torch.nn.attention.flex_attention._warn_once", lambda *_, **__: None)
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("parts", RAGGED.values(), ids=RAGGED)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-4)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_log_probs_and_gradients_are_those_of_sdpa(
    tiny_model: Path,
    parts: Parts,
    dtype: str,
    tolerance: float,
    checkpointing: bool,
) -> None:
    shared, apart, wanted = batches(parts)
    found: dict[str, Any] = {}
    for attention in ("sdpa", "flex_attention"):
        model = load_causal_lm(tiny_model, dtype=dtype, attention=attention).train()
        assert can_share(model) and model.config._attn_implementation == attention
        if checkpointing:
            model.gradient_checkpointing_enable()
        for name, batch in (("shared", shared), ("apart", apart)):
            model.zero_grad()
            logps = token_logps(model, batch, wanted)
            logps.sum(dim=1).mul(torch.linspace(1, -1, len(logps))).sum().backward()
            gradients = [p.grad.clone() for p in model.parameters()]
            found[attention, name] = logps.detach(), gradients
    for name in ("shared", "apart"):
        expected, gradients = found["sdpa", name]
        logps, flex_gradients = found["flex_attention", name]
        torch.testing.assert_close(logps, expected, atol=tolerance, rtol=0)
        for a, b in zip(flex_gradients, gradients, strict=True):
            assert (a - b).norm() <= tolerance * b.norm()


@pytest.mark.usefixtures("uncompiled")
def test_scorer_values_are_those_of_sdpa(tiny_model: Path) -> None:
    shared, apart, wanted = batches(RAGGED["over blocks"])
    values = [
        token_values(new_scorer_model(tiny_model, seed=0, dtype="float64", attention=a)[0], batch)
        for a in ("sdpa", "flex_attention")
        for batch in (shared, apart)
    ]
    for other in values[1:]:
        torch.testing.assert_close(other[wanted], values[0][wanted], atol=1e-9, rtol=0)


@torch.no_grad()
def test_the_compiled_kernel_passes_over_blocks_and_gives_what_sdpa_gives(
    tiny_model: Path,
) -> None:
    sdpa = load_causal_lm(tiny_model)
    flex = load_causal_lm(tiny_model, attention="flex_attention")
    torch._dynamo.reset()
    counters.clear()
    for parts in (RAGGED["over blocks"], [(9, 500, 300)] * 2, [(400, 200, 9)] * 4, [(8, 9, 7)] * 5):
        shared, apart, wanted = batches(parts)
        for batch in (shared, apart):
            expected = hidden_states(sdpa, batch)[wanted]
            found = hidden_states(flex, batch)[wanted]
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert counters["stats"]["unique_graphs"] <= 4, "each of eight shapes is compiled anew"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What flex attention was given, call by call."""
    calls: list[str] = []

    def answer_blocks(*args: Any) -> Any:
        calls.append("blocks")
        return block_masks.answer_blocks(*args)

    monkeypatch.setattr("equilibrate_core.batches.answer_blocks", answer_blocks)
    return calls


@pytest.fixture(scope="module")
def data(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("flex")
    model, tokenizer = load_causal_lm(tiny_model), load_tokenizer(tiny_model)
    scored = [scored_pair(pair, model, tokenizer, kept=8) for pair in harm_pairs(6)]
    return {
        "scored_pairs": as_dataset(root / "scored", scored),
        "eval_pairs": as_dataset(root / "eval", harm_pairs(2)),
        "base_model": tiny_model,
    }


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("loss", ["dpo", "adpo"])
def test_a_policy_trained_with_it_is_that_of_sdpa_and_does_not_say_so(
    data: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    made: list[str],
    loss: str,
) -> None:
    monkeypatch.setattr("components.train_policy.stage.check_kernels", lambda *_, **__: None)
    logs: dict[str, list[dict[str, float]]] = {}
    for attention in ("sdpa", "flex_attention"):
        assert not made
        settings = TrainingConfig(
            epochs=2, batch_size=3, precision="float32", zero_stage=0, attention=attention
        )
        policy_config = TrainPolicyConfig(loss=loss, training=settings)
        train_policy(policy_config, **data, policy=tmp_path / attention)
        lines = (tmp_path / attention / "training_log.jsonl").read_text().splitlines()
        logs[attention] = [json.loads(line) for line in lines]
        saved = json.loads((tmp_path / attention / "config.json").read_text())
        assert not [name for name in saved if "attn" in name]
    assert made
    for sdpa, flex in zip(*logs.values(), strict=True):
        for name in ("loss", "grad_norm", "chosen_reward"):
            assert flex[name] == pytest.approx(sdpa[name], rel=1e-4, abs=1e-5), name
    policy = load_causal_lm(tmp_path / "flex_attention")
    assert policy.config._attn_implementation == "sdpa"


def gpt2(folder: Path, source: Path) -> Path:
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("m*", "config.json"))
    GPT2LMHeadModel(
        GPT2Config(vocab_size=384, n_positions=64, n_embd=8, n_layer=1, n_head=2)
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "load",
    [load_causal_lm, lambda folder, **options: new_scorer_model(folder, seed=0, **options)],
)
def test_a_family_that_is_not_known_to_do_it_is_one_clear_error(
    tiny_model: Path, tmp_path: Path, load: Any
) -> None:
    folder = gpt2(tmp_path / "gpt2", tiny_model)
    with pytest.raises(ModelError, match="take attention: sdpa for this gpt2") as caught:
        load(folder, attention="flex_attention")
    assert "\n" not in str(caught.value)


def test_a_sliding_window_is_refused_too(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("manifest.json"))
    fields = json.loads((folder / "config.json").read_text()) | {"sliding_window": 4}
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ModelError, match="without a sliding window"):
        load_causal_lm(folder, attention="flex_attention")


def test_a_training_on_cpus_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    nowhere = {"base_model": tmp_path}
    flex = TrainingConfig(attention="flex_attention")
    with pytest.raises(ConfigError, match=r"on CPUs torch has no backward pass.*attention: sdpa"):
        train_scorer(
            TrainScorerConfig(training=flex), pairs=tmp_path, scorer=tmp_path / "out", **nowhere
        )
    with pytest.raises(ConfigError, match="on CPUs torch has no backward pass"):
        train_policy(
            TrainPolicyConfig(training=flex),
            scored_pairs=tmp_path,
            eval_pairs=tmp_path,
            policy=tmp_path / "out",
            **nowhere,
        )
    with pytest.raises(ConfigError, match="on CPUs torch cannot compile layers around it"):
        score_tokens(
            ScoreTokensConfig(attention="flex_attention", compile=True),
            pairs=tmp_path,
            reward_model=tmp_path,
            cost_model=tmp_path,
            reference_model=tmp_path,
            scored_pairs=tmp_path / "out",
        )


@pytest.mark.usefixtures("uncompiled")
def test_scores_are_those_of_sdpa_and_every_model_is_read_with_it(
    tiny_model: Path, tmp_path: Path, made: list[str]
) -> None:
    scorers = fresh_scorers(tmp_path, tiny_model)
    pairs = as_dataset(tmp_path / "pairs", harm_pairs(2))
    for attention in ("sdpa", "flex_attention"):
        assert not made
        score_tokens(
            ScoreTokensConfig(precision="float32", attention=attention, rewards="all_pairs"),
            pairs=pairs,
            **scorers,
            reference_model=tiny_model,
            scored_pairs=tmp_path / attention,
        )
    # Three models of a batch each, and the question whether the reference's head is plain.
    assert len(made) == 4
    sdpa, flex = (read_dataset(tmp_path / a, ScoredPair) for a in ("sdpa", "flex_attention"))
    for a, b in zip(sdpa, flex, strict=True):
        for name in ("chosen_rewards", "rejected_costs", "chosen_reference_logps"):
            assert getattr(b, name) == pytest.approx(getattr(a, name), abs=1e-4), name


@pytest.mark.usefixtures("uncompiled")
def test_a_scorer_trained_with_it_is_that_of_sdpa(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[str]
) -> None:
    monkeypatch.setattr("components.train_scorer.stage.check_kernels", lambda *_, **__: None)
    pairs = as_dataset(tmp_path / "pairs", harm_pairs(10))
    losses = []
    for attention in ("sdpa", "flex_attention"):
        assert not made
        inputs = {"pairs": pairs, "base_model": tiny_model}
        metrics = train_scorer(config(attention=attention), **inputs, scorer=tmp_path / attention)
        losses.append(metrics["final_loss"])
    assert made
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_without_a_compiler_the_setting_is_refused(
    monkeypatch: pytest.MonkeyPatch, on_gpu: bool
) -> None:
    place = torch.device("cuda" if on_gpu else "cpu")
    monkeypatch.setattr("equilibrate_core.compiling.device", lambda: place)
    monkeypatch.setenv("CC" if on_gpu else "CXX", "no-such-compiler -O2")
    message = "attention: flex_attention needs a compiler, and this machine has no no-such-compiler"
    with pytest.raises(ConfigError, match=message) as caught:
        check_kernels("flex_attention", compiles=False, trains=on_gpu)
    assert "\n" not in str(caught.value)
    check_kernels("sdpa", compiles=False, trains=True)
    monkeypatch.setattr("sysconfig.get_path", lambda _: "/nowhere")
    monkeypatch.setenv("CC" if on_gpu else "CXX", "true")
    with pytest.raises(ConfigError, match=r"needs Python's headers, and /nowhere/Python\.h is not"):
        check_kernels("sdpa", compiles=True, trains=True)
