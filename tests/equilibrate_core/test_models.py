"""Loaded models compute the same in training as in evaluation: no dropout anywhere."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from equilibrate_core.models import load_causal_lm
from equilibrate_core.scorer import new_scorer_model

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
