from __future__ import annotations

from collections import Counter
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from igpo_rl.injections import Full, NoInjection, Resample, UniformChunks, hint_count
from igpo_rl.records import Problem

PROBLEM = Problem(key="p", prompt=torch.tensor([1]))


def chunks(count: int) -> list[tuple[int, int]]:
    return [(5 * index, 5 * index + 5) for index in range(count)]


def ask(injection, count: int, rows: int = 8, seed: int = 0):
    return injection(PROBLEM, chunks(count), rows, 0.0, Random(seed), {})


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
