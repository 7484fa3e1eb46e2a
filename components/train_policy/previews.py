"""What the masks kept of a few pairs, token by token, for a reader.

masked rows -> plain values, as mask_previews.json holds them.
"""

from collections.abc import Sequence
from typing import Any

from components.train_policy.masking import AnswerRow, PolicyRow


def mask_previews(rows: Sequence[PolicyRow], tokenizer: Any) -> dict[str, Any]:
    """Tokens, scores and kept marks of a few pairs, for the report."""

    def tokens(answer: AnswerRow) -> list[dict[str, Any]]:
        columns = zip(answer.token_ids, answer.scores, answer.mask, strict=True)
        return [
            {"token": tokenizer.decode([i]), "score": float(score), "kept": bool(kept)}
            for i, score, kept in columns
        ]

    return {
        "previews": [
            {
                "id": row.id,
                "prompt": tokenizer.decode(row.prompt_ids, skip_special_tokens=True),
                "chosen": tokens(row.chosen),
                "rejected": tokens(row.rejected),
            }
            for row in rows
        ]
    }
