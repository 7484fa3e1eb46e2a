import math
import tracemalloc

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from equilibrate_core import bradley_terry
from equilibrate_core.bradley_terry import ELO_PER_NAT, Game, elo_ratings, strengths


def games(results: dict[tuple[str, str], tuple[int, int, int]]) -> list[Game]:
    """One prompt per game; results by pair: wins of the first, ties, losses."""
    found = []
    for (first, second), counts in results.items():
        for credit, number in zip((1.0, 0.5, 0.0), counts, strict=True):
            found += [Game(f"{first}{second}{credit}{i}", first, second, credit)
                      for i in range(number)]  # fmt: skip
    return found


RESULTS = {("b", "a"): (30, 8, 12), ("c", "a"): (25, 4, 21), ("c", "b"): (14, 6, 30)}


def test_three_wins_in_four_are_the_odds_of_three_to_one():
    base, model = elo_ratings(games({("m", "base"): (3, 0, 1)}), anchor="base", seed=0,
                              prior_ties=0)  # fmt: skip
    assert (base.elo, base.num_games) == (1000.0, 4)
    assert model.elo == pytest.approx(1000 + 400 * math.log10(3))


def test_ties_count_half():
    tied = elo_ratings(games({("m", "base"): (1, 2, 1)}), anchor="base", seed=0)
    assert [rating.elo for rating in tied] == pytest.approx([1000, 1000])


def test_three_models_match_logistic_regression():
    found = {r.model: r.elo for r in elo_ratings(games(RESULTS), anchor="a", seed=0, prior_ties=0)}
    rows, targets, weights = [], [], []
    for game in games(RESULTS):
        x = [float(game.first == name) - float(game.second == name) for name in ("b", "c")]
        for target, weight in ((1, game.credit), (0, 1 - game.credit)):
            rows.append(x)
            targets.append(target)
            weights.append(weight)
    peer = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=10_000)
    peer.fit(rows, targets, sample_weight=weights)
    for name, coefficient in zip(("b", "c"), peer.coef_[0], strict=True):
        assert found[name] == pytest.approx(1000 + ELO_PER_NAT * coefficient, abs=1e-3)


def test_models_that_never_met_are_joined_through_a_third():
    results = {("b", "a"): (3, 0, 1), ("c", "b"): (3, 0, 1)}
    elo = {r.model: r.elo for r in elo_ratings(games(results), anchor="a", seed=0, prior_ties=0)}
    assert elo["c"] - elo["b"] == pytest.approx(elo["b"] - elo["a"])


def test_interval_covers_what_a_plain_resampling_loop_covers():
    played = games({("m", "base"): (60, 0, 40)})
    _, model = elo_ratings(played, anchor="base", seed=0, resamples=4000)
    wins = np.random.default_rng(1).binomial(100, 0.6, size=4000) + 0.5
    # One win more or less moves a rating by 7 to 8.5 points here.
    loop = 1000 + ELO_PER_NAT * np.log(wins / (101 - wins))
    assert model.low == pytest.approx(np.quantile(loop, 0.025), abs=9)
    assert model.high == pytest.approx(np.quantile(loop, 0.975), abs=9)
    assert model.low < model.elo < model.high


def test_games_of_one_prompt_are_drawn_together():
    spread = games({("m", "base"): (10, 0, 10)})
    lumped = [Game(f"p{i % 2}", g.first, g.second, g.credit) for i, g in enumerate(spread)]
    lumped = [Game("won" if g.credit else "lost", g.first, g.second, g.credit) for g in lumped]
    widths = []
    for played in (spread, lumped):
        _, model = elo_ratings(played, anchor="base", seed=0)
        widths.append(model.high - model.low)
    assert widths[1] > 2 * widths[0]


def test_prompts_are_counted_once_whatever_was_played_on_them():
    both = [Game(f"p{i}", "m", "base", credit) for i in range(3) for credit in (1.0, 0.0)]
    _, model = elo_ratings([*both, Game("p9", "m", "other", 1.0)], anchor="base", seed=0)[:2]
    assert (model.model, model.num_games, model.num_prompts) == ("m", 7, 4)


def test_resampling_in_chunks_changes_no_interval_and_needs_little_memory(monkeypatch):
    """Ten chunks of 20 resamples over 2,000 prompts; at once they would take 6.4 MB."""
    played = [Game(f"p{i}", ("b", "c")[i % 2], "a", (0.0, 0.5, 1.0)[i % 3]) for i in range(2000)]
    at_once = elo_ratings(played, anchor="a", seed=3, resamples=200)
    monkeypatch.setattr(bradley_terry, "CELLS_PER_CHUNK", 20 * 2000)
    tracemalloc.start()
    try:
        chunked = elo_ratings(played, anchor="a", seed=3, resamples=200)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    for one, other in zip(at_once, chunked, strict=True):
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-9)
    assert peak < 2_500_000, "of which 0.7 MB are the resamples, the rest games and tables"


def test_a_clean_sweep_has_no_rating_without_prior_ties():
    sweep = games({("m", "base"): (5, 0, 0)})
    with pytest.raises(ValueError, match="no finite ratings"):
        elo_ratings(sweep, anchor="base", seed=0, prior_ties=0)
    _, model = elo_ratings(sweep, anchor="base", seed=0)
    assert model.elo == pytest.approx(1000 + 400 * math.log10(5.5 / 0.5))


def test_an_anchor_that_never_played_is_named():
    with pytest.raises(ValueError, match="'base' played no game"):
        elo_ratings(games({("m", "other"): (1, 0, 0)}), anchor="base", seed=0)


def test_the_gradient_vanishes_at_the_strengths():
    wins = np.random.default_rng(0).uniform(1, 9, size=(3, 5, 5)) * (1 - np.eye(5))
    theta = strengths(wins)
    expected = 1 / (1 + np.exp(theta[:, None, :] - theta[:, :, None]))
    slope = (wins - (wins + wins.swapaxes(1, 2)) * expected).sum(axis=2)
    assert np.abs(slope).max() < 1e-7
    assert np.all(theta[:, 0] == 0)
