"""Where hint tokens stand in the completion, and what was shown in the end.

A placement says which trace token stands at which slot (-1: left blank); the overlay follows from that, so it cannot
show anything else. `leaked` and `values_seen` look at the rows that came back, not at the plan, so that they also catch
a chunker, an injection, a placement or a player that shows too much.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from attrs import frozen

from igpo_rl import later
from igpo_rl.chunkers import Chunker, RandomLength, Span, true_runs
from igpo_rl.guards import check_chunks, check_table, naming
from igpo_rl.injections import Injection, Memory, UniformChunks
from igpo_rl.records import Problem, Rollouts

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")

BLANK = -1
MARGIN, SHORTEST_TAIL, WIDEST_GAP, LARGEST_SCALE = 30, 5, 100, 1.5  # of the public code of IGPO, in tokens


@frozen(eq=False)
class Plan:
    """What G rows of one problem are shown."""

    problem: Problem
    """With the trace that the hints are pieces of."""
    shown: Tensor
    """(G, K) bool: which chunks."""
    source: Tensor
    """(G, L) long: which token of the trace stands at each slot, -1 where it is left blank."""
    overlay: Tensor
    """(G, L) long: these tokens."""


def plan_hints(
    problem: Problem,
    rows: int,
    width: int,
    rng: Random,
    *,
    chunker: Chunker | None = None,
    injection: Injection | None = None,
    spaced: bool = False,
    progress: float = 0.0,
    memory: Memory | None = None,
) -> Plan | None:
    """What each of `rows` completions of `width` tokens is shown; None where the injection shows nothing at all.

    By default `RandomLength` chunks and `UniformChunks` of them, as published (IGPO, arXiv 2509.10396, section 3).
    """
    chunker, injection = chunker or RandomLength(), injection or UniformChunks()
    with naming("chunker", chunker):
        pieces = check_chunks(chunker(problem, rng), problem)
    chunks = within_spaced(pieces, width) if spaced else within(pieces, width)
    with naming("injection", injection):
        shown = injection(problem, chunks, rows, progress, rng, {} if memory is None else memory)
        if shown is None:
            return None
        check_table("rows and chunks", shown, (rows, len(chunks)))
    length = 0 if problem.trace is None else len(problem.trace)
    source = place_spaced(chunks, shown, width, length) if spaced else place(chunks, shown, width)
    return Plan(problem, shown, source, overlay_of(problem.trace, source))


def within(chunks: Sequence[Span], width: int) -> list[Span]:
    """The chunks that begin inside a completion of this width: those wholly beyond it can show nothing and do not count."""
    return [chunk for chunk in chunks if chunk[0] < width]


def place(chunks: Sequence[Span], shown: Tensor, width: int) -> Tensor:
    """shown (rows, K) bool -> (rows, width) long: trace token i stands at slot i (IGPO, arXiv 2509.10396); the rest is dropped."""
    piece = torch.full((width,), BLANK)
    for index, (start, end) in enumerate(chunks):
        piece[start:end] = index
    if not chunks:
        return piece.repeat(len(shown), 1)
    return torch.arange(width).where(shown[:, piece.clamp(min=0)] & (piece >= 0), BLANK)


def within_spaced(chunks: Sequence[Span], width: int) -> list[Span]:
    """The chunks of a trace that is cut to `width - 30` tokens; a last one of under 5 tokens is dropped."""
    room = width - MARGIN
    if room < 1:
        raise ValueError(
            f"place = 'spaced' leaves {MARGIN} slots at the end free, but the completion has {width}; "
            "use a wider one, or place = 'aligned'"
        )
    cut = [(start, min(end, room)) for start, end in chunks if start < room]
    return cut[:-1] if cut and cut[-1][1] - cut[-1][0] < SHORTEST_TAIL else cut


def place_spaced(chunks: Sequence[Span], shown: Tensor, width: int, length: int) -> Tensor:
    """shown (rows, K) bool, of a trace of `length` tokens -> (rows, width) long: hints spread out, as in IGPO's public code.

    The gaps between shown chunks are stretched by (width - 30) / length, within [1, 1.5], and are 100 slots at most.
    """
    room = width - MARGIN
    scale = min(max(room / max(1, length), 1.0), LARGEST_SCALE)
    source = torch.full((len(shown), width), BLANK)
    for row, flags in zip(source, shown.tolist(), strict=True):
        slot = seen = 0
        for index, (start, end) in enumerate(chunk for chunk, flag in zip(chunks, flags, strict=True) if flag):
            slot += min(int((start - seen) * scale), WIDEST_GAP) if index else int(start * scale)
            stop = max(slot, min(slot + end - start, room))
            row[slot:stop] = torch.arange(start, start + stop - slot)
            slot, seen = stop, end
    return source


def overlay_of(trace: Tensor | None, source: Tensor) -> Tensor:
    """(H,) tokens and (rows, L) places in them -> (rows, L) tokens, -1 where the slot is left blank."""
    if trace is None or not len(trace):
        return torch.full_like(source, BLANK)
    return trace[source.clamp(min=0)].where(source >= 0, BLANK)


def check_shown(rollouts: Rollouts, overlay: Tensor) -> None:
    """The given cells of an inpainted batch are those of its overlay, token by token; otherwise ValueError."""
    given = overlay >= 0
    if not torch.equal(rollouts.given, given) or not torch.equal(rollouts.completion[given], overlay[given]):
        raise ValueError(
            f"play changed the hints: {int(rollouts.given.sum())} given tokens came back for {int(given.sum())} hint tokens; "
            "hints stay fixed through denoising, and `given` marks exactly them"
        )


def leaked(given: Tensor, source: Tensor, problems: Sequence[Problem]) -> int:
    """How many given tokens (B, L) are not hintable: 0 unless a plug-in shows what it must not.

    `source` (B, L): their places in the trace of the row's problem; a given token without a place counts too.
    """
    return int((given & ~_at(source, [problem.hintable for problem in problems])).sum())


def values_seen(given: Tensor, source: Tensor, problems: Sequence[Problem]) -> int:
    """In how many rows the hints show a whole occurrence of the answer's value (one run of `answer_value`)."""
    seen = 0
    for row, places, problem in zip(given, source, problems, strict=True):
        runs = [] if problem.answer_value is None else true_runs(problem.answer_value)
        shown = set(places[row].tolist())
        seen += any(shown.issuperset(range(start, end)) for start, end in runs)
    return seen


def _at(source: Tensor, masks: Sequence[Tensor | None]) -> Tensor:
    """(H,) bool masks of the traces, a row each -> (B, L) at the slots where their tokens stand."""
    table = torch.zeros_like(source, dtype=torch.bool)
    for row, places, mask in zip(table, source, masks, strict=True):
        if mask is not None and len(mask):
            row[:] = mask[places.clamp(min=0, max=len(mask) - 1)] & (places >= 0) & (places < len(mask))
    return table
