"""The examples run, and do what they say."""

from __future__ import annotations

from random import Random

import pytest
import torch

from igpo_rl import Problem


def test_sampling_alone() -> None:
    import sampling_alone

    for line in sampling_alone.main():
        assert "on mat" in line


def test_a_fading_prefix_shows_less_and_less_of_the_beginning() -> None:
    from mine import FadingPrefix

    from igpo_rl.testing import check_injection

    problem = Problem(key="p", prompt=torch.tensor([0]))
    chunks = [(0, 2), (2, 4), (4, 6), (6, 8)]
    shown = [FadingPrefix(share=1.0)(problem, chunks, 3, progress, Random(0), {}) for progress in (0.0, 0.5, 1.0)]
    assert [table[0].tolist() for table in shown] == [[True] * 4, [True, True, False, False], [False] * 4]
    check_injection(FadingPrefix())


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_lies_between_0_and_1(share: float) -> None:
    from mine import FadingPrefix

    with pytest.raises(ValueError, match="share"):
        FadingPrefix(share=share)


def test_a_foreign_loop_learns_with_hints_and_not_without() -> None:
    import foreign_loop

    from igpo_rl import NoInjection, UniformChunks

    correct = []
    for injection in (UniformChunks(low=0.5, high=1.0), NoInjection()):
        with torch.random.fork_rng():
            torch.manual_seed(1)  # the model's first weights
            correct.append(sum(foreign_loop.main(injection, steps=80)[-10:]) / 10)
    assert correct[0] > 5 * correct[1]
    assert correct[0] > 0.05


@pytest.mark.parametrize(
    ("estimator", "loss"), [("MeanField", "GRPO"), ("RandomMask", "GSPO")], ids=["mean-field", "random-mask"]
)
def test_likelihoods_alone_teach_what_is_rewarded(estimator: str, loss: str) -> None:
    import likelihood_alone

    import igpo_rl

    with torch.random.fork_rng():
        torch.manual_seed(1)  # the model's first weights
        rewards = likelihood_alone.main(getattr(igpo_rl, estimator)(), getattr(igpo_rl, loss)(beta=0.0), steps=60)
    assert sum(rewards[-10:]) > 2 * sum(rewards[:10])
