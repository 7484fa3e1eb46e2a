import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import beta
from sklearn import metrics as sk

from equilibrate_core import metrics
from equilibrate_core.metrics import (
    auc,
    binary_f1,
    calibration_error,
    mean_estimate,
    paired_difference,
    stratified_difference,
    stratified_estimate,
    unseen_share,
)


def _scores(values) -> dict[str, list[float]]:
    return {f"p{index}": [float(value)] for index, value in enumerate(values)}


def test_mean_and_count_are_those_of_the_values():
    estimate = mean_estimate(_scores([1, 1, 1, 0]), seed=0)
    assert (estimate.value, estimate.num) == (0.75, 4)
    assert 0 <= estimate.low < 0.75 < estimate.high <= 1


def test_interval_of_a_proportion_matches_the_normal_one_for_many_items():
    values = [1] * 600 + [0] * 1400
    estimate = mean_estimate(_scores(values), seed=0, resamples=8000)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 2000)
    assert estimate.low == pytest.approx(0.3 - half, abs=0.002)
    assert estimate.high == pytest.approx(0.3 + half, abs=0.002)


def test_interval_of_real_values_matches_a_plain_resampling_loop():
    rng = np.random.default_rng(3)
    values = rng.normal(2.0, 3.0, size=80)
    estimate = mean_estimate(_scores(values), seed=1, resamples=6000)
    loop = [rng.choice(values, size=80).mean() for _ in range(6000)]
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(np.quantile(loop, 0.025), abs=0.06)
    assert estimate.high == pytest.approx(np.quantile(loop, 0.975), abs=0.06)


def test_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(5)
    samples = rng.random((400, 60)) < 0.4
    hits = 0
    for index, sample in enumerate(samples):
        estimate = mean_estimate(_scores(sample), seed=index, resamples=400)
        hits += estimate.low <= 0.4 <= estimate.high
    assert 0.90 <= hits / 400 <= 0.98


def test_same_seed_gives_the_same_interval_and_row_order_does_not_matter():
    scores = _scores(np.random.default_rng(0).normal(size=50))
    backwards = dict(reversed(scores.items()))
    assert mean_estimate(scores, seed=7) == mean_estimate(scores, seed=7)
    assert mean_estimate(scores, seed=7).low == pytest.approx(
        mean_estimate(backwards, seed=7).low, abs=1e-12
    )
    assert mean_estimate(scores, seed=7) != mean_estimate(scores, seed=8)


def test_answers_to_one_prompt_are_not_independent_evidence():
    once = _scores([1, 0] * 20)
    copied = {name: values * 10 for name, values in once.items()}
    assert mean_estimate(copied, seed=0) == mean_estimate(once, seed=0)


def test_value_counts_answers_while_num_counts_prompts():
    estimate = mean_estimate({"a": [1.0, 1.0, 1.0], "b": [0.0], "c": []}, seed=0)
    assert (estimate.value, estimate.num) == (0.75, 2)


def test_nothing_to_average_gives_no_estimate():
    assert mean_estimate({}, seed=0) is None
    assert mean_estimate({"a": []}, seed=0) is None
    assert paired_difference({"a": [1.0]}, {"b": [1.0]}, seed=0) is None


def test_twenty_of_twenty_is_not_certainty():
    estimate = mean_estimate(_scores([1] * 20), seed=0)
    assert (estimate.value, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(0.025 ** (1 / 20))  # Clopper-Pearson: 0.8316
    difference = paired_difference(_scores([0] * 20), _scores([0] * 20), seed=0)
    assert (difference.value, difference.p_value) == (0.0, 1.0)
    assert difference.low == -difference.high == pytest.approx(-(1 - 0.025 ** (1 / 20)))


def test_two_models_right_on_the_same_items_are_not_certainly_equal():
    same = _scores([1, 0] * 20)
    difference = paired_difference(same, same, seed=0)
    assert difference.low == -difference.high == pytest.approx(-(1 - 0.025 ** (1 / 40)))


def test_constant_unbounded_scores_keep_their_width():
    estimate = mean_estimate(_scores([1.7] * 10), seed=0)
    assert estimate.low == pytest.approx(1.7) and estimate.high == pytest.approx(1.7)


def test_ties_throughout_are_as_wide_as_coin_flips():
    few, many = (mean_estimate(_scores([0.5] * number), seed=0) for number in (3, 100))
    assert (few.value, few.low, few.high) == (0.5, 0.0, 1.0)
    assert (many.low, many.high) == pytest.approx((0.402, 0.598), abs=1e-4)  # 1.96 * 0.5 / 10
    same = paired_difference(_scores([0.5] * 100), _scores([0.5] * 100), seed=0)
    assert same.high == -same.low == pytest.approx(1.96 * 0.5**0.5 / 10, abs=1e-4)


def test_the_same_half_gained_on_every_item_is_not_certainty():
    gained = paired_difference(_scores([0.5] * 3), _scores([1] * 3), seed=0)
    assert (gained.value, gained.low, gained.high) == pytest.approx((0.5, 0.5 - 0.70760, 1.0), 1e-4)


def test_strata_weigh_the_same_whatever_their_size():
    strata = [_scores([1] * 9 + [0]), _scores([0, 1])]
    assert stratified_estimate(strata, seed=0).value == pytest.approx((0.9 + 0.5) / 2)
    assert stratified_estimate([*strata, {}], seed=0) is None


def _benchmarks(num_lost: int, sizes: list[int]) -> list[tuple[dict, dict]]:
    """Half of each benchmark's items right before; the first `num_lost` benchmarks lost one."""
    found = []
    for index, size in enumerate(sizes):
        before = [1] * (size // 2) + [0] * (size - size // 2)
        found.append((_scores(before), _scores([0, *before[1:]] if index < num_lost else before)))
    return found


def test_what_no_stratum_showed_is_bounded_over_all_of_them_together():
    assert unseen_share([20], 1) == pytest.approx(beta.ppf(0.975, 1, 20)) == 1 - 0.025 ** (1 / 20)
    assert unseen_share([50] * 12, 12) == pytest.approx(beta.ppf(0.975, 1, 600))
    # Half of one small stratum's own bound: a large one shows at once what it holds.
    assert unseen_share([10, 1000], 2) == pytest.approx((1 - 0.025 ** (1 / 10)) / 2)
    assert unseen_share([], 3) == 0.0


@pytest.mark.parametrize("sizes", [[5, 7, 30, 200], [3, 3, 3], [1, 50], [40, 60]])
def test_the_bound_on_what_no_stratum_showed_is_the_greatest_that_fits(sizes):
    budget, counts = -np.log(0.025), np.asarray(sizes, dtype=float)
    fits = {"type": "ineq", "fun": lambda logs: budget - logs @ counts}
    found = [
        minimize(lambda logs: -np.mean(1 - np.exp(-logs)), start * budget / counts,
                 bounds=[(0, None)] * len(sizes), constraints=[fits]).fun
        for start in np.random.default_rng(0).dirichlet(np.ones(len(sizes)), size=8)
    ]  # fmt: skip
    assert unseen_share(sizes, len(sizes)) == pytest.approx(-min(found), abs=1e-6)


@pytest.mark.parametrize("sizes", [[50] * 12, [50], [50, 50], [10, 1000], [12, 30, 200]])
def test_a_model_that_lost_items_never_looks_surer_than_one_that_lost_none(sizes):
    same = stratified_difference(_benchmarks(0, sizes), seed=0)
    for num_lost in range(1, len(sizes) + 1):
        worse = stratified_difference(_benchmarks(num_lost, sizes), seed=0)
        assert worse.value < same.value and worse.low < same.low
    assert same.low == -same.high == pytest.approx(-unseen_share(sizes, len(sizes)))


def test_two_equal_models_are_surer_equal_on_twelve_benchmarks_than_on_one():
    one, twelve = (stratified_difference(_benchmarks(0, [50] * k), seed=0) for k in (1, 12))
    assert one.high == pytest.approx(beta.ppf(0.975, 1, 50))  # 7.1 points
    assert twelve.high == pytest.approx(beta.ppf(0.975, 1, 600))  # 0.6 points
    lost = stratified_difference(_benchmarks(12, [50] * 12), seed=0)
    assert (lost.value, lost.low, lost.high) == pytest.approx((-0.02, -0.032, -0.01), abs=0.002)


def test_a_constant_stratum_adds_its_width_as_an_independent_error():
    varied = _scores([1] * 30 + [0] * 30)
    alone = stratified_estimate([varied], seed=0)
    both = stratified_estimate([varied, _scores([1] * 10)], seed=0)
    own = 1 - 0.025 ** (1 / 10)  # 0.308
    assert both.value - both.low == pytest.approx(np.hypot(0.5 - alone.low, own) / 2, abs=1e-9)


def test_one_exception_of_fifty_is_as_uncertain_as_none():
    """The percentiles of its draws end at 3 of 50; Clopper-Pearson's interval at 5.3 of 50."""
    estimate = mean_estimate(_scores([1] + [0] * 49), seed=0)
    assert estimate.low == 0.0
    assert estimate.high == pytest.approx(0.02 + 1 - 0.025 ** (1 / 50))  # 4.6 of 50
    assert estimate.high < beta.ppf(0.975, 2, 49)


def test_enough_exceptions_speak_for_themselves(monkeypatch):
    values = _scores([1] * 12 + [0] * 38)
    found = mean_estimate(values, seed=0)
    monkeypatch.setattr(metrics, "unseen_share", lambda sizes, num_strata: 0.0)
    assert mean_estimate(values, seed=0) == found


@pytest.mark.parametrize(
    ("rates", "size"),
    [([0.07], 50), ([0.98] * 6, 50), ([1, 1, 0.9, 0.6], 30), ([0.95] * 12, 50), ([0.8, 0.7], 12)],
)
def test_intervals_of_averages_cover_the_truth_and_are_not_needlessly_wide(rates, size):
    rng = np.random.default_rng(11)
    hits, width = 0, 0.0
    for seed in range(150):
        strata = [_scores(rng.random(size) < rate) for rate in rates]
        estimate = stratified_estimate(strata, seed=seed, resamples=300)
        hits += estimate.low <= np.mean(rates) <= estimate.high
        width += (estimate.high - estimate.low) / 150
    spread = sum(rate * (1 - rate) / size for rate in rates) ** 0.5 / len(rates)
    assert hits / 150 >= 0.92
    assert width <= 2 * 1.96 * spread + 2 * unseen_share([size] * len(rates), len(rates))


def test_paired_difference_uses_only_the_items_both_have():
    base = {"a": [0.0], "b": [0.0], "c": [1.0]}
    aligned = {"a": [1.0], "b": [0.0], "d": [1.0]}
    difference = paired_difference(base, aligned, seed=0)
    assert (difference.value, difference.num) == (0.5, 2)


def test_swapping_the_arms_negates_the_difference():
    rng = np.random.default_rng(2)
    base, aligned = _scores(rng.normal(size=60)), _scores(rng.normal(0.3, 1, size=60))
    forward = paired_difference(base, aligned, seed=0)
    backward = paired_difference(aligned, base, seed=0)
    assert backward.value == pytest.approx(-forward.value)
    assert backward.low == pytest.approx(-forward.high, abs=0.08)


def test_pairing_narrows_the_interval_of_correlated_arms():
    rng = np.random.default_rng(4)
    level = rng.normal(0, 5, size=100)
    base, aligned = _scores(level), _scores(level + rng.normal(0.5, 0.5, size=100))
    difference = paired_difference(base, aligned, seed=0)
    assert difference.low > 0.3 and difference.high < 0.7
    assert difference.p_value < 0.01


def test_permutation_p_of_five_wins_is_the_exact_one():
    difference = paired_difference(_scores([0] * 5), _scores([1] * 5), seed=0, resamples=20_000)
    assert difference.p_value == pytest.approx(2 / 2**5, abs=0.006)


def test_resampling_in_chunks_changes_no_figure_and_needs_little_memory(monkeypatch):
    """Forty chunks of 5 resamples over 4,000 items of other differences; at once: 6.4 MB each."""
    rng = np.random.default_rng(8)
    base, aligned = _scores(rng.normal(size=4000)), _scores(rng.normal(0.02, 1, size=4000))
    at_once = paired_difference(base, aligned, seed=0, resamples=200)
    assert 0.01 < at_once.p_value < 0.99, "a p value that every sign flip may move"
    monkeypatch.setattr(metrics, "CELLS_PER_CHUNK", 5 * 4000)
    tracemalloc.start()
    try:
        chunked = paired_difference(base, aligned, seed=0, resamples=200)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert chunked.p_value == at_once.p_value
    assert (chunked.low, chunked.high) == pytest.approx((at_once.low, at_once.high), abs=1e-12)
    assert peak < 3_000_000


def test_permutation_p_is_uniform_when_nothing_differs():
    rng = np.random.default_rng(6)
    values = rng.normal(size=(2, 300, 40))
    tests = [
        paired_difference(_scores(a), _scores(b), seed=i, resamples=400).p_value
        for i, (a, b) in enumerate(zip(*values, strict=True))
    ]
    assert 0.01 <= np.mean(np.asarray(tests) <= 0.05) <= 0.1


def test_stratified_difference_is_the_mean_of_the_strata():
    strata = [(_scores([0, 0]), _scores([1, 1])), (_scores([1] * 8), _scores([1] * 8))]
    assert stratified_difference(strata, seed=0).value == pytest.approx(0.5)


@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2).filter(
        lambda rows: len({target for _, target in rows}) == 2
    )
)
def test_auc_equals_scikit_learn_with_ties(rows):
    scores, targets = zip(*rows, strict=True)
    assert auc(scores, targets) == pytest.approx(sk.roc_auc_score(targets, scores))
    assert auc([-s for s in scores], targets) == pytest.approx(1 - auc(scores, targets))


def test_auc_of_one_class_is_absent():
    assert auc([0.1, 0.2], [True, True]) is None


def test_binary_f1_equals_scikit_learn():
    rng = np.random.default_rng(0)
    given, true = rng.random(100) < 0.4, rng.random(100) < 0.3
    assert binary_f1(given, true) == pytest.approx(sk.f1_score(true, given))
    assert binary_f1([False], [False]) == 0.0


def test_calibration_error_hand_worked():
    # two bins: (0.6, 0.7] holds 0.65, 0.7 with one positive; (0.9, 1] holds 1.0 with a positive
    probs, targets = [0.65, 0.7, 1.0], [1, 0, 1]
    assert calibration_error(probs, targets) == pytest.approx(abs(1 - 1.35) / 3)
    assert calibration_error([0.0, 1.0], [0, 1]) == 0.0
    with pytest.raises(ValueError, match="nothing"):
        calibration_error([], [])


def test_calibration_error_is_bins_weighted_by_size():
    rng = np.random.default_rng(1)
    probs = rng.random(500)
    targets = rng.random(500) < probs**2
    edges = np.linspace(0, 1, 11)
    expected = sum(
        chosen.mean() * abs(targets[chosen].mean() - probs[chosen].mean())
        for low, high in pairwise(edges)
        if (chosen := (probs > low) & (probs <= high)).any()
    )
    assert calibration_error(probs, targets) == pytest.approx(expected)
