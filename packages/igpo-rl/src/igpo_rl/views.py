"""Likelihood estimators: which noised copies of a batch are fed to the model, and what is scored in them.

Masked diffusion has no chain rule to read log pi(o) from, so every method approximates it by the marginals at masked
positions. An estimator only plans (a `View`); the log-probs come from `igpo_rl.scores`.
"""

# ruff: noqa: ARG002 - a plug-in is given all that its kind is, needed or not

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import lazy_loader as lazy
from attrs import evolve, field, frozen, validators

from igpo_rl.records import Rollouts, View
from igpo_rl.seeds import uniforms

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy.load("torch")

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


@frozen(kw_only=True)
class MeanField:
    """Whole completion masked: one forward a group (d1, arXiv 2504.12216, section 3)."""

    prompt_mask: float = field(default=0.0, validator=[validators.ge(0.0), validators.lt(1.0)])
    """Chance of masking a prompt token, drawn anew for every inner update and shared within a group (d1: 0.15)."""

    level: ClassVar[Level] = "token"

    def __call__(self, rollouts: Rollouts, advantage: Tensor, seeds: Tensor, mask_id: int) -> View:
        """The input [prompt, all masks] is the same for all rows of a group, so there is one of it: U = groups, S = B."""
        first, source = _first_rows(rollouts.group)
        prompt = rollouts.prompt[first]
        # Counted from the right, so that a token's chance does not depend on the width of the padding.
        hidden = (uniforms(seeds[first], prompt.shape[1]).flip(1) < self.prompt_mask) & rollouts.prompt_valid[first]
        blank = torch.full_like(rollouts.completion[first], mask_id)
        return View(
            noised=torch.cat([prompt.masked_fill(hidden, mask_id), blank], 1),
            attention=attended(rollouts)[first],
            source=source,
            row=torch.arange(len(rollouts), device=source.device),
            scored=rollouts.valid,
            weight=torch.ones_like(rollouts.valid, dtype=torch.float32),
        )


@frozen(kw_only=True)
class RandomMask:
    """Part of the completion masked, one draw a row and inner update (UniGRPO, arXiv 2505.15809, section 4)."""

    low: float = field(default=0.0, validator=[validators.ge(0.0), validators.le(1.0)])
    """Least share t of masked completion tokens."""
    high: float = field(default=1.0, validator=[validators.gt(0.0), validators.le(1.0)])
    """Largest share t of masked completion tokens."""

    level: ClassVar[Level] = "token"

    def __attrs_post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}; the masked share is drawn between them")

    def __call__(self, rollouts: Rollouts, advantage: Tensor, seeds: Tensor, mask_id: int) -> View:
        """t ~ U[low, high] a row, each completion token masked with chance t, masked tokens scored; never none of them."""
        valid = rollouts.valid
        t = self.low + (self.high - self.low) * uniforms(seeds, 1, stream=0)
        u = uniforms(seeds, valid.shape[1], stream=1)
        least = u.where(valid, torch.inf).amin(1, keepdim=True)
        masked = u <= torch.maximum(t, least)
        rows = torch.arange(len(rollouts), device=valid.device)
        return View(
            noised=torch.cat([rollouts.prompt, rollouts.completion.masked_fill(masked, mask_id)], 1),
            attention=attended(rollouts),
            source=rows,
            row=rows,
            scored=masked & valid,
            weight=torch.ones_like(valid, dtype=torch.float32),
        )


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
    tensors = ("noised", "attention", "source", "row", "scored", "weight")
    return one is other or (
        one.reduce is other.reduce and all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors)
    )


def _first_rows(group: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) long, equal labels adjacent -> index of each group's first row (U,), and each row's group counted from 0 (B,)."""
    starts = torch.ones_like(group, dtype=torch.bool)
    starts[1:] = group[1:] != group[:-1]
    return starts.nonzero().flatten(), starts.cumsum(0) - 1
