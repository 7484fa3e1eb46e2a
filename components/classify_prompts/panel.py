"""The LLM judge of classify_prompts: one model or several, their votes pooled.

prompts -> judgements and the name of who made them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from components.classify_prompts.config import ClassifyPromptsConfig
from equilibrate_core.generator import open_generator, resolved_fields, settle
from equilibrate_core.judge import Judgement, decide, judge_name
from equilibrate_core.judge_ballots import Ballot, poll
from equilibrate_core.judge_ledger import Ledger
from equilibrate_core.judge_question import Question
from equilibrate_core.records import CATEGORIES, LabelledPrompt, Prompt

PROMPTS = Path(__file__).parent / "prompts"
QUESTIONS = {
    name: Question.load(PROMPTS / f"{name}.md", field="category", labels=CATEGORIES)
    for name in ("category_v1", "category_zh_v1")
}


@dataclass(frozen=True)
class Panel:
    """What the judges said, prompt by prompt."""

    judgements: list[Judgement]
    judge: str


def settled_judges(config: ClassifyPromptsConfig) -> ClassifyPromptsConfig:
    """The config with what `auto` comes to, for each judge."""
    others = tuple(map(settle, config.other_judges))
    return config.model_copy(update={"judge": settle(config.judge), "other_judges": others})


def resolved_judges(config: ClassifyPromptsConfig) -> dict[str, str]:
    """What a manifest records of settled judges."""
    resolved = resolved_fields("judge", config.judge)
    for place, judge in enumerate(config.other_judges):
        resolved |= resolved_fields(f"other_judges.{place}", judge)
    return resolved


def ask_panel(
    config: ClassifyPromptsConfig,
    prompts: Sequence[Prompt],
    judge_model: Path,
    model_digest: str,
    ledger: Ledger,
) -> Panel:
    """Put every prompt to every judge, all of which are settled.

    Raises StageError when too many stay unscored, be it by a single judge.
    """
    question = QUESTIONS[config.prompt]
    parts = [{"REQUEST": prompt.messages} for prompt in prompts]
    polls: list[list[Ballot]] = []
    names: list[str] = []
    for settings in (config.judge, *config.other_judges):
        with open_generator(settings, judge_model) as generator:
            asked = config.model_copy(update={"judge": settings})
            names.append(judge_name(generator, asked, model_digest))
            label = "classify_prompts" if len(names) == 1 else f"classify_prompts, {names[-1]}"
            polls.append(
                poll(generator, question, parts, asked, label=label, judge=names[-1], ledger=ledger)
            )
    pooled = [
        Ballot(tuple(chain.from_iterable(b.votes for b in row)), any(b.was_cut for b in row))
        for row in zip(*polls, strict=True)
    ]
    judgements = decide(question, pooled, config, "classify_prompts")
    return Panel(judgements, f"{' + '.join(names)} / {question.id}")


def label(prompt: Prompt, judgement: Judgement, judge: str) -> LabelledPrompt:
    """The prompt with what the judge made of it."""
    return LabelledPrompt(
        **dict(prompt),
        category=judgement.label,
        rationale=judgement.rationale,
        confidence=judgement.confidence,
        votes=judgement.votes,
        status="unscored" if judgement.label is None else "scored",
        error=judgement.error,
        judge=judge,
    )
