"""Keys and values kept between denoising steps, so that a forward computes a window of the canvas and reads the rest.

What is kept is stale by the tokens that were committed since it was computed. It is exact where those tokens cannot be
seen: in the finished blocks of a block-causal model. Letters: B rows, T canvas columns, W columns of a window.
"""

from __future__ import annotations

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

        Columns that were never put hold zeros.
        """
        if self._rows is None and columns.shape == self.shape:
            self._pairs[layer] = k, v  # all of it: nothing to copy
        else:
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
    """(B, W) long, ascending canvas columns of each row."""
    store: KeyValues

    def locate(self, where: Tensor, width: int) -> Tensor:
        """where (N,) flat indices into the canvas (B, `width`), of columns in the window -> the same in (B, W)."""
        B, W = self.columns.shape
        place = torch.zeros(B, width, dtype=torch.long, device=where.device)
        place.scatter_(1, self.columns, torch.arange(B * W, device=where.device).view(B, W))
        return place.flatten()[where]


def trait(denoiser: Any, name: str, default: Any) -> Any:
    """An attribute of a denoiser, `caches` or `block`, also behind DDP, which hides those of the module that it wraps."""
    while not hasattr(denoiser, name) and hasattr(denoiser, "module"):
        denoiser = denoiser.module
    return getattr(denoiser, name, default)


def _rows(x: Tensor, rows: Tensor) -> Tensor:
    """Rows of (B, heads, T, width) in the memory order (B, T, heads, width), in which layers make them."""
    return x.transpose(1, 2)[rows].transpose(1, 2)
