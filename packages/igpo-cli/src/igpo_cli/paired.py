"""Two models on the same problems: what their difference is worth.

Problems differ more than models do, so the pairs are compared, not the two totals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from attrs import frozen

from igpo_cli.evaluate import bootstrap, wilson


@frozen(kw_only=True)
class Difference:
    """How much better the second of two models is on the problems that both were given."""

    problems: int
    value: float
    """Mean difference of the shares of correct samples."""
    low: float
    high: float
    """95 % interval: Newcombe's for one sample a problem, a bootstrap over problems for several."""
    better: int
    """Problems on which the second model has more correct samples."""
    worse: int
    p: float
    """Two-sided: chance of as uneven a split of `better` and `worse` if neither were likelier (exact sign test, which for one
    sample is McNemar's)."""


def difference(first: Mapping[str, int], second: Mapping[str, int], samples: int) -> Difference:
    """Correct samples by problem, of `samples` each; ValueError where the problems differ."""
    if first.keys() != second.keys():
        raise ValueError(
            f"the models were given different problems ({len(first.keys() ^ second.keys())} are not shared)"
        )
    pairs = [(first[key], second[key]) for key in first]
    gains = [(after - before) / samples for before, after in pairs]
    better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    if samples == 1:
        both = sum(before and after for before, after in pairs)
        low, high = newcombe(both, worse, better, len(pairs) - both - worse - better)
    else:
        low, high = paired_bootstrap(gains)
    return Difference(
        problems=len(pairs),
        value=math.fsum(gains) / max(1, len(gains)),
        low=low,
        high=high,
        better=better,
        worse=worse,
        p=sign_test(better, worse),
    )


def sign_test(better: int, worse: int) -> float:
    """Two-sided exact p-value of a split into `better` and `worse` under a fair coin; ties are left out (McNemar 1947)."""
    trials = better + worse
    tail = sum(math.comb(trials, count) for count in range(min(better, worse) + 1))
    return min(1.0, 2 * tail / (1 << trials))


def newcombe(both: int, first: int, second: int, neither: int) -> tuple[float, float]:
    """95 % interval of the difference of two paired shares, second minus first, of problems that both, only one or neither
    got right (Newcombe 1998, Statistics in Medicine 17:2635, method 10)."""
    trials = both + first + second + neither
    if trials == 0:
        return (-1.0, 1.0)
    one, two = both + first, both + second
    (low_one, high_one), (low_two, high_two) = wilson(one, trials), wilson(two, trials)
    cross = float(both * neither - first * second)
    if cross > 0:
        cross = max(0.0, cross - trials / 2)  # continuity
    margins = one * (trials - one) * two * (trials - two)
    phi = cross / math.sqrt(margins) if margins else 0.0
    share, other = one / trials, two / trials
    down = _span(other - low_two, high_one - share, phi)
    up = _span(high_two - other, share - low_one, phi)
    return (other - share - down, other - share + up)


def _span(a: float, b: float, phi: float) -> float:
    return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))


def paired_bootstrap(gains: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of differences in [-1, 1], resampling problems.

    Differences that are all alike leave nothing to resample; then as many problems as could still differ (Wilson) may.
    """
    if len(set(gains)) < 2:
        value, room = math.fsum(gains[:1]), wilson(0, len(gains))[1]
        return (max(-1.0, value - room), min(1.0, value + room))
    low, high = bootstrap([(gain + 1) / 2 for gain in gains])
    return (2 * low - 1, 2 * high - 1)
