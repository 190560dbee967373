"""Every estimator against its definition, by enumeration over masks, orders and completions of a model with V = 4 tokens."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from attrs import evolve
from rl_tiny import TinyDenoiser

from igpo_rl.estimators import ELBO, Coupled, LeftToRight, MeanField, RandomMask, Sandwich, Trajectory
from igpo_rl.estimators.elbo import gauss_points
from igpo_rl.records import Rollouts
from igpo_rl.scores import token_scores
from igpo_rl.seeds import uniforms
from igpo_rl.testing import random_rollouts
from igpo_rl.views import by_row, plan, same_plan, scored_by_row

V, M = 4, 4
"""Tokens, and the mask token."""
Marginals = dict[frozenset[int], list[float]]
THREES = list(itertools.product(range(V), repeat=3))
WORDS = [(0, 3, 1, 2), (2, 2, 0, 1), (1, 0, 3, 3)]


def model(seed: int = 0) -> TinyDenoiser:
    """Marginals that depend on what is shown; the mask token is never predicted."""
    denoiser = TinyDenoiser(vocabulary=V + 1, seed=seed).double()
    denoiser.places.weight.data *= 0.5
    for name in ("v", "o"):
        denoiser.blocks[0][name].weight.data *= 3
    denoiser.head.bias.data[M] = -torch.inf
    return denoiser


def rows_of(*words, tail: int = 0, given=None, order=None, attention=None) -> Rollouts:
    """Completions of one prompt, the last `tail` tokens of which follow an end."""
    completion = torch.tensor(words)
    count, width = completion.shape
    every = torch.ones(count, width, dtype=torch.bool)
    given = ~every if given is None else torch.tensor(given)
    return Rollouts(
        prompt=torch.tensor([[1, 2]]).repeat(count, 1),
        prompt_valid=every[:, :2],
        completion=completion,
        given=given,
        valid=every & (torch.arange(width) < width - tail),
        order=torch.zeros_like(completion) if order is None else torch.tensor(order),
        confidence=every.float(),
        reward=torch.zeros(count),
        correct=~every[:, 0],
        verifiable=every[:, 0],
        group=torch.zeros(count, dtype=torch.long),
        forwards=torch.ones(count, dtype=torch.long),
        attention=None if attention is None else torch.tensor(attention),
    )


def view_of(estimator, rollouts, advantage=None, first=0):
    advantage = torch.zeros(len(rollouts)) if advantage is None else torch.tensor(advantage)
    return estimator(rollouts, advantage, torch.arange(first, first + len(rollouts)), M)


@torch.no_grad()
def estimates(estimator, rollouts, denoiser, advantage=None, first=0):
    """(B, L), through the kernel."""
    view = view_of(estimator, rollouts, advantage, first)
    return by_row(view, token_scores(denoiser, view, rollouts.completion).logp, len(rollouts))


def table(denoiser, word, n=None) -> Marginals:
    """log f(o_k | o with a set of its first n cells masked, and all behind them) for every set, by plain log-softmax."""
    return next(tables(denoiser, [word], n))[1]


@torch.no_grad()
def tables(denoiser, words, n=None) -> Iterator[tuple[tuple[int, ...], Marginals]]:
    """The same for each of several words."""
    n = len(words[0]) if n is None else n
    sets = [frozenset(cells) for k in range(n + 1) for cells in itertools.combinations(range(n), k)]
    canvas = torch.tensor([[[1, 2, *word]] * len(sets) for word in words])
    for row, cells in enumerate(sets):
        canvas[:, row, [2 + cell for cell in (*cells, *range(n, len(words[0])))]] = M
    canvas = canvas.flatten(0, 1)
    logits = denoiser(canvas, torch.ones_like(canvas, dtype=torch.bool), torch.arange(canvas.numel()))
    logp = logits.view(*canvas.shape, -1).log_softmax(-1)[:, 2:].unflatten(0, (len(words), len(sets)))
    for word, rows in zip(words, logp, strict=True):
        picked = rows.gather(2, torch.tensor(word).expand(len(sets), -1)[..., None])[..., 0]
        yield word, dict(zip(sets, picked.tolist(), strict=True))


def of_orders(marginals: Marginals, n: int) -> list[float]:
    """log p of writing the word in each of its n! orders."""
    totals = []
    for order in itertools.permutations(range(n)):
        left, total = set(range(n)), 0.0
        for cell in order:
            total += marginals[frozenset(left)][cell]
            left.remove(cell)
        totals.append(total)
    return totals


def lower_bound(marginals, n: int) -> float:
    """LLaDA, eq. 6: k masked tokens, k ~ U{1 .. n}, count n / k."""
    return sum(
        sum(values[cell] for cell in cells) / (len(cells) * math.comb(n, len(cells)))
        for cells, values in marginals.items()
        if cells
    )


def log_mean_exp(values) -> float:
    return math.log(sum(map(math.exp, values)) / len(values))


def masks_of(view, start: int = 2) -> list[frozenset[int]]:
    """The scored cells of each scoring."""
    return [frozenset(row.nonzero().flatten().tolist()) for row in view.scored]


def likely(count: int, trials: int, chance: float) -> bool:
    """Within five standard errors."""
    return abs(count - trials * chance) <= 5 * math.sqrt(max(trials * chance * (1 - chance), 1))


# What the ELBO is -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_elbo_is_the_mean_over_orders_and_below_the_log_of_the_mean(seed):
    denoiser, gaps = model(seed), []
    for _, marginals in tables(denoiser, THREES):
        orders = of_orders(marginals, 3)
        assert lower_bound(marginals, 3) == pytest.approx(sum(orders) / len(orders), abs=1e-12)
        gaps.append(log_mean_exp(orders) - lower_bound(marginals, 3))
    assert min(gaps) >= -1e-12
    assert max(gaps) > 0.05


def test_no_inequality_with_the_left_to_right_value_holds():
    """It is one order of many: the ELBO, and the log of the mean over orders, are above it for some words, below for others."""
    denoiser, below, above = model(), [], []
    for _, marginals in tables(denoiser, THREES):
        orders = of_orders(marginals, 3)  # the first permutation is left to right
        below.append(lower_bound(marginals, 3) - orders[0])
        above.append(log_mean_exp(orders) - orders[0])
    assert min(below) < -0.05
    assert max(below) > 0.05
    assert min(above) < -0.05
    assert max(above) > 0.05


def test_which_estimates_are_log_probs():
    """Those that are normalise over all V ** L words; the ELBO falls short, the published coupled score is far off."""
    denoiser = model()
    rollouts = rows_of(*THREES, order=[[2, 0, 1]] * len(THREES))

    def mass(estimator):
        return estimates(estimator, rollouts, denoiser).sum(1).exp().sum().item()

    for policy in (MeanField(), LeftToRight(), LeftToRight(block=2), Trajectory(steps=1), Trajectory(steps=2)):
        assert mass(policy) == pytest.approx(1.0, abs=1e-9)
    assert sum(math.exp(lower_bound(marginals, 3)) for _, marginals in tables(denoiser, THREES)) < 0.98
    assert mass(Coupled()) < 0.7


# ELBO -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("tail", [0, 1])
def test_antithetic_pairs_have_the_elbo_as_their_mean(word, tail):
    """Each pair's value, weighted with the pair's probability, adds up to the ELBO; and pairs are drawn as often as that."""
    n, draws, denoiser = len(word) - tail, 2000, model()
    rollouts = rows_of(*[word] * draws, tail=tail)
    view = view_of(ELBO(), rollouts)
    assert (view.noised[:, 2 + n :] == M).all()  # what follows the end stays masked
    values = estimates(ELBO(), rollouts, denoiser).sum(1).tolist()
    pairs: dict[frozenset, list[float]] = {}
    everything = frozenset(range(n))
    for row, cells in zip(view.row.tolist(), masks_of(view), strict=True):
        pair = frozenset({cells, everything - cells})
        pairs.setdefault(pair, []).append(values[row])
    mean = 0.0
    for pair, found in pairs.items():
        k, whole = len(next(iter(pair))), everything in pair
        chance = 2 / ((n + 1) * math.comb(n, k))
        mean += chance * found[0]
        assert found == pytest.approx([found[0]] * len(found), abs=1e-9)
        assert likely(len(found) / (1 if whole else 2), draws, chance)
    marginals = table(denoiser, word, n)
    assert mean == pytest.approx(lower_bound(marginals, n), abs=1e-6)
    faulty = mean * n / (n + 1)  # masks of k tokens that count n / k, though k may be 0
    assert abs(faulty - lower_bound(marginals, n)) > 0.1


def test_every_token_is_scored_exactly_once_in_a_pair():
    rollouts = rows_of(*WORDS * 20)
    for estimator, times in ((ELBO(), 1), (ELBO(samples=3), 3), (Coupled(normalised=True), 1), (Coupled(), 2)):
        assert (scored_by_row(view_of(estimator, rollouts), len(rollouts)) == times).all()


def test_more_pairs_and_more_points_have_the_same_mean_and_less_variance():
    denoiser, word = model(), WORDS[0]
    rollouts = rows_of(*[word] * 1500)
    truth = lower_bound(table(denoiser, word), 4)
    spread = {}
    for estimator in (ELBO(), ELBO(samples=4), ELBO(rule="gauss", samples=2), ELBO(rule="gauss", samples=4)):
        values = estimates(estimator, rollouts, denoiser).sum(1)
        spread[estimator] = float(values.std())
        assert abs(float(values.mean()) - truth) < 5 * spread[estimator] / 1500**0.5
    assert spread[ELBO(samples=4)] < spread[ELBO()] / 2
    assert spread[ELBO(rule="gauss", samples=4)] < spread[ELBO(rule="gauss", samples=2)]


def at_chance(marginals, n: int, t: float) -> float:
    """E[sum of the masked tokens' log-probs] / t, each masked with chance t: a polynomial in t of degree n - 1."""
    return sum(
        t ** (len(cells) - 1) * (1 - t) ** (n - len(cells)) * sum(values[cell] for cell in cells)
        for cells, values in marginals.items()
        if cells
    )


def by_points(marginals, n: int, samples: int) -> float:
    points, weights = gauss_points(samples)
    return sum(w * at_chance(marginals, n, t) for t, w in zip(points.tolist(), weights.tolist(), strict=True))


@pytest.mark.parametrize("word", WORDS)
def test_gauss_points_are_exact_up_to_twice_their_number_and_biased_beyond(word):
    denoiser = model()
    for n in (1, 2, 3, 4):
        marginals = table(denoiser, word[:n])
        for samples in (1, 2, 3):
            gap = by_points(marginals, n, samples) - lower_bound(marginals, n)
            assert (abs(gap) < 1e-12) == (n <= 2 * samples)
    # One point is the midpoint rule: for a cubic it is off by a 24th of the second derivative there.
    half, step = 0.5, 0.25
    curvature = (
        at_chance(marginals, 4, half + step) - 2 * at_chance(marginals, 4, half) + at_chance(marginals, 4, half - step)
    ) / step**2
    assert by_points(marginals, 4, 1) - lower_bound(marginals, 4) == pytest.approx(-curvature / 24, abs=1e-9)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_masks_at_a_gauss_point_follow_its_law(samples):
    draws, word = 3000, WORDS[0]
    view = view_of(ELBO(rule="gauss", samples=samples), rows_of(*[word] * draws))
    for t, w in zip(*(one.tolist() for one in gauss_points(samples)), strict=True):
        at = (view.weight.amax(1) - w / t).abs() < 1e-5
        counts = [cells for cells, here in zip(masks_of(view), at.tolist(), strict=True) if here]
        for k in range(1, 5):
            for cells in itertools.combinations(range(4), k):
                assert likely(counts.count(frozenset(cells)), draws, t**k * (1 - t) ** (4 - k))


def test_gauss_points_integrate_polynomials():
    for count in (1, 2, 5, 9):
        points, weights = gauss_points(count)
        for degree in range(2 * count):
            assert (weights * points**degree).sum().item() == pytest.approx(1 / (degree + 1), abs=1e-13)
        assert (weights * points ** (2 * count)).sum().item() != pytest.approx(1 / (2 * count + 1), abs=1e-13)


# Random mask ----------------------------------------------------------------------------------------------------------


def chance_of(size: int, n: int, low: float, high: float, *, least: int) -> float:
    """That exactly a given set of cells is masked, t ~ U[low, high]; a row of which none would be has one of its n."""
    points, weights = (one.tolist() for one in gauss_points(4))
    ts = [low + (high - low) * point for point in points]
    chance = sum(w * t**size * (1 - t) ** (n - size) for w, t in zip(weights, ts, strict=True))
    empty = sum(w * (1 - t) ** n for w, t in zip(weights, ts, strict=True))
    return chance + (empty / n if size == least == 1 else 0.0)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.2, 1.0), (0.3, 0.3)])
def test_random_masks_follow_their_law_and_scores_have_the_enumerated_mean(low, high):
    word, draws, denoiser = WORDS[0], 4000, model()
    n, estimator = len(word), RandomMask(low=low, high=high)
    rollouts, marginals = rows_of(*[word] * draws), table(denoiser, word)
    masks = masks_of(view_of(estimator, rollouts))
    scores = estimates(estimator, rollouts, denoiser)
    law = {cells: chance_of(len(cells), n, low, high, least=1) for cells in marginals if cells}
    assert sum(law.values()) == pytest.approx(1.0, abs=1e-12)
    for cells, chance in law.items():
        assert likely(masks.count(cells), draws, chance)
        row = masks.index(cells)
        expected = [marginals[cells][cell] if cell in cells else 0.0 for cell in range(n)]
        assert scores[row].tolist() == pytest.approx(expected, abs=1e-9)
    for cell in range(n):
        mean = sum(chance * marginals[cells][cell] for cells, chance in law.items() if cell in cells)
        assert abs(scores[:, cell].mean().item() - mean) < 5 * scores[:, cell].std().item() / draws**0.5
    faulty = chance_of(1, n, low, high, least=0)  # rows without a mask, which teach nothing, left as they are
    assert not likely(sum(len(cells) == 1 for cells in masks), draws, n * faulty)


# Coupled --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "estimator", [Coupled(), Coupled(normalised=True), Coupled(low=0.0, high=1.0, normalised=True)]
)
def test_a_coupled_score_is_what_its_formula_says(estimator):
    denoiser, word, draws = model(), WORDS[0], 300
    rollouts, marginals = rows_of(*[word] * draws), table(model(), WORDS[0])
    values = estimates(estimator, rollouts, denoiser).tolist()
    p = (estimator.low + (estimator.high - estimator.low) * uniforms(torch.arange(draws), 1)[:, 0]).tolist()
    hidden = (uniforms(torch.arange(draws), 4, stream=1) < torch.tensor(p)[:, None]).tolist()
    everything = frozenset(range(4))
    for row in range(draws):
        mask = frozenset(cell for cell in range(4) if hidden[row][cell])
        for cell in range(4):
            share, cells = (p[row], mask) if cell in mask else (1 - p[row], everything - mask)
            full = 0.0 if estimator.normalised else marginals[everything][cell]
            assert values[row][cell] == pytest.approx((full + marginals[cells][cell] / share) / 2, rel=1e-5)


def test_the_normalised_score_has_the_elbo_as_its_mean_only_if_p_is_uniform_between_0_and_1():
    """At chance p its mean over masks is (g(p) + g(1 - p)) / 2 with the polynomial g above; integrated over p here."""
    marginals = table(model(), WORDS[0])
    points, weights = (one.tolist() for one in gauss_points(4))

    def mean(low: float, high: float) -> float:
        chances = [low + (high - low) * point for point in points]
        return sum(
            w * (at_chance(marginals, 4, p) + at_chance(marginals, 4, 1 - p)) / 2
            for w, p in zip(weights, chances, strict=True)
        )

    assert mean(0.0, 1.0) == pytest.approx(lower_bound(marginals, 4), abs=1e-12)
    assert abs(mean(0.2, 0.8) - lower_bound(marginals, 4)) > 0.01


def test_the_published_score_is_half_as_large_again_as_the_log_prob_of_independent_tokens():
    """Where marginals do not depend on what is shown, every estimate of log p is the same number, except this one."""

    def independent(tokens, attention, where, read):
        hidden = torch.tensor([0.2, 0.5, 1.0, -1.0, -torch.inf], dtype=torch.float64).expand(len(where), -1)
        return read(lambda rows: rows, hidden)

    rollouts = rows_of(*[WORDS[0]] * 4000)
    exact = estimates(MeanField(), rollouts, independent)[0].sum().item()
    published = estimates(Coupled(), rollouts, independent).sum(1).mean().item()
    assert published == pytest.approx(1.5 * exact, rel=0.01)
    for estimator in (LeftToRight(), Trajectory(steps=1), Coupled(normalised=True), ELBO(), ELBO(rule="gauss")):
        assert estimates(estimator, rollouts, independent).sum(1).mean().item() == pytest.approx(exact, rel=0.02)


# Orders ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", [0, 1])
def test_left_to_right_is_the_product_of_conditionals_at_block_one_alone(tail):
    denoiser = model()
    rollouts = rows_of(*WORDS, tail=tail)
    exact, blocks = (estimates(estimator, rollouts, denoiser) for estimator in (LeftToRight(), LeftToRight(block=2)))
    n = 4 - tail
    for row, word in enumerate(WORDS):
        marginals = table(denoiser, word, n)
        for cell in range(n):
            assert exact[row, cell].item() == pytest.approx(marginals[frozenset(range(cell, n))][cell], abs=1e-12)
            start = cell // 2 * 2
            assert blocks[row, cell].item() == pytest.approx(marginals[frozenset(range(start, n))][cell], abs=1e-12)
        assert (exact[row] - blocks[row]).abs().max() > 0.01


@torch.no_grad()
def decode(denoiser, hints, seed: int):
    """One or two of the surest blanks a step, tokens drawn: completion, order, and log-probs as they were drawn."""
    given = torch.tensor(hints) >= 0
    canvas = torch.tensor([[1, 2, *(M if hint < 0 else hint for hint in hints)]])
    order, drawn = torch.full((len(hints),), -1), torch.zeros(len(hints), dtype=torch.float64)
    step = 0
    while (canvas == M).any():
        logits = denoiser(canvas, torch.ones_like(canvas, dtype=torch.bool), torch.arange(2, canvas.shape[1]))
        chance = logits.softmax(-1)
        sure = chance.amax(-1).masked_fill(canvas[0, 2:] != M, -1)
        for cell in sure.topk(min(1 + step % 2, int((canvas == M).sum()))).indices.tolist():
            u = uniforms(torch.tensor([seed]), 1, stream=cell).item()
            token = min(V - 1, int((chance[cell].cumsum(-1) < u).sum()))
            canvas[0, 2 + cell], order[cell], drawn[cell] = token, 3 * step, chance[cell, token].log()
        step += 1
    return canvas[0, 2:].tolist(), given.tolist(), order.tolist(), drawn.tolist()


@pytest.mark.parametrize("hints", [[-1] * 6, [-1, 2, -1, -1, 0, -1]])
def test_a_replayed_trajectory_has_the_conditionals_of_its_own_decode(hints):
    denoiser = model()
    words, given, order, drawn = zip(*(decode(denoiser, hints, seed) for seed in range(12)), strict=True)
    rollouts = rows_of(*words, given=given, order=order)
    own, truth = ~rollouts.given, torch.tensor(drawn, dtype=torch.float64)
    faithful = estimates(Trajectory(steps=1, show_hints=True), rollouts, denoiser)
    assert torch.allclose(faithful[own], truth[own], atol=1e-12)
    assert (faithful[~own] == 0).all()
    coarse = estimates(Trajectory(steps=2, show_hints=True), rollouts, denoiser)
    assert (coarse - faithful)[own].abs().max() > 0.01
    hidden = estimates(Trajectory(steps=1), rollouts, denoiser)
    assert (hidden[~own] != 0).all()
    assert torch.allclose(hidden[own], faithful[own], atol=1e-12) == (min(hints) == max(hints))


def test_hints_are_replayed_with_their_nearest_written_neighbour():
    order = [[-1, 20, 0, -1, 10, 30, -1], [-1] * 7]
    rollouts = rows_of([0] * 7, [1] * 7, given=[[step < 0 for step in row] for row in order], order=order)
    view = view_of(Trajectory(steps=1), rollouts)
    cells = [sorted(cells) for cells in masks_of(view)]
    assert view.row.tolist() == [0, 0, 0, 0, 1]
    assert cells == [[2, 3], [4], [0, 1], [5, 6], [0, 1, 2, 3, 4, 5, 6]]  # of two neighbours of cell 3, the earlier
    shown = [(row[2:] != M).nonzero().flatten().tolist() for row in view.noised[view.source]]
    assert shown == [[], [2, 3], [2, 3, 4], [0, 1, 2, 3, 4], []]
    assert len(view.noised) == 4  # both rows start from the same empty canvas
    pairs = view_of(Trajectory(steps=2), rollouts)
    assert [sorted(cells) for cells in masks_of(pairs)][:2] == [[2, 3, 4], [0, 1, 5, 6]]
    visible = view_of(Trajectory(steps=2, show_hints=True), rollouts)
    assert [sorted(cells) for cells in masks_of(visible)] == [[2, 4], [1, 5]]
    assert visible.row.tolist() == [0, 0]  # the other row has nothing of its own


# Sandwich -------------------------------------------------------------------------------------------------------------


def all_masks(n: int) -> list[frozenset[int]]:
    """Masks as often as k ~ U{1 .. n} tokens, chosen uniformly, are masked."""
    sets = [frozenset(cells) for k in range(1, n + 1) for cells in itertools.combinations(range(n), k)]
    common = math.lcm(*(math.comb(n, k) for k in range(1, n + 1)))
    return [cells for cells in sets for _ in range(common // math.comb(n, len(cells)))]


def bounds(denoiser, word, beta: float) -> tuple[float, float]:
    """ELBO and EUBO of a word by our reduction over all masks."""
    n, masks = len(word), all_masks(len(word))
    masked = torch.tensor([[[cell in cells for cell in range(n)] for cells in masks]])
    weight = n / (masked.sum(2, keepdim=True) * len(masks))
    found = []
    for extra in ([1.0, 0.0], [0.0, 1.0]):
        rollouts = rows_of(word)
        view = plan(rollouts, masked, weight, M, reduce=Sandwich(beta=beta).bounds, extra=torch.tensor([extra]))
        with torch.no_grad():
            logp = token_scores(denoiser, view, rollouts.completion).logp
        found.append(by_row(view, logp, 1).sum().item())
    return found[0], found[1]


def upper_bound(marginals, n: int, beta: float) -> float:
    masks = all_masks(n)
    return sum(
        math.log(sum(n / len(s) * math.exp(beta * marginals[s][cell]) for s in masks if cell in s) / len(masks)) / beta
        for cell in range(n)
    )


@pytest.mark.parametrize("word", WORDS)
def test_bounds_equal_their_enumeration(word):
    denoiser = model()
    marginals = table(denoiser, word)
    for beta in (1.0, 1.5, 4.0):
        lower, upper = bounds(denoiser, word, beta)
        assert lower == pytest.approx(lower_bound(marginals, 4), abs=1e-6)
        assert upper == pytest.approx(upper_bound(marginals, 4, beta), abs=1e-6)


def test_the_upper_bound_holds_for_beta_of_at_least_the_number_of_tokens():
    """By Hoelder's inequality: the mean over orders of a product of n factors is at most the product of their n-norms."""
    for seed in range(3):
        denoiser = model(seed)
        for _, marginals in tables(denoiser, THREES):
            truth = log_mean_exp(of_orders(marginals, 3))
            assert upper_bound(marginals, 3, 3.0) >= truth - 1e-12
            assert upper_bound(marginals, 3, 5.0) >= upper_bound(marginals, 3, 3.0) - 1e-12


class Fickle:
    """Two tokens: sure of the word (0, 0) when it is written from the left, unsure from the right."""

    def __call__(self, tokens, attention, where, read=None):
        row, cell = where // tokens.shape[1], where % tokens.shape[1] - 2
        other_shown = tokens[row, (3 - cell).clamp(max=3)] != M
        chance = torch.where((cell == 0) ^ other_shown, 0.9, 0.1).double()
        logits = torch.stack([chance, 1 - chance, *[torch.zeros_like(chance)] * 3], 1).log()
        return logits if read is None else read(lambda rows: rows, logits)


def test_the_published_beta_of_one_and_a_half_is_no_upper_bound():
    marginals = table(Fickle(), (0, 0))
    truth = log_mean_exp(of_orders(marginals, 2))
    assert truth == pytest.approx(math.log((0.81 + 0.01) / 2))
    lower, upper = bounds(Fickle(), (0, 0), 1.5)
    assert lower < upper < truth - 0.1
    assert bounds(Fickle(), (0, 0), 2.0)[1] == pytest.approx(truth, abs=1e-6)  # equality in Hoelder's inequality


def test_the_sign_of_the_advantage_chooses_the_bound():
    """Row by row, with two masks: the published score is n times a mean over masked tokens."""
    denoiser, word = model(), WORDS[1]
    rollouts, marginals = rows_of(*[word] * 60), table(model(), WORDS[1])
    for advantage, share in ((0.5, 0.0), (0.0, 0.0), (-0.5, 0.3)):
        estimator = Sandwich(upper=0.3, block=2)
        view = view_of(estimator, rollouts, [advantage] * 60)
        values = estimates(estimator, rollouts, denoiser, [advantage] * 60).sum(1)
        masks = masks_of(view)
        for row in range(60):
            own = masks[2 * row : 2 * row + 2]
            lower = sum(4 / len(cells) * sum(marginals[cells][cell] for cell in cells) for cells in own) / 2
            logs = [
                math.log(sum(4 / len(s) * math.exp(1.5 * marginals[s][cell]) for s in own if cell in s) / 2) / 1.5
                for cell in frozenset.union(*own)
            ]
            expected = (1 - share) * lower + share * 4 * sum(logs) / len(logs)
            assert values[row].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("tail", [0, 1])
def test_block_masks_follow_their_law(tail):
    """Blocks of 2 in 4 tokens: the first is shown, masked in part, or behind it all is masked."""
    n, draws = 4 - tail, 3000
    view = view_of(Sandwich(samples=1, block=2), rows_of(*[WORDS[0]] * draws, tail=tail))
    counts = masks_of(view)
    late = [frozenset({2, 3}), frozenset({2}), frozenset({3})] if not tail else [frozenset({2})]
    law = {cells: 1 / (2 * (1 if len(late) == 1 else 2 if len(cells) == 2 else 4)) for cells in late}
    behind = frozenset(range(2, n))
    law |= {behind | {0}: 1 / 8, behind | {1}: 1 / 8, behind | {0, 1}: 1 / 4}
    assert sum(law.values()) == pytest.approx(1.0)
    assert set(counts) == set(law)
    for cells, chance in law.items():
        assert likely(counts.count(cells), draws, chance)
    pair = view_of(Sandwich(samples=2, block=2), rows_of(*[WORDS[0]] * 50))
    assert {len(frozenset(cells) & {0, 1}) > 0 for cells in masks_of(pair)[::2]} == {True, False}
    for one, other in itertools.batched(masks_of(pair), 2) if hasattr(itertools, "batched") else ():
        assert bool(one & {0, 1}) != bool(other & {0, 1})  # two masks, two blocks


def test_with_one_block_the_lower_score_has_the_elbo_as_its_mean():
    n, denoiser, word = 4, model(), WORDS[2]
    marginals = table(denoiser, word)
    rollouts = rows_of(*[word] * 400)
    values = estimates(Sandwich(samples=1, block=4), rollouts, denoiser).sum(1).tolist()
    found = dict(zip(masks_of(view_of(Sandwich(samples=1, block=4), rollouts)), values, strict=True))
    masks = all_masks(n)
    assert set(found) == set(masks)
    assert sum(found[cells] for cells in masks) / len(masks) == pytest.approx(lower_bound(marginals, n), abs=1e-6)


def test_the_gradient_of_the_upper_bound_is_finite_where_a_token_is_never_masked():
    denoiser, rollouts = model(), rows_of(*WORDS * 8)
    view = view_of(Sandwich(samples=1, upper=1.0, block=4), rollouts, [-1.0] * 24)
    value = by_row(view, token_scores(denoiser, view, rollouts.completion).logp, 24)
    assert (scored_by_row(view, 24) == 0).any()
    gradients = torch.autograd.grad(value.sum(), [denoiser.tokens.weight, denoiser.head.weight])
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


# Inputs ---------------------------------------------------------------------------------------------------------------


def test_how_many_inputs_are_read():
    """Copies that show nothing of a completion are one input for their whole group."""
    rollouts = random_rollouts(groups=3, size=4, width=12, vocabulary=M)
    rollouts = evolve(rollouts, valid=torch.ones_like(rollouts.valid), given=torch.zeros_like(rollouts.given))
    rows, groups = 12, 3
    for estimator, inputs in (
        (MeanField(), groups),
        (MeanField(prompt_mask=0.3), groups),
        (Coupled(), groups + 2 * rows),
        (Coupled(normalised=True), 2 * rows),
        (ELBO(rule="gauss", samples=3), 3 * rows),
        (LeftToRight(), groups + 11 * rows),
        (LeftToRight(block=4), groups + 2 * rows),
        (Sandwich(block=4), 2 * rows),
    ):
        view = view_of(estimator, rollouts)
        shown = (view.noised[:, 6:] != M).any(1).sum()
        assert len(view.noised) <= inputs
        assert len(view.noised) >= inputs - 6  # where chance hides all, or nothing
        assert int((view.noised[:, 6:] == M).all(1).sum()) <= groups
        assert int(shown) >= inputs - groups - 6


@pytest.mark.parametrize(
    "estimator",
    [
        MeanField(),
        Coupled(),
        Coupled(normalised=True),
        ELBO(samples=2),
        ELBO(rule="gauss", samples=2),
        Sandwich(block=1),
    ],
)
def test_no_copy_shows_what_follows_the_end(estimator):
    """It would give the length away."""
    assert (view_of(estimator, rows_of(*[WORDS[0]] * 50, tail=2)).noised[:, -2:] == M).all()


def test_rows_that_attend_to_different_cells_do_not_share_an_input():
    attention = [[True] * 4, [True] * 4, [True, True, False, False]]
    view = view_of(MeanField(), rows_of(*WORDS, attention=attention))
    assert view.source.tolist() in ([0, 0, 1], [1, 1, 0])
    assert torch.equal(view.attention[view.source][:, 2:], torch.tensor(attention))


@pytest.mark.parametrize("estimator", [MeanField(), LeftToRight(), Trajectory()])
def test_views_without_chance_are_the_same_in_every_update(estimator):
    rollouts = random_rollouts(vocabulary=M)
    assert same_plan(view_of(estimator, rollouts), view_of(estimator, rollouts, first=99))
    for drawn in (RandomMask(), Coupled(), ELBO(), Sandwich()):
        assert same_plan(view_of(drawn, rollouts), view_of(drawn, rollouts))
        assert not same_plan(view_of(drawn, rollouts), view_of(drawn, rollouts, first=99))
    below, above = (view_of(Sandwich(block=64), rollouts, [sign] * len(rollouts)) for sign in (-1.0, 1.0))
    assert not same_plan(below, above)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Coupled(low=0.9), r"low = 0\.9 is above high = 0\.8"),
        (lambda: ELBO(rule="simpson"), "rule"),
        (lambda: Sandwich(beta=0.5), "beta"),
        (lambda: Trajectory(steps=0), "steps"),
    ],
)
def test_bounds_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()
