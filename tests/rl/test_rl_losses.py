"""The losses against enumeration, against a loop per row written from the papers, and against the published mistakes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from igpo_rl.advantages import advantages
from igpo_rl.losses import DAPO, GRPO, GSPO, SPG, WD1, DrGRPO, divergence, row_divergence, row_mean
from igpo_rl.records import Totals
from igpo_rl.testing import _random

LOSSES = [
    GRPO(),
    GSPO(),
    GRPO(eps_high=0.4, beta=0.3, kl="k2"),
    GSPO(eps_low=0.1, beta=0.0, negative_weight=0.2),
    GSPO(beta=0.3),
    DAPO(),
    DAPO(beta=0.2, negative_weight=0.5),
    DrGRPO(),
    DrGRPO(beta=0.2, kl="k2"),
    WD1(),
    WD1(psi=3.0, beta=0.2, negative_weight=0.5),
    SPG(),
    SPG(beta=0.2, kl="k2", negative_weight=0.5),
]
CLIPPED = [GRPO(beta=0.0), GSPO(beta=0.0), DAPO(), DrGRPO()]


def batch(rows: int = 8, width: int = 7):
    logp, old, ref = (-_random(seed, rows, width).double() * 2 for seed in (1, 2, 3))
    mask = _random(4, rows, width) < 0.6
    mask[:, 0] = True
    advantage = advantages(torch.tensor([1.0, 0, 0, 0, 1, 1, 0, 0]), 4).double()
    return logp.requires_grad_(), old, ref, mask, advantage, torch.arange(rows) // 4


def call(loss, logp, old, advantage, mask, ref=None, rows=None):
    totals = Totals(rows=rows or len(logp), tokens=int(mask.sum()))
    return loss(logp, old, advantage, mask, ref, torch.arange(len(logp)) // 4, torch.zeros_like(mask), totals)


def by_hand(loss, logp, old, ref, mask, advantage) -> float:
    """A slow loop over rows and tokens."""
    rows, width, size, total = len(logp), logp.shape[1], 4, 0.0
    tokens = int(mask.sum())
    kinds = {"k1": lambda d: -d, "k2": lambda d: d * d / 2, "k3": lambda d: math.exp(d) - d - 1}
    for row in range(rows):
        cells = mask[row].nonzero().flatten().tolist()
        a = float(advantage[row]) * (1.0 if advantage[row] >= 0 else loss.negative_weight)
        gaps = [float(logp[row, k] - old[row, k]) for k in cells]
        away = [float(ref[row, k] - logp[row, k]) for k in cells]
        if isinstance(loss, GSPO | WD1 | SPG):
            gaps, away = ([sum(values) / len(cells)] * len(cells) for values in (gaps, away))
        gain = []
        if hasattr(loss, "eps_low"):
            bounds = 1 - loss.eps_low, 1 + loss.eps_high
            gain = [min(math.exp(gap) * a, min(max(math.exp(gap), bounds[0]), bounds[1]) * a) for gap in gaps]
        if isinstance(loss, SPG):
            gain = [a * float(logp[row, k]) * rows * len(cells) / tokens for k in cells]
        if isinstance(loss, WD1):
            others = advantage[row // size * size : row // size * size + size].tolist()
            up, down = (
                math.exp(sign * loss.psi * float(advantage[row])) / sum(math.exp(sign * loss.psi * o) for o in others)
                for sign in (1, -1)
            )
            w = (up - down) * (1.0 if up >= down else loss.negative_weight)
            gain = [w * float(logp[row, k]) * size * len(cells) for k in cells]
        share = {DAPO: 1 / tokens, DrGRPO: 1 / (rows * width)}.get(type(loss), 1 / (rows * len(cells)))
        total += share * sum(g - loss.beta * kinds[loss.kl](d) for g, d in zip(gain, away, strict=True))
    return -total


@pytest.mark.parametrize("loss", LOSSES)
def test_values_equal_a_loop_over_rows_and_tokens(loss):
    logp, old, ref, mask, advantage, _ = batch()
    value = call(loss, logp, old, advantage, mask, ref).value.item()
    assert value == pytest.approx(by_hand(loss, logp.detach(), old, ref, mask, advantage), abs=1e-12)
    assert abs(value) > 1e-3


@pytest.mark.parametrize("loss", [*CLIPPED, SPG(), WD1(psi=2.0)])
@pytest.mark.parametrize("correct", [1, 2, 3])
def test_expected_gradient_of_a_softmax_bandit(loss, correct):
    """After replacement with rate q = K / G: q (1 - q) (g_correct - g_wrong), enumerated over all draws of V = 4 actions."""
    theta = torch.tensor([0.3, -0.5, 0.1, 0.7], dtype=torch.float64, requires_grad=True)
    good, bad, size = [0, 1], [2, 3], 4
    logits = theta.log_softmax(0)
    chance = logits.exp().detach()
    expected = torch.zeros(4, dtype=torch.float64)
    reward = torch.tensor([1.0] * correct + [0.0] * (size - correct), dtype=torch.float64)
    for actions in itertools.product(*([good] * correct + [bad] * (size - correct))):
        weight = math.prod(float(chance[action] / chance[good if action in good else bad].sum()) for action in actions)
        logp = theta.log_softmax(0)[list(actions)][:, None]
        mask = torch.ones(size, 1, dtype=torch.bool)
        value = call(loss, logp, logp.detach(), advantages(reward, size), mask).value
        expected -= weight * torch.autograd.grad(value, theta)[0]

    def mean_score(actions: list[int]) -> torch.Tensor:
        within = chance[actions] / chance[actions].sum()
        return torch.autograd.grad((within * theta.log_softmax(0)[actions]).sum(), theta)[0]

    q = correct / size
    factor = q * (1 - q)
    if isinstance(loss, WD1):  # the correct rows' weights, which those of the wrong ones cancel
        up, down = math.exp(2 * (1 - q)), math.exp(-2 * q)
        factor = (
            q
            * size
            * (up / (correct * up + (size - correct) * down) - 1 / up / (correct / up + (size - correct) / down))
        )
    assert torch.allclose(expected, factor * (mean_score(good) - mean_score(bad)), atol=1e-12)
    assert expected.norm() > 0.05


def test_the_gradient_is_largest_where_half_of_the_group_is_correct():
    norms = []
    for correct in range(1, 8):
        theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        actions = [0] * correct + [1] * (8 - correct)
        logp = theta.log_softmax(0)[actions][:, None]
        reward = torch.tensor([float(action == 0) for action in actions], dtype=torch.float64)
        value = call(
            GRPO(beta=0.0), logp, logp.detach(), advantages(reward, 8), torch.ones(8, 1, dtype=torch.bool)
        ).value
        norms.append(float(torch.autograd.grad(value, theta)[0].norm()))
    assert max(norms) == norms[3]
    assert norms == pytest.approx(norms[::-1])


@pytest.mark.parametrize("loss", LOSSES)
def test_filtered_tokens_get_exactly_no_gradient(loss):
    logp, old, ref, mask, advantage, _ = batch()
    gradient = torch.autograd.grad(call(loss, logp, old, advantage, mask, ref).value, logp)[0]
    assert (gradient[~mask] == 0).all()
    assert (gradient[mask] != 0).any()


@pytest.mark.parametrize("loss", [*CLIPPED, SPG(), GRPO(beta=0.5), GSPO(beta=0.5)])
def test_a_row_of_which_nothing_is_kept_adds_nothing(loss):
    logp, old, ref, mask, advantage, _ = batch()
    mask[0] = False
    value = call(loss, logp, old, advantage, mask, ref).value
    advantage[0], ref[0] = 5.0, -9.0
    assert call(loss, logp, old, advantage, mask, ref).value == value != 0


def test_a_sequence_ratio_over_all_tokens_pushes_filtered_ones():
    """Trap 9: the filter only masks the loss, while the ratio is still a mean over every token."""
    logp, old, _, mask, advantage, _ = batch()
    ratio = (logp - old).mean(1).exp()[:, None].expand_as(mask)
    faulty = -row_mean(ratio * advantage[:, None], mask).mean()
    assert (torch.autograd.grad(faulty, logp)[0][~mask] != 0).any()
    ours = call(GSPO(beta=0.0), logp, old, advantage, mask).value
    assert (torch.autograd.grad(ours, logp)[0][~mask] == 0).all()


@pytest.mark.parametrize("loss", CLIPPED[:2])
def test_rows_with_filtered_tokens_weigh_as_much_as_others(loss):
    """Trap 9: at ratio 1 the value is minus the mean advantage, which is 0 whatever is filtered."""
    logp, _, _, mask, advantage, _ = batch()
    assert call(loss, logp, logp.detach(), advantage, mask).value.abs() < 1e-12
    faulty = -(torch.ones_like(logp) * advantage[:, None] * mask).sum(1) / mask.shape[1]  # divides by all scored tokens
    assert faulty.mean().abs() > 1e-3


@pytest.mark.parametrize("loss", LOSSES)
def test_at_ratio_one_nothing_is_clipped(loss):
    logp, _, ref, mask, advantage, _ = batch()
    metrics = call(loss, logp, logp.detach(), advantage, mask, ref).metrics
    assert metrics["policy/ratio"] == pytest.approx(1.0, abs=1e-12)
    assert metrics["policy/ratio_max"] == 1.0
    assert metrics["policy/clip"] == 0.0


@pytest.mark.parametrize(
    ("advantage", "shift", "moves"), [(1.0, 0.3, False), (1.0, -0.3, True), (-1.0, 0.3, True), (-1.0, -0.3, False)]
)
@pytest.mark.parametrize("loss", CLIPPED)
def test_clipping_stops_only_what_went_far_enough(loss, advantage, shift, moves):
    logp = torch.full((1, 3), -1.0, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(1, 3, dtype=torch.bool)
    result = call(loss, logp, logp.detach() - shift, torch.tensor([advantage], dtype=torch.float64), mask)
    assert bool(torch.autograd.grad(result.value, logp)[0].any()) is moves
    assert result.metrics["policy/clip"] == (0.0 if moves else 1.0)


def test_kinds_of_kl_by_enumeration():
    """Value and gradient of each kind, exactly, over all V = 5 tokens."""
    theta = torch.tensor([0.1, 0.9, -0.4, 0.3, -1.0], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([0.5, -0.2, 0.0, 0.7, 0.2], dtype=torch.float64).log_softmax(0)
    logp = theta.log_softmax(0)
    chance = logp.exp().detach()
    mask = torch.ones(5, 1, dtype=torch.bool)
    forward = (logp.exp() * (logp - ref)).sum()  # KL(policy || reference)
    backward = (ref.exp() * (ref - logp)).sum()
    kinds = {kind: divergence(logp[:, None], ref[:, None], mask, kind)[:, 0] for kind in ("k1", "k2", "k3")}
    assert (chance * kinds["k1"]).sum().item() == pytest.approx(forward.item(), abs=1e-12)
    assert (chance * kinds["k3"]).sum().item() == pytest.approx(forward.item(), abs=1e-12)

    def gradient(value):
        return torch.autograd.grad(value, theta, retain_graph=True)[0]

    assert not kinds["k1"].requires_grad  # its expected gradient is zero, as is the undetached one's:
    assert gradient((chance * (logp - ref)).sum()).abs().max() < 1e-12
    assert torch.allclose(gradient((chance * kinds["k2"]).sum()), gradient(forward), atol=1e-12)
    assert torch.allclose(gradient((chance * kinds["k3"]).sum()), gradient(backward), atol=1e-12)
    assert not torch.allclose(gradient(forward), gradient(backward), atol=1e-3)


def test_the_kl_of_a_row_has_the_gradient_of_its_sequences_kl():
    """Over all V ** 2 rows of two dependent tokens: k2 of the row's mean has 1 / n ** 2 of it, n = 2."""
    theta = torch.linspace(-1, 1, 12, dtype=torch.float64).sin().requires_grad_()
    ref = torch.linspace(0, 2, 12, dtype=torch.float64).cos()

    def rows(values):
        first, second = values[:3].log_softmax(0), values[3:].view(3, 3).log_softmax(1)
        return torch.stack([torch.stack([first[a], second[a, b]]) for a in range(3) for b in range(3)])

    logp, mask = rows(theta), torch.ones(9, 2, dtype=torch.bool)
    chance = logp.sum(1).exp().detach()
    assert chance.sum().item() == pytest.approx(1.0)
    exact = torch.autograd.grad((logp.sum(1).exp() * (logp - rows(ref)).sum(1)).sum(), theta, retain_graph=True)[0]
    ours = torch.autograd.grad(row_divergence(logp, rows(ref), mask, "k2") @ chance, theta, retain_graph=True)[0]
    assert torch.allclose(ours, exact / 4, atol=1e-12)
    faulty = (chance * row_mean(divergence(logp, rows(ref), mask, "k2"), mask)).sum()
    token_by_token = torch.autograd.grad(faulty, theta)[0]  # misses what a token does to later ones
    assert (token_by_token * 2 - exact).abs().max() > 1e-3


def test_the_weights_of_wd1_belong_to_groups():
    """A softmax over the whole micro-batch moves rows of groups whose rewards are equal, and depends on their company."""
    logp, old, _, mask, _, _ = batch()
    advantage = advantages(torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 1]), 4).double()
    gradient = torch.autograd.grad(call(WD1(), logp, old, advantage, mask).value, logp)[0]
    assert (gradient[4:] == 0).all()
    assert (gradient[:4][mask[:4]] != 0).all()
    faulty = (advantage.softmax(0) - (-advantage).softmax(0))[4:]
    assert (faulty.abs() > 1e-3).all()
    even = torch.zeros(8, dtype=torch.float64)
    assert call(WD1(), logp, old, even, mask).value == 0
    assert WD1.whole_groups


def test_long_rows_weigh_more_where_tokens_are_counted():
    """One good row of 6 tokens, one bad row of 2: token by token (DAPO, Dr. GRPO, SPG) or row by row (GRPO, GSPO)."""
    mask = torch.arange(6) < torch.tensor([[6], [2]])
    advantage = torch.tensor([0.5, -0.5], dtype=torch.float64)
    logp = -torch.ones(2, 6, dtype=torch.float64, requires_grad=True)
    pushes = {}
    for loss in (*CLIPPED, SPG()):
        value = loss(logp, logp.detach(), advantage, mask, None, torch.zeros(2).long(), ~mask, Totals(rows=2, tokens=8))
        pushes[type(loss)] = torch.autograd.grad(value.value, logp)[0].sum(1).tolist()
    assert pushes[GRPO] == pushes[GSPO] == pytest.approx([-0.25, 0.25])
    assert pushes[DAPO] == pushes[SPG] == pytest.approx([-0.5 * 6 / 8, 0.5 * 2 / 8])
    assert pushes[DrGRPO] == pytest.approx([-0.5 * 6 / 12, 0.5 * 2 / 12])


def test_negative_weight_scales_the_negative_rows_alone():
    logp, old, _, mask, advantage, _ = batch()
    full, part = (
        torch.autograd.grad(call(GRPO(beta=0.0, negative_weight=weight), logp, old, advantage, mask).value, logp)[0]
        for weight in (1.0, 0.25)
    )
    assert torch.allclose(part[advantage > 0], full[advantage > 0])
    assert torch.allclose(part[advantage < 0], full[advantage < 0] * 0.25)


def test_an_enormous_ratio_on_a_masked_token_does_no_harm():
    logp, old, ref, mask, advantage, _ = batch()
    far = old.masked_fill(~mask, -1e6)
    for loss in LOSSES:
        gradient = torch.autograd.grad(call(loss, logp, far, advantage, mask, ref.masked_fill(~mask, 1e6)).value, logp)[
            0
        ]
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("field", "value"), [("eps_low", 1.5), ("beta", -0.1), ("kl", "k4"), ("negative_weight", -1.0)]
)
def test_bounds_are_checked(field, value):
    with pytest.raises(ValueError, match=field):
        GRPO(**{field: value})
