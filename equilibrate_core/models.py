"""Loading and saving Hugging Face directories, with errors a user can act on."""

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from equilibrate_core.batches import SHARING_MODELS, is_dense_decoder
from equilibrate_core.errors import ConfigError, ModelError

# A bar per loaded shard and a report per fresh head drown a stage's own lines.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()

logger = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16"]
Attention = Literal["sdpa", "flex_attention"]
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")
"""Fields of a generation config that mean something where it samples."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Fast tokenizer of a model directory. Raises ModelError when there is none, or a slow one."""
    tokenizer = load_pretrained(
        folder, AutoTokenizer.from_pretrained, trust_remote_code=trust_remote_code
    )
    if not tokenizer.is_fast:
        raise ModelError(f"{folder}: only fast tokenizers give offsets; convert this one first")
    return tokenizer


def load_causal_lm(
    folder: Path,
    *,
    dtype: str = "float32",
    attention: Attention = "sdpa",
    trust_remote_code: bool = False,
    place: torch.device | None = None,
) -> PreTrainedModel:
    """Causal language model in evaluation mode, dropout off, from safetensors only.

    It is on `place`, or else on this process's accelerator where there is one. Raises ModelError
    where it could not be saved again, or cannot do `attention`.
    """
    model = load_pretrained(
        folder,
        AutoModelForCausalLM.from_pretrained,
        dtype=DTYPES[dtype],
        device_map=device_map(place or device()),
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
        **attention_options(folder, attention),
    )
    _mend_generation_config(model, folder)
    return without_dropout(model).eval()


def attention_options(folder: Path, attention: Attention) -> dict[str, Any]:
    """What tells transformers who computes a model's attention; no saved config says so.

    Raises ModelError where it is not known to be right for the model's family.
    """
    if attention == "sdpa":
        return {}  # what transformers takes by itself where a family can, and else its own code
    config = load_pretrained(folder, AutoConfig.from_pretrained, trust_remote_code=False)
    if not is_dense_decoder(config):
        raise ModelError(
            f"{folder}: attention: {attention} is for models without a sliding window of the "
            f"families {', '.join(sorted(SHARING_MODELS))}; take attention: sdpa for this "
            f"{config.model_type}"
        )
    return {"attn_implementation": attention}


def _mend_generation_config(model: Any, folder: Path) -> None:
    """Make what a model says of generation consistent: transformers saves no other.

    Many say how to sample and not that one should, or pad with -1 for nothing.
    """
    config = getattr(model, "generation_config", None)
    if config is None:
        return
    with suppress(ValueError):
        config.validate(strict=True)
        return
    if (config.pad_token_id or 0) < 0:
        config.pad_token_id = None
    if any(getattr(config, name, None) is not None for name in SAMPLING):
        config.do_sample = True
    logger.warning(
        "%s/generation_config.json contradicts itself; saved models say do_sample: %s and "
        "pad_token_id: %s",
        folder,
        config.do_sample,
        config.pad_token_id,
    )
    try:
        config.validate(strict=True)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"{folder}/generation_config.json: transformers will not save it: {reason:.300}; mend "
            "or remove the file"
        ) from error


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
    load_pretrained(folder, AutoConfig.from_pretrained, trust_remote_code=trust_remote_code)


def autocast(precision: Precision) -> torch.autocast:
    """Context in which matrix products run in bfloat16, or as the weights are."""
    return torch.autocast(
        device().type, dtype=torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False
    )


def device() -> torch.device:
    """The accelerator of this process (its local rank's), or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # Models are loaded before the training loop makes the local rank's device the current one.
    rank = os.environ.get("LOCAL_RANK")
    return torch.device("cuda", torch.cuda.current_device() if rank is None else int(rank))


def device_map(place: torch.device) -> dict[str, torch.device] | None:
    """What tells transformers to read weights from their files straight onto an accelerator.

    By way of main memory every process of a node would hold a whole model there at once.
    """
    return None if place.type == "cpu" else {"": place}


def bound_kernel_cache() -> None:
    """Let oneDNN keep few kernels, since hardly two batches of texts have one shape.

    By itself it keeps those of the last 1,024 shapes: 0.66 of 5.66 GiB in a bfloat16 training of
    256 pairs on a CPU. It looks once, at the process's first product; a value that is set stays.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")


def check_processes(num_processes: int) -> None:
    """Raise ConfigError where processes outnumber this node's accelerators; warn of idle ones.

    A node without any trains on its CPUs, with as many processes as one likes.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if 0 < found < num_processes:
        raise ConfigError(
            f"num_processes: {num_processes} on a node with accelerators: {found}; every process "
            f"needs one of its own: set num_processes: {found}, or ask for more accelerators"
        )
    if found > num_processes:
        logger.warning(
            "num_processes: %d uses as many of this node's %d accelerators; the others stay idle",
            num_processes,
            found,
        )


def load_pretrained(folder: Path, loader: Callable[..., Any], **options: Any) -> Any:
    """What transformers' `loader` makes of a local folder. Raises ModelError, in one line."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: not a model: it has no config.json")
    try:
        return loader(folder, local_files_only=True, **options)
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ModelError(f"{folder}: not a usable model: {first_line}") from error
