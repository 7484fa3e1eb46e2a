"""ADPO and scorer training side by side with TRL on the same real pairs, files to files.

    python benchmarks/training.py --data pairs.jsonl [--pairs 256] [--longest 512] [--precision …]
        [--arms …]

The data file holds PKU-SafeRLHF pairs (`prompt`, `response`: [safer, other]). Every arm runs in a
process of its own and starts with the same model, rows, precision and batches; its time counts
from loaded libraries to a saved model, reference log-probs and token scores included. Arms named
`adpo:…` and `scorer:…` switch one optimisation off each, the last two switch one on:

    rows_apart   a row per answer, so that the prompt is computed twice
    any_order    rows in the order they come, not those of like length together
    all_logits   the vocabulary projected at every position and all at once
    one_chunk    the vocabulary projected at kept tokens, but all at once
    all_tokens   no masks: plain DPO
    fixed_size   micro-batches of TRL's size, whatever the rows' lengths
    wide         micro-batches of twice as many tokens
    all_rewards  the reward model reads the pairs, too, though no mask looks at rewards (they are
                 harmless pairs)
    flex         attention: flex_attention; trains on GPUs alone
    compile      compile: true; its time counts the compiling
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

MAX_LENGTH, BATCH, MICRO_BATCH = 512, 32, 4
DEFAULT_ARMS = (
    "adpo,trl_dpo_default,trl_dpo_best,scorer,trl_reward_best,adpo:rows_apart,adpo:all_tokens"
)


def main() -> int:
    """Prepare the inputs, run each arm, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="PKU-SafeRLHF pairs as JSON lines")
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument(
        "--longest", type=int, default=MAX_LENGTH, help="tokens of prompt and answer, at most"
    )
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--arms", default=DEFAULT_ARMS, help="names, separated by commas")
    parser.add_argument("--work-dir", type=Path, help="prepared inputs are kept here")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.arm:
        print(json.dumps(run_arm(given.arm, given.work_dir, given.precision)))
        return 0
    if given.data is None:
        parser.error("--data is needed: a file of PKU-SafeRLHF pairs")
    with tempfile.TemporaryDirectory() as folder:
        return compare(given, given.work_dir or Path(folder))


def compare(given: argparse.Namespace, work: Path) -> int:
    """Run every arm in a process of its own, and print what each took."""
    num_tokens = prepare(work, given.data, given.pairs, given.longest)
    print(f"{given.pairs} pairs of {num_tokens} tokens, batch {BATCH}, {given.precision}")
    for arm in given.arms.split(","):
        options = ["--arm", arm, "--work-dir", str(work), "--precision", given.precision]
        done = subprocess.run(
            [sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            print(f"{arm}: failed", flush=True)
            continue
        found = json.loads(done.stdout.strip().splitlines()[-1])
        phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in found["phases"].items())
        rate = given.pairs / sum(found["phases"].values())
        print(
            f"{arm:18} {rate:6.3f} pairs/s  {found['peak_gib']:5.2f} GiB  ({phases}; "
            f"{found['cores_s']:.0f} s of the cores)",
            flush=True,
        )
    return 0


def prepare(work: Path, data: Path, num_pairs: int, longest: int) -> int:
    """Base model, scorers with fresh heads and the pairs, as artifacts under `work`.

    Gives the number of tokens in the pairs, both sides with the prompt.
    """
    from components.import_model.config import ImportModelConfig
    from components.import_model.stage import import_model
    from equilibrate_core.artifacts import StageRun, remove
    from equilibrate_core.models import load_tokenizer
    from equilibrate_core.records import Pair
    from equilibrate_core.scorer import ScorerConstants, new_scorer_model, save_scorer
    from equilibrate_core.tables import write_dataset

    def run() -> StageRun:
        return StageRun(stage="benchmark", config={}, seed=0, code_version="", inputs={})

    base = work / "base"
    if not base.exists():
        import_model(ImportModelConfig(uri="smollm2"), base_model=base)
        for kind in ("reward", "cost"):
            model, tokenizer = new_scorer_model(base, seed=0)
            with run().output(work / kind, "scorer") as draft:
                constants = ScorerConstants(kind=kind, center=0.0, scale=1.0, token_wise=True)
                save_scorer(draft.path, model, tokenizer, constants)
    found = distinct_pairs(data, num_pairs, longest, load_tokenizer(base))
    pairs = [pair for pair, _ in found]
    for name, rows in (("pairs", pairs), ("eval_pairs", pairs[:1])):
        remove(work / name)
        write_dataset(run(), work / name, Pair, rows)
    return sum(num_tokens for _, num_tokens in found)


def distinct_pairs(
    data: Path, num_pairs: int, longest: int, tokenizer: Any
) -> list[tuple[Any, int]]:
    """The first distinct pairs of the file that fit the length limit, and their tokens."""
    from equilibrate_core.chat import encode_answer
    from equilibrate_core.records import Message, Pair, prompt_id

    pairs: dict[str, tuple[Any, int]] = {}
    for line in data.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        messages = (Message(role="user", content=row["prompt"]),)
        chosen, rejected = row["response"]
        sides = [encode_answer(tokenizer, messages, text) for text in (chosen, rejected)]
        lengths = [len(side.prompt_ids) + len(side.response_ids) for side in sides]
        if max(lengths) > longest:
            continue
        key = prompt_id(messages)
        pair = Pair(
            id=f"{key}-{len(pairs)}",
            prompt_id=key,
            messages=messages,
            chosen=chosen,
            rejected=rejected,
            chosen_is_safe=True,
            rejected_is_safe=False,
            dimension="harmless",
            source="pku",
        )
        pairs[json.dumps(row, sort_keys=True)] = pair, sum(lengths)
        if len(pairs) == num_pairs:
            return list(pairs.values())
    raise SystemExit(f"{data}: only {len(pairs)} distinct pairs that fit")


def run_arm(arm: str, work: Path, precision: str) -> dict[str, Any]:
    """Run one arm in this process: seconds of its phases and of the cores, and peak memory.

    The memory is the GPU's where there is one. The seconds of the cores leave out what other
    processes take, and count loading libraries.
    """
    name, _, variant = arm.partition(":")
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        phases = ARMS[name](work, Path(folder), precision, variant)
    cores_s = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    import torch

    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 1024**3
    return {"phases": phases, "peak_gib": peak, "cores_s": cores_s}


def adpo(work: Path, out: Path, precision: str, variant: str) -> dict[str, float]:
    """Our stages score_tokens and train_policy; `variant` switches one optimisation."""
    from components.score_tokens.config import ScoreTokensConfig
    from components.score_tokens.stage import score_tokens
    from components.train_policy.config import AmaConfig, TrainPolicyConfig
    from components.train_policy.stage import train_policy

    switch_off(variant)
    # Fresh heads have no boundary at 0: the response's own mean keeps about half of its tokens.
    policy_config = TrainPolicyConfig(
        loss="dpo" if variant == "all_tokens" else "adpo",
        ama=AmaConfig(baseline="response_mean"),
        max_length=MAX_LENGTH,
        training=training(precision, variant, learning_rate=1e-6),
        num_previews=0,
        max_kl_pairs=0,
    )
    score_config = ScoreTokensConfig(
        max_length=MAX_LENGTH,
        batch_size=16,
        precision=precision,
        rewards="all_pairs" if variant == "all_rewards" else "helpful_pairs",
        attention="flex_attention" if variant == "flex" else "sdpa",
        compile=variant == "compile",
    )

    def score() -> None:
        score_tokens(
            score_config,
            pairs=work / "pairs",
            reward_model=work / "reward",
            cost_model=work / "cost",
            reference_model=work / "base",
            scored_pairs=out / "scored",
        )

    def train() -> None:
        train_policy(
            policy_config,
            scored_pairs=out / "scored",
            eval_pairs=work / "eval_pairs",
            base_model=work / "base",
            policy=out / "policy",
        )

    return {"score_tokens": seconds(score), "train_policy": seconds(train)}


def scorer(work: Path, out: Path, precision: str, variant: str) -> dict[str, float]:
    """Our stage train_scorer on the same pairs, as a cost model."""
    from components.train_scorer.config import TrainScorerConfig
    from components.train_scorer.stage import train_scorer

    switch_off(variant)
    config = TrainScorerConfig(
        kind="cost",
        held_out_share=0.01,
        max_length=MAX_LENGTH,
        training=training(precision, variant, learning_rate=2e-5),
    )
    return {
        "train_scorer": seconds(
            lambda: train_scorer(
                config, pairs=work / "pairs", base_model=work / "base", scorer=out / "scorer"
            )
        )
    }


def switch_off(variant: str) -> None:
    """Take one optimisation out of the product's code in this process."""
    from equilibrate_core import batches, logps

    if variant == "rows_apart":
        batches.SHARING_MODELS = frozenset()
    if variant == "any_order":
        from components.score_tokens import stage
        from equilibrate_core import training

        def unsorted(rows: Iterable[Any], key: Any = None) -> list[Any]:
            return list(rows)

        for module in (stage, training):
            setattr(module, "sorted", unsorted)  # noqa: B010
    if variant in ("one_chunk", "all_logits"):
        logps.VOCABULARY_CHUNK = 2**31
    if variant == "all_logits":
        kept_token_logps = logps.token_logps

        def all_token_logps(model: Any, batch: Any, wanted_NL: Any, precision: Any) -> Any:
            every_NL = batch.attention_mask_NL.bool()
            every_NL[:, 0] = False
            logps_NL = kept_token_logps(model, batch, every_NL, precision)
            return logps_NL * wanted_NL.to(logps_NL.device)

        from components.score_tokens import stage
        from components.train_policy import objective

        for module in (stage, objective):
            setattr(module, "token_logps", all_token_logps)  # noqa: B010


def training(precision: Any, variant: str, *, learning_rate: float) -> Any:
    from equilibrate_core.training_config import TrainingConfig

    fixed = variant == "fixed_size"
    tokens = 2 * MAX_LENGTH if variant == "wide" else MAX_LENGTH
    return TrainingConfig(
        epochs=1,
        batch_size=BATCH,
        # Larger micro-batches of short rows than TRL's, smaller ones of long rows.
        micro_batch_size=MICRO_BATCH if fixed else MICRO_BATCH * 2,
        micro_batch_tokens=None if fixed else tokens,
        learning_rate=learning_rate,
        precision=precision,
        zero_stage=0,
        weight_decay=0.0,
        attention="flex_attention" if variant == "flex" else "sdpa",
        compile=variant == "compile",
    )


def trl_dpo_default(work: Path, out: Path, precision: str, variant: str) -> dict[str, float]:
    """TRL's DPOTrainer as it comes, but for batch, length and precision."""
    return _trl("DPO", work, out, precision, rows=trl_rows(work))


def trl_dpo_best(work: Path, out: Path, precision: str, variant: str) -> dict[str, float]:
    """TRL's DPOTrainer as fast as its options make it."""
    return _trl(
        "DPO",
        work,
        out,
        precision,
        rows=by_length(trl_rows(work)),
        gradient_checkpointing=False,
        precompute_ref_log_probs=True,
        train_sampling_strategy="sequential",
    )


def trl_reward_best(work: Path, out: Path, precision: str, variant: str) -> dict[str, float]:
    """TRL's RewardTrainer as fast as its options make it."""
    return _trl(
        "Reward",
        work,
        out,
        precision,
        rows=by_length(trl_rows(work)),
        gradient_checkpointing=False,
        train_sampling_strategy="sequential",
    )


def _trl(
    kind: str, work: Path, out: Path, precision: str, *, rows: list[dict[str, Any]], **options: Any
) -> dict[str, float]:
    import torch
    import trl
    from datasets import Dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )

    config = getattr(trl, f"{kind}Config")(
        output_dir=str(out),
        max_length=MAX_LENGTH,
        num_train_epochs=1,
        per_device_train_batch_size=MICRO_BATCH,
        gradient_accumulation_steps=BATCH // MICRO_BATCH,
        learning_rate=1e-6,
        bf16=precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **options,
    )

    def work_through() -> None:
        tokenizer = AutoTokenizer.from_pretrained(work / "base")
        if kind == "DPO":
            model = AutoModelForCausalLM.from_pretrained(work / "base", dtype=torch.float32)
        else:
            tokenizer.pad_token = "<|endoftext|>"
            model = AutoModelForSequenceClassification.from_pretrained(
                work / "base", dtype=torch.float32, num_labels=1
            )
        trainer = getattr(trl, f"{kind}Trainer")(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        trainer.train()
        trainer.save_model(str(out / "model"))

    return {"train": seconds(work_through)}


def trl_rows(work: Path) -> list[dict[str, Any]]:
    """The pairs as TRL's conversational preference rows."""
    from equilibrate_core.records import Pair
    from equilibrate_core.tables import read_dataset

    def answer(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    return [
        {
            "prompt": [{"role": m.role, "content": m.content} for m in pair.messages],
            "chosen": answer(pair.chosen),
            "rejected": answer(pair.rejected),
        }
        for pair in read_dataset(work / "pairs", Pair)
    ]


def by_length(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of like length side by side."""
    return sorted(rows, key=lambda r: max(len(r[s][0]["content"]) for s in ("chosen", "rejected")))


def seconds(action: Callable[[], Any]) -> float:
    """Wall time of an action."""
    started = time.monotonic()
    action()
    return time.monotonic() - started


ARMS: dict[str, Callable[[Path, Path, str, str], dict[str, float]]] = {
    "adpo": adpo,
    "scorer": scorer,
    "trl_dpo_default": trl_dpo_default,
    "trl_dpo_best": trl_dpo_best,
    "trl_reward_best": trl_reward_best,
}


if __name__ == "__main__":
    raise SystemExit(main())
