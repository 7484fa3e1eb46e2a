"""generate_responses: one model answers the evaluation prompts.

prompts + model -> generations (one per prompt of a suite, or of its part of them where
`num_shards` tasks share the prompts), with metrics.json and unanswered.json (which prompts have no
answer, and why).
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from components.generate_responses.config import GenerateResponsesConfig
from components.generate_responses.parts import deal
from components.generate_responses.shards import ShardStore
from equilibrate_core.artifacts import Counts, StageRun
from equilibrate_core.completions import Completion
from equilibrate_core.errors import ConfigError, DataError, StageError
from equilibrate_core.generations import summarise
from equilibrate_core.generator import open_generator, resolved_fields, settle
from equilibrate_core.generator_config import GeneratorConfig, Sampling
from equilibrate_core.progress import Progress
from equilibrate_core.records import (
    HARM_DISPUTED,
    NO_ANSWER,
    UNANSWERED,
    Generation,
    LabelledPrompt,
    digest,
)
from equilibrate_core.stage import Metrics, stage_main, start_stage
from equilibrate_core.tables import read_dataset, write_dataset

ERRORS_SHOWN = 3


def generate_responses(
    config: GenerateResponsesConfig, *, prompts: Path, model: Path, generations: Path
) -> Metrics:
    """Answer the evaluation prompts with one model."""
    run = start_stage("generate_responses", config, prompts=prompts, model=model)
    found = Counts()
    wanted = choose_prompts(config, read_dataset(prompts, LabelledPrompt), found)
    chosen, counts = deal(wanted, found, config.shard, config.num_shards)
    sampling = config.sampling.model_copy(update={"seed": config.sampling.seed + config.seed})
    model_id = run.inputs["model"]
    settled = settle(config.generator)
    run = replace(run, resolved=resolved_fields("generator", settled))
    completions = answer_in_shards(config, run, settled, chosen, sampling, model)
    check_failures(config, completions, len(wanted))
    rows = [
        generation(config.model_name, prompt, completion, model_id, sampling)
        for prompt, completion in zip(chosen, completions, strict=True)
        if completion.error is None
    ]
    counts.drop(NO_ANSWER, len(chosen) - len(rows))
    counts.kept = len(rows)
    metrics = summarise(rows, len(chosen))
    unanswered = {p.id: c.error for p, c in zip(chosen, completions, strict=True) if c.error}
    write_dataset(
        run,
        generations,
        Generation,
        rows,
        counts=counts,
        extra_files={
            "metrics.json": json.dumps(metrics, indent=2),
            UNANSWERED: json.dumps(unanswered, indent=2, sort_keys=True),
        },
    )
    return metrics


def answer_in_shards(
    config: GenerateResponsesConfig,
    run: StageRun,
    settled: GeneratorConfig,
    prompts: Sequence[LabelledPrompt],
    sampling: Sampling,
    model: Path,
) -> list[Completion]:
    """Answers in the prompts' order.

    Shards that are kept from an earlier attempt are read; the model is loaded for the others
    alone, and not at all when there are none.
    """
    identity = {
        "model": run.inputs["model"],
        "sampling": sampling.model_dump(mode="json"),
        "generator": settled.model_dump(mode="json"),
        "code": run.code_version,
        "packages": run.packages,
    }
    store = ShardStore(config.shards_uri, identity) if config.shards_uri else None
    size = config.shard_size
    shards = [list(prompts[start : start + size]) for start in range(0, len(prompts), size)]
    found = [store.read(shard) if store else None for shard in shards]
    with Progress(f"generate_responses {config.model_name}", total=len(prompts)) as progress:
        progress.skip(sum(len(kept) for kept in found if kept is not None), "kept from before")
        if None in found:
            with open_generator(settled, model) as generator:
                for place, shard in enumerate(shards):
                    if found[place] is None:
                        new = generator.generate(
                            [p.messages for p in shard], sampling, on_done=progress.advance
                        )
                        if store:
                            store.write(shard, new)
                        found[place] = new
    return [completion for shard in found for completion in shard or ()]


def choose_prompts(
    config: GenerateResponsesConfig, prompts: Sequence[LabelledPrompt], counts: Counts
) -> list[LabelledPrompt]:
    """The evaluation prompts to answer, by suite and id; the others are counted as dropped.

    Raises ConfigError on a suite nobody belongs to, DataError when nothing is left.
    """
    present = {prompt.suite for prompt in prompts} - {None}
    unknown = sorted(set(config.suites or ()) - present)
    if unknown:
        raise ConfigError(f"suites: no prompt belongs to {unknown}; there are {sorted(present)}")
    taken: Counter[str] = Counter()
    chosen: list[LabelledPrompt] = []
    counts.read = len(prompts)
    for prompt in sorted(prompts, key=lambda prompt: (prompt.suite or "", prompt.id)):
        if prompt.suite is None:
            counts.drop("training_prompt")
        elif config.suites is not None and prompt.suite not in config.suites:
            counts.drop("suite_not_chosen")
        elif HARM_DISPUTED in prompt.metadata:
            counts.drop("disputed_is_harmful")
        elif taken[prompt.suite] == config.max_prompts_per_suite:
            counts.drop("over_max_prompts_per_suite")
        else:
            taken[prompt.suite] += 1
            chosen.append(prompt)
    if not chosen:
        raise DataError("generate_responses: no prompt belongs to an evaluation suite")
    return chosen


def check_failures(
    config: GenerateResponsesConfig, completions: Sequence[Completion], num_prompts: int
) -> None:
    """Raise StageError when too many prompts have no answer.

    `num_prompts` are those of all parts: a part may fail what one task for all could have, no more.
    """
    errors = Counter(completion.error for completion in completions if completion.error)
    if errors.total() > config.max_failed_share * num_prompts:
        common = "; ".join(f"{number} x {e}" for e, number in errors.most_common(ERRORS_SHOWN))
        raise StageError(
            f"generate_responses: {errors.total()} of {num_prompts} prompts have no answer, "
            f"more than max_failed_share {config.max_failed_share:g} allows: {common}"
        )


def generation(
    model_name: str,
    prompt: LabelledPrompt,
    completion: Completion,
    model_id: str,
    sampling: Sampling,
) -> Generation:
    """One answer as a row; equal prompt, model and sampling give an equal id."""
    assert prompt.suite is not None
    return Generation(
        id=digest([prompt.id, model_id, sampling.model_dump()]),
        prompt_id=prompt.id,
        suite=prompt.suite,
        model=model_name,
        messages=prompt.messages,
        response=completion.text,
        finish_reason=completion.finish_reason,
        num_tokens=completion.num_tokens,
        seed=sampling.seed,
    )


if __name__ == "__main__":
    raise SystemExit(stage_main(generate_responses, GenerateResponsesConfig))
