"""build_pairs: prompts that came without answers become pairs by the base model's own answers.

labelled prompts + base model + scorers + train_pairs -> pairs: train_pairs and the new ones, with
the data card of both. Only prompts that assemble_dataset left free are used: they are no prompt of
a pair, not like evaluation prompts, and neither like those of scorer_pairs and eval_pairs nor of
one conversation with them.
"""

import csv
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import isnan
from pathlib import Path

from components.build_pairs.config import BuildPairsConfig
from components.build_pairs.contrast import NO_PAIR, Answer, contrast
from components.build_pairs.data_card import continued_card
from equilibrate_core.artifacts import Counts
from equilibrate_core.completions import Completion
from equilibrate_core.errors import DataError, StageError
from equilibrate_core.generator import open_generator, resolved_fields, settle
from equilibrate_core.progress import Progress
from equilibrate_core.records import LabelledPrompt, Pair, digest, pair_id
from equilibrate_core.scorer import check_scorer, load_scorer, score_responses
from equilibrate_core.stage import Metrics, stage_main, start_stage
from equilibrate_core.tables import iter_dataset, read_dataset, write_dataset

FREE_PROMPTS = "free_prompts.csv"
FATES = ("failed", "cut", "unread")
"""Of answers: no text came, it was not at its end, or a scorer could not read it (`max_length`)."""
log = logging.getLogger(__name__)


def build_pairs(
    config: BuildPairsConfig,
    *,
    labelled_prompts: Path,
    base_model: Path,
    reward_model: Path,
    cost_model: Path,
    train_pairs: Path,
    pairs: Path,
) -> Metrics:
    """Sample answers, rank them by reward and cost, pair the safe best with the unsafe worst."""
    run = start_stage(
        "build_pairs",
        config,
        labelled_prompts=labelled_prompts,
        base_model=base_model,
        reward_model=reward_model,
        cost_model=cost_model,
        train_pairs=train_pairs,
    )
    check_scorer(reward_model, "reward")  # loaded last: a mistake must not cost the samples
    check_scorer(cost_model, "cost")
    config = config.model_copy(update={"generator": settle(config.generator)})
    run = replace(run, resolved=resolved_fields("generator", config.generator))
    known = read_dataset(train_pairs, Pair)
    prompts = choose_prompts(config, labelled_prompts, train_pairs)
    samples = _sample(config, prompts, base_model)
    rewards = _score(config, reward_model, prompts, samples)
    costs = _score(config, cost_model, prompts, samples)
    counts = Counts(read=len(known) + len(prompts))
    built: list[Pair] = []
    for prompt, *columns in zip(prompts, samples, rewards, costs, strict=True):
        # Training ends every answer: a cut one would teach to stop in mid-sentence.
        answers = [
            Answer(completion.text, reward, cost)
            for completion, reward, cost in zip(*columns, strict=True)
            if not completion.error and completion.finish_reason == "stop"
        ]
        found = contrast(answers)
        if isinstance(found, str):
            counts.drop(found)
        else:
            built.append(_pair(prompt, *found))
    counts.kept = len(known) + len(built)
    answers_by_fate = _fates(samples, rewards, costs)
    metrics: Metrics = {
        "num_prompts": len(prompts),
        "num_answers": sum(len(row) for row in samples),
        **{f"num_{fate}_answers": answers_by_fate[fate] for fate in FATES},
        "num_built_pairs": len(built),
        **{f"num_{reason}": counts.dropped.get(reason, 0) for reason in NO_PAIR},
    }
    rows = sorted([*known, *built], key=lambda pair: pair.id)
    numbers = {
        "prompts_answered": len(prompts),
        **dict(sorted(counts.dropped.items())),
        **{f"{fate}_answers": answers_by_fate[fate] for fate in FATES},
    }
    extra = {
        "metrics.json": json.dumps(metrics, indent=2),
        **continued_card(train_pairs, labelled_prompts, known, built, numbers),
    }
    write_dataset(run, pairs, Pair, rows, counts=counts, extra_files=extra)
    return metrics


def _fates(
    samples: Sequence[Sequence[Completion]],
    rewards: Sequence[Sequence[float]],
    costs: Sequence[Sequence[float]],
) -> Counter[str]:
    """Why answers can be no part of a pair, and how many; each counts once."""
    found: Counter[str] = Counter()
    for row in zip(samples, rewards, costs, strict=True):
        for completion, reward, cost in zip(*row, strict=True):
            if completion.error:
                found["failed"] += 1
            elif completion.finish_reason == "length":
                found["cut"] += 1
            elif isnan(reward) or isnan(cost):
                found["unread"] += 1
    return found


def choose_prompts(
    config: BuildPairsConfig, labelled_prompts: Path, train_pairs: Path
) -> list[LabelledPrompt]:
    """Free prompts of the wanted categories, each with the category that FDC gave it."""
    path = train_pairs / FREE_PROMPTS
    if not path.is_file():
        raise DataError(f"{train_pairs}: no {FREE_PROMPTS}; take train_pairs of assemble_dataset")
    with path.open(encoding="utf-8", newline="") as file:
        free = {row["id"]: row["category"] for row in csv.DictReader(file)}
    order = sorted(free, key=lambda prompt: digest([config.seed, prompt]))
    taken: Counter[str] = Counter()
    chosen: dict[str, str] = {}
    for prompt in order:
        category = free[prompt]
        if category in config.categories and taken[category] < config.prompts_per_category:
            taken[category] += 1
            chosen[prompt] = category
    rows: dict[str, LabelledPrompt] = {}
    for row in iter_dataset(labelled_prompts, LabelledPrompt):
        if row.id in chosen:
            rows[row.id] = row.model_copy(update={"category": chosen[row.id]})
    if not rows:
        log.warning("build_pairs: no prompt of %s is without pairs", ", ".join(config.categories))
    return [rows[prompt] for prompt in sorted(rows)]


def _sample(
    config: BuildPairsConfig, prompts: Sequence[LabelledPrompt], base_model: Path
) -> list[list[Completion]]:
    """`num_samples` answers per prompt; a prompt's answers do not depend on the other prompts."""
    if not prompts:
        return []
    conversations = [prompt.messages for prompt in prompts]
    first = config.seed + config.sampling.seed
    rounds: list[list[Completion]] = []
    with (
        open_generator(config.generator, base_model) as generator,
        Progress("build_pairs", total=len(prompts) * config.num_samples) as progress,
    ):
        for number in range(config.num_samples):
            seed = int(digest([first, number])[:7], 16)
            sampling = config.sampling.model_copy(update={"seed": seed})
            rounds.append(generator.generate(conversations, sampling, on_done=progress.advance))
    errors = Counter(c.error for answers in rounds for c in answers if c.error)
    if errors.total() > config.max_failed_share * len(prompts) * config.num_samples:
        raise StageError(
            f"build_pairs: {errors.total()} of {len(prompts) * config.num_samples} answers failed, "
            f"more than max_failed_share {config.max_failed_share:g} allows: "
            + "; ".join(f"{n} x {e}" for e, n in errors.most_common(3))
        )
    return [list(answers) for answers in zip(*rounds, strict=True)]


def _score(
    config: BuildPairsConfig,
    folder: Path,
    prompts: Sequence[LabelledPrompt],
    samples: Sequence[Sequence[Completion]],
) -> list[list[float]]:
    """Value of every answer, laid out as `samples`."""
    scorer = load_scorer(folder)
    flat = [(p.messages, c) for p, row in zip(prompts, samples, strict=True) for c in row]
    values = score_responses(
        scorer,
        [messages for messages, _ in flat],
        [completion.text for _, completion in flat],
        [completion.finish_reason == "stop" for _, completion in flat],
        batch_size=config.batch_size,
        max_length=config.max_length,
    )
    width = config.num_samples
    return [values[i : i + width] for i in range(0, len(values), width)]


def _pair(prompt: LabelledPrompt, best: Answer, worst: Answer) -> Pair:
    return Pair(
        id=pair_id(prompt.id, best.text, worst.text, "harmless"),
        prompt_id=prompt.id,
        messages=prompt.messages,
        chosen=best.text,
        rejected=worst.text,
        chosen_is_safe=True,
        rejected_is_safe=False,
        dimension="harmless",
        category=prompt.category,
        source=prompt.source,
    )


if __name__ == "__main__":
    raise SystemExit(stage_main(build_pairs, BuildPairsConfig))
