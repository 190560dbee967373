from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from igpo_rl.filters import AdaptiveFilter, DropHints, KeepAll, Threshold, TopEntropy
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


def test_drop_hints_keeps_none_and_threshold_what_is_uncertain_enough():
    hint, scored = bools(1, 3, 8), bools(2, 3, 8)
    entropy = uniforms(torch.arange(3), 8)
    assert not DropHints()(entropy, entropy, hint, scored).any()
    assert torch.equal(Threshold(nats=0.4)(entropy, entropy, hint, scored), hint & scored & (entropy >= 0.4))
    assert torch.equal(Threshold(nats=0.0)(entropy, entropy, hint, scored), hint & scored)


@given(st.integers(0, 10**6), st.integers(1, 30), st.floats(0, 0.95))
def test_the_hints_share_of_the_gradient_is_bounded(seed, width, share):
    """And no larger prefix by falling entropy would stay within the bound."""
    entropy = uniforms(torch.arange(4) + seed, width, stream=1)
    logp = (uniforms(torch.arange(4) + seed, width, stream=2).double() + 1e-6).log()
    hint, scored = bools(seed, 4, width), bools(seed + 50, 4, width)
    kept = AdaptiveFilter(share=share)(entropy, logp, hint, scored)
    size, own = 1 - logp.exp(), scored & ~hint
    for row in range(4):
        mine, theirs = float(size[row][own[row]].sum()), float(size[row][kept[row]].sum())
        assert theirs <= share * (mine + theirs) + 1e-9
        order = sorted((hint & scored)[row].nonzero().flatten().tolist(), key=lambda at: (-float(entropy[row, at]), at))
        count = int(kept[row].sum())
        assert sorted(order[:count]) == kept[row].nonzero().flatten().tolist()
        if count < len(order):
            more = theirs + float(size[row, order[count]])
            assert more > share * (mine + more) - 1e-9


def test_the_proxy_is_within_a_factor_of_the_gradient_in_the_logits():
    """The norm of onehot - p lies between 1 - p and its sqrt(2)-fold: p of the other tokens sum to 1 - p."""
    logits = (uniforms(torch.arange(64), 7) * 8).double().requires_grad_()
    logp = logits.log_softmax(-1)[:, 0]
    (gradient,) = torch.autograd.grad(logp.sum(), logits)
    ratio = gradient.norm(dim=1) / (1 - logp.exp())
    assert (ratio >= 1 - 1e-9).all()
    assert (ratio <= 2**0.5 + 1e-9).all()
