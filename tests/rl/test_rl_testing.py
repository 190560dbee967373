"""Every built-in plug-in passes its conformance check, and each check catches the fault that it is for."""

from __future__ import annotations

import random
from importlib import import_module

import pytest
import torch
from attrs import evolve, frozen

from igpo_rl import plugin, testing
from igpo_rl.chunkers import RandomLength
from igpo_rl.estimators import MeanField, RandomMask
from igpo_rl.filters import TopEntropy
from igpo_rl.injections import UniformChunks
from igpo_rl.losses import GRPO

CHECKS = {
    "chunkers": testing.check_chunker,
    "injections": testing.check_injection,
    "filters": testing.check_filter,
    "estimators": testing.check_estimator,
    "losses": testing.check_loss,
}
BUILT_IN = [(kind, name, path) for kind in CHECKS for name, path in getattr(plugin, f"igpo_{kind}")().items()]


@pytest.mark.parametrize(("kind", "name", "path"), BUILT_IN, ids=[f"{kind}-{name}" for kind, name, _ in BUILT_IN])
def test_built_in_plugins_conform(kind, name, path):
    module, _, attribute = path.partition(":")
    CHECKS[kind](getattr(import_module(module), attribute)())


def test_prompt_masking_is_shared_in_a_group_and_conforms():
    testing.check_estimator(MeanField(prompt_mask=0.4))


class DropsTheTail:
    def __call__(self, problem, rng):
        return [chunk for chunk in RandomLength()(problem, rng) if chunk[1] - chunk[0] >= 5]


class CoversEverything:
    def __call__(self, problem, rng):
        return [] if problem.trace is None or not len(problem.trace) else [(0, len(problem.trace))]


class UsesGlobalRandom:
    def __call__(self, problem, rng):
        random.random()
        return RandomLength()(problem, rng)


@pytest.mark.parametrize(
    ("faulty", "fault"), [(DropsTheTail, "tile"), (CoversEverything, "tile"), (UsesGlobalRandom, "global random")]
)
def test_check_chunker_catches(faulty, fault):
    with pytest.raises(AssertionError, match=fault):
        testing.check_chunker(faulty())


class OneTableForAllRows:
    def __call__(self, problem, chunks, rows, progress, rng, memory):
        return torch.ones(len(chunks), dtype=torch.bool)


class IgnoresTheGenerator:
    def __call__(self, problem, chunks, rows, progress, rng, memory):
        return torch.rand(rows, len(chunks)) < 0.5


class KeepsTensorsInMemory(UniformChunks):
    def __call__(self, problem, chunks, rows, progress, rng, memory):
        memory["last"] = torch.zeros(1)
        return torch.zeros(rows, len(chunks), dtype=torch.bool)


@pytest.mark.parametrize(
    ("faulty", "fault"),
    [(OneTableForAllRows, "table is"), (IgnoresTheGenerator, "global generator"), (KeepsTensorsInMemory, "memory")],
)
def test_check_injection_catches(faulty, fault):
    with pytest.raises(AssertionError, match=fault):
        testing.check_injection(faulty())


class KeepsUnscored:
    def __call__(self, entropy, logp, hint, scored):
        return hint


class RanksOverTheBatch:
    def __call__(self, entropy, logp, hint, scored):
        candidate = hint & scored
        return candidate & (entropy >= entropy.where(candidate, 0.0).sum() / candidate.sum().clamp(min=1))


@pytest.mark.parametrize(("faulty", "fault"), [(KeepsUnscored, "no scored hints"), (RanksOverTheBatch, "alone")])
def test_check_filter_catches(faulty, fault):
    with pytest.raises(AssertionError, match=fault):
        testing.check_filter(faulty())


class Wrong:
    level = "token"

    def __init__(self, change):
        self.change = change

    def __call__(self, rollouts, advantage, seeds, mask_id):
        return self.change(rollouts, RandomMask(low=0.5)(rollouts, advantage, seeds, mask_id), seeds)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda rollouts, view, seeds: evolve(view, scored=torch.ones_like(view.scored)), "behind the first EOS"),
        (lambda rollouts, view, seeds: evolve(view, scored=rollouts.valid), "visible"),
        (lambda rollouts, view, seeds: evolve(view, attention=torch.ones_like(view.attention)), "padding"),
        (
            lambda rollouts, view, seeds: evolve(view, source=torch.zeros_like(view.source)),
            "another prompt|visible",
        ),
        (lambda rollouts, view, seeds: evolve(view, weight=view.weight * len(rollouts)), "alone"),
    ],
)
def test_check_estimator_catches(change, fault):
    with pytest.raises(AssertionError, match=fault):
        testing.check_estimator(Wrong(change))


@frozen(kw_only=True)
class MeansOverTheMicroBatch(GRPO):
    def __call__(self, logp, old, advantage, mask, ref, group, hint, totals):
        loss = super().__call__(logp, old, advantage, mask, ref, group, hint, totals)
        return evolve(loss, value=loss.value * totals.rows / max(1, len(logp)))


@frozen(kw_only=True)
class ForgetsTheMask(GRPO):
    def __call__(self, logp, old, advantage, mask, ref, group, hint, totals):
        return super().__call__(logp, old, advantage, torch.ones_like(mask), ref, group, hint, totals)


@pytest.mark.parametrize(
    ("faulty", "fault"), [(MeansOverTheMicroBatch, "add up"), (ForgetsTheMask, "outside the mask")]
)
def test_check_loss_catches(faulty, fault):
    with pytest.raises(AssertionError, match=fault):
        testing.check_loss(faulty())


def test_a_filter_with_bad_share_is_refused_with_a_readable_error():
    with pytest.raises(ValueError, match=r"tau.*1\.0"):
        TopEntropy(tau=1.5)
