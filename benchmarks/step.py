"""A whole IGPO step, half of its groups stuck, against a straightforward GRPO step as published.

The published one takes one prompt at a time: a rollout that reads every position over the whole vocabulary in float64,
one more for the group if it is stuck, with hints in all of its rows; then, for each of mu updates, logits of the whole
canvas from the policy, from the old policy and from the reference. Ours is `IGPO.collect` and `IGPO.learn` as a run
calls them, with all prompts in one batch. Both sides share one model, clip and step AdamW. Who is right is drawn, alike
on both sides, so verification costs nothing here (it has a table of its own); in one process nobody waits. Each
side is timed once, its many forwards being what a median would be taken of.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from benchmarks import rollout
from benchmarks.harness import Row, row
from igpo_rl import GRPO, IGPO, MeanField, Problem, RandomLength, Rollouts, TopEntropy, UniformChunks
from igpo_rl.views import LikelihoodEstimator
from igpo_sampling import Canvas, LLaDASampler
from igpo_sampling.models.llada_network import LLaDAForDiffusion

NAME = "A whole step"
PROMPTS, GROUP, PROMPT, WIDTH, UPDATES, BETA = 2, 4, 64, 128, 4, 0.01
PHASE = "phase: "
"""What the names of the phases begin with where a profiler sees them."""
PHASES = ("rollout", "inpaint", "old and reference", "update")


def tasks(count: int, vocabulary: int, prompt: int = PROMPT, width: int = WIDTH, stuck: float = 0.5) -> list[Problem]:
    """Random prompts with a random solution of the whole completion, a share of them too hard without hints."""
    generator = torch.Generator().manual_seed(3)

    def draw(size: int) -> Tensor:
        return torch.randint(vocabulary - 1, (size,), generator=generator)

    every = torch.ones(width, dtype=torch.bool)
    hard = [int((at + 1) * stuck) > int(at * stuck) for at in range(count)]
    return [
        Problem(key=f"{'hard' if each else 'easy'} {at}", prompt=draw(prompt), trace=draw(width), hintable=every)
        for at, each in enumerate(hard)
    ]


def right(problem: Problem, rows: int, *, hinted: bool) -> Tensor:
    """Every second row, but none of a hard problem without hints."""
    return (torch.arange(rows) % 2 == 0) & (hinted or problem.key.startswith("easy"))


class Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(PHASES, 0.0)

    def run(self, phase: str, function: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
        start = time.perf_counter()
        with record_function(PHASE + phase):
            result = function(*inputs, **named)
        self.spent[phase] += time.perf_counter() - start
        return result


def optimizer_of(model: LLaDAForDiffusion) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.0)  # all the work of a step, and the same weights ever after


def descend(model: LLaDAForDiffusion, optimizer: torch.optim.Optimizer) -> None:
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.2)
    optimizer.step()
    optimizer.zero_grad()


def ours(
    model: LLaDAForDiffusion,
    problems: Sequence[Problem],
    steps: int,
    *,
    updates: int = UPDATES,
    group: int = GROUP,
    block: int = rollout.BLOCK,
    estimator: LikelihoodEstimator = MeanField(),
) -> dict[str, float]:
    """One step -> seconds by phase."""
    mask_id, clock = model.config.vocab_size - 1, Clock()
    sampler = LLaDASampler(steps=steps, block=block, temperature=1.2)
    width = len(problems[0].trace)

    @torch.no_grad()
    def play(asked: Sequence[Problem], overlay: Tensor | None, seeds: Tensor) -> Rollouts:
        canvas = Canvas.blank([problem.prompt for problem in asked], width, mask_id=mask_id, pad_id=0)
        canvas = canvas if overlay is None else canvas.inpaint(overlay)
        sample = clock.run(
            "rollout" if overlay is None else "inpaint",
            partial(sampler, mask_id=mask_id, eos_id=0),
            model,
            canvas,
            seeds,
        )
        correct = [right(problem, group, hinted=overlay is not None) for problem in asked[::group]]
        flags = torch.cat(correct) if correct else torch.zeros(0, dtype=torch.bool)
        return Rollouts(
            prompt=canvas.tokens[:, :-width],
            prompt_valid=canvas.attention[:, :-width],
            completion=sample.completion,
            given=canvas.given[:, -width:],
            valid=torch.ones_like(sample.completion, dtype=torch.bool),
            order=sample.order,
            confidence=sample.confidence,
            reward=flags.float(),
            correct=flags,
            verifiable=torch.ones_like(flags),
            group=torch.arange(len(asked)) // group,
            forwards=sample.forwards,
        )

    algorithm = IGPO(
        chunker=RandomLength(low=5, high=10),
        injection=UniformChunks(),
        filter=TopEntropy(),
        estimator=estimator,
        loss=GRPO(beta=BETA),
        group=group,
        prompts=len(problems),
        updates=updates,
    )
    optimizer = optimizer_of(model)

    def policy(*inputs: Any, **named: Any) -> Any:
        run = model if torch.is_grad_enabled() else partial(clock.run, "old and reference", model)
        return run(*inputs, **named)

    def learn(batch: Rollouts) -> None:
        for part in algorithm.learn(policy, policy, batch, 0, mask_id=mask_id):
            part.value.backward()
            if part.last:
                descend(model, optimizer)

    clock.run("update", learn, algorithm.collect(play, iter(problems), progress=0.0, step=0))
    clock.spent["update"] -= clock.spent["old and reference"]  # they are called inside it
    return clock.spent


def published(model: LLaDAForDiffusion, problems: Sequence[Problem], steps: int, updates: int) -> dict[str, float]:
    """One step -> seconds by phase."""
    mask_id, clock = model.config.vocab_size - 1, Clock()
    optimizer = optimizer_of(model)
    generator = torch.Generator().manual_seed(4)
    batches: list[tuple[Tensor, Tensor, Tensor]] = []
    for problem in problems:
        canvas = Canvas.blank([problem.prompt] * GROUP, WIDTH, mask_id=mask_id, pad_id=0)
        settings = (steps, 1.2, torch.float64)
        completion = clock.run("rollout", rollout.published, model, canvas, *settings)
        reward = right(problem, GROUP, hinted=False).float()
        if not reward.any():
            shown = torch.rand(GROUP, WIDTH, generator=generator) < 0.4
            canvas = canvas.inpaint(problem.trace.expand(GROUP, -1).where(shown, -1))
            inpainted = clock.run("inpaint", rollout.published, model, canvas, *settings)
            good = right(problem, GROUP, hinted=True)
            places = torch.arange(GROUP - int(good.sum()), GROUP)
            completion[places], reward[places] = inpainted[good], 1.0
        batches.append((problem.prompt.expand(GROUP, -1), completion, reward - reward.mean()))
    for _ in range(updates):
        for prompt, completion, advantage in batches:
            inputs = (model, prompt, completion, mask_id)
            old = clock.run("old and reference", scored, *inputs)
            reference = clock.run("old and reference", scored, *inputs)
            clock.run("update", learn, *inputs, advantage, old, reference)
        clock.run("update", descend, model, optimizer)
    return clock.spent


def logits_of(model: LLaDAForDiffusion, prompt: Tensor, completion: Tensor, mask_id: int) -> Tensor:
    noised = torch.cat([prompt, torch.full_like(completion, mask_id)], 1)
    logits = model(noised, torch.ones_like(noised, dtype=torch.bool), torch.arange(noised.numel()))
    return logits.view(*noised.shape, -1)[:, PROMPT:]


@torch.no_grad()
def scored(model: LLaDAForDiffusion, prompt: Tensor, completion: Tensor, mask_id: int) -> Tensor:
    logits = logits_of(model, prompt, completion, mask_id)
    return -torch.nn.functional.cross_entropy(logits.flatten(0, 1), completion.flatten(), reduction="none")


def learn(
    model: LLaDAForDiffusion,
    prompt: Tensor,
    completion: Tensor,
    mask_id: int,
    advantage: Tensor,
    old: Tensor,
    reference: Tensor,
) -> None:
    """The clipped objective with its entropy filter's entropies, over the logits of all positions."""
    logits = logits_of(model, prompt, completion, mask_id)
    logp = -torch.nn.functional.cross_entropy(logits.flatten(0, 1), completion.flatten(), reduction="none")
    with torch.no_grad():
        chance = logits.softmax(-1)
        kept = -(chance * (chance + 1e-8).log()).sum(-1).flatten() >= 0
    ratio = (logp - old).exp()
    gain = advantage[:, None].expand_as(completion).flatten()
    clipped = torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain)
    away = reference - logp
    (-((clipped - BETA * (away.exp() - away - 1)) * kept).mean()).backward()


def compared(vocabulary: int, width: int, layers: int, steps: int, updates: int) -> Iterator[Row]:
    """The step as a whole, and its phases, once: the published one takes minutes."""
    model = rollout.network(vocabulary, width, layers)
    problems = tasks(PROMPTS, vocabulary)
    ours(model, problems, steps, updates=updates)  # warms up
    pairs = [(ours(model, problems, steps, updates=updates), published(model, problems, steps, updates))]
    parameters = sum(weight.numel() for weight in model.parameters()) / 1e6
    case = f"V {vocabulary:,}, {parameters:.0f} M parameters, mu = {updates}"
    note = f"{PROMPTS} prompts of {GROUP} rows, {steps} steps"
    yield row(f"{case}: a step", [(sum(one.values()), sum(other.values())) for one, other in pairs], note=note)
    for phase in PHASES:
        yield row(f"{case}: {phase}", [(one[phase], other[phase]) for one, other in pairs])


def run(quick: bool) -> list[Row]:
    sizes = (
        [(1_000, 64, 2, 4, 4)] if quick else [(126_464, 256, 4, 8, 4), (32_000, 768, 12, 8, 4), (32_000, 256, 4, 8, 1)]
    )
    return [found for size in sizes for found in compared(*size)]
