"""From scored pairs to masked rows: AMA's masks, its controls, and what they kept.

scored pairs + token means -> rows ready for the loss, and mask statistics.
"""

# B = 1 here: masks of one answer do not depend on its neighbours, but for `batch_mean`
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from components.train_policy.config import AmaConfig
from equilibrate_core.masks import Side, message_masks, random_masks, token_credit, token_scores
from equilibrate_core.records import ScoredPair


@dataclass(frozen=True)
class AnswerRow:
    """One answer of a pair, per response token."""

    token_ids: list[int]
    reference_logps: list[float]
    segment_ids: list[int]
    scores: Tensor
    """Token scores, shape (T,)."""
    costs: Tensor
    """Scaled costs, shape (T,); for the statistics alone."""
    mask: Tensor
    """Tokens the loss looks at, boolean, shape (T,)."""


@dataclass(frozen=True)
class PolicyRow:
    """One pair as the loss sees it."""

    id: str
    prompt_ids: list[int]
    chosen: AnswerRow
    rejected: AnswerRow
    first_difference: int
    """Response position at which the two answers part."""
    category: str

    @property
    def length(self) -> int:
        """Tokens of both sides in rows of their own, as long as the longer one."""
        answers = (self.chosen.token_ids, self.rejected.token_ids)
        return 2 * (len(self.prompt_ids) + max(map(len, answers)))

    @property
    def shared_length(self) -> int:
        """Tokens of both sides where what they have in common is held once."""
        answers = len(self.chosen.token_ids) + len(self.rejected.token_ids)
        return len(self.prompt_ids) + answers - self.first_difference


def policy_row(pair: ScoredPair, ama: AmaConfig) -> PolicyRow:
    """Row of a scored pair with all-ones masks (plain DPO)."""
    chosen, rejected = pair.chosen_token_ids, pair.rejected_token_ids
    shorter = min(len(chosen), len(rejected))
    return PolicyRow(
        id=pair.id,
        prompt_ids=pair.prompt_token_ids,
        chosen=_answer(pair, "chosen", ama),
        rejected=_answer(pair, "rejected", ama),
        first_difference=next((t for t in range(shorter) if chosen[t] != rejected[t]), shorter),
        category=pair.category or "unlabelled",
    )


def masked(row: PolicyRow, ama: AmaConfig, baseline: float | None) -> PolicyRow:
    """The row with AMA's masks; `baseline` None means each response's own mean."""
    return replace(
        row,
        chosen=_masked_answer(row, "chosen", ama, baseline),
        rejected=_masked_answer(row, "rejected", ama, baseline),
    )


def randomly_masked(row: PolicyRow, seed: str) -> PolicyRow:
    """The row with as many kept tokens as its masks have, drawn at random from allowed ones."""
    generator = torch.Generator().manual_seed(_seed_of(seed))
    positions_T = torch.arange(len(row.rejected.token_ids))
    allowed = {
        "chosen": torch.ones(len(row.chosen.token_ids), dtype=torch.bool),
        "rejected": positions_T >= row.first_difference,
    }
    sides = {
        name: replace(side, mask=random_masks(side.mask[None], allowed[name][None], generator)[0])
        for name, side in (("chosen", row.chosen), ("rejected", row.rejected))
    }
    return replace(row, **sides)


def has_empty_mask(row: PolicyRow) -> bool:
    """Whether a side keeps nothing, so that the pair teaches nothing as a pair."""
    return not (bool(row.chosen.mask.any()) and bool(row.rejected.mask.any()))


def dataset_mean(ama: AmaConfig, token_means: dict[str, Any]) -> float:
    """Mean token score pooled over all response tokens, from the sums of score_tokens."""
    sums = token_means[ama.credit]
    total, tokens = 0.0, 0.0
    for dimension, part in sums.items():
        tokens += part["num_tokens"]
        if ama.score == "combined":
            total += part["reward"] - ama.cost_weight * part["cost"]
        elif dimension == "harmless":
            total -= part["cost"]
        else:
            total += part["reward"] - ama.cost_weight * part["positive_cost"]
    return total / max(tokens, 1.0)


def batch_mean(rows: Sequence[PolicyRow]) -> float:
    """Mean token score over a whole optimizer batch, both sides pooled."""
    return float(torch.cat([s.scores for row in rows for s in (row.chosen, row.rejected)]).mean())


def mask_statistics(rows: Sequence[PolicyRow]) -> dict[str, float]:
    """Shares the masks kept, per side and category, and what they did with harmful tokens."""
    sides: dict[Side, Callable[[PolicyRow], AnswerRow]] = {
        "chosen": lambda row: row.chosen,
        "rejected": lambda row: row.rejected,
    }
    if not rows:
        return {}
    both = [side(row) for row in rows for side in sides.values()]
    statistics: dict[str, float] = {"share_kept": _share_kept(both)}
    for name, side in sides.items():
        statistics[f"share_kept_{name}"] = _share_kept([side(row) for row in rows])
        for category in sorted({row.category for row in rows}):
            answers = [side(row) for row in rows if row.category == category]
            statistics[f"share_kept_{name}_{category}"] = _share_kept(answers)
    chosen, rejected = (
        torch.cat([side(row).mask[side(row).costs > 0] for row in rows]) for side in sides.values()
    )
    if len(chosen):
        statistics["share_of_harmful_chosen_tokens_kept"] = float(chosen.float().mean())
    if len(rejected):
        statistics["share_of_harmful_rejected_tokens_not_kept"] = float((~rejected).float().mean())
    return statistics


def _seed_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _share_kept(answers: Sequence[AnswerRow]) -> float:
    kept = sum(int(answer.mask.sum()) for answer in answers)
    return kept / sum(len(answer.token_ids) for answer in answers)


def _answer(pair: ScoredPair, side: Side, ama: AmaConfig) -> AnswerRow:
    def column(name: str) -> Any:
        return getattr(pair, f"{side}_{name}")

    costs_1T = _credit(column("costs"), column("initial_cost"), ama)
    rewards, initial_reward = column("rewards"), column("initial_reward")
    scores_1T = token_scores(
        # Without rewards the score has no use for any.
        torch.zeros_like(costs_1T) if rewards is None else _credit(rewards, initial_reward, ama),
        costs_1T,
        torch.tensor([pair.dimension == "harmless"]),
        score=ama.score,
        cost_weight=ama.cost_weight,
    )
    return AnswerRow(
        token_ids=column("token_ids"),
        reference_logps=column("reference_logps"),
        segment_ids=column("segment_ids"),
        scores=scores_1T[0],
        costs=torch.tensor(column("costs")),
        mask=torch.ones(len(column("token_ids")), dtype=torch.bool),
    )


def _credit(values: Sequence[float], initial: float, ama: AmaConfig) -> Tensor:
    return token_credit(torch.tensor([values]), torch.tensor([initial]), credit=ama.credit)


def _masked_answer(row: PolicyRow, side: Side, ama: AmaConfig, baseline: float | None) -> AnswerRow:
    answer: AnswerRow = getattr(row, side)
    if baseline is None and len(set(answer.segment_ids)) < 2:
        # A number against itself: it is neither above nor below, whatever rounding makes of it.
        return replace(answer, mask=torch.zeros_like(answer.mask))
    mask_1T = message_masks(
        answer.scores[None],
        torch.ones(1, len(answer.token_ids), dtype=torch.bool),
        torch.tensor([answer.segment_ids]),
        side=side,
        baseline=float(answer.scores.mean()) if baseline is None else baseline,
        min_kept=ama.min_kept,
        first_difference_B=torch.tensor([row.first_difference]),
    )
    return replace(answer, mask=mask_1T[0])
