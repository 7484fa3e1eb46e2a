"""Loaded models: no dropout anywhere, on the accelerator of their process from the start."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

from components.train_policy.config import TrainPolicyConfig
from components.train_policy.stage import train_policy
from components.train_scorer.config import TrainScorerConfig
from components.train_scorer.stage import train_scorer
from equilibrate_core.errors import ConfigError, ModelError
from equilibrate_core.models import check_processes, load_causal_lm
from equilibrate_core.scorer import ScorerConstants, load_scorer, new_scorer_model, save_scorer

IDS = torch.arange(1, 9)[None]


def llama(folder: Path, source: Path) -> Path:
    """Dropout as a number in the attention."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("manifest.json"))
    config = json.loads((folder / "config.json").read_text()) | {"attention_dropout": 0.5}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def gpt2(folder: Path, source: Path) -> Path:
    """Dropout as modules."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("m*", "config.json"))
    settings = GPT2Config(
        vocab_size=384, n_positions=64, n_embd=8, n_layer=2, n_head=2, pad_token_id=0
    )
    assert settings.resid_pdrop > 0
    GPT2LMHeadModel(settings).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("load", [load_causal_lm, lambda x: new_scorer_model(x, seed=0)[0]])
def test_training_mode_computes_what_evaluation_does(
    tiny_model: Path, tmp_path: Path, make: Callable[..., Path], load: Callable[[Path], Any]
) -> None:
    model = load(make(tmp_path / "model", tiny_model))
    with torch.no_grad():
        expected = model.eval()(IDS).logits
        trained = model.train()(IDS).logits
    assert torch.equal(trained, expected)


@pytest.fixture
def third_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch tells the third process of a node with four accelerators. There is none here."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "2")


def read_a_scorer(folder: Path) -> None:
    model, tokenizer = new_scorer_model(folder, seed=0)
    constants = ScorerConstants(kind="reward", center=0.0, scale=1.0, token_wise=True)
    save_scorer(folder, model, tokenizer, constants)
    load_scorer(folder)


def read_on_the_cpu(folder: Path) -> None:
    load_causal_lm(folder, place=torch.device("cpu"))


THIRD = {"": torch.device("cuda", 2)}


@pytest.mark.usefixtures("third_of_four")
@pytest.mark.parametrize(
    ("library", "load", "expected"),
    [
        (AutoModelForCausalLM, load_causal_lm, [THIRD]),
        (AutoModelForCausalLM, read_on_the_cpu, [None]),
        (AutoModelForSequenceClassification, read_a_scorer, [THIRD, THIRD]),
    ],
)
def test_weights_are_read_straight_onto_the_accelerator_of_their_process(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    library: Any,
    load: Callable[[Path], Any],
    expected: list[Any],
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("manifest.json"))
    places: list[Any] = []
    read = library.from_pretrained

    def on_this_machine(source: Path, **options: Any) -> Any:
        places.append(options.pop("device_map"))
        return read(source, **options)

    monkeypatch.setattr(library, "from_pretrained", on_this_machine)
    load(folder)
    assert places == expected


def test_without_accelerators_weights_stay_in_main_memory(tiny_model: Path) -> None:
    assert load_causal_lm(tiny_model).device == torch.device("cpu")
    check_processes(64)


@pytest.mark.usefixtures("third_of_four")
def test_processes_have_an_accelerator_each_and_idle_ones_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = {"base_model": tmp_path}
    with pytest.raises(ConfigError, match=r"num_processes: 5 .* accelerators: 4; .* set num_proc"):
        train_scorer(
            TrainScorerConfig(kind="cost", num_processes=5),
            pairs=tmp_path,
            scorer=tmp_path / "out",
            **nowhere,
        )
    with pytest.raises(ConfigError, match=r"num_processes: 5 .* accelerators: 4"):
        train_policy(
            TrainPolicyConfig(num_processes=5),
            scored_pairs=tmp_path,
            eval_pairs=tmp_path,
            policy=tmp_path / "out",
            **nowhere,
        )
    check_processes(4)
    assert not caplog.records
    check_processes(1)
    assert "num_processes: 1 uses as many of this node's 4 accelerators" in caplog.text


def with_file(source: Path, folder: Path, name: str, **fields: object) -> Path:
    """The model with other fields in one of its files."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("manifest.json"))
    path = folder / name
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | fields))
    return folder


def test_a_model_that_says_how_to_sample_but_not_that_it_should_can_be_saved(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = with_file(
        tiny_model,
        tmp_path / "model",
        "generation_config.json",
        **{"temperature": 0.9, "top_p": 0.6, "pad_token_id": -1, "do_sample": False},
    )
    load_causal_lm(folder).save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved/generation_config.json").read_text())
    assert (saved["do_sample"], saved["temperature"], saved["top_p"]) == (True, 0.9, 0.6)
    assert "contradicts itself; saved models say do_sample: True" in caplog.text


def test_what_no_one_can_save_is_told_before_anything_is_trained(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = with_file(tiny_model, tmp_path / "model", "generation_config.json", output_scores=True)
    with pytest.raises(ModelError, match=r"generation_config\.json: transformers will not save it"):
        load_causal_lm(folder)


def test_a_family_that_nothing_can_score_with_is_one_clear_error(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = with_file(tiny_model, tmp_path / "model", "config.json", model_type="granite")
    with pytest.raises(ModelError, match="Unrecognized configuration class") as caught:
        new_scorer_model(folder, seed=0)
    assert "\n" not in str(caught.value)
