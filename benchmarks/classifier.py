"""Sorting prompts: a classifier, the local LLM judge and the commonest label, on real labels.

    python benchmarks/classifier.py --data FILE --model FOLDER [--share 0.3] [--skip-llm]

FILE is beavertails_selected_relabelled.json as published; FOLDER a Hugging Face model folder, such
as import_model makes. Questions labelled twice with different categories are set apart; the split
is by question. Prints a Markdown table, and writes it as JSON with --out.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.classify_prompts.classifier import predict, split_prompts, train_head
from components.classify_prompts.config import ClassifierConfig, ClassifyPromptsConfig
from components.classify_prompts.embedding import Embedder
from components.classify_prompts.panel import ask_panel, settled_judges
from equilibrate_core.agreement import Agreement, agreement
from equilibrate_core.judge_ledger import Ledger
from equilibrate_core.likeness.prompt_groups import conversations, groups_by_id
from equilibrate_core.metrics import Estimate
from equilibrate_core.records import CATEGORIES, Message, Prompt, prompt_id

TO_CATEGORY = {"OTHER": "NONE", "No risk": "NONE"}
CURVE = (25, 50, 100, 200, 400, 800)
JUDGE = {
    "judge": {"backend": "auto", "max_model_len": 2048, "batch_size": 64},
    "rationale": False,
    "max_tokens": 8,
    "max_unscored_share": 1.0,
}


def read_prompts(path: Path) -> tuple[list[Prompt], int]:
    """Prompts with one agreed gold label each, and how many questions have conflicting ones."""
    found: dict[str, tuple[Message, set[str]]] = {}
    for row in json.loads(path.read_text(encoding="utf-8")):
        message = Message(role="user", content=row["question_y"])
        labels = found.setdefault(prompt_id([message]), (message, set()))[1]
        labels.add(TO_CATEGORY.get(row["category"], row["category"]))
    prompts = [
        Prompt.model_validate(
            {"id": key, "messages": (message,), "source": "gold", "gold_category": min(labels)}
        )
        for key, (message, labels) in found.items()
        if len(labels) == 1
    ]
    return prompts, len(found) - len(prompts)


def judged_by_llm(
    prompts: Sequence[Prompt], model: Path, calibrate: bool, folder: Path
) -> list[str]:
    """The local LLM judge's one-token verdicts; answers in `folder` are not asked again."""
    config = settled_judges(ClassifyPromptsConfig.model_validate({**JUDGE, "calibrate": calibrate}))
    with Ledger(folder) as ledger:
        panel = ask_panel(config, prompts, model, "benchmark", ledger)
    return [judgement.label or "unscored" for judgement in panel.judgements]


def show(name: str, found: Agreement, note: str = "") -> dict[str, Any]:
    """Print one row of the table and return it."""

    def text(estimate: Estimate) -> str:
        return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"

    figures = " | ".join(map(text, (found.macro_f1, found.accuracy, found.kappa)))
    print(f"| {name} | {figures} | {note} |", flush=True)
    return {"name": name, "note": note, "matrix": found.matrix, **found.scalars()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.3, help="held-out share")
    parser.add_argument("--skip-llm", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    config = ClassifierConfig(held_out_share=options.share)
    prompts, conflicts = read_prompts(options.data)
    split = split_prompts(prompts, config, seed=0)
    gold = [str(prompt.gold_category) for prompt in prompts]
    truth = [gold[row] for row in split.held_out]
    print(
        f"{len(prompts)} questions, {conflicts} with conflicting labels set apart; "
        f"{len(split.seed)} to learn from, {len(truth)} held out\n"
    )
    print("| judge | macro-F1 | accuracy | kappa | note |\n|---|---|---|---|---|")
    started = time.monotonic()
    embedder = Embedder(options.model, config)
    features = embedder.embed([prompts[row].messages for row in split.seed])
    embedding_s = time.monotonic() - started
    head = train_head(features, [gold[row] for row in split.seed], config, 0)
    training_s = time.monotonic() - started
    held = embedder.embed([prompts[row].messages for row in split.held_out])

    names = groups_by_id(
        conversations((prompts[row].id, prompts[row].messages) for row in split.held_out)
    )
    groups = [names[prompts[row].id] for row in split.held_out]

    def measured(given: Sequence[str]) -> Agreement:
        classes = [*CATEGORIES, *(["unscored"] if "unscored" in given else [])]
        return agreement(given, truth, classes=classes, groups=groups)

    note = f"trained in {training_s:.0f} s, embedding {embedding_s:.0f} s of it"
    rows = [show("classifier", measured([c for c, _ in predict(head, held)]), note)]
    majority = max(set(gold), key=gold.count)
    rows.append(show(f"always {majority}", measured([majority] * len(truth))))
    order = sorted(range(len(split.seed)), key=lambda i: prompts[split.seed[i]].id)
    for size in (n for n in CURVE if n < len(order)):
        mine = order[:size]
        part = train_head(features[mine], [gold[split.seed[i]] for i in mine], config, 0)
        rows.append(
            show(f"classifier, seed of {size}", measured([c for c, _ in predict(part, held)]))
        )
    if not options.skip_llm:
        held_out = [prompts[row] for row in split.held_out]
        with tempfile.TemporaryDirectory() as folder:
            for calibrate in (False, True):
                given = judged_by_llm(held_out, options.model, calibrate, Path(folder))
                name = "LLM judge, calibrated" if calibrate else "LLM judge"
                rows.append(show(name, measured(given)))
    if options.out:
        options.out.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
