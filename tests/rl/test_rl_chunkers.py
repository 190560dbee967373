from __future__ import annotations

from collections import Counter
from random import Random

import pytest
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from igpo_rl.chunkers import Fixed, RandomLength, Sentence, Step
from igpo_rl.records import Problem


def problem(hintable: list[bool]) -> Problem:
    flags = torch.tensor(hintable, dtype=torch.bool)
    return Problem(key="p", prompt=torch.tensor([1]), trace=torch.arange(len(flags)), hintable=flags)


def covered(chunks) -> list[int]:
    return [token for start, end in chunks for token in range(start, end)]


@given(
    st.lists(st.booleans(), max_size=60),
    st.integers(1, 6),
    st.integers(0, 6),
    st.sampled_from(["own", "join"]),
    st.integers(0, 2**32),
)
def test_chunks_tile_the_hintable_tokens_and_hold_no_other(hintable, low, more, tail, seed):
    chunks = RandomLength(low=low, high=low + more, tail=tail)(problem(hintable), Random(seed))
    assert covered(chunks) == [token for token, flag in enumerate(hintable) if flag]


def test_lengths_are_uniform_from_low_to_high_inclusive():
    lengths = Counter()
    for seed in range(2000):
        chunks = RandomLength()(problem([True] * 40), Random(seed))
        lengths[chunks[0][1] - chunks[0][0]] += 1
    assert sorted(lengths) == [5, 6, 7, 8, 9, 10]
    assert all(abs(count - 2000 / 6) < 5 * (2000 / 6) ** 0.5 for count in lengths.values())


def test_a_short_tail_stands_alone_or_joins_the_chunk_before_it():
    own = RandomLength(low=5, high=5)(problem([True] * 12), Random(0))
    assert own == [(0, 5), (5, 10), (10, 12)]
    assert RandomLength(low=5, high=5, tail="join")(problem([True] * 12), Random(0)) == [(0, 5), (5, 12)]
    assert RandomLength(low=5, high=5, tail="join")(problem([True] * 3), Random(0)) == [(0, 3)]  # nothing to join


def test_a_gap_is_never_bridged():
    assert RandomLength(low=3, high=3, tail="join")(problem([True, False, True]), Random(0)) == [(0, 1), (2, 3)]


def test_the_published_variant_that_drops_a_short_tail_loses_tokens():
    hintable = [True] * 12
    faulty = [chunk for chunk in RandomLength(low=5, high=5)(problem(hintable), Random(0)) if chunk[1] - chunk[0] >= 5]
    assert covered(faulty) != list(range(12))
    assert covered(RandomLength(low=5, high=5)(problem(hintable), Random(0))) == list(range(12))


def test_bounds_are_checked():
    with pytest.raises(ValueError, match="low = 7 is above high = 6"):
        RandomLength(low=7, high=6)
    with pytest.raises(ValueError, match="low"):
        RandomLength(low=0)


def test_fixed_chunks_have_one_length_and_a_rest():
    flags = [True] * 7 + [False] + [True] * 4
    assert Fixed(length=3)(problem(flags), Random(0)) == [(0, 3), (3, 6), (6, 7), (8, 11), (11, 12)]


def ends(*places: int, length: int = 12) -> torch.Tensor:
    flags = torch.zeros(length, dtype=torch.bool)
    flags[list(places)] = True
    return flags


@pytest.mark.parametrize(("chunker", "column"), [(Sentence, "breaks"), (Step, "steps")])
def test_sentences_and_steps_are_cut_behind_their_last_token(chunker, column):
    flags = [True] * 7 + [False, False] + [True] * 3
    one = evolve(problem(flags), **{column: ends(2, 6, 7, 11)})
    assert chunker()(one, Random(0)) == [(0, 3), (3, 7), (9, 12)]
    assert chunker(longest=2)(one, Random(0)) == [(0, 2), (2, 3), (3, 5), (5, 7), (9, 11), (11, 12)]
    assert chunker()(problem(flags), Random(0)) == [(0, 7), (9, 12)]  # where no end is known, a whole run
    other = {"breaks": "steps", "steps": "breaks"}[column]
    assert chunker()(evolve(one, **{other: ends(0, 1, 2, 3, 4)}), Random(0)) == [(0, 3), (3, 7), (9, 12)]
