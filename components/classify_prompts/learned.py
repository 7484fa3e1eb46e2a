"""classify_prompts with `judge.kind: classifier`: label a seed, learn from it, label the rest.

prompts + model (+ LLM judge) -> labelled prompts, those held out to measure the head among them.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.classify_prompts.classifier import predict, seed_labels, split_prompts, train_head
from components.classify_prompts.config import ClassifyPromptsConfig
from components.classify_prompts.embedding import Embedder, chunks
from components.classify_prompts.panel import ask_panel, label
from equilibrate_core.judge import Judgement
from equilibrate_core.judge_ledger import Ledger
from equilibrate_core.progress import Progress
from equilibrate_core.records import CATEGORIES, LabelledPrompt, Prompt

ROWS_PER_CHUNK = 4096  # bounds the memory of features


@dataclass(frozen=True)
class Learned:
    """What the seed's judge and the head made of all prompts."""

    labelled: list[LabelledPrompt]
    held_out: list[LabelledPrompt]
    """Prompts with a gold label that the head never saw; they measure it."""
    seed_counts: dict[str, int]
    """Seed prompts with a label, by category: the head learned from these."""
    num_cut: int
    """Seed prompts too long for the LLM judge."""
    num_failed_votes: int
    """Votes of LLM judges that gave no verdict."""
    training_s: float
    """Seconds to embed the seed and train the head."""


def learn_and_label(
    config: ClassifyPromptsConfig,
    prompts: Sequence[Prompt],
    judge_model: Path,
    model_digest: str,
    ledger: Ledger,
) -> Learned:
    """Label every prompt; seed prompts keep the label the head learned from, if they got one."""
    split = split_prompts(prompts, config.classifier, seed=config.seed)
    done, judged = _label_seed(config, prompts, split.seed, judge_model, model_digest, ledger)
    rows, labels = seed_labels({row: p.category for row, p in done.items()}, split.seed)
    started = time.monotonic()
    embedder = Embedder(judge_model, config.classifier)
    features = embedder.embed([prompts[row].messages for row in rows])
    head = train_head(features, labels, config.classifier, config.seed)
    training_s = time.monotonic() - started
    judge = f"classifier on {len(rows)} {config.classifier.seed_labels} labels, model "
    judge += model_digest[:12]
    rest = [row for row in range(len(prompts)) if row not in done or not done[row].category]
    rest.sort(key=lambda row: prompts[row].id)  # equal batches, whatever order the rows came in
    with Progress("classify_prompts, classifier", total=len(rest), unit="prompt") as progress:
        for chunk in chunks(len(rest), ROWS_PER_CHUNK):
            mine = [rest[i] for i in chunk]
            features = embedder.embed([prompts[row].messages for row in mine])
            for row, (category, probability) in zip(mine, predict(head, features), strict=True):
                done[row] = _learned(prompts[row], category, probability, judge)
            progress.advance(len(mine))
    labelled = [done[row] for row in range(len(prompts))]
    held_out = [labelled[row] for row in split.held_out]
    num_cut = sum(judgement.was_cut for judgement in judged)
    num_failed_votes = sum(judgement.num_failed_votes for judgement in judged)
    seed_counts = {category: labels.count(category) for category in CATEGORIES}
    return Learned(labelled, held_out, seed_counts, num_cut, num_failed_votes, training_s)


def _label_seed(
    config: ClassifyPromptsConfig,
    prompts: Sequence[Prompt],
    seed: Sequence[int],
    judge_model: Path,
    model_digest: str,
    ledger: Ledger,
) -> tuple[dict[int, LabelledPrompt], list[Judgement]]:
    """The seed's prompts with their labels by row, and what LLM judges made of them, if asked."""
    if config.classifier.seed_labels == "gold":
        return {
            row: LabelledPrompt(
                **dict(prompts[row]),
                category=prompts[row].gold_category,
                rationale="",
                confidence=None,
                votes={},
                status="scored",
                judge="gold label",
            )
            for row in seed
        }, []
    panel = ask_panel(config, [prompts[row] for row in seed], judge_model, model_digest, ledger)
    judged = zip(seed, panel.judgements, strict=True)
    done = {row: label(prompts[row], judgement, panel.judge) for row, judgement in judged}
    return done, panel.judgements


def _learned(prompt: Prompt, category: str, probability: float, judge: str) -> LabelledPrompt:
    return LabelledPrompt.model_validate(
        {
            **dict(prompt),
            "category": category,
            "rationale": "",
            "confidence": probability,
            "votes": {},
            "status": "scored",
            "judge": judge,
        }
    )
