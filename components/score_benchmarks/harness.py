"""Run harness tasks on a loaded model and reduce them to one 0-or-1 per item.

model directory -> a harness model, once; tasks -> items with their scores.
"""

import gc
import logging
import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.evaluator import evaluate

from components.score_benchmarks.config import SCORING, Benchmark, ScoreBenchmarksConfig
from components.score_benchmarks.sandbox import Limits, check_sandbox, run_program
from components.score_benchmarks.vllm_model import vllm_model
from equilibrate_core.chat import DATED
from equilibrate_core.errors import StageError
from equilibrate_core.generator_dtype import resolve_dtype
from equilibrate_core.progress import Progress
from equilibrate_core.vllm_process import stop, vllm_process

logger = logging.getLogger(__name__)
FEWSHOT_SEED = DEFAULT_OTHER_SEED
"""Draws worked examples where a task has no fixed ones: the fourth of `lm_eval --seed`'s defaults
(1234), whatever the stage's seed, so that scores equal those of the harness's command line."""


@dataclass(frozen=True)
class Item:
    """One scored question."""

    benchmark: str
    leaf: str
    """Leaf task of the harness."""
    index: int
    """Row of the leaf's scored rows: the same question for every model."""
    correct: int
    """1 or 0."""
    truncated: bool
    """The prompt lost its beginning because the model's context is too short for it."""
    cut: bool = False
    """What the model wrote reached the longest answer allowed, and most likely goes on."""


@contextmanager
def open_model(config: ScoreBenchmarksConfig, folder: Path) -> Generator[LM]:
    """The model behind the harness's interface, loaded once; a vllm engine is stopped again."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # warns of every task we define
    gc.collect()  # the model of an attempt before this one
    torch.cuda.empty_cache()
    if config.backend == "transformers":
        yield _transformers_model(config, folder)
        return
    with vllm_process():
        lm = vllm_model(config, folder)
        try:
            yield lm
        finally:
            stop(lm.model)


def score_tasks(
    config: ScoreBenchmarksConfig, benchmark: Benchmark, lm: LM, tasks: dict[str, ConfigurableTask]
) -> list[Item]:
    """Ask and score every item of a benchmark's leaf tasks."""
    limits = Limits(
        cpu_s=config.program_cpu_s,
        wall_s=4 * config.program_cpu_s + 10,
        memory_mb=config.program_memory_mb,
    )
    if benchmark == "humaneval":  # before the model spends its time
        logger.info("humaneval: sandbox holds: %s", ", ".join(check_sandbox(limits)))
    for task in tasks.values():
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    limit = config.items_per_benchmark
    results = evaluate(
        lm,
        {"tasks": dict(tasks), "groups": {}},
        limit=None if limit is None else math.ceil(limit / len(tasks)),
        bootstrap_iters=0,
        apply_chat_template=config.apply_chat_template,
        fewshot_as_multiturn=config.apply_chat_template,
    )
    if results is None:
        raise StageError(f"{benchmark}: the harness gave no results to this process")
    wanted = SCORING[benchmark]
    samples = [
        (leaf, sample)
        for leaf, rows in results["samples"].items()
        for sample in rows
        if benchmark == "humaneval" or sample["filter"] == wanted.filter
    ]
    if benchmark == "humaneval":
        programs = [_program(sample, fenced=config.apply_chat_template) for _, sample in samples]
        correct = _run_programs(programs, limits)
    else:
        correct = [int(sample[wanted.metric]) for _, sample in samples]
    return [
        Item(
            benchmark,
            leaf,
            sample["doc_id"],
            score,
            _is_truncated(lm, sample),
            _is_cut(lm, sample),
        )
        for (leaf, sample), score in zip(samples, correct, strict=True)
    ]


def _program(sample: dict[str, Any], *, fenced: bool) -> str:
    """Prompt, what the model wrote and the checks, joined as in the harness.

    `fenced`: the answer was begun inside a code fence and ends where that is closed.
    """
    row, completion = sample["doc"], sample["resps"][0][0]
    if fenced:
        completion = completion.partition("```")[0]
    return f"{row['prompt']}{completion}\n{row['test']}\ncheck({row['entry_point']})"


def _run_programs(programs: list[str], limits: Limits) -> list[int]:
    """pass@1: 1 for every program that reaches its end in the sandbox."""
    scores: list[int] = []
    with Progress("humaneval programs", total=len(programs), unit="program") as progress:
        for program in programs:
            scores.append(int(run_program(program, limits).passed))
            progress.advance(1)
    return scores


def _is_truncated(lm: Any, sample: dict[str, Any]) -> bool:
    """Whether a request of this sample was longer than the model takes."""
    for context, target in sample["arguments"]:
        if isinstance(target, dict):  # generation: room is kept for the answer
            excess = len(lm.tok_encode(context)) + target["max_gen_toks"] - lm.max_length
        else:  # the last token of the answer is not fed in
            excess = len(lm.tok_encode(context + target)) - 1 - lm.max_length
        if excess > 0:
            return True
    return False


def _is_cut(lm: Any, sample: dict[str, Any]) -> bool:
    """Whether an answer of this sample is as long as it may be.

    The harness hands on text alone, whatever the backend, so its tokens are counted anew.
    """
    return any(
        len(lm.tok_encode(text, add_special_tokens=False)) >= target["max_gen_toks"]
        for (_, target), texts in zip(sample["arguments"], sample["resps"], strict=True)
        if isinstance(target, dict)
        for text in texts
    )


def _transformers_model(config: ScoreBenchmarksConfig, folder: Path) -> LM:
    from lm_eval.models.huggingface import HFLM

    from equilibrate_core.models import check_model_folder, load_causal_lm, load_tokenizer

    check_model_folder(folder)
    return HFLM(
        pretrained=load_causal_lm(folder, dtype=resolve_dtype(config.dtype)),
        tokenizer=load_tokenizer(folder),
        batch_size=config.batch_size,
        max_length=config.max_length,
        chat_template_args=dict(DATED),
    )
