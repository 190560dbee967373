"""Plug-ins with faults of the kinds that third parties' have."""

from __future__ import annotations

import os
import signal

from attrs import evolve, frozen

from igpo_data import Math, Verdict
from igpo_data.pool import shared_pool
from igpo_rl.hookspecs import hookimpl


@frozen(kw_only=True)
class Moody:
    """Accepts what begins with a letter of the first `among` words of the trace, and trips over other texts."""

    among: int = 20
    """Words of the trace."""
    always: bool = False
    """Trip over every text."""

    def __call__(self, completion, task):
        words = completion.split()
        if self.always or len(words) % 3 == 0:
            raise ZeroDivisionError(f"{len(words)} words")
        if len(words) % 3 == 1:
            return Verdict(reward=float("nan"), correct=True)
        correct = words[0] in task.trace.split()[: self.among]
        return Verdict(reward=float(correct), correct=correct)


@frozen(kw_only=True)
class Murdered:
    """Compares by math-verify in a worker, which is found dead when rollouts come to be judged."""

    kill: bool = False
    """Whether."""

    def many(self, pairs):
        process = shared_pool("algebra", 1, 1.0, 1024)._workers[0]._process
        if self.kill and len(pairs) == 12 and process is not None:
            os.killpg(process.pid, signal.SIGKILL)
        sums = [sum(completion.encode()) for completion, _ in pairs]  # new questions in every batch
        asked = [
            (f"\\boxed{{{number // 2 * 2}+x}}", evolve(task, answer=f"x+{number}"))
            for number, (_, task) in zip(sums, pairs, strict=True)
        ]
        return Math(workers=1).many(asked)

    def __call__(self, completion, task):
        return self.many([(completion, task)])[0]


@frozen(kw_only=True)
class Broken:
    """A chunker that cannot."""

    def __call__(self, problem, rng):
        raise LookupError("no such chunk")


@frozen(kw_only=True)
class Small:
    """The tiny model on a device where `most` rows fit."""

    most: int = 3
    """Rows."""

    def __call__(self, **named):
        import torch

        from igpo_sampling import Tiny
        from igpo_sampling.models.llada_network import LLaDAForDiffusion

        class Cramped(LLaDAForDiffusion):
            def forward(inner, tokens, *inputs, **others):
                if len(tokens) > self.most:
                    raise torch.OutOfMemoryError(f"{len(tokens)} rows")
                return super().forward(tokens, *inputs, **others)

        loaded = Tiny()(**named)
        loaded.denoiser.__class__ = Cramped
        return loaded


@hookimpl
def igpo_models():
    return {"small": f"{__name__}:Small"}


@hookimpl
def igpo_verifiers():
    return {"moody": f"{__name__}:Moody", "murdered": f"{__name__}:Murdered"}


@hookimpl
def igpo_chunkers():
    return {"broken": f"{__name__}:Broken"}
