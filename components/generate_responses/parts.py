"""One task's part of the prompts, where several tasks answer them side by side.

all prompts to answer, what became of the others -> one part's prompts and counts. The parts have
no prompt in common, are all prompts together, and differ by one prompt of a suite at most.
"""

from collections.abc import Sequence

from equilibrate_core.artifacts import Counts
from equilibrate_core.records import LabelledPrompt


def deal(
    chosen: Sequence[LabelledPrompt], counts: Counts, shard: int, num_shards: int
) -> tuple[list[LabelledPrompt], Counts]:
    """A shard's prompts, one in `num_shards` of those chosen, in their order, and its counts.

    They are sorted by suite and id: every suite is dealt out evenly, whatever the rows' order was.
    What is not answered is dealt out too, so that the counts of all parts add up to one task's.
    """
    own = list(chosen[shard::num_shards])
    dropped = {
        reason: len(range(shard, number, num_shards)) for reason, number in counts.dropped.items()
    }
    return own, Counts(read=len(own) + sum(dropped.values()), dropped=dropped)
