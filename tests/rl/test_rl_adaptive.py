from __future__ import annotations

import math
from random import Random

import pytest
import torch

from igpo_rl.adaptive import MANY, ONE, Adaptive, threshold
from igpo_rl.records import Problem

CHUNKS = [(index, index + 1) for index in range(20)]
SMALLEST = {"a": 0.1, "b": 0.35, "c": 0.6, "d": 0.9}
"""A toy in which it is known what is enough."""


def practise(injection, wanted, chance, rounds: int, seed: int):
    """Every problem is stuck once a round; `chance(share, wanted)` is how likely its group is rescued.

    -> (share, rescued) of each problem in time, and the memory.
    """
    rng, memory, history = Random(seed), {}, {key: [] for key in wanted}
    for _ in range(rounds):
        outcomes = []
        for key, enough in wanted.items():
            shown = injection(Problem(key=key, prompt=torch.tensor([1])), CHUNKS, 8, 0.0, rng, memory)
            share = float(shown.double().mean())
            rescued = rng.random() < chance(share, enough)
            outcomes.append((key, shown, torch.tensor([rescued] + [False] * 7)))
            history[key].append((share, rescued))
        for outcome in outcomes:
            injection.observe(*outcome, memory)
    return history, memory


def late(history, rounds: int = 24) -> tuple[float, float]:
    """Mean share and rescue rate of the last rounds."""
    shares, rescued = zip(*history[-rounds:], strict=True)
    return sum(shares) / rounds, sum(rescued) / rounds


@pytest.mark.parametrize("seed", range(2))
def test_it_converges_to_the_smallest_share_that_is_enough(seed):
    history, memory = practise(Adaptive(), SMALLEST, lambda share, enough: float(share >= enough - 1e-9), 40, seed)
    for key, enough in SMALLEST.items():
        share, rate = late(history[key])
        assert share == pytest.approx(enough, abs=0.04)
        assert Adaptive().share(key, memory) == pytest.approx(enough, abs=0.04)
        assert 0.6 <= rate <= 0.95


@pytest.mark.parametrize("seed", range(2))
def test_it_converges_where_one_outcome_in_ten_is_wrong(seed):
    history, _ = practise(Adaptive(), SMALLEST, lambda share, enough: 0.9 if share >= enough - 1e-9 else 0.1, 60, seed)
    for key, enough in SMALLEST.items():
        assert late(history[key], 40)[0] == pytest.approx(enough, abs=0.1)


def test_a_bisection_that_trusts_every_outcome_does_not():
    """The faulty variant halves an interval; one wrong outcome early on shuts the truth out for good."""

    def bisect(seed: int) -> float:
        rng, low, high = Random(seed), 0.0, 1.0
        for _ in range(60):
            share = (low + high) / 2
            rescued = (share >= 0.35) != (rng.random() < 0.1)
            low, high = (low, share) if rescued else (share, high)
        return share

    assert max(abs(bisect(seed) - 0.35) for seed in range(40)) > 0.1


@pytest.mark.parametrize("target", [0.5, 0.8])
def test_it_aims_at_the_rescue_rate(target):
    """Where the chance rises smoothly, the share is found at which it is the target."""
    wanted = {str(index): 0.3 + 0.03 * index for index in range(8)}
    history, _ = practise(
        Adaptive(target=target), wanted, lambda share, middle: 1 / (1 + math.exp((middle - share) / 0.1)), 40, seed=1
    )
    rates = [late(one)[1] for one in history.values()]
    assert sum(rates) / len(rates) == pytest.approx(target, abs=0.08)


def test_a_new_problem_begins_where_the_run_stands():
    injection = Adaptive()
    assert injection.share("new", {}) == pytest.approx(0.4, abs=0.01)
    hard = {str(index): 0.7 for index in range(8)}
    _, memory = practise(injection, hard, lambda share, enough: float(share >= enough), 10, seed=0)
    assert 0.68 < injection.share("new", memory) < 0.86  # above what these need: a new problem may need more
    for _ in range(6):
        injection.observe("easy", torch.zeros(8, 4, dtype=torch.bool), torch.ones(8, dtype=torch.bool), memory)
    assert injection.share("easy", memory) < 0.15
    assert injection.share("new", memory) > 0.5


def test_the_run_reaches_the_rescue_rate_on_problems_that_never_return():
    """They need 0.6 +- 0.15, so 0.8 of them are rescued at about 0.73; the start, 0.4, rescues a tenth."""
    injection, rng, memory, rescued = Adaptive(), Random(2), {}, []
    for step in range(20):
        seen = []
        for index in range(10):
            key = f"{step}/{index}"
            shown = injection(Problem(key=key, prompt=torch.tensor([1])), CHUNKS, 8, 0.0, rng, memory)
            rescued.append(float(shown.double().mean()) >= rng.gauss(0.6, 0.15))
            seen.append((key, shown, torch.tensor([rescued[-1]] + [False] * 7)))
        for outcome in seen:
            injection.observe(*outcome, memory)
    assert sum(rescued[:10]) <= 4
    assert sum(rescued[50:]) / 150 == pytest.approx(0.8, abs=0.1)


def test_a_problem_that_nothing_rescues_gets_everything_and_one_that_needs_nothing_gets_nothing():
    history, _ = practise(
        Adaptive(), {"never": 2.0, "always": 0.0}, lambda share, enough: float(share >= enough), 30, 0
    )
    assert history["never"][-1][0] == 1.0
    assert history["always"][-1][0] == 0.0


def test_fractions_of_a_chunk_are_shown_to_a_part_of_the_rows():
    memory, problem = {}, Problem(key="p", prompt=torch.tensor([1]))
    shown = Adaptive(start=0.5)(problem, CHUNKS[:3], 4000, 0.0, Random(0), memory)
    assert set(shown.sum(1).tolist()) == {1, 2}
    assert float(shown.double().mean()) == pytest.approx(0.5, abs=0.02)
    assert Adaptive()(problem, [], 4, 0.0, Random(0), memory) is None


def test_more_correct_rows_can_be_asked_for():
    shown, correct = torch.ones(8, 4, dtype=torch.bool), torch.tensor([True] * 3 + [False] * 5)
    for least, outcome in ((3, 1.0), (4, 0.0)):
        memory: dict = {}
        Adaptive(least=least).observe("p", shown, correct, memory)
        assert memory["problems"] == {"p": [[1.0, outcome]]}


def test_memory_is_bounded():
    injection, memory = Adaptive(window=3), {}
    for index in range(40):
        injection.observe(str(index % 2), torch.ones(4, 4, dtype=torch.bool), torch.ones(4, dtype=torch.bool), memory)
    assert {key: len(outcomes) for key, outcomes in memory["problems"].items()} == {"0": 3, "1": 3}
    assert len(memory["run"]) == 24


def test_the_threshold_is_the_share_with_the_target_rate():
    """Outcomes at one share: the belief moves to where the curve has their rate there, the more of them the closer."""
    outcomes = [[0.5, float(index % 5 != 0)] for index in range(50)]
    assert threshold(outcomes, 0.3, 0.8, 0.05, ONE) == pytest.approx(0.5, abs=0.02)
    assert threshold(outcomes, 0.3, 0.5, 0.05, ONE) < 0.48
    assert threshold([], 0.37, 0.8, 0.05, ONE) == pytest.approx(0.37, abs=0.011)


def test_problems_beyond_all_hints_do_not_ask_for_ever_more():
    """Rescues are no likelier with more hints: less is enough. The variant that expects them to be wants everything."""
    outcomes = [[0.4 + 0.1 * (index % 5), float(index % 2)] for index in range(100)]
    assert threshold(outcomes, 0.4, 0.8, 0.15, MANY) < 0.4
    assert threshold(outcomes, 0.4, 0.8, 0.15, ONE) > 0.6
    rising = [[0.1 * (index % 11), float(index % 11 > 5)] for index in range(110)]
    assert threshold(rising, 0.4, 0.8, 0.15, MANY) > 0.6  # where they are, more is asked for
