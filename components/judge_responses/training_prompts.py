"""Whether a cost model may have learned from the prompts of answers that people labelled.

labelled answers + the pairs it learned from -> the answers whose prompts are unlike all of these.
"""

from collections.abc import Sequence
from pathlib import Path

from equilibrate_core.artifacts import read_manifest
from equilibrate_core.errors import DataError
from equilibrate_core.likeness.prompt_groups import conversations, groups_by_id, too_like
from equilibrate_core.records import Generation, Pair


def unlike_training(answers: Sequence[Generation], learned: Sequence[Pair]) -> set[str]:
    """Prompt ids of the answers that no pair has, and none like them or of one conversation.

    By train_scorer's rule for held-out prompts. Every prompt of `learned` counts, whichever of them
    the model took, and an answer's prompt that leads to one through a third goes with it.
    """
    if not answers:
        return set()
    given = [(pair.prompt_id, pair.messages) for pair in learned]
    prompts = conversations([*given, *((a.prompt_id, a.messages) for a in answers)])
    groups = groups_by_id(prompts)
    known = {prompt for prompt, _ in given}
    theirs = {groups[prompt] for prompt in known}
    others = {a.prompt_id for a in answers if groups[a.prompt_id] not in theirs}
    return others - too_like(prompts, others, known)


def check_learned_from(cost_model: Path, pairs_digest: str) -> None:
    """Raise DataError if the cost model names other pairs as those it was trained on.

    Its own prompts would pass for prompts that it never saw.
    """
    named = read_manifest(cost_model).inputs.get("pairs")
    if named is not None and named != pairs_digest:
        raise DataError(
            f"cost_model was trained on pairs {named[:12]}, but scorer_pairs here is "
            f"{pairs_digest[:12]}; give the pairs it was trained on, or leave scorer_pairs out"
        )
