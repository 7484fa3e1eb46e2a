import numpy as np
import pytest
from scipy.stats import binomtest

from equilibrate_core.paired_tests import exact_p, mcnemar


def by_item(values) -> dict[str, list[float]]:
    return {str(index): [float(value)] for index, value in enumerate(values)}


def test_one_lost_and_five_gained_is_seven_of_thirty_two():
    base, aligned = by_item([0] * 5 + [1] + [1] * 4), by_item([1] * 5 + [0] + [1] * 4)
    found = mcnemar(base, aligned)
    # (C(6,0) + C(6,1)) / 2^6, twice: 14 / 64.
    assert (found.gained, found.lost, found.p_value) == (5, 1, 14 / 64)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (3, 3), (10, 2), (2, 10), (1500, 1380)])
def test_p_value_is_that_of_the_binomial_test(gained, lost):
    peer = binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
    assert exact_p(gained, lost) == pytest.approx(peer, rel=1e-9)


def test_items_of_one_model_alone_do_not_count():
    found = mcnemar({"a": [1.0], "b": [0.0]}, {"a": [0.0], "c": [1.0]})
    assert (found.gained, found.lost) == (0, 1)


@pytest.mark.parametrize("values", [[0.5], [1.0, 0.0], [2.0]])
def test_what_is_not_right_or_wrong_has_no_mcnemar_test(values):
    assert mcnemar({"a": values, "b": [1.0]}, {"a": values, "b": [0.0]}) is None


def test_nothing_in_common_has_no_test():
    assert mcnemar({"a": [1.0]}, {"b": [1.0]}) is None


def test_equal_models_are_rarely_called_different():
    rng = np.random.default_rng(0)
    false_alarms = sum(
        mcnemar(by_item(rng.integers(0, 2, 60)), by_item(rng.integers(0, 2, 60))).p_value < 0.05
        for _ in range(400)
    )
    assert false_alarms / 400 < 0.05
