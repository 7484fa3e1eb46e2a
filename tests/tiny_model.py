"""A tiny random Llama with a byte-level tokenizer and a chat template, made in a second.

Its answers are noise, yet everything about it is real: safetensors, a fast tokenizer that knows
every byte, end-of-turn distinct from the pad token (ChatML) or no pad token at all (Llama 3), a
chat template.
"""

import os
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from equilibrate_core.artifacts import StageRun

Template = Literal["chatml", "llama3"]

CHATML = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
LLAMA3 = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' -}}"
    "{{- message['content'] | trim + '<|eot_id|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}"
    "{%- endif -%}"
)
TEMPLATES: dict[str, str] = {"chatml": CHATML, "llama3": LLAMA3}
SPECIAL_TOKENS: dict[str, list[str]] = {
    "chatml": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    # Those of Meta-Llama-3-8B-Instruct, which has no token that is meant for padding.
    "llama3": [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|reserved_special_token_0|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ],
}
END_OF_TURN: dict[str, str] = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>"}

SENTENCES = (
    "How do I bake bread? Mix flour, water, salt and yeast, then let the dough rise.",
    "I cannot help with that, but I can tell you how to stay safe.",
    "The answer is yes. The answer is no. Safe, unsafe, refusal and preference.",
    "The user asks a question and the assistant gives an answer.",
    "如何制作面包？请先准备面粉和水。对不起，我不能帮助你。",
)


def make_tiny_model(
    folder: Path,
    *,
    template: Template = "chatml",
    seed: int = 0,
    vocab_size: int = 384,
    max_positions: int = 2048,
) -> Path:
    """Write a two-layer Llama of hidden size 32 with its tokenizer to `folder` and return it.

    Equal arguments give equal files. Weights are drawn wide, so that the best next token is not
    a matter of rounding.
    """
    tokenizer = tiny_tokenizer(template, vocab_size)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=max_positions,
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_tokenizer(template: Template = "chatml", vocab_size: int = 384) -> PreTrainedTokenizerFast:
    """Byte-level BPE over all 256 bytes plus merges learned from a few sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS[template],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    assert tokenizer.get_vocab_size() == vocab_size, "add sentences or ask for fewer tokens"
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>" if template == "llama3" else None,
        eos_token=END_OF_TURN[template],
        pad_token=None if template == "llama3" else "<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
    fast.add_special_tokens({"additional_special_tokens": SPECIAL_TOKENS[template]})
    fast.chat_template = TEMPLATES[template]
    return fast


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Eight letters, and a token ":y" that merges over the end of the prompt "…:"."""
    vocab = {letter: i for i, letter in enumerate("abcxyz:!")} | {":y": 8, "<e>": 9}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[(":", "y")]))
    raw.pre_tokenizer = pre_tokenizers.Split("!", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<e>")
    fast.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content + ':' }}"
        "{% else %}{{ m.content + '<e>' }}{% endif %}{% endfor %}"
    )
    return fast


def as_artifact(folder: Path, *, schema_name: str = "model") -> Path:
    """Seal a model directory in place as an artifact with a manifest, and return it."""
    parts = folder.with_name(f"{folder.name}.parts")
    os.replace(folder, parts)
    run = StageRun(stage="import_model", config={}, seed=0, code_version="test", inputs={})
    with run.output(folder, schema_name) as draft:
        for file in parts.iterdir():
            os.replace(file, draft.path / file.name)
    parts.rmdir()
    return folder
