"""GGUF models as Hugging Face directories, dequantised.

A .gguf file -> safetensors, tokenizer and chat template in a folder.
"""

from pathlib import Path

from equilibrate_core.errors import ModelError


def convert_gguf(source: Path, target: Path) -> None:
    """Write the model in `source` to the folder `target` (about 20 s for 135M parameters)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, name = str(source.parent), source.name
    try:
        # The tokenizer saves what it was loaded with: `local_files_only`, left to the environment,
        # would change the digest of one and the same model.
        tokenizer = AutoTokenizer.from_pretrained(
            folder, gguf_file=name, trust_remote_code=False, local_files_only=True
        )
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=name,
            quantization_config=GgufConfig(dequantize=True),
            trust_remote_code=False,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{source}: not a usable GGUF model: {error}") from error
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
