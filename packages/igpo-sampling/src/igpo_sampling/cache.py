"""Keys and values kept between denoising steps, so that a forward computes a window of the canvas and reads the rest.

What is kept is stale by the tokens that were committed since it was computed. It is exact where those tokens cannot be
seen: in the finished blocks of a block-causal model. Letters: B rows, T canvas columns, W columns of a window.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import Any

import torch
from attrs import frozen
from torch import Tensor


class KeyValues:
    """Keys and values of every layer over a whole canvas; a layer's are allocated when it first writes."""

    def __init__(self, rows: int, columns: int) -> None:
        self.shape = rows, columns
        self._pairs: dict[int, tuple[Tensor, Tensor]] = {}
        self._rows: Tensor | None = None

    def put(self, layer: int, columns: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep k and v (B, kv heads, W, head width) at canvas columns (B, W) -> the layer's whole pair (B, kv heads, T, width).

        Columns that were never put for a row hold something finite that it must not attend to.
        """
        B, T = self.shape
        if layer not in self._pairs:
            k_, v_ = (x.new_zeros(B, T, x.shape[1], x.shape[3]).transpose(1, 2) for x in (k, v))
            self._pairs[layer] = k_, v_
        rows = torch.arange(B, device=columns.device) if self._rows is None else self._rows
        for kept, new in zip(self._pairs[layer], (k, v), strict=True):
            kept.transpose(1, 2)[rows[:, None], columns] = new.transpose(1, 2)
        k, v = self._pairs[layer]
        return (k, v) if self._rows is None else (_rows(k, self._rows), _rows(v, self._rows))

    def part(self, rows: Tensor) -> KeyValues:
        """Some rows (R,) long of this store, for a forward of these alone; what is put there is kept here."""
        part = copy(self)
        part._rows = rows
        return part

    def take(self, rows: Tensor) -> None:
        """Keep these rows (R,) long and drop the others, a layer at a time."""
        self.shape = len(rows), self.shape[1]
        for layer, (k, v) in self._pairs.items():
            self._pairs[layer] = _rows(k, rows), _rows(v, rows)


@frozen(eq=False)
class Window:
    """What a forward computes; everything else is read from the store. All columns are a refresh of the store."""

    columns: Tensor
    """(B, W) long, ascending canvas columns of each row; where a row has fewer than W, its first one is repeated."""
    store: KeyValues

    def locate(self, where: Tensor, width: int) -> Tensor:
        """where (N,) flat indices into the canvas (B, `width`), of columns in the window -> the same in (B, W)."""
        B, W = self.columns.shape
        place = torch.zeros(B, width, dtype=torch.long, device=where.device)
        place.scatter_(1, self.columns, torch.arange(B * W, device=where.device).view(B, W))
        return place.flatten()[where]


class Reuse:
    """Decides which columns the next forward of each row computes, and moves the store along with the rows."""

    def __init__(self, denoiser: Any, cache: str, attention: Tensor, ways: int) -> None:
        """attention (B, T) of the whole canvas; `ways` forwards of each row at a time, each with its own part of the store."""
        if cache not in (offered := trait(denoiser, "caches", ())):
            raise ValueError(
                f"{type(inner(denoiser)).__name__} cannot keep cache = '{cache}': it offers "
                f"{' and '.join(offered) or 'none'}. Use --sampler.cache {' or '.join((*offered, 'none'))}."
            )
        self.cache, self.block, self.ways = cache, trait(denoiser, "block", None), ways
        self.width = attention.shape[1]
        self.begins = attention.int().argmax(1)
        self.edge = torch.full_like(self.begins, -1)
        """(B,) the first column whose keys are not final, or that of the block that a refresh was made for; -1: neither."""
        self.store = KeyValues(0, self.width)

    def move(self, keep: Tensor, new: int) -> None:
        """The next forwards are of these rows (R,) long of the last ones, and of so many new ones behind them."""
        rows = len(keep) + new
        if len(keep):
            index = torch.cat([keep, keep.new_zeros(new)])
            self.store.take(torch.cat([index + way * self.store.shape[0] // self.ways for way in range(self.ways)]))
        else:
            self.store = KeyValues(rows * self.ways, self.width)

    def spans(self, rows: Tensor, block: tuple[Tensor, Tensor], blanks: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """rows (R,); first and last column of each one's block, and of the blanks in it -> first column, end, fresh: all (R,).

        In a block-causal model final keys are those before the model's block of the first blank, and no blank sees
        behind its own. Elsewhere the whole canvas is computed when a row enters a block, and then the block, together
        with what is behind it unless that is kept too (Fast-dLLM, 2505.22618).
        """
        edge = self.edge[rows]
        if self.block is not None:
            begins, fresh = self.begins[rows], edge < 0
            first, last = (begins + (column - begins) // self.block * self.block for column in blanks)
            self.edge[rows] = first
            return torch.maximum(edge, begins), (last + self.block).clamp(max=self.width), fresh
        first, last = block
        fresh = edge != first
        self.edge[rows] = first
        end = last + 1 if self.cache == "dual" else torch.full_like(last, self.width)
        return first.where(~fresh, 0), end.where(~fresh, self.width), fresh

    def windows(self, rows: Tensor, first: Tensor, end: Tensor, fresh: Tensor) -> Iterator[tuple[Tensor, Window]]:
        """The rows that start anew and the others, each with the window of one forward."""
        for chosen in (fresh.nonzero()[:, 0], (~fresh).nonzero()[:, 0]):
            if len(chosen):
                a, b = first[chosen, None], end[chosen, None]
                W = int((b - a).max())
                columns = torch.maximum(b - W + torch.arange(W, device=a.device), a).repeat(self.ways, 1)
                part = torch.cat([chosen + way * len(rows) for way in range(self.ways)])
                yield rows[chosen], Window(columns, self.store if len(chosen) == len(rows) else self.store.part(part))


def inner(denoiser: Any) -> Any:
    """The module within DDP."""
    while not hasattr(denoiser, "caches") and hasattr(denoiser, "module"):
        denoiser = denoiser.module
    return denoiser


def trait(denoiser: Any, name: str, default: Any) -> Any:
    """An attribute of a denoiser, `caches` or `block`, also behind DDP, which hides those of the module that it wraps."""
    return getattr(inner(denoiser), name, default)


def _rows(x: Tensor, rows: Tensor) -> Tensor:
    """Rows of (B, heads, T, width) in the memory order (B, T, heads, width), in which layers make them."""
    return x.transpose(1, 2)[rows].transpose(1, 2)
