"""judge_responses: safety, refusal, preference, reward and cost of one model's answers.

prompts + generations (+ another model's, + pairs and answers with human labels, + what the cost
model learned from) + judge + scorers -> verdicts with metrics.json and human_agreement.json.
"""

import json
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from components.judge_responses.config import JudgeResponsesConfig
from components.judge_responses.human_agreement import agreement_scalars, human_agreement
from components.judge_responses.human_labels import HumanLabels, human_labels
from components.judge_responses.questions import QUESTIONS, Task, plan, verdict
from components.judge_responses.scores import score_verdicts
from components.judge_responses.training_prompts import check_learned_from
from equilibrate_core.artifacts import Counts
from equilibrate_core.errors import StageError
from equilibrate_core.generator import open_generator, resolved_fields, settle
from equilibrate_core.judge import ask, judge_name
from equilibrate_core.judge_ledger import Ledger
from equilibrate_core.records import Generation, LabelledAnswer, LabelledPrompt, Pair, Verdict
from equilibrate_core.scorer import ScorerKind, check_scorer
from equilibrate_core.stage import Metrics, stage_main, start_stage
from equilibrate_core.tables import read_dataset, write_dataset
from equilibrate_core.verdict_labels import PREFERENCE_LABELS, REFUSAL_LABELS, SAFETY_LABELS

LABELS = {"safety": SAFETY_LABELS, "refusal": REFUSAL_LABELS, "preference": PREFERENCE_LABELS}


def judge_responses(
    config: JudgeResponsesConfig,
    *,
    prompts: Path,
    generations: Path,
    judge_model: Path,
    reward_model: Path,
    cost_model: Path,
    verdicts: Path,
    other_generations: Path | None = None,
    labelled_pairs: Path | None = None,
    labelled_answers: Path | None = None,
    scorer_pairs: Path | None = None,
) -> Metrics:
    """Judge every answer as its prompt demands, and score it with both scorers.

    Pairs and answers that people labelled are judged beside them, to see how far the judge agrees.
    `scorer_pairs`, what the cost model learned from, tells which of the answers check it too.
    """
    run = start_stage(
        "judge_responses",
        config,
        prompts=prompts,
        generations=generations,
        judge_model=judge_model,
        reward_model=reward_model,
        cost_model=cost_model,
        other_generations=other_generations,
        labelled_pairs=labelled_pairs,
        labelled_answers=labelled_answers,
        scorer_pairs=scorer_pairs,
    )
    scorers: dict[ScorerKind, Path] = {"reward": reward_model, "cost": cost_model}
    for kind, path in scorers.items():
        check_scorer(path, kind)  # they are loaded last: a mistake must not cost the verdicts
    if scorer_pairs is not None:
        check_learned_from(cost_model, run.inputs["scorer_pairs"])
    by_id = {prompt.id: prompt for prompt in read_dataset(prompts, LabelledPrompt)}
    answers = read_dataset(generations, Generation)
    tasks = plan(config, by_id, answers, _by_prompt(other_generations))
    labels = _labels(config, labelled_pairs, labelled_answers, scorer_pairs)
    tasks += [check.task for check in labels.checks]
    config = config.model_copy(update={"judge": settle(config.judge)})
    run = replace(run, resolved=resolved_fields("judge", config.judge))
    ledger = Ledger.beside(verdicts, config.progress_dir, run.inputs)
    others = labels.answer_ids
    rows, num_cut = judge_tasks(
        config, tasks, judge_model, run.inputs["judge_model"], ledger, others
    )
    for kind, path in scorers.items():
        scored = [*answers, *labels.costed] if kind == "cost" else answers
        rows += score_verdicts(config, kind, path, run.inputs[f"{kind}_model"], scored)
    agreed = human_agreement(config, labels, rows)
    rows = [row for row in rows if row.generation_id not in others]
    metrics = summarise(rows, answers, num_cut) | agreement_scalars(agreed)
    write_dataset(
        run,
        verdicts,
        Verdict,
        rows,
        counts=Counts(read=len(answers), kept=len(answers)),
        extra_files={
            "metrics.json": json.dumps(metrics, indent=2),
            "human_agreement.json": json.dumps(agreed, indent=2),
        },
    )
    ledger.discard()
    return metrics


def judge_tasks(
    config: JudgeResponsesConfig,
    tasks: Sequence[Task],
    judge_model: Path,
    model_digest: str,
    ledger: Ledger,
    others: Set[str] = frozenset(),
) -> tuple[list[Verdict], int]:
    """Verdicts of all tasks, kind by kind, and how many judged texts of the model's were cut.

    `others` are ids of answers that are not the model's: people's labels check the judge on them.
    Raises StageError when too many of one kind stay unscored, of all or of the model's own.
    """
    rows: list[Verdict] = []
    num_cut = 0
    if not tasks:
        return rows, num_cut
    _check_others(config, [task for task in tasks if task.kind == "preference"])
    with open_generator(config.judge, judge_model) as generator, ledger:
        for kind, question in QUESTIONS.items():
            judge = f"{judge_name(generator, config, model_digest)} / {question.id}"
            asked = [t for t in tasks if t.kind == kind and t.parts is not None]
            parts = [task.parts for task in asked if task.parts is not None]
            judged = ask(
                generator,
                question,
                parts,
                config,
                label=f"judge_responses {kind}",
                judge=judge,
                ledger=ledger,
            )
            num_cut += sum(
                judgement.was_cut and task.generation.id not in others
                for task, judgement in zip(asked, judged, strict=True)
            )
            found = dict(zip(map(id, asked), judged, strict=True))
            mine = [task for task in tasks if task.kind == kind]
            verdicts = [verdict(task, found.get(id(task)), judge) for task in mine]
            _check_scored(config, kind, verdicts)
            _check_scored(config, kind, [v for v in verdicts if v.generation_id not in others])
            rows += verdicts
    return rows, num_cut


def summarise(rows: Sequence[Verdict], answers: Sequence[Generation], num_cut: int) -> Metrics:
    """Scalars: verdicts by kind and label, unscored shares, mean reward and cost, cut answers."""
    labels = Counter((row.kind, row.label) for row in rows)
    metrics: Metrics = {
        "num_generations": len(answers),
        "num_truncated": sum(answer.finish_reason == "length" for answer in answers),
        "num_cut": num_cut,
    }
    for kind in ("safety", "refusal", "preference", "reward", "cost"):
        mine = [row for row in rows if row.kind == kind]
        if not mine:
            continue
        unscored = sum(row.status == "unscored" for row in mine)
        metrics[f"num_{kind}"] = len(mine)
        metrics[f"{kind}_unscored_share"] = unscored / len(mine)
        for label in LABELS.get(kind, ()):
            metrics[f"num_{kind}_{label}"] = labels[kind, label]
        scores = [row.score for row in mine if row.score is not None]
        if scores:
            metrics[f"mean_{kind}"] = fmean(scores)
    return metrics


def _labels(
    config: JudgeResponsesConfig, pairs: Path | None, answers: Path | None, learned: Path | None
) -> HumanLabels:
    if not config.max_human_labels:
        return HumanLabels()
    return human_labels(
        read_dataset(pairs, Pair) if pairs is not None else [],
        read_dataset(answers, LabelledAnswer) if answers is not None else [],
        config.max_human_labels,
        read_dataset(learned, Pair) if learned is not None else None,
    )


def _by_prompt(generations: Path | None) -> dict[str, Generation] | None:
    if generations is None:
        return None
    return {row.prompt_id: row for row in read_dataset(generations, Generation)}


def _check_others(config: JudgeResponsesConfig, tasks: Sequence[Task]) -> None:
    """Before a judge is asked for hours."""
    missing = sum(task.parts is None for task in tasks)
    if missing > config.max_unscored_share * len(tasks):
        raise StageError(
            f"judge_responses: {missing} of {len(tasks)} comparisons lack the other model's "
            "answer; generate both models' answers from the same prompts"
        )


def _check_scored(config: JudgeResponsesConfig, kind: str, rows: Sequence[Verdict]) -> None:
    """Missing answers and failed judgements together, each of which may be few enough."""
    unscored = sum(row.status == "unscored" for row in rows)
    if unscored > config.max_unscored_share * len(rows):
        raise StageError(
            f"judge_responses {kind}: {unscored} of {len(rows)} verdicts are missing, more than "
            f"max_unscored_share {config.max_unscored_share:g} allows: some had nothing to compare "
            "with, others were not judged"
        )


if __name__ == "__main__":
    raise SystemExit(stage_main(judge_responses, JudgeResponsesConfig))
