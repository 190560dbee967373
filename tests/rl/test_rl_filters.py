from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from igpo_rl.filters import KeepAll, TopEntropy
from igpo_rl.seeds import uniforms


def bools(seed: int, rows: int, width: int, share: float = 0.6) -> torch.Tensor:
    return uniforms(torch.arange(rows) + seed, width, stream=5) < share


@given(st.integers(0, 10**6), st.integers(1, 40), st.floats(0, 1))
def test_each_row_keeps_the_most_uncertain_hints(seed, width, tau):
    entropy = (uniforms(torch.arange(4) + seed, width) * 4).round()  # with ties
    hint, scored = bools(seed, 4, width), bools(seed + 50, 4, width)
    kept = TopEntropy(tau=tau)(entropy, torch.zeros_like(entropy), hint, scored)
    candidate = hint & scored
    for row in range(4):
        count = int(candidate[row].sum())
        expected = max(1, math.floor(count * tau + 1e-4)) if count else 0
        order = sorted(candidate[row].nonzero().flatten().tolist(), key=lambda cell: (-float(entropy[row, cell]), cell))
        assert kept[row].nonzero().flatten().tolist() == sorted(order[:expected])


def test_whole_numbers_are_not_lost_to_rounding():
    for count in range(1, 400):
        for tau in (0.1, 0.2, 0.3, 0.29, 0.7, 1.0):
            cells = torch.ones(1, count, dtype=torch.bool)
            kept = TopEntropy(tau=tau)(torch.arange(count)[None].float(), cells.float(), cells, cells).sum()
            assert kept == max(1, round(count * tau * 100) // 100)


def test_the_variant_that_ranks_over_all_hints_ignores_what_is_scored():
    """n counts the hints scored in this view: a filter that ranks all hints first may keep none that is scored."""
    entropy = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]])
    hint = torch.ones(1, 5, dtype=torch.bool)
    scored = torch.tensor([[False, False, True, True, True]])
    faulty = hint & scored & (entropy >= entropy.topk(1).values)
    assert faulty.sum() == 0
    assert TopEntropy(tau=0.2)(entropy, entropy, hint, scored).tolist() == [[False, False, True, False, False]]


def test_keep_all_keeps_all_scored_hints():
    hint, scored = bools(1, 3, 8), bools(2, 3, 8)
    assert torch.equal(KeepAll()(torch.zeros(3, 8), torch.zeros(3, 8), hint, scored), hint & scored)
