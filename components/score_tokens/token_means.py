"""Pooled token means: what the masks' `dataset_mean` baseline is made of.

scored pairs -> sums over all response tokens, chosen and rejected together, per credit and
dimension. They suffice for every score and every lambda, so changing either needs no new pass.
"""

from collections.abc import Sequence
from typing import get_args

import torch

from equilibrate_core.masks import Credit, token_credit
from equilibrate_core.records import Dimension, ScoredPair

TokenMeans = dict[str, dict[str, dict[str, float]]]


def token_means(pairs: Sequence[ScoredPair]) -> TokenMeans:
    """Per credit and dimension: `num_tokens` and the sums `reward`, `cost`, `positive_cost`.

    A dimension has no `reward` when the reward model did not read all its pairs.
    """
    return {
        credit: {
            dimension: _sums([p for p in pairs if p.dimension == dimension], credit)
            for dimension in get_args(Dimension)
        }
        for credit in get_args(Credit)
    }


def _sums(pairs: Sequence[ScoredPair], credit: Credit) -> dict[str, float]:
    """Sums over the tokens of both sides; no `reward` where the pairs' tokens have none."""
    sums = {"num_tokens": 0.0, "reward": 0.0, "cost": 0.0, "positive_cost": 0.0}
    for p in pairs:
        for rewards, costs, initial_reward, initial_cost in (
            (p.chosen_rewards, p.chosen_costs, p.chosen_initial_reward, p.chosen_initial_cost),
            (
                p.rejected_rewards,
                p.rejected_costs,
                p.rejected_initial_reward,
                p.rejected_initial_cost,
            ),
        ):
            cost_T = _credited(costs, initial_cost, credit)
            sums["num_tokens"] += len(costs)
            sums["cost"] += float(cost_T.sum())
            sums["positive_cost"] += float(cost_T.clamp(min=0).sum())
            if rewards is None or initial_reward is None:
                sums.pop("reward", None)
            elif "reward" in sums:
                sums["reward"] += float(_credited(rewards, initial_reward, credit).sum())
    return sums


def _credited(values: Sequence[float], initial: float, credit: Credit) -> torch.Tensor:
    values_1T = torch.tensor([list(values)], dtype=torch.float64)
    return token_credit(values_1T, torch.tensor([initial], dtype=torch.float64), credit=credit)
