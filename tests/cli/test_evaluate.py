"""The statistics of an evaluation, against brute force and published figures."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igpo_cli.evaluate import bootstrap, pass_at_k, summarise, wilson


@given(samples=st.integers(1, 7), data=st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(samples, data):
    correct = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    rows = [index < correct for index in range(samples)]
    subsets = list(itertools.combinations(rows, k))
    assert pass_at_k(correct, samples, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_wilson_interval_of_a_known_case():
    # 10 of 100: the textbook's 95 % Wilson interval is (0.0552, 0.1744).
    low, high = wilson(10, 100)
    assert (round(low, 4), round(high, 4)) == (0.0552, 0.1744)


@given(trials=st.integers(1, 400), data=st.data())
def test_wilson_interval_holds_the_share_and_stays_in_range(trials, data):
    successes = data.draw(st.integers(0, trials))
    low, high = wilson(successes, trials)
    assert 0.0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1.0


def test_bootstrap_interval_agrees_with_the_normal_one_and_is_repeatable():
    values = [0.0] * 300 + [1.0] * 100
    low, high = bootstrap(values)
    error = math.sqrt(0.25 * 0.75 / 400)
    assert low == pytest.approx(0.25 - 1.96 * error, abs=0.01)
    assert high == pytest.approx(0.25 + 1.96 * error, abs=0.01)
    assert (low, high) == bootstrap(values)


def test_several_samples_give_avg_and_pass_at_powers_of_two():
    metrics = summarise([0, 4, 2], samples=4)
    assert metrics["pass@1"] == metrics["avg@4"] == pytest.approx(0.5)
    assert metrics["pass@2"] == pytest.approx((0 + 1 + 5 / 6) / 3)
    assert metrics["pass@4"] == pytest.approx(2 / 3)
    assert metrics["problems"] == 3


def test_one_sample_gives_a_wilson_interval():
    assert (summarise([1, 0, 0, 0], 1)["low"], summarise([1, 0, 0, 0], 1)["high"]) == wilson(1, 4)


def test_problems_that_are_all_alike_still_have_an_interval():
    assert bootstrap([0.0] * 16) == wilson(0, 16)
    assert wilson(0, 16)[1] > 0.15
