"""A verifier that an untrained model satisfies now and then, and a hinted one often: for tests that need signal."""

from attrs import frozen

from igpo_data import Task, Verdict
from igpo_rl.hookspecs import hookimpl


@frozen(kw_only=True)
class FirstWord:
    """Correct where the first word is among the first `among` of the trace."""

    among: int = 1
    """How many words of the trace are accepted."""

    def __call__(self, completion: str, task: Task) -> Verdict:
        words = completion.split()
        accepted = (task.trace or "").split()[: self.among]
        correct = bool(words) and words[0] in accepted
        return Verdict(reward=float(correct), correct=correct, answer=words[0] if words else None)


@frozen(kw_only=True)
class OutOfMemory:
    """Fails as a device does that is too small."""

    negative_weight: float = 1.0
    """Not used."""

    levels = ("token",)
    beta = 0.0

    def __call__(self, *inputs, **named):
        import torch

        raise torch.OutOfMemoryError("out of memory")


@hookimpl
def igpo_verifiers():
    return {"first-word": f"{__name__}:FirstWord"}


@hookimpl
def igpo_losses():
    return {"out-of-memory": f"{__name__}:OutOfMemory"}
