"""GGUF models as Hugging Face directories, dequantised.

A .gguf file -> safetensors, tokenizer and chat template in a folder.
"""

from pathlib import Path

from equilibrate_core.errors import ModelError


def convert_gguf(source: Path, target: Path) -> None:
    """Write the model in `source` to the folder `target` (about 20 s for 135M parameters)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # The tokenizer saves what it was loaded with: said here, it does not depend on the environment.
    options = {"gguf_file": source.name, "trust_remote_code": False, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source.parent), **options)
        model = AutoModelForCausalLM.from_pretrained(
            str(source.parent), quantization_config=GgufConfig(dequantize=True), **options
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{source}: not a usable GGUF model: {error}") from error
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
