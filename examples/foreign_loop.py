"""igpo_rl in a training loop that knows nothing of igpo: its rollouts with hints and its filter, everything else one's own.

At first no group of samples holds a correct one, so there is nothing to learn from. `collect` samples through a function
of the project, paints pieces of the solution into the canvases of stuck groups, and puts what succeeds in the place of
failed samples. What follows is a REINFORCE step as one writes it in plain PyTorch.
"""

from __future__ import annotations

import torch
from sorting import LENGTH, MASK, Model, player, problems

from igpo_rl import IGPO, Injection, RandomLength, TopEntropy, UniformChunks


def main(injection: Injection, steps: int = 120) -> list[float]:
    """Train, and return the share of correct samples at every step."""
    model, source = Model(), problems()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    hints = IGPO(chunker=RandomLength(low=1, high=2), injection=injection, prompts=16)
    keep = TopEntropy(tau=0.5)  # of the hint tokens, those that the policy is least sure of
    correct = []
    for step in range(steps):
        batch = hints.collect(player(model), source, progress=step / steps, step=step)

        # The likelihood: all of the completion masked, one row at a time as many times as it was sampled.
        canvas = torch.cat([batch.prompt, torch.full_like(batch.completion, MASK)], 1)
        cells = torch.arange(canvas.numel()).view_as(canvas)[:, LENGTH:].flatten()
        for _ in range(2):
            logits = model(canvas, torch.ones_like(canvas, dtype=torch.bool), cells).view(*batch.completion.shape, -1)
            logps = logits.log_softmax(-1)
            logp = logps.gather(2, batch.completion[..., None])[..., 0]

            # Hints are not the policy's own words: most of them carry no gradient.
            entropy = -(logps.exp() * logps).sum(-1)
            kept = keep(entropy.detach(), logp.detach(), batch.given, batch.valid)
            counted = batch.valid & (~batch.given | kept)
            by_row = (logp * counted).sum(1) / counted.sum(1).clamp(min=1)

            loss = -(by_row * batch.advantage).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        correct.append(batch.metrics["correct/mean"])
        if step % 10 == 0:
            print({name: round(batch.metrics[name], 2) for name in ("correct/mean", "stuck/before", "stuck/after")})
    return correct


if __name__ == "__main__":
    main(UniformChunks(low=0.5, high=1.0))
