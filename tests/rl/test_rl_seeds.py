from __future__ import annotations

import subprocess
import sys
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from igpo_rl.seeds import derive, permutation_stream, row_seeds, uniforms


def test_derive_tells_types_and_borders_apart():
    assert len({derive(1, "2"), derive("1", 2), derive(12), derive("12"), derive("1", "2"), derive("12", "")}) == 6
    assert 0 <= derive("any", 3) < 2**63


def test_derive_is_the_same_in_every_process():
    assert derive(0, 3, "gsm8k-17", 2, "rollout") == 9065842863900172324
    code = "from igpo_rl.seeds import derive; print(derive(0, 3, 'gsm8k-17', 2, 'rollout'))"
    assert int(subprocess.check_output([sys.executable, "-c", code])) == derive(0, 3, "gsm8k-17", 2, "rollout")


def test_uniforms_are_uniform_and_independent():
    table = uniforms(row_seeds(0, 0, ["key"] * 400, range(400), "test"), 500)
    assert table.min() >= 0
    assert table.max() < 1
    assert table.unique().numel() > 0.98 * table.numel()
    counts = torch.histc(table, bins=20, min=0, max=1)
    expected = table.numel() / 20
    assert ((counts - expected) ** 2 / expected).sum() < 50  # chi-square with 19 degrees of freedom: 43.8 at p = .001
    centred = table - 0.5
    for neighbour in (centred[:, 1:] * centred[:, :-1], centred[1:] * centred[:-1]):
        assert abs(neighbour.mean() * 12) < 0.01


@given(st.integers(0, 2**63 - 1), st.integers(1, 20), st.integers(0, 3))
def test_uniforms_depend_on_seed_stream_and_position_alone(seed, width, stream):
    alone = uniforms(torch.tensor([seed]), width, stream)
    crowd = uniforms(torch.tensor([7, seed, 11]), width + 5, stream)
    assert torch.equal(alone[0], crowd[1, :width])
    assert not torch.equal(uniforms(torch.tensor([seed]), 8, stream), uniforms(torch.tensor([seed]), 8, stream + 1))


@given(st.integers(1, 9), st.integers(0, 40))
def test_a_permutation_stream_continues_where_it_was_left(count, start):
    straight = list(islice(permutation_stream(count, 3, "order"), start + 20))
    assert list(islice(permutation_stream(count, 3, "order", start=start), 20)) == straight[start:]
    assert sorted(straight[:count]) == list(range(count))[: len(straight)]


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
    first, second = (list(islice(permutation_stream(20, seed), 60)) for seed in (3, 4))
    assert len({tuple(order[at : at + 20]) for order in (first, second) for at in (0, 20, 40)}) == 6


def test_no_problems_is_an_error_not_an_endless_loop():
    with pytest.raises(ValueError, match="count = 0"):
        next(permutation_stream(0, 1))
