"""What a model's answers amount to, whether one task gave them or several.

answers -> scalars.
"""

from collections.abc import Sequence

from equilibrate_core.records import Generation
from equilibrate_core.stage import Metrics


def summarise(rows: Sequence[Generation], num_prompts: int) -> Metrics:
    """Scalars: how many answers, how long, how many cut or empty."""
    return {
        "num_prompts": num_prompts,
        "num_generations": len(rows),
        "num_failed": num_prompts - len(rows),
        "num_truncated": sum(row.finish_reason == "length" for row in rows),
        "num_empty": sum(not row.response.strip() for row in rows),
        "mean_num_tokens": sum(row.num_tokens for row in rows) / max(len(rows), 1),
    }
