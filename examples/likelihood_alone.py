"""igpo_rl's estimators and losses without IGPO: plain GRPO on rows that come from wherever one likes.

An estimator says what is masked and what is scored (a view); `token_scores` scores it in one pass; a loss makes one number
of that. The reward here counts letters that stand right, so that plain GRPO has something to learn from.
"""

from __future__ import annotations

from itertools import islice

import torch
from sorting import MASK, Model, player, problems

from igpo_rl import (
    GRPO,
    LikelihoodEstimator,
    PolicyLoss,
    RandomMask,
    Totals,
    advantages,
    by_row,
    derive,
    scored_by_row,
    token_scores,
)

GROUP = 8


def main(estimator: LikelihoodEstimator, loss: PolicyLoss, steps: int = 60) -> list[float]:
    """Train, and return the mean reward of every step."""
    model, source = Model(), problems()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    rewards = []
    for step in range(steps):
        rows = [problem for problem in islice(source, 8) for _ in range(GROUP)]
        seeds = torch.tensor([derive("sample", step, place) for place in range(len(rows))])
        batch = player(model)(rows, None, seeds)
        reward = (batch.completion == batch.prompt.sort(1).values).float().mean(1)
        advantage = advantages(reward, GROUP)

        for update in range(2):
            draws = torch.tensor([derive("view", step, update, place) for place in range(len(rows))])
            view = estimator(batch, advantage, draws, MASK)
            logp = by_row(view, token_scores(model, view, batch.completion).logp, len(rows))
            scored = scored_by_row(view, len(rows)) > 0
            totals = Totals(rows=len(rows), tokens=int(scored.sum()))
            part = loss(
                logp,
                logp.detach(),  # a step of its own for each view: on policy, ratio 1
                advantage,
                scored,
                None,  # no reference policy
                torch.arange(len(rows)) // GROUP,
                torch.zeros_like(scored),  # no hints
                totals,
            )
            part.value.backward()
            optimizer.step()
            optimizer.zero_grad()
        rewards.append(float(reward.mean()))
        if step % 10 == 0:
            print(step, {"reward": rewards[-1]} | {name: round(value, 3) for name, value in part.metrics.items()})
    return rewards


if __name__ == "__main__":
    main(RandomMask(low=0.2), GRPO(beta=0.0))
