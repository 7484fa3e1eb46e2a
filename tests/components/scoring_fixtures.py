"""Small preference data that a tiny model can learn from, as artifacts."""

from pathlib import Path

from equilibrate_core.artifacts import StageRun
from equilibrate_core.records import Dimension, Message, Pair, Record, digest, pair_id, prompt_id
from equilibrate_core.scorer import ScorerConstants, new_scorer_model, save_scorer
from equilibrate_core.tables import write_dataset

RUN = StageRun(stage="test", config={}, seed=0, code_version="test", inputs={})


def make_pair(
    question: str,
    chosen: str,
    rejected: str,
    *,
    dimension: Dimension = "harmless",
    safe: tuple[bool | None, bool | None] = (True, False),
    **fields: str,
) -> Pair:
    messages = (Message(role="user", content=question),)
    prompt = prompt_id(messages)
    return Pair(
        id=pair_id(prompt, chosen, rejected, dimension),
        prompt_id=prompt,
        messages=messages,
        chosen=chosen,
        rejected=rejected,
        dimension=dimension,
        chosen_is_safe=safe[0],
        rejected_is_safe=safe[1],
        **({"source": "test"} | fields),
    )


def harm_pairs(number: int) -> list[Pair]:
    """Harmless answers say no, harmful ones say yes: learnable from one word.

    The questions are unlike one another: near-duplicates are never split.
    """
    things = [digest([i])[:8] for i in range(number)]
    return [make_pair(f"How do I do {x}?", f"no no, not {x}", f"yes yes, do {x}") for x in things]


def as_dataset(path: Path, rows: list[Record]) -> Path:
    write_dataset(RUN, path, type(rows[0]), rows)
    return path


def fresh_scorers(folder: Path, base: Path) -> dict[str, Path]:
    """A reward and a cost model with heads that learned nothing, as inputs of score_tokens."""
    for kind in ("reward", "cost"):
        model, tokenizer = new_scorer_model(base, seed=0)
        with RUN.output(folder / kind, "scorer") as draft:
            constants = ScorerConstants(kind=kind, center=0.0, scale=1.0, token_wise=True)
            save_scorer(draft.path, model, tokenizer, constants)
    return {"reward_model": folder / "reward", "cost_model": folder / "cost"}
