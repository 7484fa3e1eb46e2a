"""Which prompts a scorer learns from, which measure it, and which are left to the other cost model.

pairs -> what becomes of each prompt. It depends on the prompts alone, so that two tasks agree.
"""

import hashlib
from collections.abc import Callable, Sequence
from math import ceil

from components.train_scorer.config import TrainScorerConfig
from equilibrate_core.likeness.prompt_groups import conversations, drawn, groups_by_id, too_like
from equilibrate_core.records import Pair

TRAINED, HELD_OUT = "trained", "held_out"
OTHER_HALF, LIKE_OTHER_HALF = "other_half", "like_other_half"
LIKE_TRAINED = "like_training_prompt"


def prompt_fates(config: TrainScorerConfig, pairs: Sequence[Pair]) -> dict[str, str]:
    """TRAINED, HELD_OUT or the reason why it is neither, for every prompt of the pairs.

    Near-duplicates and conversations that continue one another go the same way.
    """
    prompts = conversations((pair.prompt_id, pair.messages) for pair in pairs)
    groups = groups_by_id(prompts)
    first = drawn(groups, len(groups) // 2, _shuffled("half"))
    halves = {"all": set(groups), "first_half": first, "second_half": set(groups) - first}
    mine = halves[config.rows]
    fates = dict.fromkeys(groups, OTHER_HALF)
    if config.rows == "second_half":
        alike = too_like(prompts, mine, first)
        fates |= dict.fromkeys(alike, LIKE_OTHER_HALF)
        mine = mine - alike
    wanted = ceil(config.held_out_share * len(mine))
    held_out = drawn({p: groups[p] for p in mine}, wanted, _shuffled("held-out"))
    trained = mine - held_out
    fates |= dict.fromkeys(trained, TRAINED) | dict.fromkeys(held_out, HELD_OUT)
    return fates | dict.fromkeys(too_like(prompts, held_out, trained), LIKE_TRAINED)


def _shuffled(purpose: str) -> Callable[[str], bytes]:
    """An order that depends on the groups and the purpose alone."""
    return lambda group: hashlib.sha256(f"{purpose}:{group}".encode()).digest()
