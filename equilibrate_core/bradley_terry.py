"""Ratings of several models from pairwise comparisons: Bradley–Terry, on the Elo scale.

Games (who met whom on which prompt, and how it ended) -> a rating per model with its interval.
"""

# R = resamples (1 for the data itself), P = prompts, K = models

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from equilibrate_core.metrics import CELLS_PER_CHUNK

Floats = NDArray[np.float64]
ELO_PER_NAT = 400 / math.log(10)
"""400 points are odds of ten to one."""
ANCHOR_ELO = 1000.0
"""Rating of the anchor, as Safe RLHF (arXiv 2310.12773, figure 5) has it for its first model."""
TAIL = 0.025
MAX_STEPS = 200
MAX_STEP_NATS = 2.0
CONVERGED = 1e-10
INFINITE_NATS = 15.0
"""Odds of three million to one are what Newton's method makes of infinity."""


@dataclass(frozen=True)
class Game:
    """One comparison; `credit` is 1 when `first` won, 0 when it lost, 1/2 for a tie."""

    prompt: str
    first: str
    second: str
    credit: float


@dataclass(frozen=True)
class Rating:
    """A model's Elo rating with its 95 % interval; the anchor's has no width."""

    model: str
    elo: float
    low: float
    high: float
    num_games: int
    num_prompts: int
    """Prompts on which those games were played."""


def elo_ratings(
    games: Sequence[Game],
    *,
    anchor: str,
    seed: int,
    resamples: int = 2000,
    prior_ties: float = 1.0,
) -> list[Rating]:
    """Maximum-likelihood ratings, resampled over prompts, the anchor first.

    `prior_ties` counts that many tied games between every two models on top of the data: without
    them a model that never lost has no finite rating. 0 gives the plain maximum likelihood. Raises
    ValueError when the anchor never played or the ratings have no finite maximum.
    """
    models = sorted({name for game in games for name in (game.first, game.second)})
    if anchor not in models:
        raise ValueError(f"the anchor {anchor!r} played no game; players: {models}")
    models.remove(anchor)
    models.insert(0, anchor)
    tables_PKK = _tables(games, models)
    prior_KK = prior_ties / 2 * (1 - np.eye(len(models)))
    drawn_RKK = _resampled(tables_PKK, seed, resamples)
    elo_K = _elo(strengths(tables_PKK.sum(axis=0)[None] + prior_KK))[0]
    if prior_ties:
        low_K, high_K = np.quantile(_elo(strengths(drawn_RKK + prior_KK)), [TAIL, 1 - TAIL], axis=0)
    else:
        low_K = high_K = np.full(len(models), np.nan)
    played = {m: [g.prompt for g in games if m in (g.first, g.second)] for m in models}
    return [
        Rating(m, float(elo_K[i]), float(low_K[i]), float(high_K[i]), len(of), len(set(of)))
        for i, (m, of) in enumerate(played.items())
    ]


def strengths(wins_RKK: Floats) -> Floats:
    """Log-strengths θ with θ_0 = 0 that maximise Σ w_ij log σ(θ_i − θ_j), shape (R, K).

    `wins_RKK[r, i, j]` counts i's wins over j, a tie as half for each (Davidson's split is not
    modelled). Newton's method on a concave function (Hunter 2004, section 2). Raises ValueError
    when some group of models never lost, or never won, against the others.
    """
    games_RKK = wins_RKK + wins_RKK.swapaxes(1, 2)
    theta_RK = np.zeros(wins_RKK.shape[:2])
    for _ in range(MAX_STEPS):
        expected_RKK = 1 / (1 + np.exp(theta_RK[:, None, :] - theta_RK[:, :, None]))
        if np.abs(theta_RK).max() > INFINITE_NATS:
            break
        slope_RK = (wins_RKK - games_RKK * expected_RKK).sum(axis=2)
        if np.abs(slope_RK).max() < CONVERGED * max(1.0, float(games_RKK.sum(axis=(1, 2)).max())):
            return theta_RK
        weight_RKK = games_RKK * expected_RKK * (1 - expected_RKK)
        curve_RKK = weight_RKK.sum(axis=2)[:, :, None] * np.eye(wins_RKK.shape[1]) - weight_RKK
        try:
            step_RK = np.linalg.solve(curve_RKK[:, 1:, 1:], slope_RK[:, 1:, None])[:, :, 0]
        except np.linalg.LinAlgError:
            break
        theta_RK[:, 1:] += np.clip(step_RK, -MAX_STEP_NATS, MAX_STEP_NATS)
    raise ValueError(
        "the games have no finite ratings: some models never won or never lost against the rest, "
        "or never met them; play more games or use prior_ties"
    )


def _tables(games: Sequence[Game], models: Sequence[str]) -> Floats:
    """Wins of row over column by prompt, so that a prompt's games are drawn together."""
    prompts = {name: i for i, name in enumerate(dict.fromkeys(game.prompt for game in games))}
    place = {name: i for i, name in enumerate(models)}
    tables = np.zeros((len(prompts), len(models), len(models)))
    for game in games:
        row, first, second = prompts[game.prompt], place[game.first], place[game.second]
        tables[row, first, second] += game.credit
        tables[row, second, first] += 1 - game.credit
    return tables


def _resampled(tables_PKK: Floats, seed: int, resamples: int) -> Floats:
    """Sums of tables drawn with replacement, (R, K, K); in chunks, which change no draw."""
    rng = np.random.default_rng(seed)
    number = len(tables_PKK)
    chunk = max(1, CELLS_PER_CHUNK // number)
    parts: list[Floats] = []
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        weights_RP = rng.multinomial(number, np.full(number, 1 / number), size=size)
        parts.append(np.einsum("rp,pkl->rkl", weights_RP.astype(np.float64), tables_PKK))
    return np.concatenate(parts)


def _elo(theta_RK: Floats) -> Floats:
    return ANCHOR_ELO + ELO_PER_NAT * theta_RK
