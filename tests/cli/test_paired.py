"""Two models on the same problems, against enumeration and a published figure."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igpo_cli.evaluate import bootstrap
from igpo_cli.paired import difference, newcombe, paired_bootstrap, sign_test


def test_newcombe_interval_of_his_own_example():
    # Newcombe 1998, table III, method 10: 36, 12, 2, 0 of 50 pairs, a difference of 0.2.
    low, high = newcombe(36, 2, 12, 0)
    assert (round(low, 4), round(high, 4)) == (0.0569, 0.3404)


@given(st.tuples(*[st.integers(0, 30)] * 4))
def test_newcombe_interval_holds_the_difference_and_turns_with_the_models(counts):
    both, first, second, neither = counts
    total = max(1, sum(counts))
    low, high = newcombe(both, first, second, neither)
    assert low - 1e-12 <= (second - first) / total <= high + 1e-12
    assert newcombe(both, second, first, neither) == pytest.approx((-high, -low))


@given(better=st.integers(0, 9), worse=st.integers(0, 9))
def test_sign_test_counts_all_splits_that_are_as_uneven(better, worse):
    total = better + worse
    flips = [sum(coins) for coins in itertools.product((0, 1), repeat=total)]
    as_uneven = sum(abs(2 * heads - total) >= abs(better - worse) for heads in flips)
    assert sign_test(better, worse) == pytest.approx(as_uneven / 2**total)


@pytest.mark.parametrize("values", [[0.0, 0.25, 1.0, 0.5], [0.0, 0.0, 0.0, 0.75, 1.0]])
def test_bootstrap_agrees_with_the_enumeration_of_all_resamples(values):
    means = sorted(sum(draw) / len(values) for draw in itertools.product(values, repeat=len(values)))

    def share(bound: float) -> tuple[float, float]:
        """Of all resamples, those below the bound and those up to it."""
        return sum(mean < bound - 1e-9 for mean in means) / len(means), sum(
            mean < bound + 1e-9 for mean in means
        ) / len(means)

    low, high = bootstrap(values, resamples=40_000)
    below, upto = share(low)
    assert below - 0.005 <= 0.025 <= upto + 0.005
    below, upto = share(high)
    assert below - 0.005 <= 0.975 <= upto + 0.005


def test_differences_that_are_all_alike_still_have_an_interval():
    low, high = paired_bootstrap([0.0] * 20)
    assert -low == high == pytest.approx(0.161, abs=1e-3)
    assert paired_bootstrap([1.0] * 20)[1] == 1.0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_a_difference_is_the_mean_over_problems(pairs):
    first = {str(at): before for at, (before, _) in enumerate(pairs)}
    second = {str(at): after for at, (_, after) in enumerate(pairs)}
    found = difference(first, second, 4)
    assert found.value == pytest.approx(sum(after - before for before, after in pairs) / 4 / len(pairs))
    assert found.low - 1e-9 <= found.value <= found.high + 1e-9
    assert (found.better, found.worse) == (sum(b < a for b, a in pairs), sum(b > a for b, a in pairs))
    assert math.isclose(difference(second, first, 4).value, -found.value, abs_tol=1e-12)


def test_models_with_different_problems_are_not_compared():
    with pytest.raises(ValueError, match="different problems"):
        difference({"a": 1}, {"b": 1}, 1)
