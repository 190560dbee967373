from __future__ import annotations

from collections import Counter
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from igpo_rl.injections import Full, NoInjection, Prefix, Resample, RevealLast, Suffix, UniformChunks, hint_count
from igpo_rl.records import Problem

PROBLEM = Problem(key="p", prompt=torch.tensor([1]))


def chunks(count: int) -> list[tuple[int, int]]:
    return [(5 * index, 5 * index + 5) for index in range(count)]


def ask(injection, count: int, rows: int = 8, seed: int = 0, progress: float = 0.0):
    return injection(PROBLEM, chunks(count), rows, progress, Random(seed), {})


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 12), st.integers(0, 999))
def test_each_row_shows_between_the_two_shares_and_at_least_one_chunk(one, other, count, seed):
    low, high = sorted((one, other))
    shown = ask(UniformChunks(low=low, high=high), count, seed=seed).sum(1)
    assert shown.min() >= hint_count(low, count)
    assert shown.max() <= hint_count(high, count)
    assert (shown >= 1).all() or low == 0  # eta itself may be exactly 0 only there


@pytest.mark.parametrize(
    ("eta", "count", "expected"), [(0.2, 4, 1), (0.6, 5, 3), (0.29, 100, 29), (1.0, 7, 7), (0.0, 7, 0), (0.5, 0, 0)]
)
def test_counts_are_floors_and_exact_at_whole_numbers(eta, count, expected):
    assert hint_count(eta, count) == expected


def test_every_chunk_is_equally_likely_the_last_one_too():
    often = Counter()
    for seed in range(1500):
        for row in ask(UniformChunks(low=0.5, high=0.5), 4, rows=1, seed=seed):
            often.update(row.nonzero().flatten().tolist())
    assert all(abs(often[index] - 750) < 5 * 750**0.5 for index in range(4))


def test_the_published_variant_always_shows_the_last_chunk():
    """Trap 9: hidden are int(N (1 - eta)) of the first chunks, so the one with the answer is always shown."""

    def faulty(count: int, eta: float, rng: Random) -> torch.Tensor:
        shown = torch.ones(count, dtype=torch.bool)
        shown[rng.sample(range(count - 1), min(int(count * (1 - eta)), count - 1))] = False
        return shown

    def last_is_sometimes_hidden(rows: list[torch.Tensor]) -> bool:
        return not all(bool(row[-1]) for row in rows)

    assert not last_is_sometimes_hidden([faulty(4, 0.5, Random(seed)) for seed in range(100)])
    assert last_is_sometimes_hidden([ask(UniformChunks(), 4, rows=1, seed=seed)[0] for seed in range(100)])


def test_eta_zero_is_a_second_blind_rollout_and_eta_one_is_full_injection():
    assert torch.equal(ask(UniformChunks(low=0.0, high=0.0), 5), ask(Resample(), 5))
    assert torch.equal(ask(UniformChunks(low=1.0, high=1.0), 5), ask(Full(), 5))
    assert ask(NoInjection(), 5) is None


def test_without_chunks_only_resample_tries_again():
    assert ask(UniformChunks(), 0) is None
    assert ask(Full(), 0) is None
    assert ask(Resample(), 0).shape == (8, 0)


def test_rows_differ():
    assert len({tuple(row) for row in ask(UniformChunks(), 6).tolist()}) > 3


@pytest.mark.parametrize("seed", range(5))
def test_prefix_and_suffix_show_the_beginning_and_the_end(seed):
    for row in ask(Prefix(), 9, seed=seed).tolist():
        assert row == sorted(row, reverse=True)
        assert 1 <= sum(row) <= 5
    for row in ask(Suffix(), 9, seed=seed).tolist():
        assert row == sorted(row)
        assert 1 <= sum(row) <= 5
    counts = [ask(each, 9, seed=seed).sum(1) for each in (Prefix(), Suffix())]
    assert torch.equal(*counts)  # one stream of shares
    assert ask(Prefix(low=0.0, high=0.0), 4).sum() == ask(Suffix(low=0.0, high=0.0), 4).sum() == 0


@pytest.mark.parametrize("injection", [UniformChunks, Prefix, Suffix])
def test_shares_fall_linearly_or_along_a_cosine(injection):
    def shown(decay, progress, final=0.0) -> int:
        return int(ask(injection(low=0.8, high=0.8, decay=decay, final=final), 100, 1, progress=progress).sum())

    assert [shown("linear", at / 4) for at in range(5)] == [80, 60, 40, 20, 0]
    assert [shown("cosine", at / 4) for at in range(5)] == [80, 68, 40, 11, 0]
    assert [shown("linear", at / 4, final=0.5) for at in range(5)] == [80, 70, 60, 50, 40]
    assert [shown("none", at / 4) for at in range(5)] == [80] * 5


def test_reveal_last_hides_as_many_as_the_public_code_and_never_the_last():
    for seed in range(50):
        for row in ask(RevealLast(low=0.4, high=0.4), 8, seed=seed):
            assert row[-1]
            assert int(row.sum()) == 8 - int(8 * 0.6)
    assert ask(RevealLast(low=0.0, high=0.0), 3).tolist() == [[False, False, True]] * 8
    assert ask(RevealLast(low=1.0, high=1.0), 3).all()
    assert ask(RevealLast(), 1).all()


@pytest.mark.parametrize("injection", [UniformChunks, Prefix, Suffix, RevealLast])
def test_a_range_is_checked(injection):
    with pytest.raises(ValueError, match=r"low = 0.7 is above high = 0.6"):
        injection(low=0.7)
