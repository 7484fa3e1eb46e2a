"""Compare how fast vLLM and transformers answer the same prompts on this machine.

    python benchmarks/generation.py --model FOLDER [--prompts N] [--max-tokens N] [--dtype float32]

Both backends get the same token ids from the same chat template and decode greedily. Loading is
timed apart. Says on how many prompts both gave the same answer: greedy decoding in different
kernels may part after some tokens, in bfloat16 much sooner than in float32.
"""

import argparse
import time
from pathlib import Path

from equilibrate_core.completions import Completion
from equilibrate_core.generator import open_generator
from equilibrate_core.generator_config import GeneratorConfig, Sampling
from equilibrate_core.records import Message
from equilibrate_core.stage import configure_logging

TOPICS = ("rain", "bread", "the moon", "a bicycle", "tea", "a violin", "glass", "the sea")
ASKED = (
    "Explain {} to a child.",
    "Write a short story about {}.",
    "What should I know before buying or visiting {}?",
    "List facts about {}.",
    "Who first studied {}?",
    "Describe {} in one paragraph.",
    "Why do people like {}?",
    "How would you draw {}?",
)


def measure(
    backend: str, dtype: str, model: Path, prompts: list[tuple[Message, ...]], max_tokens: int
) -> tuple[list[Completion], float, float]:
    """Answers, seconds to load and seconds to answer."""
    config = GeneratorConfig.model_validate(
        {"backend": backend, "dtype": dtype, "max_model_len": 1024}
    )
    started = time.monotonic()
    with open_generator(config, model) as generator:
        loaded = time.monotonic()
        answers = generator.generate(prompts, Sampling(max_tokens=max_tokens))
        return answers, loaded - started, time.monotonic() - loaded


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    arguments = parser.parse_args()
    configure_logging()
    texts = [asked.format(topic) for asked in ASKED for topic in TOPICS]
    prompts = [
        (Message(role="user", content=f"{texts[i % len(texts)]}{' Again.' * (i // len(texts))}"),)
        for i in range(arguments.prompts)
    ]
    rates: dict[str, float] = {}
    given: dict[str, list[Completion]] = {}
    for backend in ("transformers", "vllm"):
        given[backend], load_s, run_s = measure(
            backend, arguments.dtype, arguments.model, prompts, arguments.max_tokens
        )
        tokens = sum(answer.num_tokens for answer in given[backend])
        rates[backend] = tokens / run_s
        print(
            f"{backend:12} load {load_s:5.1f} s, {tokens} tokens in {run_s:6.1f} s, "
            f"{rates[backend]:7.1f} tokens/s"
        )
    pairs = zip(given["transformers"], given["vllm"], strict=True)
    same = sum(a.text == b.text for a, b in pairs)
    print(f"vllm / transformers: {rates['vllm'] / rates['transformers']:.2f}x; "
          f"same answer to {same} of {len(prompts)} prompts")  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
