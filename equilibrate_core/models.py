"""Loading and saving Hugging Face directories, with errors a user can act on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from equilibrate_core.errors import ModelError

# A bar per loaded shard and a report per fresh head drown a stage's own lines.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()

Precision = Literal["float32", "bfloat16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Fast tokenizer of a model directory. Raises ModelError when there is none, or a slow one."""
    tokenizer = _load(folder, AutoTokenizer.from_pretrained, trust_remote_code=trust_remote_code)
    if not tokenizer.is_fast:
        raise ModelError(f"{folder}: only fast tokenizers give offsets; convert this one first")
    return tokenizer


def load_causal_lm(
    folder: Path, *, dtype: str = "float32", trust_remote_code: bool = False
) -> PreTrainedModel:
    """Causal language model in evaluation mode, dropout off, from safetensors only."""
    model = _load(
        folder,
        AutoModelForCausalLM.from_pretrained,
        dtype=DTYPES[dtype],
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
    )
    return without_dropout(model).eval()


def without_dropout(model: Any) -> Any:
    """The same model with every dropout probability 0, so that step 0 equals the reference."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010  (modules type their attributes)
    return model


def check_model_folder(folder: Path, *, trust_remote_code: bool = False) -> None:
    """Raise ModelError unless `folder` holds a config, safetensors weights and a tokenizer."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: not a model: it has no config.json")
    if not list(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder}: no *.safetensors weights; pickled weights are not loaded: convert them"
        )
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(f"{folder}: no tokenizer.json; a fast tokenizer is needed")
    # Said even when it is off: left unsaid, transformers asks whoever sits at the terminal.
    _load(folder, AutoConfig.from_pretrained, trust_remote_code=trust_remote_code)


def autocast(precision: Precision) -> torch.autocast:
    """Context in which matrix products run in bfloat16, or as the weights are."""
    return torch.autocast(
        device().type, dtype=torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False
    )


def device() -> torch.device:
    """The accelerator of this process (its local rank's), or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _load(folder: Path, loader: Callable[..., Any], **options: Any) -> Any:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: not a model: it has no config.json")
    try:
        return loader(folder, local_files_only=True, **options)
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ModelError(f"{folder}: not a usable model: {first_line}") from error
