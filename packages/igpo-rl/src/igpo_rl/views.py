"""Views: which noised copies of a batch are fed to the model, and what is scored in them.

Masked diffusion has no chain rule to read log pi(o) from, so every method approximates it by the marginals at masked
positions. An estimator (`igpo_rl.estimators`) only plans a `View`; the log-probs come from `igpo_rl.scores`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol

from attrs import evolve

from igpo_rl import later
from igpo_rl.records import Rollouts, View
from igpo_rl.seeds import uniforms

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")

Level = Literal["token", "sequence"]


class LikelihoodEstimator(Protocol):
    """Plug-in kind `estimator`: a frozen attrs class whose fields are its options."""

    @property
    def level(self) -> Level:
        """token: each (B, L) cell estimates the log-prob of its token; sequence: only their sum over a row means something."""
        ...

    def __call__(self, rollouts: Rollouts, advantage: Tensor, seeds: Tensor, mask_id: int) -> View:
        """Called once per inner update, with fresh seeds (B,) long. Scores nothing outside `rollouts.valid`.

        Equal views are recognised: the old policy and the reference score them once.
        """
        ...


def plan(
    rollouts: Rollouts,
    masked: Tensor,
    weight: Tensor,
    mask_id: int,
    *,
    scored: Tensor | None = None,
    prompt: Tensor | None = None,
    reduce: Callable[[View, Tensor, int], Tensor] | None = None,
    extra: Tensor | None = None,
) -> View:
    """The view with up to J copies of every row: cells of `masked` (B, J, L) are masked, and scored with `weight`, which
    may be anything that expands to that shape.

    `scored` (B, J, L): by default, all that is masked and valid. Copies in which nothing is scored are left out; those of
    one group that show nothing of their completion are equal, and are one input. `prompt` (B, P): in place of the rows'
    own, the same within a group. `extra` (B, ...): what `reduce` needs to know of each row.
    """
    scored = masked & rollouts.valid[:, None] if scored is None else scored
    some = scored.any(2)
    row = some.nonzero()[:, 0]
    weight, masked, scored = weight.expand_as(scored)[some], masked[some], scored[some]
    attention, start = attended(rollouts), rollouts.prompt.shape[1]
    shared = masked.all(1) & attention[:, start:].all(1)[row]
    copies = torch.arange(len(row), device=row.device)
    label = torch.where(shared, first_rows(rollouts.group)[1][row], len(rollouts) + copies)
    inputs, source = torch.unique(label, return_inverse=True)
    copy = torch.full_like(inputs, len(row)).scatter_reduce(0, source, copies, "amin")
    prompt = (rollouts.prompt if prompt is None else prompt)[row[copy]]
    completion = rollouts.completion[row[copy]].masked_fill(masked[copy], mask_id)
    return View(
        noised=torch.cat([prompt, completion], 1),
        attention=attention[row[copy]],
        source=source,
        row=row,
        scored=scored,
        weight=weight.where(scored, 0.0),
        reduce=reduce,
        extra=None if extra is None else extra[row],
    )


def random_ranks(seeds: Tensor, valid: Tensor, stream: int) -> Tensor:
    """(B,) seeds, (B, L) bool -> (B, L) long: a random order of each row's valid cells; the others come after them."""
    return uniforms(seeds, valid.shape[1], stream).masked_fill(~valid, 2.0).argsort(dim=1, stable=True).argsort(1)


def attended(rollouts: Rollouts) -> Tensor:
    """(B, T) bool: prompt and completion, never the left padding."""
    completion = torch.ones_like(rollouts.valid) if rollouts.attention is None else rollouts.attention
    return torch.cat([rollouts.prompt_valid, completion], 1)


def cut(view: View, start: int, stop: int) -> View:
    """The scorings of rows start to stop - 1, as a view of just those rows with just their inputs."""
    inside = (view.row >= start) & (view.row < stop)
    used, source = torch.unique(view.source[inside], return_inverse=True)
    return evolve(
        view,
        noised=view.noised[used],
        attention=view.attention[used],
        source=source,
        row=view.row[inside] - start,
        scored=view.scored[inside],
        weight=view.weight[inside],
        extra=None if view.extra is None else view.extra[inside],
    )


def by_row(view: View, values: Tensor, rows: int) -> Tensor:
    """(S, L) -> (rows, L): `view.reduce`, or the weighted sum over a row's scorings."""
    if view.reduce is not None:
        return view.reduce(view, values, rows)
    return values.new_zeros(rows, values.shape[1]).index_add(0, view.row, values * view.weight.to(values.dtype))


def scored_by_row(view: View, rows: int) -> Tensor:
    """(rows, L) int: how many of a row's scorings score each position."""
    return view.scored.new_zeros(rows, view.scored.shape[1], dtype=torch.long).index_add(
        0, view.row, view.scored.long()
    )


def same_plan(one: View, other: View) -> bool:
    """True where both would be scored alike."""
    tensors = ("noised", "attention", "source", "row", "scored", "weight", "extra")
    return one is other or (
        one.reduce == other.reduce and all(_equal(getattr(one, name), getattr(other, name)) for name in tensors)
    )


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))


def first_rows(group: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) long, equal labels adjacent -> index of each group's first row (U,), and each row's group counted from 0 (B,)."""
    starts = torch.ones_like(group, dtype=torch.bool)
    starts[1:] = group[1:] != group[:-1]
    return starts.nonzero().flatten(), starts.cumsum(0) - 1
