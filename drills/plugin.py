"""Plug-ins of the drills: a verifier that gives an untrained model something to learn, and faults of third parties."""

from __future__ import annotations

from attrs import field, frozen

from igpo_data import Task, Verdict
from igpo_rl import GRPO
from igpo_rl.hookspecs import hookimpl


@frozen(kw_only=True)
class FirstWord:
    """Correct where the first word is that of the trace: by luck now and then, with a hint often."""

    trip: bool = False
    """Raise on every third text, as a reward function does that meets what it was not written for."""

    def __call__(self, completion: str, task: Task) -> Verdict:
        words = completion.split()
        if self.trip and len(completion) % 3 == 0:
            raise ZeroDivisionError(f"{len(words)} words")
        correct = words[:1] == (task.trace or "").split()[:1]
        return Verdict(reward=float(correct), correct=correct)


@frozen(kw_only=True)
class SometimesNaN(GRPO):
    """GRPO whose value is NaN in a share of the calls."""

    every: int = 3
    """Every so many calls; 1: always."""
    _calls: list[int] = field(factory=lambda: [0], init=False)

    def __call__(self, *inputs, **named):
        loss = super().__call__(*inputs, **named)
        self._calls[0] += 1
        if self._calls[0] % self.every == 0:
            loss.value.data.fill_(float("nan"))
            loss.value.register_hook(lambda gradient: gradient * float("nan"))
        return loss


@frozen(kw_only=True)
class Small:
    """The tiny model on a device where few rows fit."""

    most: int = 3
    """Rows."""

    def __call__(self, **named):
        import torch

        from igpo_sampling import Tiny
        from igpo_sampling.models.llada_network import LLaDAForDiffusion

        class Cramped(LLaDAForDiffusion):
            def forward(inner, tokens, *inputs, **others):  # noqa: N805 self is the plug-in
                if len(tokens) > self.most:
                    raise torch.OutOfMemoryError(f"no room for {len(tokens)} rows")
                return super().forward(tokens, *inputs, **others)

        loaded = Tiny()(**named)
        loaded.denoiser.__class__ = Cramped
        return loaded


@hookimpl
def igpo_models():
    return {"small": f"{__name__}:Small"}


@hookimpl
def igpo_verifiers():
    return {"first-word": f"{__name__}:FirstWord"}


@hookimpl
def igpo_losses():
    return {"sometimes-nan": f"{__name__}:SometimesNaN"}
