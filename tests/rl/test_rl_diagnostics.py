from __future__ import annotations

import math

import pytest
import torch
from attrs import evolve
from rl_tiny import MASK, VOCABULARY, Player, TinyDenoiser, endless, problems

from igpo_rl.advantages import has_signal
from igpo_rl.chunkers import RandomLength
from igpo_rl.diagnostics import estimate_variance, hint_divergence
from igpo_rl.estimators import ELBO, MeanField, RandomMask
from igpo_rl.filters import DropHints, KeepAll
from igpo_rl.igpo import IGPO
from igpo_rl.injections import NoInjection
from igpo_rl.losses import GRPO, GSPO
from igpo_rl.records import Totals
from igpo_rl.scores import token_scores
from igpo_rl.seeds import row_seeds
from igpo_rl.summary import summarise
from igpo_rl.testing import random_rollouts
from igpo_rl.views import by_row

WIDTH = 12


def algorithm(**options) -> IGPO:
    chosen = {"filter": KeepAll(), "loss": GRPO(beta=0.1), **options}
    return IGPO(**{"group": 4, "prompts": 4, "updates": 2, "chunker": RandomLength(low=2, high=3), **chosen})


def batch_of(**options):
    """Rows with hints, rows without, and groups with signal."""
    judge = lambda one, text: sum(a == "abcd"[b] for a, b in zip(text, one.trace.tolist(), strict=False) if b < 4) >= 6  # noqa: E731
    batch = algorithm(**options).collect(Player(TinyDenoiser(), WIDTH, judge), endless(problems()), 0.0, 0)
    assert bool(batch.hinted.any()) is not isinstance(options.get("injection"), NoInjection)
    return batch


def learn(rl, batch, policy=None, gather=lambda values: values[None]):
    """Metrics of the first update, and its gradients."""
    policy, metrics = policy or TinyDenoiser().double(), {}
    for loss in rl.learn(policy, TinyDenoiser(seed=1).double(), batch, 0, mask_id=MASK, gather=gather):
        for name, value in loss.metrics.items():
            metrics[name] = metrics.get(name, 0.0) + value
        loss.value.backward()
        if loss.last:
            break
    return metrics, [weight.grad.clone() for weight in policy.parameters()]


def norm(gradients) -> float:
    return math.sqrt(sum(float(one.square().sum()) for one in gradients))


# gradients ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [GRPO(beta=0.0), GSPO(beta=0.0)])
def test_the_gradient_is_split_exactly(loss):
    """At ratio 1 both losses are, up to a constant, the sum of A / n log p over kept tokens: differentiated part by part."""
    batch = batch_of()
    metrics, whole = learn(algorithm(loss=loss, measure=("gradient",), score_rows=64), batch)
    policy = TinyDenoiser().double()
    canvas = torch.cat([batch.prompt, torch.full_like(batch.completion, MASK)], 1)
    attention = torch.cat([batch.prompt_valid, torch.ones_like(batch.given)], 1)
    logits = policy(canvas, attention, torch.arange(canvas.numel())).view(*canvas.shape, VOCABULARY)[:, -WIDTH:]
    logp = logits.log_softmax(-1).gather(2, batch.completion[..., None])[..., 0]
    weight = batch.advantage / batch.valid.sum(1) / len(batch)
    parts = {}
    for name, tokens in (("own", batch.valid & ~batch.given), ("hint", batch.valid & batch.given)):
        value = -(logp * weight[:, None]).where(tokens, 0.0).sum()
        parts[name] = torch.autograd.grad(value, list(policy.parameters()), retain_graph=True)
        assert metrics[f"gradient/{name}"] == pytest.approx(norm(parts[name]), rel=1e-5)
        assert metrics[f"gradient/{name}"] > 1e-3
    for one, own, hint in zip(whole, parts["own"], parts["hint"], strict=True):
        assert torch.allclose(one, own + hint, atol=1e-7)


def test_measuring_the_gradient_changes_nothing_and_holds_for_any_micro_batch():
    batch = batch_of()
    plain, gradients = learn(algorithm(), batch)
    assert "gradient/own" not in plain
    seen = []
    for rows in (1, 4, 64):
        metrics, same = learn(algorithm(measure=("gradient", "hint-kl"), score_rows=rows), batch)
        assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(gradients, same, strict=True))
        seen.append([metrics[name] for name in ("gradient/own", "gradient/hint", "hint/kl", "gradient/own_proxy")])
    assert seen[0] == pytest.approx(seen[2], abs=1e-9)
    assert seen[1] == pytest.approx(seen[2], abs=1e-9)


def test_dropped_hints_have_no_gradient_and_no_proxy():
    metrics, whole = learn(algorithm(filter=DropHints(), measure=("gradient",), score_rows=64), batch_of())
    assert metrics["gradient/hint"] == metrics["gradient/hint_proxy"] == 0.0
    assert metrics["gradient/own"] == pytest.approx(norm(whole))
    assert metrics["gradient/own_proxy"] > 0
    assert not any(name.startswith(("policy/ratio_hint", "policy/clip_hint")) for name in metrics)
    kept, _ = learn(algorithm(), batch_of())
    assert kept["gradient/hint_proxy"] > 0


def test_norms_are_those_of_the_sum_over_ranks():
    """Two ranks with the same rows: twice the gradient, and each contributes a half of its norm."""
    batch = batch_of()
    alone, _ = learn(algorithm(measure=("gradient",)), batch)
    rl = algorithm(measure=("gradient",), loss=GRPO(beta=0.1), prompts=8)
    both, _ = learn(rl, batch, gather=lambda values: torch.stack([values, values]))
    assert 2 * both["gradient/own"] == pytest.approx(alone["gradient/own"])  # twice the rows in the denominator


# hints ----------------------------------------------------------------------------------------------------------------


def test_the_divergence_of_hints_is_that_of_the_two_marginals():
    batch, policy = batch_of(), TinyDenoiser().double()
    kl, count = hint_divergence(policy, batch, MASK).tolist()
    total = cells = 0.0
    for row in range(len(batch)):
        if not batch.given[row].any():
            continue
        marginals = []
        for hints in (False, True):
            completion = batch.completion[row].where(batch.given[row] & hints, MASK)
            canvas = torch.cat([batch.prompt[row][batch.prompt_valid[row]], completion])[None]
            logits = policy(canvas, torch.ones_like(canvas, dtype=torch.bool), torch.arange(canvas.numel()))
            marginals.append(logits[-WIDTH:].log_softmax(-1).detach())
        for slot in range(WIDTH):
            if batch.valid[row, slot] and not batch.given[row, slot]:
                without, shown = marginals[0][slot], marginals[1][slot]
                total += float((without.exp() * (without - shown)).sum())
                cells += 1
    assert count == cells > 0
    assert kl == pytest.approx(total)
    assert kl > 1e-3
    metrics, _ = learn(algorithm(measure=("hint-kl",)), batch)
    signal = batch.take((batch.advantage != 0).nonzero().flatten())
    assert metrics["hint/kl"] == pytest.approx(
        (lambda pair: float(pair[0] / pair[1]))(hint_divergence(policy, signal, MASK))
    )


def test_without_hints_there_is_nothing_to_diverge():
    batch = batch_of(injection=NoInjection())
    assert hint_divergence(TinyDenoiser(), batch, MASK).tolist() == [0.0, 0.0]
    metrics, _ = learn(algorithm(measure=("hint-kl",)), batch)
    assert "hint/kl" not in metrics


def test_ratio_clip_entropy_and_log_probs_are_split_by_hint_and_own():
    batch = batch_of()
    metrics, _ = learn(algorithm(), batch)
    rows = batch.take((batch.advantage != 0).nonzero().flatten())
    hints, own = int((rows.given & rows.valid).sum()), int((~rows.given & rows.valid).sum())
    assert hints > 0
    for name in ("entropy", "logp", "ratio", "clip"):
        both = (metrics[f"policy/{name}_own"] * own + metrics[f"policy/{name}_hint"] * hints) / (own + hints)
        assert metrics[f"policy/{name}"] == pytest.approx(both, abs=1e-6)
    assert metrics["policy/logp_own"] != pytest.approx(metrics["policy/logp_hint"], abs=1e-3)
    assert metrics["policy/ratio_hint"] == pytest.approx(1.0)


def test_clipped_tokens_are_counted_on_their_own_side():
    old = torch.zeros(1, 4)
    logp = torch.tensor([[0.5, 0.0, 0.5, 0.0]])
    hint = torch.tensor([[True, True, False, False]])
    mask = torch.tensor([[True, True, True, False]])
    totals = Totals(rows=1, tokens=3, hints=2)
    metrics = GRPO()(logp, old, torch.ones(1), mask, None, torch.zeros(1), hint, totals).metrics
    assert metrics["policy/clip_hint"] == pytest.approx(0.5)
    assert metrics["policy/clip_own"] == pytest.approx(1.0)
    assert metrics["policy/clip"] == pytest.approx(2 / 3)
    assert metrics["policy/ratio_own"] == pytest.approx(math.exp(0.5))


# estimates and outcomes -----------------------------------------------------------------------------------------------


def test_the_variance_of_estimates_is_that_between_views():
    batch = batch_of()
    random, _ = learn(algorithm(estimator=RandomMask(), updates=6, score_rows=64), batch)
    fixed, _ = learn(algorithm(estimator=MeanField(), updates=6), batch)
    single, _ = learn(algorithm(estimator=RandomMask(), updates=1), batch)
    assert random["policy/estimate_variance"] > 1e-3
    assert fixed["policy/estimate_variance"] == pytest.approx(0.0, abs=1e-12)
    assert "policy/estimate_variance" not in single
    means = [torch.rand(3, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    found = estimate_variance(means, lambda values: values[None])["policy/estimate_variance"]
    assert found == pytest.approx(float(torch.stack(means).var(0).mean()))


def test_a_score_of_a_whole_row_varies_by_what_its_masks_leave_out_too():
    """A row that is scored at few tokens is not one with few tokens."""
    batch, estimator = batch_of(), ELBO(rule="gauss", samples=1)
    found, _ = learn(algorithm(estimator=estimator, loss=GSPO(), updates=6, score_rows=64), batch)
    rows = batch.take(has_signal(batch.reward, 4).nonzero().flatten())
    means = []
    for update in range(6):
        seeds = row_seeds(0, 0, rows.keys, [row % 4 for row in range(len(rows))], f"view {update}")
        view = estimator(rows, rows.advantage, seeds, MASK)
        logp = by_row(view, token_scores(TinyDenoiser().double(), view, rows.completion).logp, len(rows))
        means.append(logp.sum(1) / rows.valid.sum(1))
    assert found["policy/estimate_variance"] == pytest.approx(
        float(torch.stack(means).detach().var(0).mean()), rel=1e-6
    )


def test_pass_at_k_and_valid_derivations():
    """Groups of 4 with 0, 1 and 3 correct rows."""
    correct = torch.tensor([False] * 4 + [True] + [False] * 3 + [True] * 3 + [False])
    derived = torch.tensor([1.0] * 4 + [1.0] + [0.0] * 3 + [0.0, math.nan, 1.0] + [1.0])
    rows = evolve(random_rollouts(), correct=correct, derived=derived)
    counts = dict.fromkeys(("leak", "seen", "shown", "slots", "inpainted", "spent"), 0.0)
    metrics = summarise(rows, rows, torch.zeros(3, dtype=torch.bool), counts, lambda values: values[None])
    assert metrics["correct/mean"] == pytest.approx(4 / 12)
    assert metrics["correct/pass@2"] == pytest.approx((0 + 0.5 + 1.0) / 3)
    assert metrics["correct/pass@4"] == pytest.approx(2 / 3)
    assert metrics["correct/derived"] == pytest.approx(2 / 3)  # of the three correct rows that were looked at
    silent = summarise(evolve(rows, derived=None), rows, torch.zeros(3, dtype=torch.bool), counts, lambda v: v[None])
    assert "correct/derived" not in silent
    assert not any(name.startswith("verdict/") for name in silent)
    noted = evolve(rows, notes=("timeout", "no-answer", "timeout", "odd", *[""] * 8))
    told = summarise(noted, rows, torch.zeros(3, dtype=torch.bool), counts, lambda v: v[None])
    notes = {name: value for name, value in told.items() if name.startswith("verdict/")}
    assert notes == {"verdict/timeout": pytest.approx(2 / 12), "verdict/no-answer": pytest.approx(1 / 12)}


def test_what_can_be_measured_is_checked():
    with pytest.raises(ValueError, match="measure"):
        algorithm(measure=("everything",))
