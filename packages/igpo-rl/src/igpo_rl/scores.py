"""The log-prob kernel: log pi(token) at the scored positions, and nothing else.

The output head is the only large matrix product here, so it runs once per distinct (input, position), in chunks, in
float32, and is recomputed in the backward pass: peak memory does not grow with positions x vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import frozen

from igpo_rl import later
from igpo_rl.records import Denoiser, View

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")

LEAST_ROWS = 16
"""Matrix products with fewer rows take other code paths and change bits."""


@frozen(eq=False)
class Scores:
    """What was read at the scored positions; zero (False) elsewhere."""

    logp: Tensor
    """(S, L) nats, at temperature 1 over the full vocabulary; differentiable."""
    entropy: Tensor
    """(S, L) nats, of the marginal at the position; not differentiable; empty where it was not asked for."""
    hit: Tensor
    """(S, L) bool: the token is the marginal's most likely one; empty where it was not asked for."""


def token_scores(
    denoiser: Denoiser,
    view: View,
    completion: Tensor,
    *,
    entropy: bool = False,
    hits: bool = False,
    logits: int | None = None,
) -> Scores:
    """Scores of completion (B, L) under one forward over the U inputs of `view`, at most `logits` logits at a time
    (None: what suits the device).

    Rows that read the same input at the same position share the head's product and differ only in what they gather
    from it (mean-field: a group of G rows costs one). No random numbers are drawn.
    """
    start = view.noised.shape[1] - completion.shape[1]
    wanted = view.scored.new_zeros(len(view.noised), completion.shape[1], dtype=torch.long)
    wanted = wanted.index_add_(0, view.source, view.scored.long()) > 0
    inputs, positions = wanted.nonzero(as_tuple=True)
    where = inputs * view.noised.shape[1] + start + positions
    # Every scored cell reads one head row; in the order of head rows, a chunk of them is one slice of cells.
    cell, position = view.scored.nonzero(as_tuple=True)
    reads = (wanted.flatten().cumsum(0) - 1).view_as(wanted)[view.source[cell], position]
    reads, order = reads.sort(stable=True)
    cell, position = cell[order], position[order]
    token = completion[view.row[cell], position]

    def read(head: Callable[[Tensor], Tensor], hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        most = most_logits(hidden.device) if logits is None else logits
        size = max(LEAST_ROWS, most // max(1, head(hidden[:0]).shape[-1]))
        starts = list(range(0, max(1, len(hidden)), size))
        bounds = torch.searchsorted(reads, reads.new_tensor([*starts, len(hidden)])).tolist()
        parts = []
        for index, first in enumerate(starts):
            part = slice(bounds[index], bounds[index + 1])
            parts.append(
                _read_chunk(head, hidden[first : first + size], reads[part] - first, token[part], entropy, hits)
            )
        logp, uncertainty, hit = (torch.cat(column) for column in zip(*parts, strict=True))
        return logp, uncertainty, hit

    try:
        logp, uncertainty, hit = denoiser(view.noised, view.attention, where, read)
    except torch.OutOfMemoryError as error:
        inputs_text = f"B={len(view.noised)}, T={view.noised.shape[1]}, {len(where)} scored positions"
        raise torch.OutOfMemoryError(
            f"out of memory in token_scores at {inputs_text}. Try a smaller --score-rows, or halve --group."
        ) from error
    at = (cell, position)
    table = view.scored.shape
    return Scores(
        logp.new_zeros(table).index_put(at, logp),
        uncertainty.new_zeros(table).index_put(at, uncertainty[reads]) if entropy else uncertainty,
        hit.new_zeros(table).index_put(at, hit) if hits else hit,
    )


def most_logits(device: torch.device) -> int:
    """32 MiB of float32 on a CPU, where larger blocks are fresh pages each time. With gradients twice that, because each
    chunk also adds to the gradient of the whole head; and eight times on an accelerator, whose products want more rows."""
    return 1 << (23 + int(torch.is_grad_enabled()) + (0 if device.type == "cpu" else 3))


def _read_chunk(
    head: Callable[[Tensor], Tensor], hidden: Tensor, reads: Tensor, token: Tensor, entropy: bool, hits: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """hidden (n, d), reads (c,) into its rows, token (c,) -> logp (c,), entropy (n,) or empty, hit (c,) or empty."""
    from torch.utils.checkpoint import checkpoint

    from igpo_rl.readout import Readout

    def gather(hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = head(hidden)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        result: tuple[Tensor, Tensor, Tensor] = Readout.apply(logits, reads, token, entropy, hits)  # type: ignore[no-untyped-call]
        return result

    if not torch.is_grad_enabled():
        return gather(hidden)
    result: tuple[Tensor, Tensor, Tensor] = checkpoint(gather, hidden, use_reentrant=False, preserve_rng_state=False)
    return result
