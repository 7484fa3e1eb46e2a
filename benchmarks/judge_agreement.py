"""How far a judge (and a cost model) agrees with people, on public answers that people labelled.

    python benchmarks/judge_agreement.py --data FOLDER [--judge MODEL_FOLDER] [--rows N]
        [--judge-config '{"judge": {…}}'] [--cost-model SCORER --scorer-pairs PAIRS]

FOLDER holds gptfuzz_jailbroken.csv (1: the answer does harm) and pyrit_refusal.csv (True: it
refuses). Neither comes with this project. gptfuzz does not record what was asked, only its number:
judge and cost model see a note in its place, and none of its prompts can be like one of PAIRS, the
pairs that SCORER was trained on. Intervals are over questions: many answers to one are no
independent evidence. The cost model is measured as judge_responses does it.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from components.import_data.config import ImportDataConfig
from components.import_data.stage import import_data
from components.judge_responses.config import JudgeResponsesConfig
from components.judge_responses.human_agreement import human_agreement
from components.judge_responses.human_labels import human_labels
from components.judge_responses.questions import QUESTIONS, JudgedKind
from components.judge_responses.scores import score_verdicts
from components.judge_responses.training_prompts import check_learned_from
from equilibrate_core.agreement import Agreement, agreement
from equilibrate_core.artifacts import verify_artifact
from equilibrate_core.config import load_config
from equilibrate_core.errors import DataError, EquilibrateError
from equilibrate_core.generator import open_generator
from equilibrate_core.judge import ask
from equilibrate_core.records import LabelledAnswer, Message, Pair, digest
from equilibrate_core.stage import configure_logging, report_error
from equilibrate_core.tables import read_dataset

Row = tuple[str, str, bool, str]
"""What was asked, what was answered, what people said of it, and the question's name."""
NOT_RECORDED = "(The request was not recorded.)"
JUDGE = '{"judge": {"max_model_len": 2048}, "rationale": false, "max_tokens": 8}'
SETS: dict[str, tuple[JudgedKind, tuple[str, str], tuple[str, ...]]] = {
    # file: question, classes (people's no, people's yes), labels of the judge that mean yes
    "gptfuzz_jailbroken.csv": ("safety", ("Safe", "Unsafe"), ("Conditional", "Unsafe")),
    "pyrit_refusal.csv": ("refusal", ("Compliance", "Refusal"), ("Partial", "Refusal")),
}


def read_rows(path: Path, number: int | None) -> list[Row]:
    """Labelled answers in an order that is the same everywhere and mixes the labels."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [_row(path, row) for row in csv.DictReader(x for x in file if x[:1] != "#")]
    rows.sort(key=lambda row: digest(list(row[:3])))
    return rows[:number]


def _row(path: Path, row: dict[str, str]) -> Row:
    said = (row.get("label") or row.get("human_score") or "").strip().lower()
    answer = row.get("Response") or row.get("assistant_response") or ""
    if said not in ("0", "1", "true", "false", "0.0", "1.0"):
        raise DataError(f"{path}: {said!r} is not a human label; expected 0, 1, true or false")
    question = row.get("objective") or row.get("question")
    if not question:
        raise DataError(f"{path}: a row has neither an objective nor the number of its question")
    return row.get("objective") or NOT_RECORDED, answer, said in ("1", "true", "1.0"), question


def judged_labels(
    config: JudgeResponsesConfig, model: Path, kind: JudgedKind, rows: Sequence[Row]
) -> list[str | None]:
    parts = [
        {"CONVERSATION": (Message(role="user", content=asked),), "ANSWER": answer}
        for asked, answer, *_ in rows
    ]
    with open_generator(config.judge, model) as generator:
        judgements = ask(generator, QUESTIONS[kind], parts, config, label=f"judge {kind}")
    return [judgement.label for judgement in judgements]


def show(name: str, found: Agreement, unscored: int, num_questions: int) -> None:
    kappa, right = found.kappa, found.accuracy
    print(
        f"{name}: n {found.num} (+{unscored} unscored) of {num_questions} questions, "
        f"accuracy {right.value:.3f} "
        f"[{right.low:.3f}, {right.high:.3f}], commonest label {found.majority_accuracy:.3f}, "
        f"kappa {kappa.value:.3f} [{kappa.low:.3f}, {kappa.high:.3f}]; "
        f"{' | '.join(found.labels)} (rows people): {[list(row) for row in found.matrix]}"
    )


def check_judge(config: JudgeResponsesConfig, model: Path, file: Path, number: int | None) -> None:
    kind, classes, positive = SETS[file.name]
    rows = read_rows(file, number)
    given = judged_labels(config, model, kind, rows)
    known = [
        (classes[label in positive], classes[is_yes], question)
        for label, (_, _, is_yes, question) in zip(given, rows, strict=True)
        if label is not None
    ]
    found, num_questions = agreement_by_question(known, classes)
    show(f"judge, {file.stem}", found, len(rows) - len(known), num_questions)


def agreement_by_question(
    known: Sequence[tuple[str, str, str]], classes: Sequence[str]
) -> tuple[Agreement, int]:
    """Agreement of what was given with what people said, and the number of questions drawn."""
    given, gold, questions = (list(part) for part in zip(*known, strict=True))
    found = agreement(given, gold, classes=classes, groups=questions)
    return found, len(set(questions))


def cost_agreement(
    config: JudgeResponsesConfig, folder: Path, pairs: Path, file: Path, number: int | None
) -> dict[str, Any]:
    """The figures of judge_responses for labelled answers of a file alone."""
    check_learned_from(folder, verify_artifact(pairs).digest)
    answers = imported(file)
    limit = len(answers) if number is None else number
    labels = human_labels([], answers, limit, read_dataset(pairs, Pair))
    scorer = verify_artifact(folder, "scorer").digest
    costs = score_verdicts(config, "cost", folder, scorer, labels.costed)
    found = human_agreement(config, labels, costs).get("cost_answers", {})
    prompts = {said.answer.prompt_id for said in labels.unlearned}
    return found | {"num_questions": len(prompts)}


def imported(file: Path) -> list[LabelledAnswer]:
    """Labelled answers as import_data reads them."""
    source = {"name": "gptfuzz", "uri": str(file), "adapter": "gptfuzz"}
    config = ImportDataConfig.model_validate({"sources": [source]})
    with TemporaryDirectory() as folder:
        names = ("prompts", "pairs", "quarantine", "labelled_answers")
        paths = {name: Path(folder) / name for name in names}
        import_data(config, **paths)
        return read_dataset(paths["labelled_answers"], LabelledAnswer)


def check_cost(
    config: JudgeResponsesConfig, folder: Path, pairs: Path, file: Path, number: int | None
) -> None:
    found = cost_agreement(config, folder, pairs, file, number)
    left_out = f"{found.get('num_like_training_prompt', 0)} left out: prompts like training prompts"
    if "kappa" not in found:
        print(f"cost model, {file.stem}: nothing to measure; {left_out}")
        return
    area = "undefined" if found["auc"] is None else f"{found['auc']:.3f}"
    accuracy, kappa = (
        f"{name} {found[name]:.3f} [{found[f'{name}_low']:.3f}, {found[f'{name}_high']:.3f}]"
        for name in ("accuracy", "kappa")
    )
    print(
        f"cost model, {file.stem}: n {found['num_gold']:.0f} (+{found['num_unscored']} unscored; "
        f"{left_out}) of {found['num_questions']} questions, {accuracy}, commonest label "
        f"{found['majority_accuracy']:.3f}, {kappa}, AUC {area}; "
        f"{' | '.join(found['labels'])} (rows people): {[list(row) for row in found['matrix']]}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, help="rows of each file; all without it")
    parser.add_argument("--judge", type=Path, help="folder of the judge model")
    parser.add_argument("--judge-config", default=JUDGE, help="fields of judge_responses")
    parser.add_argument("--cost-model", type=Path, help="a cost model that train_scorer made")
    parser.add_argument("--scorer-pairs", type=Path, help="the pairs that it was trained on")
    arguments = parser.parse_args()
    if not arguments.judge and not arguments.cost_model:
        parser.error("give --judge, --cost-model or both")
    if arguments.cost_model and not arguments.scorer_pairs:
        parser.error("--cost-model needs --scorer-pairs: nobody knows what it learned from")
    configure_logging()
    try:
        config = load_config(arguments.judge_config, JudgeResponsesConfig)
        for name in SETS if arguments.judge else ():
            check_judge(config, arguments.judge, arguments.data / name, arguments.rows)
        if arguments.cost_model:
            file = arguments.data / next(iter(SETS))
            pairs = arguments.scorer_pairs
            check_cost(config, arguments.cost_model, pairs, file, arguments.rows)
    except (EquilibrateError, OSError) as error:
        return report_error(error)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
