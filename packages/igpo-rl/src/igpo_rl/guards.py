"""What keeps one bad value or one bad plug-in from spoiling a run, and says whose fault it was.

An update whose loss or gradient is not finite is refused; what a plug-in returns is looked at where it enters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from igpo_rl import later
from igpo_rl.chunkers import Span
from igpo_rl.records import Loss, Problem

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")

FAR = 5.0
"""Nats: a log-ratio beyond which a policy is another than the one that sampled."""
SHOWN = 3
"""Names of weights in a message."""


def finite(value: Tensor | None) -> Tensor:
    """() bool: all of it is, on this rank; True where there is nothing."""
    if value is None:
        return torch.tensor(True)
    local: Tensor = value.to_local() if hasattr(value, "to_local") else value
    return local.detach().isfinite().all()


def listed(names: Sequence[str], total: int) -> str:
    """`3 of 40 weights (a, b, c)`."""
    more = ", ..." if len(names) > SHOWN else ""
    return f"{len(names)} of {total} weights ({', '.join(names[:SHOWN])}{more})"


def refusal(where: str, loss: bool, weights: Sequence[str], total: int, ratio: float) -> str:
    """Which parts of an update are not finite; `ratio`: the largest one of policy to old policy, 0 where there is none."""
    parts = ["the loss"] if loss else []
    if weights:
        parts.append(f"the gradient of {listed(weights, total)}")
    what = f"{' and '.join(parts) or 'the norm of the gradient'} {'are' if len(parts) > 1 else 'is'} not finite"
    if ratio:
        far = (
            f"largest log-ratio {math.log(ratio):.1f}"
            if math.isfinite(ratio)
            else "a ratio of policy to old policy, too"
        )
        what = f"{what} ({far})"
    return f"{where}: {what}; this update is left out"


def remedy(ratio: float) -> str:
    """What to try after refusals."""
    if ratio > math.exp(FAR):
        return "The policy runs away from the one that sampled: try a lower --optimizer.lr, or fewer --updates."
    return "Try a lower --optimizer.lr, and weights in float32 (--dtype float32, with --precision bfloat16 for speed)."


@contextmanager
def naming(kind: str, plugin: Any) -> Iterator[None]:
    """Whatever a plug-in raises passes, with a note that says whose it is."""
    try:
        yield
    except Exception as error:
        error.add_note(name_of(kind, plugin))
        raise


def name_of(kind: str, plugin: Any) -> str:
    """`chunker Mine (mine)`: its class, and the module that it is from."""
    return f"{kind} {type(plugin).__name__} ({type(plugin).__module__})"


def check_chunks(chunks: Any, problem: Problem) -> list[Span]:
    """Spans that ascend inside the trace; ValueError otherwise. What they may show is counted where it is shown."""
    length, end = 0 if problem.trace is None else len(problem.trace), 0
    spans: list[Span] = []
    for start, stop in chunks:
        if not end <= start < stop <= length:
            raise ValueError(
                f"it returned the chunk {start} to {stop} behind {end} for problem {problem.key!r}, whose trace has "
                f"{length} tokens; chunks must ascend inside the trace"
            )
        spans.append((int(start), int(stop)))
        end = stop
    return spans


def check_table(name: str, table: Any, shape: Sequence[int]) -> Tensor:
    """A bool tensor of this shape; ValueError otherwise."""
    if not isinstance(table, torch.Tensor) or tuple(table.shape) != tuple(shape) or table.dtype != torch.bool:
        found = f"{tuple(table.shape)} {table.dtype}" if isinstance(table, torch.Tensor) else type(table).__name__
        raise ValueError(f"it returned {found} for {name}; it must be {tuple(shape)} torch.bool")
    return table


def check_loss(loss: Any) -> Loss:
    """One number, with metrics; ValueError otherwise."""
    if not isinstance(loss, Loss) or loss.value.shape != ():
        found = tuple(loss.value.shape) if isinstance(loss, Loss) else type(loss).__name__
        raise ValueError(f"it returned {found}; it must be a Loss whose value is one number")
    return loss
