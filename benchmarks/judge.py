"""Prompts a second of the judge against a plain transformers loop that generates JSON.

    python benchmarks/judge.py --model FOLDER [--prompts 128] [--loop-prompts 64]

Same model, same run, same prompt file, same prompts (the embedded sample's). The judge runs
in-process and gives one-token verdicts; the loop writes a JSON verdict with its reason, prompt by
prompt. Start-up and loading count for neither; the first prompt's instructions count for both.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from components.classify_prompts.config import ClassifyPromptsConfig
from components.classify_prompts.panel import QUESTIONS
from equilibrate_core.chat import encode_prompt
from equilibrate_core.generator import open_generator
from equilibrate_core.generator_dtype import resolve_dtype
from equilibrate_core.judge import ask
from equilibrate_core.judge_ledger import Ledger
from equilibrate_core.judge_question import Parts, render
from equilibrate_core.models import load_causal_lm, load_tokenizer

SAMPLE = Path(__file__).parents[1] / "pipelines" / "sample" / "prompts.jsonl"
REASON_TOKENS = 96
JUDGE = {
    "judge": {"max_model_len": 2048, "batch_size": 64},
    "rationale": False,
    "max_tokens": 8,
    "max_unscored_share": 1.0,
}


def sample_prompts(number: int) -> list[Parts]:
    """The first `number` distinct prompts of the embedded sample as judged texts."""
    rows = (json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines())
    texts = dict.fromkeys(row["prompt"] for row in rows)
    if len(texts) < number:
        raise SystemExit(f"the sample has {len(texts)} prompts, fewer than {number}")
    return [{"REQUEST": text} for text in list(texts)[:number]]


def time_judge(parts: list[Parts], model: Path) -> float:
    """Seconds in which the judge sorts all prompts."""
    config = ClassifyPromptsConfig.model_validate(JUDGE)
    with (
        open_generator(config.judge, model) as generator,
        tempfile.TemporaryDirectory() as folder,
        Ledger(Path(folder)) as ledger,
    ):
        started = time.monotonic()
        judgements = ask(
            generator, QUESTIONS[config.prompt], parts, config, label="judge", ledger=ledger
        )
        seconds = time.monotonic() - started
    assert all(judgement.label for judgement in judgements)
    return seconds


def time_loop(parts: list[Parts], model_path: Path) -> float:
    """Seconds in which a loop over `generate` writes a JSON verdict for every prompt."""
    config = ClassifyPromptsConfig()
    tokenizer = load_tokenizer(model_path)
    model = load_causal_lm(model_path, dtype=resolve_dtype("auto"))
    started = time.monotonic()
    for part in parts:
        message, _ = render(QUESTIONS[config.prompt], part, config, config.max_text_chars)
        ids_1P = torch.tensor([encode_prompt(tokenizer, [message])])
        with torch.inference_mode():
            model.generate(  # pyright: ignore[reportCallIssue]
                ids_1P,
                attention_mask=torch.ones_like(ids_1P),
                max_new_tokens=REASON_TOKENS,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--loop-prompts", type=int, default=64)
    options = parser.parse_args()
    parts = sample_prompts(options.prompts)
    loop_parts = parts[: options.loop_prompts]
    loop_rate = len(loop_parts) / time_loop(loop_parts, options.model)
    print(f"plain loop: {loop_rate:.3f} prompts/s over {len(loop_parts)} prompts", flush=True)
    judge_rate = len(parts) / time_judge(parts, options.model)
    print(f"judge: {judge_rate:.2f} prompts/s over {len(parts)} prompts")
    print(f"ratio: {judge_rate / loop_rate:.1f}")


if __name__ == "__main__":
    main()
